package session

import (
	"context"
	"fmt"

	"github.com/mirrord-go/mirrord/internal/tunnel"
)

// openTunnel opens a tunnel to one agent, and proves both keys on it. The context bounds the
// opening, not the tunnel.
func openTunnel(ctx context.Context, a Agent, id *tunnel.Identity) (tunnel.Session, error) {
	carrier, err := a.Dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("reaching %s: %w", a.Describe(), err)
	}
	sess, err := tunnel.Client(ctx, carrier, id, a.Key())
	if err != nil {
		return nil, fmt.Errorf("reaching %s: %w", a.Describe(), err)
	}
	return sess, nil
}
