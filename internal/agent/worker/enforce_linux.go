package worker

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/mirrord-go/mirrord/internal/agent/nodeapi"
	"github.com/mirrord-go/mirrord/internal/grant"
	"github.com/mirrord-go/mirrord/internal/httpfilter"
	"github.com/mirrord-go/mirrord/internal/tlsport"
	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

// protoTCP and protoUDP are the grant's names of protocols.
const (
	protoTCP = grant.TCP
	protoUDP = grant.UDP
)

const (
	// refusalEvery is how long the user is spared another line about the same rules.
	refusalEvery = 30 * time.Second
	// maxRefusals bounds the rules that are remembered for that.
	maxRefusals = 64
)

// errRevoked ends connections that a changed grant refuses.
var errRevoked = errors.New("policies do not allow the connection any more")

// rules are what a registration says about what its session may do. They never change; a
// session gets others.
type rules struct {
	enforcer *grant.Enforcer
	onSteal  string
	timeout  time.Duration
	// The kubelet's probes, if the registration is the operator's. The client's word
	// counts only where there is no operator.
	managed bool
	probes  map[uint16][]wire.Probe
	sources []netip.Addr
	tls     []tlsport.Port
	files   []wire.FileRules // for the client; the enforcer has them too
}

func newRules(spec Session) (*rules, error) {
	e, err := spec.Grant.Compile()
	if err != nil {
		return nil, fmt.Errorf("the grant can't be enforced: %w", err)
	}
	r := &rules{
		enforcer: e, onSteal: spec.OnConcurrentSteal, timeout: spec.Timeout,
		managed: spec.ID != "", probes: spec.Pod.Probes, sources: spec.Pod.ProbeSources,
		tls: spec.Grant.TLS, files: fileRulesOf(spec.Grant),
	}
	if r.timeout == 0 {
		r.timeout = nodeapi.DefaultTimeout
	}
	return r, nil
}

// subscribe takes a port, if the grant has it.
func (l *link) subscribe(req wire.Subscribe) (moved int, err error) {
	r := l.session.rules.Load()
	if err := maySubscribe(r, req.Mode, req.Filter); err != nil {
		l.session.refuse(err, req.Port)
		return 0, err
	}
	if r.managed {
		req.Probes, req.ProbeSources = r.probes[req.Port], r.sources
		if req.TLS != nil {
			req.TLS = &wire.SubscribeTLS{Port: tlsport.Find(r.tls, req.Port)}
		}
	}
	moved, err = l.w.incoming.subscribe(l, req)
	l.session.report()
	return moved, err
}

func maySubscribe(r *rules, m wire.Mode, filter *httpfilter.Spec) error {
	switch m {
	case wire.Mirror:
		return r.enforcer.Subscribe(grant.Mirror, grantFilter(filter))
	case wire.Steal:
		return r.enforcer.Subscribe(grant.Steal, grantFilter(filter))
	}
	return nil // no mode at all, as subscribing will say
}

// grantFilter is what rules are about in a filter.
func grantFilter(s *httpfilter.Spec) *grant.HTTPFilter {
	if s == nil {
		return nil
	}
	f := &grant.HTTPFilter{}
	if s.Rule != (httpfilter.Rule{}) {
		*f = grantRule(s.Rule)
	}
	for _, r := range s.AllOf {
		f.AllOf = append(f.AllOf, grantRule(r))
	}
	for _, r := range s.AnyOf {
		f.AnyOf = append(f.AnyOf, grantRule(r))
	}
	return f
}

func grantRule(r httpfilter.Rule) grant.HTTPFilter {
	return grant.HTTPFilter{Header: r.Header, Other: r.Path != "" || r.Method != "" || r.JQ != "" || r.Body != nil}
}

// obey gives back what changed rules refuse.
func (l *link) obey() {
	r := l.session.rules.Load()
	l.carrier.SetGrace(r.timeout)
	for _, sub := range l.w.incoming.of(l) {
		err := maySubscribe(r, sub.mode, sub.spec)
		if err == nil {
			continue
		}
		if uerr := l.w.incoming.unsubscribe(l, sub.port); uerr != nil {
			l.log.Error("giving back a port that is not allowed any more failed", "port", sub.port, "err", uerr)
		}
		l.control.notify(wire.Notice{Level: "warning", Port: sub.port, Text: fmt.Sprintf("port %d is the target's again: %v", sub.port, err)})
	}
	l.session.report()
}

// mayDial asks the grant about a connection. The context ends when the grant is changed to
// refuse it; done ends the asking.
func (s *session) mayDial(ctx context.Context, dst netip.AddrPort) (_ context.Context, done func(), err error) {
	ctx, done = s.dials.add(ctx, dst)
	if err := s.rules.Load().enforcer.Dial(protoTCP, dst, s.names.of(dst.Addr(), time.Now())); err != nil {
		done()
		s.refuse(err, 0)
		return nil, nil, err
	}
	return ctx, done, nil
}

// maySend asks the grant about a datagram.
func (s *session) maySend(dst netip.AddrPort) error {
	err := s.rules.Load().enforcer.Dial(protoUDP, dst, s.names.of(dst.Addr(), time.Now()))
	if err != nil {
		s.refuse(err, 0)
	}
	return err
}

// environ is the target's environment, without what the grant excludes.
func (s *session) environ() ([]string, error) {
	all, err := s.place.process.Environ()
	if err != nil {
		return nil, err
	}
	e := s.rules.Load().enforcer
	var env []string
	for _, v := range all {
		if name, _, _ := strings.Cut(v, "="); e.Variable(name) {
			env = append(env, v)
		}
	}
	return env, nil
}

// refuse counts a refusal and tells the user, now and then.
func (s *session) refuse(err error, port uint16) {
	s.refused.Add(1)
	s.log.Debug("refused", "err", err)
	text, ok := s.refusals.tell(err, time.Now())
	if !ok {
		return
	}
	s.log.Warn("the session wants what its grant does not have", "err", err)
	s.tell(wire.Notice{Level: "warning", Port: port, Text: text, Refused: true})
}

// tell tells the client something, if it is there.
func (s *session) tell(n wire.Notice) {
	s.mu.Lock()
	l := s.link
	s.mu.Unlock()
	if l != nil {
		l.control.notify(n)
	}
}

// refusals are what the user was told lately: one line for the same rules in a while.
type refusals struct {
	mu   sync.Mutex
	told map[string]*told
}

type told struct {
	last  time.Time
	since int // how often the user was spared it
}

func (r *refusals) tell(err error, now time.Time) (text string, ok bool) {
	key := err.Error()
	var refusal *grant.Refusal
	if errors.As(err, &refusal) {
		key = ""
		for _, c := range refusal.Causes {
			key += c.Policy + "\x00" + c.Rule + "\x00"
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.told[key]
	if t != nil && now.Sub(t.last) < refusalEvery {
		t.since++
		return "", false
	}
	text = err.Error()
	if t != nil && t.since > 0 {
		text += fmt.Sprintf(" (and %d times more since the last such line)", t.since)
	}
	if len(r.told) >= maxRefusals {
		r.told = nil
	}
	if r.told == nil {
		r.told = map[string]*told{}
	}
	r.told[key] = &told{last: now}
	return text, true
}

// dials are the connections that a session has open, or tries to.
type dials struct {
	mu   sync.Mutex
	open map[*dialing]struct{}
}

type dialing struct {
	dst    netip.AddrPort
	cancel context.CancelCauseFunc
}

func (d *dials) add(ctx context.Context, dst netip.AddrPort) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	one := &dialing{dst, cancel}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.open == nil {
		d.open = map[*dialing]struct{}{}
	}
	d.open[one] = struct{}{}
	return ctx, func() {
		cancel(nil)
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.open, one)
	}
}

// revoke ends the connections that may refuses.
func (d *dials) revoke(may func(netip.AddrPort) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for one := range d.open {
		if may(one.dst) != nil {
			one.cancel(errRevoked)
		}
	}
}
