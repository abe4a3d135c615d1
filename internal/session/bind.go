package session

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"syscall"

	"github.com/mirrord-go/mirrord/internal/intercept"
)

// movedPorts are the ports that the process believes to have.
type movedPorts struct {
	mu    sync.Mutex
	ports map[uint16]bool
}

func (m *movedPorts) add(port uint16) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ports == nil {
		m.ports = make(map[uint16]bool)
	}
	m.ports[port] = true
}

func (m *movedPorts) has(port uint16) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ports[port]
}

// Bind implements [intercept.Network]: listen_ports say where a port is opened. Another that stands for one of
// the target is opened elsewhere when it can't be had, since only its number in the target counts.
func (n *network) Bind(requested netip.AddrPort) intercept.Binding {
	if port, ok := n.ports.ListenPort(requested.Port()); ok {
		n.moved.add(requested.Port())
		return intercept.Binding{Port: port}
	}
	if _, ok := n.ports.Remote(requested); ok {
		return intercept.Binding{Elsewhere: true}
	}
	return intercept.Binding{}
}

// Moved implements [intercept.Network].
func (n *network) Moved(requested netip.AddrPort, actual uint16, reason error) {
	port := requested.Port()
	problem := "is taken on this machine"
	if errors.Is(reason, syscall.EACCES) {
		problem = "may not be opened on this machine without privileges"
	}
	if _, exactly := n.ports.ListenPort(port); exactly {
		n.observer.Event(Event{
			Kind: "port-moved", Warning: true,
			Text: fmt.Sprintf("port %d %s: feature.network.incoming.listen_ports wants the process's port %d there, so the process can't open it",
				actual, problem, port),
		})
		return
	}
	n.moved.add(port)
	remote, _ := n.ports.Remote(requested)
	n.observer.Event(Event{
		Kind: "port-moved", Warning: true, Port: remote,
		Text: fmt.Sprintf("port %d %s: the process listens on port %d here instead, without knowing; the traffic of the target's port %d reaches it there",
			port, problem, actual, remote),
	})
}
