package target

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestDialUnix(t *testing.T) {
	p, err := Open("", os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	dir := t.TempDir()
	if err := os.Symlink("s", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	abstract := "@mirrord-test-" + filepath.Base(dir)
	listen := func(network, name string) {
		l, err := net.ListenUnix(network, &net.UnixAddr{Net: network, Name: name})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		t.Cleanup(func() { _ = l.Close(); <-done })
		go func() {
			defer close(done)
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = io.WriteString(c, network)
				_ = c.Close()
			}
		}()
	}
	listen("unix", filepath.Join(dir, "s"))
	listen("unix", abstract)
	listen("unixpacket", filepath.Join(dir, "p"))
	closed, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: filepath.Join(dir, "closed")})
	if err != nil {
		t.Fatal(err)
	}
	closed.SetUnlinkOnClose(false)
	_ = closed.Close()

	for _, tt := range []struct {
		name  string
		kind  int
		says  string
		errno unix.Errno
	}{
		{filepath.Join(dir, "s"), unix.SOCK_STREAM, "unix", 0},
		{filepath.Join(dir, "link"), unix.SOCK_STREAM, "unix", 0},
		{filepath.Join(dir, "p"), unix.SOCK_SEQPACKET, "unixpacket", 0},
		{abstract, unix.SOCK_STREAM, "unix", 0},
		{filepath.Join(dir, "s"), unix.SOCK_SEQPACKET, "", unix.EPROTOTYPE},
		{filepath.Join(dir, "none"), unix.SOCK_STREAM, "", unix.ENOENT},
		{filepath.Join(dir, "file"), unix.SOCK_STREAM, "", unix.ECONNREFUSED},
		{filepath.Join(dir, "closed"), unix.SOCK_STREAM, "", unix.ECONNREFUSED},
		{filepath.Join(dir, "file", "x"), unix.SOCK_STREAM, "", unix.ENOTDIR},
		{abstract + "x", unix.SOCK_STREAM, "", unix.ECONNREFUSED},
	} {
		c, err := p.DialUnix(tt.name, tt.kind)
		if tt.errno != 0 {
			if !errors.Is(err, tt.errno) {
				t.Errorf("%s: %v, want %v", tt.name, err, tt.errno)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		b := make([]byte, 100)
		if n, err := c.Read(b); err != nil || string(b[:n]) != tt.says {
			t.Errorf("%s: %q, %v", tt.name, b[:n], err)
		}
		_ = c.Close()
	}
}
