package session

import (
	"context"
	"fmt"
	"time"

	"github.com/mirrord-go/mirrord/internal/tunnel"
	"github.com/mirrord-go/mirrord/internal/tunnel/resume"
)

// openTunnel opens a tunnel to one agent, and proves both keys on it. The context bounds the
// opening, not the tunnel: when its carrier breaks, another is made, and who uses the tunnel waits.
func (s *session) openTunnel(ctx context.Context, p *post) (tunnel.Session, error) {
	sess, err := tunnel.Dial(ctx, s.log, p.Agent.Dial, s.o.Identity, p.Agent.Key(), resume.Options{
		Grace: s.grace(),
		Paused: func(cause error) {
			s.fleet.Hold(p.Name, true)
			s.o.Observer.Event(Event{
				Kind: "tunnel-paused", Warning: true,
				Text: fmt.Sprintf("the connection to %s broke (%v): connections wait until it is back, for %v at most; new ones to stolen ports go to the target",
					p.Title(), cause, s.grace()),
			})
		},
		Resumed: func(after time.Duration) {
			s.fleet.Hold(p.Name, false)
			s.o.Observer.Event(Event{
				Kind: "tunnel-resumed",
				Text: fmt.Sprintf("the connection to %s is back after %v, nothing was lost", p.Title(), after.Round(10*time.Millisecond)),
			})
		},
		Hopeless: func(ctx context.Context, _ error) error { return fate(ctx, p.Agent) },
	})
	if err != nil {
		return nil, fmt.Errorf("reaching %s: %w", p.Agent.Describe(), err)
	}
	return sess, nil
}

// grace is how long a tunnel waits for its next carrier. The agent was told the same.
func (s *session) grace() time.Duration {
	if t := s.o.Plan.config.Agent.CommunicationTimeout; t > 0 {
		return time.Duration(t) * time.Second
	}
	return defaultGrace
}
