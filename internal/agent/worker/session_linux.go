package worker

import (
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mirrord-go/mirrord/internal/agent/nodeapi"
	"github.com/mirrord-go/mirrord/internal/tunnel"
	"github.com/mirrord-go/mirrord/internal/tunnel/resume"
)

// session is one session, with or without its client.
type session struct {
	w      *Worker
	log    *slog.Logger
	id     string
	user   string
	uid    string // of the pod, for reports
	client tunnel.Fingerprint
	place  *place
	names  names

	rules   atomic.Pointer[rules]
	changed chan struct{} // rules is another one; holds one
	links   chan arrival
	quits   chan ending // holds one
	over    chan struct{}

	refused  atomic.Uint64
	refusals refusals
	dials    dials

	mu       sync.Mutex
	link     *link // nil without a client
	since    time.Time
	past     [2]uint64 // bytes of earlier links, in and out
	reported [3]uint64 // counters as they were reported last
}

// arrival is a client that has proven its key.
type arrival struct {
	tun     tunnel.Session
	carrier *resume.Conn
}

// ending is why a session ends: a reason for programs, and a text for the client.
type ending struct{ reason, text string }

func newSession(w *Worker, spec Session, r *rules, p *place) *session {
	s := &session{
		w: w, log: w.log, id: spec.ID, user: spec.User, uid: spec.Pod.Attachment(), client: spec.ClientKey, place: p, since: time.Now(),
		changed: make(chan struct{}, 1), links: make(chan arrival), quits: make(chan ending, 1), over: make(chan struct{}),
	}
	if spec.ID != "" {
		s.log = w.log.With("session", spec.ID, "user", spec.User)
	}
	s.rules.Store(r)
	return s
}

// run serves one client after the other until one of the ends.
func (s *session) run() {
	s.report()
	e := s.serve()
	s.w.mu.Lock()
	delete(s.w.sessions, s.id)
	s.w.mu.Unlock()
	s.w.leave(s.place)
	s.w.ended(s, e)
	close(s.over)
}

func (s *session) serve() ending {
	var current *link
	timeout := time.NewTimer(s.rules.Load().timeout)
	defer timeout.Stop()
	for {
		var ended <-chan struct{} // never, without a client
		if current != nil {
			ended = current.ended
		}
		select {
		case a := <-s.links:
			if current != nil {
				// The same key, so it is our client, back before we noticed that it
				// had gone.
				s.log.Info("the client came back, its old connection ends")
				current.end("")
			}
			timeout.Stop()
			current = s.start(a)
			s.now(current)
			s.report()
		case <-ended:
			if current.saidGoodbye() {
				s.log.Info("the client has ended the session")
				return ending{nodeapi.ReasonGoodbye, ""}
			}
			// A broken carrier was waited for already.
			wait := max(0, s.rules.Load().timeout-current.paused())
			s.log.Info("the client is gone, waiting for it to come back", "timeout", wait, "err", current.tun.Err())
			current = nil
			s.now(nil)
			s.report()
			timeout.Reset(wait)
		case <-s.changed:
			if current == nil {
				timeout.Reset(s.rules.Load().timeout)
			} else {
				current.obey()
			}
		case <-timeout.C:
			s.log.Info("no client came in time", "timeout", s.rules.Load().timeout)
			return ending{nodeapi.ReasonClientGone, ""}
		case <-s.place.gone:
			e := ending{nodeapi.ReasonTargetGone, "the target's process has ended"}
			s.log.Info(e.text, "err", s.place.problem)
			current.end(e.text)
			return e
		case e := <-s.quits:
			s.log.Info("the session is ended", "reason", e.text)
			current.end(e.text)
			return e
		}
	}
}

// take hands the session its client. It reports false when the session has ended.
func (s *session) take(tun tunnel.Session, carrier *resume.Conn) bool {
	select {
	case s.links <- arrival{tun, carrier}:
		return true
	case <-s.over:
		return false
	}
}

// quit ends the session. It does not wait.
func (s *session) quit(e ending) {
	select {
	case s.quits <- e:
	default: // It ends already.
	}
}

// change replaces the rules. What they refuse ends soon.
func (s *session) change(r *rules) {
	s.rules.Store(r)
	s.dials.revoke(func(dst netip.AddrPort) error {
		return r.enforcer.Dial(protoTCP, dst, s.names.of(dst.Addr(), time.Now()))
	})
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// now keeps what is reported of the client, or that there is none.
func (s *session) now(l *link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.past[0], s.past[1] = s.bytes()
	s.link, s.since = l, time.Now()
}

// bytes were carried so far. The caller holds mu.
func (s *session) bytes() (in, out uint64) {
	if s.link != nil {
		in, out = s.link.carrier.Carried()
	}
	return s.past[0] + in, s.past[1] + out
}

// state is what is reported of the session.
func (s *session) state() nodeapi.SessionState {
	stolen, mirrored := s.w.incoming.ports(s)
	slices.Sort(stolen)
	slices.Sort(mirrored)
	s.mu.Lock()
	defer s.mu.Unlock()
	st := nodeapi.SessionState{
		ID: s.id, PodUID: s.uid, Connected: s.link != nil, Since: s.since,
		Stolen: stolen, Mirrored: mirrored, Refused: s.refused.Load(),
	}
	if s.link != nil {
		if since, _ := s.link.carrier.Paused(); !since.IsZero() {
			st.Connected, st.Since = false, since
		}
	}
	st.BytesIn, st.BytesOut = s.bytes()
	s.reported = [3]uint64{st.BytesIn, st.BytesOut, st.Refused}
	return st
}

// report tells the session's state. Events are told in the order of what they say.
func (s *session) report() {
	if s.w.Report == nil {
		return
	}
	s.w.reporting.Lock()
	defer s.w.reporting.Unlock()
	if s.w.lookup(s.id) != s {
		return // over
	}
	st := s.state()
	s.w.Report(nodeapi.Event{Type: nodeapi.EventState, Session: &st})
}

// reportCounters reports if bytes or refusals have been counted since the last time.
func (s *session) reportCounters() {
	s.mu.Lock()
	in, out := s.bytes()
	changed := s.reported != [3]uint64{in, out, s.refused.Load()}
	s.mu.Unlock()
	if changed {
		s.report()
	}
}

// ended tells that a session, which is in nobody's hands any more, is over.
func (w *Worker) ended(s *session, e ending) {
	if w.Report == nil || e.reason == "" {
		return
	}
	w.reporting.Lock()
	defer w.reporting.Unlock()
	st := s.state()
	st.Connected = false
	w.Report(nodeapi.Event{Type: nodeapi.EventEnded, Session: &st, Reason: e.reason, Text: e.text})
}
