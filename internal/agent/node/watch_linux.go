package node

import (
	"github.com/mirrord-go/mirrord/internal/agent/nodeapi"
	"github.com/mirrord-go/mirrord/internal/version"
)

// watchBuffer bounds the events that wait for one watcher.
const watchBuffer = 4096

// State implements [nodeapi.Agent].
func (a *nodeAgent) State() nodeapi.State {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.state()
}

func (a *nodeAgent) state() nodeapi.State {
	s := nodeapi.State{Version: version.String(), Sessions: []nodeapi.SessionState{}}
	for _, p := range a.pods {
		for _, e := range p.sessions {
			if e.known {
				s.Sessions = append(s.Sessions, e.state)
			}
		}
	}
	return s
}

// Watch implements [nodeapi.Agent].
func (a *nodeAgent) Watch() (nodeapi.State, <-chan nodeapi.Event, func()) {
	w := make(chan nodeapi.Event, watchBuffer)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.watchers[w] = struct{}{}
	return a.state(), w, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.dismiss(w)
	}
}

func (a *nodeAgent) dismiss(w chan nodeapi.Event) {
	if _, ok := a.watchers[w]; ok {
		delete(a.watchers, w)
		close(w)
	}
}

// publish tells all watchers. One that is too slow has to begin anew. The caller holds mu.
func (a *nodeAgent) publish(e nodeapi.Event) {
	for w := range a.watchers {
		select {
		case w <- e:
		default:
			a.dismiss(w)
		}
	}
}

// heard takes in what a worker reports.
func (a *nodeAgent) heard(w *child, e nodeapi.Event) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.pods[w.pod]
	if p == nil || p.worker != w {
		return
	}
	s := p.sessions[e.Session.ID]
	if s == nil {
		return
	}
	s.state, s.known = *e.Session, true
	if e.Type == nodeapi.EventEnded {
		delete(p.sessions, e.Session.ID)
		a.maybeLinger(p)
	}
	a.publish(e)
}
