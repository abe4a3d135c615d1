package fleet

import (
	"context"
	"errors"
	"sync"

	"github.com/mirrord-go/mirrord/internal/session/remote"
	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

// member is an agent and the ports that were taken at it. Its lock is held while the agent
// is asked, so that taking and giving back happen one after the other. It is locked before
// the fleet's.
type member struct {
	Member
	fleet  *Fleet
	broken bool // guarded by the fleet's mu

	mu    sync.Mutex
	taken map[uint16]bool
}

// Subscribe takes a port at all agents, and at those that join until Unsubscribe. It returns
// how many established connections were ended so that they come to the session. An error
// says that no agent gave the port, and then none will be asked later. Without any agent the
// port is taken at the first that joins. To take a port again asks those agents that did not
// give it.
func (f *Fleet) Subscribe(ctx context.Context, s wire.Subscribe) (moved int, err error) {
	f.mu.Lock()
	f.wanted[s.Port] = s
	f.mu.Unlock()
	answers := f.everywhere(func(m *member) (int, error) { return m.settle(ctx, s.Port) })
	gave := 0
	var refused []answer
	for _, a := range answers {
		moved += a.moved
		switch {
		case a.err == nil:
			gave++
		case a.m.Client.Err() == nil: // a lost agent has no say
			refused = append(refused, a)
		}
	}
	if gave == 0 && len(refused) > 0 {
		f.mu.Lock()
		delete(f.wanted, s.Port)
		f.mu.Unlock()
		return moved, refused[0].err
	}
	for _, a := range refused {
		f.refused(a.m, s.Port, a.err)
	}
	return moved, nil
}

// Unsubscribe gives a port back at all agents. An error is that of one agent.
func (f *Fleet) Unsubscribe(ctx context.Context, port uint16) error {
	f.mu.Lock()
	delete(f.wanted, port)
	f.mu.Unlock()
	var errs []error
	for _, a := range f.everywhere(func(m *member) (int, error) { return m.settle(ctx, port) }) {
		if a.err != nil && a.m.Client.Err() == nil {
			errs = append(errs, a.err)
		}
	}
	return errors.Join(errs...)
}

// Settle asks the agents again that did not give a port, and says whether that has come to
// an end, and whether the session has the port everywhere then.
func (f *Fleet) Settle(ctx context.Context, port uint16) (settled, taken bool) {
	f.mu.Lock()
	_, taken = f.wanted[port]
	f.mu.Unlock()
	for _, a := range f.everywhere(func(m *member) (int, error) { return m.settle(ctx, port) }) {
		if a.err != nil && a.m.Client.Err() == nil {
			return false, false
		}
	}
	return true, taken
}

// answer is what one agent said.
type answer struct {
	m     *member
	moved int
	err   error
}

// everywhere asks all agents at once.
func (f *Fleet) everywhere(ask func(*member) (int, error)) []answer {
	members := f.all()
	answers := make([]answer, len(members))
	var all sync.WaitGroup
	for i, m := range members {
		all.Go(func() {
			moved, err := ask(m)
			answers[i] = answer{m, moved, err}
		})
	}
	all.Wait()
	return answers
}

// settle makes one port at the agent what the fleet wants it to be.
func (m *member) settle(ctx context.Context, port uint16) (moved int, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fleet.mu.Lock()
	s, wanted := m.fleet.wanted[port]
	m.fleet.mu.Unlock()
	switch {
	case wanted == m.taken[port]:
		return 0, nil
	case wanted:
		s.Probes, s.ProbeSources = m.Probes[port], m.ProbeSources
		moved, err = m.Client.Subscribe(ctx, s)
	default:
		err = m.Client.Unsubscribe(ctx, port)
	}
	if err == nil {
		m.taken[port] = wanted
	}
	return moved, err
}

// refused passes on that one agent of several keeps a port to itself.
func (f *Fleet) refused(m *member, port uint16, err error) {
	if _, lost := errors.AsType[*remote.LostError](err); lost || f.opts.Refused == nil {
		return
	}
	f.mu.Lock()
	s, wanted := f.wanted[port]
	f.mu.Unlock()
	if wanted {
		f.opts.Refused(m.Name, s, err)
	}
}
