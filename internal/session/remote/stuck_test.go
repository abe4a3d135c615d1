//go:build linux

package remote_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/mirrord-go/mirrord/internal/session/agenttest"
	"github.com/mirrord-go/mirrord/internal/session/remote"
	"github.com/mirrord-go/mirrord/internal/tunnel"
)

// stuckCarrier takes nothing any more once it is stuck, until it is closed or a deadline passes.
type stuckCarrier struct {
	net.Conn
	stuck chan struct{}
	freed chan struct{}
	once  sync.Once
}

func (c *stuckCarrier) Write(p []byte) (int, error) {
	select {
	case <-c.stuck:
		<-c.freed
		return 0, net.ErrClosed
	default:
		return c.Conn.Write(p)
	}
}

func (c *stuckCarrier) free() { c.once.Do(func() { close(c.freed) }) }

func (c *stuckCarrier) SetWriteDeadline(t time.Time) error {
	if !t.IsZero() {
		c.free()
	}
	return c.Conn.SetWriteDeadline(t)
}

func (c *stuckCarrier) SetDeadline(t time.Time) error {
	return errors.Join(c.SetWriteDeadline(t), c.SetReadDeadline(t))
}

func (c *stuckCarrier) Close() error { c.free(); return c.Conn.Close() }

// fill writes until the tunnel takes nothing more.
func fill(t *testing.T, sess tunnel.Session) {
	t.Helper()
	for range 1000 {
		st, err := sess.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_ = st.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		if _, err := st.Write(make([]byte, 64<<10)); err != nil {
			return
		}
	}
	t.Fatal("the tunnel has no end")
}

// A request can be given up while the network takes nothing: a session whose laptop has lost its
// network in the middle of an upload ends when its user wants it to.
func TestRequestGivenUpOnAStuckTunnel(t *testing.T) {
	id, agentID := agenttest.Identities(t)
	near, far := net.Pipe()
	carrier := &stuckCarrier{Conn: near, stuck: make(chan struct{}), freed: make(chan struct{})}
	go agenttest.Serve(t, far, agentID, id.Fingerprint(), agenttest.Script{})
	sess, err := tunnel.Client(t.Context(), carrier, id, agentID.Fingerprint())
	if err != nil {
		t.Fatal(err)
	}
	c, err := remote.Start(t.Context(), quiet(), sess, remote.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close("the test is over")
	close(carrier.stuck)
	fill(t, sess)

	given := errors.New("given up")
	for range 2 { // the second waits behind the first
		ctx, giveUp := context.WithCancelCause(t.Context())
		done := make(chan error, 1)
		go func() { done <- c.Unsubscribe(ctx, 80) }()
		giveUp(given)
		select {
		case err := <-done:
			if !errors.Is(err, given) && c.Err() == nil {
				t.Errorf("error %v, want %v", err, given)
			}
		case <-time.After(patience):
			t.Fatal("the request waits for the network")
		}
	}
}
