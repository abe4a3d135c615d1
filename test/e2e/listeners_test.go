package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/mirrord-go/mirrord/internal/cli/progress"
)

// TestListeners: where a port of the process is opened on this machine, and whose listeners the target's traffic is for.
func TestListeners(t *testing.T) {
	s := newStage(t)
	p := programs(t)[0]
	p.need(t)
	port := freePort(t)
	s.deploy(t, web([]uint16{port})+"---"+client, "pod/web", "pod/client")
	web4, _ := s.ips(t, "web")
	start := func(t *testing.T, incoming, more object, command ...string) *session {
		t.Helper()
		incoming["mode"] = "steal"
		config := object{"target": s.webTarget(), "feature": object{"network": object{"incoming": incoming}}}
		for k, v := range more {
			config[k] = v
		}
		return s.start(t, run{config: config, command: command})
	}
	listen := p.command(fmt.Sprintf("listen %d laptop", port))
	answers := func(t *testing.T, name string) {
		t.Helper()
		a := s.ask(t, url(web4, port))
		answeredBy(t, "the target's port", name, a)
		if name == "laptop" && a.Echo != nil && !sameAddr(a.Echo.Peer, a.Local) {
			t.Errorf("the local process saw %s as its peer, the client is %s", a.Echo.Peer, a.Local)
		}
	}
	t.Run("listen_ports", func(t *testing.T) {
		there := freePort(t)
		se := start(t, object{"listen_ports": [][]uint16{{port, there}}}, nil, listen...)
		se.subscribed(port)
		answers(t, "laptop")
		c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", there), patience)
		if err != nil {
			t.Fatalf("the port is not where listen_ports wants it: %v", err)
		}
		_ = c.Close()
		se.stop()
	})
	t.Run("taken", func(t *testing.T) {
		l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.IPv6Unspecified(), port)))
		must(t, err)
		defer l.Close()
		se := start(t, object{}, nil, listen...)
		se.event("port-moved", func(l progress.Line) bool { return l.Event == "port-moved" && l.Port == port })
		se.subscribed(port)
		answers(t, "laptop")
		se.stop()
	})
	t.Run("skip_processes", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "left-alone")
		b, err := os.ReadFile(listen[0])
		must(t, err)
		must(t, os.WriteFile(path, b, 0o755))
		se := start(t, object{}, object{"skip_processes": "left-alone"}, append([]string{path}, listen[1:]...)...)
		se.printed(fmt.Sprintf("listening laptop %d\n", port))
		answers(t, "web")
		se.stop()
		se = start(t, object{}, object{"skip_build_tools": true, "skip_extra_build_tools": []string{"left-alone"}}, append([]string{path}, listen[1:]...)...)
		se.printed(fmt.Sprintf("listening laptop %d\n", port))
		answers(t, "web")
		se.stop()
	})
}
