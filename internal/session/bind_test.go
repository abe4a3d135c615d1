//go:build linux

package session_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/intercept"
)

// Where the ports of the process are opened, and what its user reads of it.
func TestBind(t *testing.T) {
	r := newRun(t)
	in := &r.config.Feature.Network.Incoming
	in.ListenPorts, in.IgnorePorts, in.IgnoreLocalhost = [][2]uint16{{80, 8080}}, []uint16{9229}, true
	in.PortMapping = [][2]uint16{{3000, 81}}
	go func() {
		<-r.observer.started
		n := r.network()
		for addr, want := range map[string]intercept.Binding{
			"0.0.0.0:80":     {Port: 8080},
			"[::]:9000":      {Elsewhere: true},
			"0.0.0.0:9229":   {},
			"127.0.0.1:9000": {},
		} {
			if diff := cmp.Diff(want, n.Bind(netip.MustParseAddrPort(addr))); diff != "" {
				t.Errorf("%s (-want +got):\n%s", addr, diff)
			}
		}
		n.Moved(netip.MustParseAddrPort("0.0.0.0:80"), 8080, syscall.EADDRINUSE)
		n.Moved(netip.MustParseAddrPort("0.0.0.0:3000"), 34567, syscall.EADDRINUSE)
		n.Moved(netip.MustParseAddrPort("0.0.0.0:443"), 34568, syscall.EACCES)
		_ = r.child.Signal(syscall.SIGTERM)
	}()
	_, _ = r.run(t.Context(), "sleep", "60")
	for _, want := range []string{
		"port-moved: port 8080 is taken on this machine: feature.network.incoming.listen_ports wants the process's port 80 there, so the process can't open it",
		"port-moved: port 3000 is taken on this machine: the process listens on port 34567 here instead, without knowing; the traffic of the target's port 81 reaches it there",
		"port-moved: port 443 may not be opened on this machine without privileges: the process listens on port 34568 here instead, without knowing; the traffic of the target's port 443 reaches it there",
	} {
		if r.observer.heard(want) != 1 {
			t.Errorf("the user did not read %q, but:\n%s", want, strings.Join(r.observer.all(), "\n"))
		}
	}
	r.cleaned()
}

func TestBindWithoutIncoming(t *testing.T) {
	r := newRun(t)
	in := &r.config.Feature.Network.Incoming
	in.Mode, in.ListenPorts = config.IncomingOff, [][2]uint16{{80, 8080}}
	go func() {
		<-r.observer.started
		for _, addr := range []string{"0.0.0.0:80", "0.0.0.0:81"} {
			if b := r.network().Bind(netip.MustParseAddrPort(addr)); b != (intercept.Binding{}) {
				t.Errorf("%s: %+v", addr, b)
			}
		}
		_ = r.child.Signal(syscall.SIGTERM)
	}()
	_, _ = r.run(t.Context(), "sleep", "60")
}

// The containers of a container engine are not in the session, and the user reads so.
func TestContainersAreOutside(t *testing.T) {
	path := filepath.Join(t.TempDir(), "docker")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{path, "run", "alpine"}, {path, "ps"}} {
		r := newRun(t)
		if _, err := r.run(t.Context(), args...); err != nil {
			t.Fatal(err)
		}
		if said := r.observer.heard("notice: containers run outside of the session"); (said == 1) != (args[1] == "run") {
			t.Errorf("%v: said %d times", args[1:], said)
		}
	}
}
