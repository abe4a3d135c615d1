//go:build amd64 || arm64

package intercept

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func goChild(t *testing.T) string {
	t.Helper()
	return build(t, "gochild", "go", "build", "-C", testdata("gochild"), "-o")
}

// javaChild compiles the Java program and returns its class path.
func javaChild(t *testing.T) string {
	t.Helper()
	needTool(t, "javac")
	needTool(t, "java")
	dir := t.TempDir()
	if out, err := exec.Command("javac", "-d", dir, testdata("Child.java")).CombinedOutput(); err != nil {
		t.Fatalf("javac: %v\n%s", err, out)
	}
	return dir
}

// servers are what the programs talk to.
type servers struct{ tcp, udp, http string }

func serveAll(t *testing.T) servers {
	t.Helper()
	needNamespace(t)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "welcome to "+r.Host)
	})}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return servers{tcp: serveTCP(t, "tcp4", echo), udp: serveUDP(t, "127.0.0.1:0"), http: port}
}

const pythonClient = `
import socket, sys, asyncio, errno, urllib.request
tcp, udp, http = map(int, sys.argv[1:])
s = socket.create_connection(("198.51.100.1", tcp), 60); s.sendall(b"py"); print("socket", s.recv(9), s.getpeername()); s.close()
for host, want in ("198.51.100.61", errno.ECONNREFUSED), ("198.51.100.63", errno.EHOSTUNREACH), ("198.51.100.62", errno.ETIMEDOUT):
    for timeout in None, 60:
        s = socket.socket(); s.settimeout(timeout)
        assert s.connect_ex((host, 80)) == want, (host, timeout)
        s.close()
async def main():
    r, w = await asyncio.open_connection("shop.test", tcp); w.write(b"aio"); print("asyncio", await r.readexactly(3), w.get_extra_info("peername")); w.close()
    try:
        await asyncio.open_connection("198.51.100.61", 80)
    except ConnectionRefusedError as e:
        print("asyncio refused", e.errno == errno.ECONNREFUSED)
asyncio.run(main())
d = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); d.settimeout(60); d.sendto(b"dgram", ("198.51.100.1", udp)); print("datagram", d.recvfrom(99))
print("http", urllib.request.urlopen("http://shop.test:%d/" % http, timeout=60).read())
try:
    socket.getaddrinfo("nowhere.invalid", 80)
except socket.gaierror as e:
    print("no such name", e.errno == socket.EAI_NONAME)
`

const nodeClient = `
const net = require('net'), dgram = require('dgram'), dns = require('dns');
const [tcp, udp, http] = process.argv.slice(1).map(Number);
const one = f => new Promise(f);
(async () => {
  await one(r => { const c = net.connect(tcp, '198.51.100.1', () => c.write('node')); c.on('data', d => { console.log('socket', String(d), c.remoteAddress); c.destroy(); r(); }); });
  await one(r => net.connect(80, '198.51.100.61').on('error', e => { console.log(e.code); r(); }));
  await one(r => net.connect(80, '198.51.100.63').on('error', e => { console.log(e.code); r(); }));
  await one(r => { const d = dgram.createSocket('udp4'); d.on('message', (m, i) => { console.log('datagram', String(m), i.address, i.port == udp); d.close(); r(); }); d.send('dgram', udp, '198.51.100.1'); });
  console.log('c-ares', await dns.promises.resolve4('shop.test'));
  console.log('http', await (await fetch('http://shop.test:' + http + '/')).text());
})();
`

const perlClient = `
use Socket; use IO::Socket::INET; use Errno;
my $s = IO::Socket::INET->new(PeerAddr => "198.51.100.1:$ARGV[0]", Timeout => 60) or die "connect: $!";
print $s "perl\n"; print "socket ", scalar(<$s>);
my $t = IO::Socket::INET->new(PeerAddr => "198.51.100.61:80", Timeout => 60); print "timeout $!\n";
$t = IO::Socket::INET->new(PeerAddr => "198.51.100.63:80"); print "blocking $!\n";
`

func TestPrograms(t *testing.T) {
	tests := []struct {
		name string
		argv func(*testing.T, servers) []string
		want []string // with PORTS replaced
	}{
		{
			"go tcp", func(t *testing.T, s servers) []string { return []string{goChild(t), "tcp", "shop.test:" + s.tcp} },
			[]string{"peer 198.51.100.1:TCP", "got ping"},
		},
		{
			"go udp", func(t *testing.T, s servers) []string { return []string{goChild(t), "udp", "198.51.100.1:" + s.udp} },
			[]string{"connected 198.51.100.1:UDP", "unconnected 198.51.100.1:UDP"},
		},
		{
			"go dns", func(t *testing.T, s servers) []string { return []string{goChild(t), "dns", "shop.test"} },
			[]string{"[198.51.100.1]"},
		},
		{"python", func(t *testing.T, s servers) []string {
			return []string{"python3", "-c", pythonClient, s.tcp, s.udp, s.http}
		}, []string{
			"socket b'py' ('198.51.100.1', TCP)", "asyncio b'aio' ('198.51.100.1', TCP)", "asyncio refused True",
			"datagram (b'dgram', ('198.51.100.1', UDP))", "http b'welcome to shop.test:HTTP'", "no such name True",
		}},
		{
			"node", func(t *testing.T, s servers) []string {
				return []string{"node", "-e", nodeClient, s.tcp, s.udp, s.http}
			},
			[]string{
				"socket node 198.51.100.1", "ECONNREFUSED", "EHOSTUNREACH", "datagram dgram 198.51.100.1 true",
				"c-ares [ '198.51.100.1' ]", "http welcome to shop.test:HTTP",
			},
		},
		{"java", func(t *testing.T, s servers) []string {
			return []string{"java", "-cp", javaChild(t), "Child", "client", "198.51.100.1", s.tcp, s.udp, s.http}
		}, []string{
			"socket s /198.51.100.1:TCP", "nio true", "blocking: Connection refused", "selector: No route to host",
			"datagram dgram /198.51.100.1:UDP", "http welcome to shop.test:HTTP",
		}},
		{
			"perl", func(t *testing.T, s servers) []string { return []string{"perl", "-e", perlClient, s.tcp} },
			[]string{"socket perl", "timeout Connection refused", "blocking No route to host"},
		},
		{"curl", func(t *testing.T, s servers) []string {
			return []string{"curl", "-sS", "--max-time", "60", "http://shop.test:" + s.http + "/"}
		}, []string{"welcome to shop.test:HTTP"}},
		{"busybox", func(t *testing.T, s servers) []string {
			return []string{"busybox", "wget", "-q", "-O", "-", "http://198.51.100.1:" + s.http + "/"}
		}, []string{"welcome to 198.51.100.1:HTTP"}},
		{"bash", func(t *testing.T, s servers) []string {
			return []string{"bash", "-c", `exec 3<>/dev/tcp/198.51.100.1/` + s.tcp + `; echo bash >&3; read -r l <&3; echo "got $l"; (exec 4<>/dev/tcp/198.51.100.61/80) 2>&1; true`}
		}, []string{"got bash", "Connection refused"}},
		{"dig udp", func(t *testing.T, s servers) []string {
			return []string{"dig", "+short", "+time=60", "+tries=1", "@198.51.100.53", "txt", "shop.test"}
		}, []string{`"datagram"`}},
		{"dig tcp", func(t *testing.T, s servers) []string {
			return []string{"dig", "+short", "+tcp", "+time=60", "+tries=1", "@198.51.100.53", "txt", "shop.test"}
		}, []string{`"stream"`}},
		{"process tree", func(t *testing.T, s servers) []string {
			return []string{"sh", "-c", `(sh -c "$0 tcp shop.test:$1" | sed s/^/piped:/) & "$0" daemon "$0" tcp 198.51.100.1:$1; wait`, goChild(t), s.tcp}
		}, []string{"piped:got ping", "\ngot ping"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := serveAll(t)
			out := "\n" + launch(t, &fakeTarget{}, nil, tt.argv(t, s)...).succeed()
			for _, want := range tt.want {
				want = strings.NewReplacer("TCP", s.tcp, "UDP", s.udp, "HTTP", s.http).Replace(want)
				if !strings.Contains(out, want) {
					t.Errorf("no %q in the output:\n%s", want, out)
				}
			}
		})
	}
}

func TestGoSeesTheErrno(t *testing.T) {
	for host, errno := range failures {
		t.Run(host, func(t *testing.T) {
			t.Parallel()
			_, out := launch(t, &fakeTarget{}, nil, goChild(t), "tcp", net.JoinHostPort(host, "80")).exit()
			if want := fmt.Sprintf("errno %d\n", errno); !strings.Contains(out, want) {
				t.Errorf("no %q in the output:\n%s", want, out)
			}
		})
	}
}

// A far side 300 ms away must be seen as such, by all ways to connect.
func TestFarSideTakesItsTime(t *testing.T) {
	s := serveAll(t)
	start := time.Now()
	launch(t, &fakeTarget{far: 300 * time.Millisecond}, nil, goChild(t), "tcp", "198.51.100.2:"+s.tcp).succeed()
	if d := time.Since(start); d < 300*time.Millisecond {
		t.Errorf("connected after %v", d)
	}
}
