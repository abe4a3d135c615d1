package worker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/mirrord-go/mirrord/internal/agent/probe"
	"github.com/mirrord-go/mirrord/internal/agent/tlssteal"
	"github.com/mirrord-go/mirrord/internal/httpfilter"
	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

// subscription is one port of one session.
type subscription struct {
	link    *link
	port    uint16
	mode    wire.Mode
	probes  []wire.ProbeKind
	sources probe.Sources
	active  *atomic.Int64 // connections that the client serves

	spec     *httpfilter.Spec // nil without a filter
	filter   *httpfilter.Filter
	http     wire.HTTPOptions
	notices  *filterNotices
	takesTLS bool           // the client understands streams with TLS
	tls      *tlssteal.Port // nil where TLS stays with the target

	ctx    context.Context //nolint:containedctx // of the connections that the client serves
	cancel context.CancelCauseFunc
	later  *time.Timer // of a steal: see spareProbes
}

// TakenError says that another session at the same pod steals a port.
type TakenError struct {
	Port          uint16
	Session, User string
}

// Error says who has the port.
func (e *TakenError) Error() string {
	return fmt.Sprintf("port %d is stolen already, by session %s of %s", e.Port, e.Session, e.User)
}

// Unwrap returns EADDRINUSE.
func (e *TakenError) Unwrap() error { return syscall.EADDRINUSE }

// errOverridden ends the connections of a session whose port another one has taken.
var errOverridden = errors.New("another session has taken the port")

func (in *incoming) newSubscription(l *link, req wire.Subscribe) (*subscription, error) {
	sub := &subscription{
		link: l, port: req.Port, mode: req.Mode, active: new(atomic.Int64),
		spec: req.Filter, http: req.HTTP, notices: new(filterNotices),
	}
	if sub.spec != nil {
		var err error
		if sub.filter, err = httpfilter.CompileWith(*sub.spec, filterLimits(sub.http, in.programs)); err != nil {
			return nil, fmt.Errorf("%w: the HTTP filter: %w", syscall.EINVAL, err)
		}
	}
	if err := sub.readTLS(req); err != nil {
		return nil, err
	}
	sub.ctx, sub.cancel = context.WithCancelCause(l.ctx)
	if req.TakeProbes {
		req.Probes = nil
	}
	for _, p := range req.Probes {
		sub.probes = append(sub.probes, p.Kind)
	}
	gateways, err := probe.Gateways()
	if err != nil {
		in.log.Warn("the target's gateways are unknown, probes from there are not", "err", err)
	}
	sub.sources = probe.NewSources(req.ProbeSources, gateways)
	return sub, nil
}

// keep makes a subscription known.
func (in *incoming) keep(sub *subscription) {
	in.mu.Lock()
	defer in.mu.Unlock()
	defer in.tellChange()
	if sub.mode == wire.Steal && sub.filter != nil {
		// The list is never changed in place: who reads it holds no lock.
		list := slices.Clone(in.filtered[sub.port])
		if i := slices.IndexFunc(list, func(old *subscription) bool { return old.link == sub.link }); i >= 0 {
			list[i] = sub // in its place: first come
		} else {
			list = append(list, sub)
		}
		in.filtered[sub.port] = list
		return
	}
	if sub.mode == wire.Steal {
		in.stolen[sub.port] = sub
		return
	}
	if in.mirrored[sub.port] == nil {
		in.mirrored[sub.port] = map[*link]*subscription{}
	}
	in.mirrored[sub.port][sub.link] = sub
}

func (in *incoming) forget(sub *subscription) {
	in.mu.Lock()
	defer in.mu.Unlock()
	defer in.tellChange()
	if in.stolen[sub.port] == sub {
		delete(in.stolen, sub.port)
		sub.stopLater()
	}
	if list := in.filtered[sub.port]; slices.Contains(list, sub) {
		sub.stopLater()
		list = slices.DeleteFunc(slices.Clone(list), func(other *subscription) bool { return other == sub })
		if in.filtered[sub.port] = list; len(list) == 0 {
			delete(in.filtered, sub.port)
		}
	}
	if subs := in.mirrored[sub.port]; subs[sub.link] == sub {
		if delete(subs, sub.link); len(subs) == 0 {
			delete(in.mirrored, sub.port)
		}
	}
}

// change is closed when the subscriptions change next.
func (in *incoming) change() <-chan struct{} {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.changed
}

// tellChange wakes who waits for a change. The caller holds mu.
func (in *incoming) tellChange() {
	close(in.changed)
	in.changed = make(chan struct{})
}

func (sub *subscription) stopLater() {
	if sub.later != nil {
		sub.later.Stop()
	}
}

// here says that the client can be asked to serve something.
func (sub *subscription) here() bool {
	return sub != nil && sub.link.ctx.Err() == nil && sub.link.paused() == 0
}

// takers are who steals a port: at most one without a filter, and those with one, first come first.
func (in *incoming) takers(port uint16) (thief *subscription, filtered []*subscription) {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.stolen[port], in.filtered[port]
}

// copier returns a client's subscription to a mirrored port, or nil.
func (in *incoming) copier(port uint16, l *link) *subscription {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.mirrored[port][l]
}

// had returns a client's subscription of a port, or nil.
func (in *incoming) had(l *link, port uint16) *subscription {
	thief, filtered := in.takers(port)
	if thief != nil && thief.link == l {
		return thief
	}
	for _, sub := range filtered {
		if sub.link == l {
			return sub
		}
	}
	return in.copier(port, l)
}

// of returns all subscriptions of a client.
func (in *incoming) of(l *link) []*subscription {
	return in.collect(func(sub *subscription) bool { return sub.link == l })
}

// ports returns the ports that a session has.
func (in *incoming) ports(s *session) (stolen, mirrored []uint16) {
	for _, sub := range in.collect(func(sub *subscription) bool { return sub.link.session == s }) {
		if sub.mode == wire.Steal {
			stolen = append(stolen, sub.port)
		} else {
			mirrored = append(mirrored, sub.port)
		}
	}
	return stolen, mirrored
}

func (in *incoming) collect(want func(*subscription) bool) (out []*subscription) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, sub := range in.stolen {
		if want(sub) {
			out = append(out, sub)
		}
	}
	for _, subs := range in.filtered {
		for _, sub := range subs {
			if want(sub) {
				out = append(out, sub)
			}
		}
	}
	for _, subs := range in.mirrored {
		for _, sub := range subs {
			if want(sub) {
				out = append(out, sub)
			}
		}
	}
	return out
}
