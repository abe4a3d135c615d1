//go:build amd64 || arm64

package intercept

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// unixClient connects with every kind of socket and prints what it got.
const unixClient = `
import errno, os, socket, sys, signal
folder, abstract = sys.argv[1], "\0" + sys.argv[2]
def ask(kind, name, text=b"hello"):
    s = socket.socket(socket.AF_UNIX, kind)
    try:
        s.connect(name)
    except OSError as e:
        return errno.errorcode[e.errno]
    s.sendall(text)
    if kind == socket.SOCK_STREAM:
        s.shutdown(socket.SHUT_WR)
        out = b""
        while True:
            b = s.recv(1000)
            if not b: break
            out += b
        return out.decode()
    return s.recv(1000).decode()
print("stream:", ask(socket.SOCK_STREAM, "/target/stream"))
print("packets:", ask(socket.SOCK_SEQPACKET, "/target/packets"))
print("abstract:", ask(socket.SOCK_STREAM, abstract))
print("wrong type:", ask(socket.SOCK_SEQPACKET, "/target/stream"))
print("none:", ask(socket.SOCK_STREAM, "/target/none"))
print("no server:", ask(socket.SOCK_STREAM, "/target/closed"))
print("own file system:", ask(socket.SOCK_STREAM, folder + "/here"))
os.chdir(folder); print("relative:", ask(socket.SOCK_STREAM, "here"))
print("fallback:", ask(socket.SOCK_STREAM, "/target/fallback"))
s = socket.socket(socket.AF_UNIX); s.setblocking(False); s.connect("/target/stream"); print("without blocking:", s.getpeername() != "")
try: s.connect("/target/stream")
except OSError as e: print("again:", errno.errorcode[e.errno])
s.setblocking(True); s.sendall(b"x"); s.close()
l = socket.socket(socket.AF_UNIX); l.bind("\0target-own-" + sys.argv[2]); l.listen(1)
c = socket.socket(socket.AF_UNIX); c.connect("\0target-own-" + sys.argv[2]); c.sendall(b"own"); print("own listener:", l.accept()[0].recv(9).decode())
class Alarm(Exception): pass
def alarm(*_): raise Alarm
signal.signal(signal.SIGALRM, alarm)
try: signal.alarm(1); ask(socket.SOCK_STREAM, "/target/never"); print("never: connected")
except Alarm: print("never: interrupted")
d = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
try: d.connect("/target/stream")
except OSError as e: print("datagram:", errno.errorcode[e.errno])
`

func TestUnixSockets(t *testing.T) {
	dir := t.TempDir()
	abstract := "target-" + filepath.Base(dir) + fmt.Sprint(os.Getpid())
	serve := func(network, name, says string) {
		l, err := net.ListenUnix(network, &net.UnixAddr{Net: network, Name: name})
		if err != nil {
			t.Fatal(err)
		}
		var served sync.WaitGroup
		t.Cleanup(func() { _ = l.Close(); served.Wait() })
		served.Go(func() {
			for {
				c, err := l.AcceptUnix()
				if err != nil {
					return
				}
				served.Go(func() {
					defer c.Close()
					b := make([]byte, 100)
					n, _ := c.Read(b)
					_, _ = fmt.Fprintf(c, "%s %s", says, b[:n])
				})
			}
		})
	}
	serve("unix", filepath.Join(dir, "stream"), "target's")
	serve("unixpacket", filepath.Join(dir, "packets"), "target's")
	serve("unix", "@"+abstract, "target's")
	serve("unix", filepath.Join(dir, "here"), "laptop's")
	closed, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: filepath.Join(dir, "closed")})
	if err != nil {
		t.Fatal(err)
	}
	closed.SetUnlinkOnClose(false)
	_ = closed.Close()

	r := launch(t, &fakeTarget{folder: dir}, nil, "python3", "-c", unixClient, dir, abstract)
	r.succeed()
	want := `stream: target's hello
packets: target's hello
abstract: target's hello
wrong type: EPROTOTYPE
none: ENOENT
no server: ECONNREFUSED
own file system: laptop's hello
relative: laptop's hello
fallback: ENOENT
without blocking: True
again: EISCONN
own listener: own
never: interrupted
datagram: ENOENT
`
	if got := r.out.String(); got != want {
		t.Errorf("the program says\n%swant\n%s", got, want)
	}
}

func TestUnixName(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"", ""},
		{"\x00", ""},
		{"\x00name\x00with zeros\x00", "@name\x00with zeros\x00"},
		{"/run/s", "/run/s"},
		{"/run/s\x00rubbish", "/run/s"},
		{"relative", "relative"},
		{"/" + strings.Repeat("x", 107), "/" + strings.Repeat("x", 107)},
	} {
		if got := unixName(append([]byte{unix.AF_UNIX, 0}, tt.in...)); got != tt.want {
			t.Errorf("%q: %q, want %q", tt.in, got, tt.want)
		}
	}
}

func FuzzUnixName(f *testing.F) {
	f.Add([]byte("\x01\x00/run/s\x00"))
	f.Fuzz(func(t *testing.T, sa []byte) {
		if len(sa) < 2 || len(sa) > sockaddrMaxSize {
			return
		}
		if n := unixName(sa); len(n) > len(sa)-2 {
			t.Errorf("the name %q of % x", n, sa)
		}
	})
}
