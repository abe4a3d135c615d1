//go:build amd64 || arm64

package intercept

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// renamed gives a program another name. A copy that is written here could be "busy" when it is to be run: whatever other
// tests start at that moment has it open for writing, too, until its exec.
func renamed(t *testing.T, program, name string) string {
	t.Helper()
	dir, err := os.MkdirTemp(filepath.Dir(program), "")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, name)
	if err := os.Link(program, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// A program that is skipped has the laptop's network and names; what it starts is in the session again, and what
// that starts under the first name is not.
func TestOutside(t *testing.T) {
	t.Parallel()
	s := serveAll(t)
	tool := renamed(t, goChild(t), "tool")
	n := &fakeTarget{}
	var port string
	n.onListen = func(a netip.AddrPort) { port = a.String() }
	outside := func(o *Options, _ *times) {
		o.Outside = func(p Program) bool { return filepath.Base(p.File()) == "tool" || p.Name() == "script" }
	}
	for _, tt := range []struct {
		name   string
		argv   []string
		inside bool
	}{
		{"by its name", []string{tool, "tcp", "198.51.100.1:" + s.tcp}, false},
		{"below a shell", []string{"sh", "-c", tool + " tcp 198.51.100.1:" + s.tcp + "; true"}, false},
		{"in place of a shell", []string{"sh", "-c", "exec " + tool + " tcp 198.51.100.1:" + s.tcp}, false},
		{"its children", []string{tool, "run", goChild(t), "tcp", "198.51.100.1:" + s.tcp}, true},
		{"its children's", []string{tool, "run", "sh", "-c", tool + " tcp 198.51.100.1:" + s.tcp + "; true"}, false},
		{"what it becomes", []string{tool, "exec", goChild(t), "tcp", "198.51.100.1:" + s.tcp}, true},
		{"another", []string{goChild(t), "tcp", "198.51.100.1:" + s.tcp}, true},
		{"names of a skipped one", []string{tool, "dns", "shop.test"}, false},
		{"names of another", []string{goChild(t), "dns", "shop.test"}, true},
	} {
		_, out := launch(t, &fakeTarget{}, outside, tt.argv...).exit()
		if inside := strings.Contains(out, "got ping") || strings.Contains(out, "198.51.100.1]"); inside != tt.inside {
			t.Errorf("%s: inside %v, want %v; output %q", tt.name, inside, tt.inside, out)
		}
	}
	if _, out := launch(t, &fakeTarget{}, outside, "bash", "-c", "echo -n script > /proc/self/comm; exec 3<>/dev/tcp/198.51.100.1/"+s.tcp+" && echo inside; true").exit(); strings.Contains(out, "inside\n") {
		t.Errorf("a process by its own name: %q", out)
	}
	r := launch(t, n, outside, tool, "serve", "tcp4", "127.0.0.1:0")
	r.expect("listening")
	if port != "" {
		t.Errorf("the network heard of the listener %s of a skipped program", port)
	}
}

func TestProgram(t *testing.T) {
	t.Parallel()
	type seen struct {
		file, name    string
		args, environ []string
	}
	found := make(chan seen, 10)
	s := serveAll(t)
	r := launch(t, &fakeTarget{}, func(o *Options, _ *times) {
		o.Env = []string{"A=b", "PATH=/usr/bin:/bin"}
		o.Outside = func(p Program) bool {
			select {
			case found <- seen{p.File(), p.Name(), p.Args(), p.Environ()}:
			default:
			}
			return false
		}
	}, goChild(t), "tcp", "198.51.100.1:"+s.tcp)
	r.succeed()
	got := <-found
	if got.file != goChild(t) || got.name != "gochild" || !slices.Equal(got.args, []string{goChild(t), "tcp", "198.51.100.1:" + s.tcp}) ||
		!slices.Equal(got.environ, []string{"A=b", "PATH=/usr/bin:/bin"}) {
		t.Errorf("%+v", got)
	}
	none := program(1 << 30)
	if none.File() != "" || none.Name() != "" || none.Args() != nil || none.Environ() != nil {
		t.Error("a process that does not exist says something")
	}
}

// A debugger's port is the laptop's: the network does not hear of the listener, and connections to it on
// loopback stay here, from all of the tree.
func TestOwnPort(t *testing.T) {
	t.Parallel()
	port := serveTCP(t, "tcp4", echo) // of a debugger that waits for the program
	n := &fakeTarget{loopback: true}
	own := func(p Program, a netip.AddrPort) bool {
		return slices.Contains(p.Args(), "debug="+port) || a.Port() == 5678
	}
	set := func(o *Options, _ *times) { o.OwnPort = own }
	const script = `
import socket, sys
l = socket.socket(); l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); l.bind(("127.0.0.1", 5678)); l.listen(4)
c = socket.create_connection(("127.0.0.1", 5678), 60); print("own", l.accept()[1][1] == c.getsockname()[1])
c = socket.create_connection(("127.0.0.1", int(sys.argv[1])), 60); c.sendall(b"x"); print("debugger", c.recv(1))
`
	if out := launch(t, n, set, "python3", "-c", script, port, "debug="+port).succeed(); out != "own True\ndebugger b'x'\n" {
		t.Errorf("output %q", out)
	}
	if heard := n.allListening(); len(heard) != 0 {
		t.Errorf("the network heard of %v", heard)
	}
}
