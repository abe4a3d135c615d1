// Package sessionload makes many sessions of the operator in one process, to see what an operator
// and its agents bear.
//
// Each [Client] is to them what the mirrord command is: it creates a session with a key of its
// own, follows it, opens a resumable tunnel over sessions/connect, takes a port of the target, and
// has a connection from the target to an echo service on which every byte is checked. It has no
// local process.
package sessionload

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	sessions "github.com/mirrord-go/mirrord/api/sessions/v1alpha"
	"github.com/mirrord-go/mirrord/internal/attach"
	"github.com/mirrord-go/mirrord/internal/intercept"
	"github.com/mirrord-go/mirrord/internal/kube"
	"github.com/mirrord-go/mirrord/internal/session"
	"github.com/mirrord-go/mirrord/internal/session/remote"
	"github.com/mirrord-go/mirrord/internal/tunnel"
	"github.com/mirrord-go/mirrord/internal/tunnel/resume"
	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

// Options are what a [Client] does. All fields are needed.
type Options struct {
	// Cluster is reached with the user's rights.
	Cluster           *kube.Cluster
	Namespace, Target string
	// Mirror is a port of the target of which the client takes a copy.
	Mirror uint16
	// Echo is a service that the target reaches and that sends back each line.
	Echo netip.AddrPort
	// Every is the time from one line to the next.
	Every time.Duration
}

// grace is how long a tunnel waits for its next carrier, as with the mirrord command.
const grace = 5 * time.Minute

// Client is one session. Its methods are safe for concurrent use.
type Client struct {
	// Name is the session's, Took how long it took from the request to the first line that came back.
	Name string
	Took time.Duration

	all    session.Attachments
	sess   tunnel.Session
	remote *remote.Client
	conn   intercept.Conn
	stop   context.CancelFunc
	tasks  sync.WaitGroup

	mu      sync.Mutex
	err     error
	lines   int
	pauses  int
	longest time.Duration // of an echo
}

// Start starts a session. It blocks until the first line has come back. The context bounds the
// start.
func Start(ctx context.Context, o Options) (_ *Client, err error) {
	began := time.Now()
	id, err := tunnel.NewIdentity()
	if err != nil {
		return nil, err
	}
	s, err := o.Cluster.CreateSession(ctx, o.Namespace, sessions.SessionSpec{
		Target: o.Target, ClientKey: id.Fingerprint().String(),
		Features: sessions.Features{
			Incoming: sessions.Incoming{Mode: "mirror"}, Outgoing: sessions.Outgoing{TCP: true, UDP: true},
			DNS: sessions.DNS{Enabled: true}, Files: sessions.Files{Mode: "local"},
		},
		Client: sessions.ClientInfo{Version: "load", Program: "sessionload"},
	})
	if err != nil {
		return nil, err
	}
	log := slog.New(slog.DiscardHandler)
	base, stop := context.WithCancel(context.WithoutCancel(ctx))
	c := &Client{Name: s.Name, stop: stop, all: attach.Operator(base, log, o.Cluster, s)}
	defer func() {
		if err != nil {
			_ = c.Close(context.WithoutCancel(ctx))
		}
	}()
	first, err := c.all.Next(ctx)
	if err != nil {
		return nil, err
	}
	if len(first.Attachments) == 0 {
		return nil, errors.New("the target has no pod")
	}
	agent := first.Attachments[0].Agent
	c.sess, err = tunnel.Dial(ctx, log, agent.Dial, id, agent.Key(), resume.Options{Grace: grace, Paused: func(error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.pauses++
	}})
	if err != nil {
		return nil, err
	}
	if c.remote, err = remote.Start(ctx, log, c.sess, remote.Options{Build: "load", SessionID: s.Name}); err != nil {
		return nil, err
	}
	if _, err := c.remote.Subscribe(ctx, wire.Subscribe{Port: o.Mirror, Mode: wire.Mirror}); err != nil {
		return nil, err
	}
	if c.conn, err = c.remote.DialTCP(ctx, o.Echo); err != nil {
		return nil, err
	}
	in := bufio.NewReader(c.conn)
	if err := c.echo(in, 0); err != nil {
		return nil, err
	}
	c.Took = time.Since(began)
	c.tasks.Go(func() { c.talk(base, in, o.Every) })
	c.tasks.Go(func() { c.follow(base) })
	return c, nil
}

// echo sends a line and checks what comes back.
func (c *Client) echo(in *bufio.Reader, n int) error {
	line := fmt.Sprintf("%s %d\n", c.Name, n)
	began := time.Now()
	if _, err := c.conn.Write([]byte(line)); err != nil {
		return fmt.Errorf("writing line %d: %w", n, err)
	}
	got, err := in.ReadString('\n')
	if err != nil {
		return fmt.Errorf("reading line %d: %w", n, err)
	}
	if got != line {
		return fmt.Errorf("line %d came back as %q", n, got)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lines++
	c.longest = max(c.longest, time.Since(began))
	return nil
}

func (c *Client) talk(ctx context.Context, in *bufio.Reader, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if err := c.echo(in, n); err != nil {
			c.fail(ctx, err)
			return
		}
	}
}

// follow notices the end of the session.
func (c *Client) follow(ctx context.Context) {
	for {
		if _, err := c.all.Next(ctx); err != nil {
			c.fail(ctx, err)
			return
		}
	}
}

func (c *Client) fail(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = errors.Join(c.err, err)
}

// Err says why the session is of no use any more; nil while it is.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// State is what a client has seen.
type State struct {
	// Lines came back.
	Lines int
	// Pauses are the carriers that broke.
	Pauses int
	// Longest is how long the slowest line took to come back.
	Longest time.Duration
}

// Take returns what has been seen since the last call.
func (c *Client) Take() State {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := State{c.lines, c.pauses, c.longest}
	c.lines, c.pauses, c.longest = 0, 0, 0
	return s
}

// Close ends the session, as a client does that ends in order.
func (c *Client) Close(ctx context.Context) error {
	c.stop()
	if c.remote != nil {
		_ = c.remote.Close("")
	} else if c.sess != nil {
		_ = c.sess.Close()
	}
	c.tasks.Wait()
	return c.all.Close(ctx)
}
