//go:build linux

package remote_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/mirrord-go/mirrord/internal/session/agenttest"
	"github.com/mirrord-go/mirrord/internal/session/remote"
	"github.com/mirrord-go/mirrord/internal/tunnel"
	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

// slowOpens is a tunnel that opens streams only as long as it is quick.
type slowOpens struct {
	tunnel.Session
	slow    chan struct{} // closed when it is not
	waiting chan struct{}
}

func (s *slowOpens) Open(ctx context.Context) (tunnel.Stream, error) {
	select {
	case <-s.slow:
		s.waiting <- struct{}{}
		<-ctx.Done()
		return nil, context.Cause(ctx)
	default:
		return s.Session.Open(ctx)
	}
}

// Who wants the target's files can give up while somebody else waits for the stream.
func TestFilesGivenUpBehindAnother(t *testing.T) {
	sess, _ := agenttest.New(t, agenttest.Script{Welcome: wire.Welcome{Can: []string{wire.CanFiles}}})
	slow := &slowOpens{Session: sess, slow: make(chan struct{}), waiting: make(chan struct{}, 2)}
	c, err := remote.Start(t.Context(), quiet(), slow, remote.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close("the test is over")
	close(slow.slow)

	first, endFirst := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { _, err := c.Files(first); ended <- err }()
	defer func() { endFirst(); <-ended }()
	<-slow.waiting

	given := errors.New("given up")
	second, giveUp := context.WithCancelCause(t.Context())
	done := make(chan error, 1)
	go func() { _, err := c.Files(second); done <- err }()
	giveUp(given)
	select {
	case err := <-done:
		if lost, ok := errors.AsType[*remote.LostError](err); !ok || !errors.Is(lost.Cause, given) {
			t.Errorf("error %v, want one because of %v", err, given)
		}
	case <-time.After(patience):
		t.Error("a call that was given up waits for another's stream")
		endFirst()
		<-done
	}
}
