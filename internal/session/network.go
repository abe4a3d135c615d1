package session

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"

	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/intercept"
	"github.com/mirrord-go/mirrord/internal/session/fleet"
	"github.com/mirrord-go/mirrord/internal/session/incoming"
	"github.com/mirrord-go/mirrord/internal/session/names"
	"github.com/mirrord-go/mirrord/internal/session/route"
	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

// network is what the process sees of the world.
type network struct {
	*fleet.Fleet // DialTCP, OpenUDP

	table    *route.Table
	names    *names.Resolver
	ports    *incoming.Ports
	observer Observer
	fellBack fellBack
	// containersTold: the user knows that containers are not part of the session.
	containersTold sync.Once
	moved          movedPorts
}

var _ intercept.Network = (*network)(nil)

func newNetwork(log *slog.Logger, p *Plan, f *fleet.Fleet, o Observer) *network {
	n := p.config.Feature.Network
	ask := func(ctx context.Context, stream bool, query []byte) ([]byte, error) {
		t := wire.UDP
		if stream {
			t = wire.TCP
		}
		return f.Resolve(ctx, t, query)
	}
	return &network{
		Fleet:    f,
		table:    p.table,
		names:    names.New(log, ask, !n.IPv6),
		observer: o,
	}
}

// Route implements [intercept.Network].
func (n *network) Route(p intercept.Protocol, dst netip.AddrPort) (intercept.Verdict, error) {
	return n.table.Route(p, dst)
}

// ResolvesNames implements [intercept.Network].
func (n *network) ResolvesNames() bool { return n.table.ResolvesNames() }

// Exchange implements [intercept.Network]. For a name that is resolved at the target the server
// does not matter: the target's answer is wanted, whoever the process asks.
func (n *network) Exchange(ctx context.Context, stream bool, server netip.AddrPort, query []byte) (answer []byte, err error) {
	name, _ := names.Name(query)
	if n.table.NameIsRemote(name) {
		answer, err = n.names.Exchange(ctx, stream, query)
	} else {
		answer, err = names.Forward(ctx, stream, server, query)
	}
	if err == nil {
		n.table.Learn(name, names.Addresses(answer))
	}
	return answer, err
}

// Listening implements [intercept.Network].
func (n *network) Listening(addr netip.AddrPort) {
	n.table.Owns(addr.Port())
	n.ports.Listening(addr)
}

// describe turns an event of a port into words; filter is the session's.
func describe(e incoming.Event, filter *config.HTTPFilter) Event {
	out := Event{Port: e.Remote}
	port := fmt.Sprintf("port %d", e.Remote)
	if e.Local != e.Remote {
		port = fmt.Sprintf("port %d (local port %d)", e.Remote, e.Local)
	}
	switch e.Kind {
	case incoming.Subscribed:
		out.Kind = "port-subscribed"
		verb := map[wire.Mode]string{wire.Steal: "stealing", wire.Mirror: "mirroring"}[e.Mode]
		out.Text = fmt.Sprintf("%s %s of the target", verb, port)
		if e.Filtered {
			out.Text += fmt.Sprintf(", the requests with %v", filter)
		}
		if e.Moved > 0 {
			out.Text += fmt.Sprintf("; %d open connections were ended so that they come here", e.Moved)
		}
	case incoming.Failed:
		out.Kind, out.Warning = "port-failed", true
		out.Text = fmt.Sprintf("%s of the target can't be taken: %v", port, e.Err)
		if e.Waiting {
			out.Text += "; it will be when that session gives it up"
		}
	case incoming.Undelivered:
		out.Kind, out.Warning = "notice", true
		out.Text = fmt.Sprintf("a request to port %d of the target, which came in TLS, can't be given to the process and stays with the target: %v", e.Remote, e.Err)
	case incoming.GivenBack:
		out.Kind = "port-given-back"
		out.Text = fmt.Sprintf("nobody listens locally: %s is the target's again", port)
	}
	return out
}
