// Package fleet makes one agent of all that a session has: the pods of its target come and
// go, each with an agent of its own, and the session goes on.
//
// Ports are taken at every agent, also at those that join later. What the process does
// itself, connections, datagrams and names, goes through the first agent of the list that
// can be reached; when that is lost, through the next. What was open ends with the agent
// that carried it, as connections of a pod that is gone. Without any agent, calls wait a
// while for one and then fail with ENETUNREACH, as on a machine without a network.
package fleet

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/mirrord-go/mirrord/internal/intercept"
	"github.com/mirrord-go/mirrord/internal/session/remote"
	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

// DefaultPatience is how long calls wait for an agent. Resolvers ask again after five
// seconds, and few programs give up on a connection earlier than this.
const DefaultPatience = 10 * time.Second

// Options of a [Fleet].
type Options struct {
	// Patience is how long calls wait for an agent; 0 is [DefaultPatience].
	Patience time.Duration
	// Refused is told that one agent did not give a port which the session has elsewhere;
	// may be nil.
	Refused func(name string, s wire.Subscribe, err error)
}

// Member is one agent.
type Member struct {
	// Name is unique among the members.
	Name   string
	Client *remote.Client
	// Probes are the kubelet's probes of the pod by port, ProbeSources the addresses they
	// come from; may be empty.
	Probes       map[uint16][]wire.Probe
	ProbeSources []netip.Addr
}

// Fleet is the agents of one session. Its methods may be called at once from any goroutine.
type Fleet struct {
	log  *slog.Logger
	opts Options

	mu      sync.Mutex
	members []*member
	order   map[string]int
	changed chan struct{} // closed, and replaced, when there is another member
	wanted  map[uint16]wire.Subscribe
	closed  bool
}

// New makes a fleet without members.
func New(log *slog.Logger, opts Options) *Fleet {
	if opts.Patience == 0 {
		opts.Patience = DefaultPatience
	}
	return &Fleet{
		log: log, opts: opts,
		changed: make(chan struct{}), wanted: make(map[uint16]wire.Subscribe),
	}
}

// Join adds an agent and takes at it the ports that the session has. It blocks until the
// agent has answered; what the process does itself can go through it meanwhile.
func (f *Fleet) Join(ctx context.Context, m Member) {
	added := &member{Member: m, fleet: f, taken: make(map[uint16]bool)}
	f.mu.Lock()
	f.members = append(f.members, added)
	f.sort()
	close(f.changed)
	f.changed = make(chan struct{})
	ports := make([]uint16, 0, len(f.wanted))
	for port := range f.wanted {
		ports = append(ports, port)
	}
	f.mu.Unlock()
	var all sync.WaitGroup
	for _, port := range ports {
		all.Go(func() {
			if _, err := added.settle(ctx, port); err != nil {
				f.refused(added, port, err)
			}
		})
	}
	all.Wait()
}

// Leave removes an agent. What it carries goes on until its client is closed.
func (f *Fleet) Leave(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.members = slices.DeleteFunc(f.members, func(m *member) bool { return m.Name == name })
}

// Hold says whether the connection to an agent is broken for now: then others are preferred.
func (f *Fleet) Hold(name string, broken bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range f.members {
		if m.Name == name {
			m.broken = broken
		}
	}
}

// Order says which agents are preferred for what the process does itself, the best first.
func (f *Fleet) Order(names []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.order = make(map[string]int, len(names))
	for i, name := range names {
		f.order[name] = i
	}
	f.sort()
}

func (f *Fleet) sort() {
	slices.SortStableFunc(f.members, func(a, b *member) int { return f.place(a) - f.place(b) })
}

func (f *Fleet) place(m *member) int {
	if i, ok := f.order[m.Name]; ok {
		return i
	}
	return len(f.order)
}

// Len is the number of agents.
func (f *Fleet) Len() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.members)
}

// Close ends the waiting for agents; calls without one fail from now on.
func (f *Fleet) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.closed {
		f.closed = true
		close(f.changed)
		f.changed = make(chan struct{})
	}
}

// DialTCP connects from the target. See [remote.Client.DialTCP].
func (f *Fleet) DialTCP(ctx context.Context, dst netip.AddrPort) (intercept.Conn, error) {
	return through(ctx, f, func(c *remote.Client) (intercept.Conn, error) { return c.DialTCP(ctx, dst) })
}

// DialUnix connects to a Unix socket of the target. See [remote.Client.DialUnix].
func (f *Fleet) DialUnix(ctx context.Context, packets bool, name string) (intercept.UnixConn, error) {
	return through(ctx, f, func(c *remote.Client) (intercept.UnixConn, error) { return c.DialUnix(ctx, packets, name) })
}

// OpenUDP opens a UDP socket at the target. See [remote.Client.OpenUDP].
func (f *Fleet) OpenUDP(ctx context.Context) (intercept.PacketConn, error) {
	return through(ctx, f, func(c *remote.Client) (intercept.PacketConn, error) { return c.OpenUDP(ctx) })
}

// Resolve asks the target's resolver. See [remote.Client.Resolve].
func (f *Fleet) Resolve(ctx context.Context, t wire.Transport, query []byte) ([]byte, error) {
	return through(ctx, f, func(c *remote.Client) ([]byte, error) { return c.Resolve(ctx, t, query) })
}

// Environ returns the environment of the target's process. See [remote.Client.Environ].
func (f *Fleet) Environ(ctx context.Context) ([]string, error) {
	return through(ctx, f, func(c *remote.Client) ([]string, error) { return c.Environ(ctx) })
}

// Drain waits until all connections of DialTCP have been closed, or ctx has ended, and says
// whether they have.
func (f *Fleet) Drain(ctx context.Context) bool {
	for _, m := range f.all() {
		if !m.Client.Drain(ctx) {
			return false
		}
	}
	return true
}

func (f *Fleet) all() []*member {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.members)
}

// through makes one call at the first agent. When that is lost before it has answered, the
// call has had no effect that anybody saw, and is made again at the next.
func through[T any](ctx context.Context, f *Fleet, call func(*remote.Client) (T, error)) (T, error) {
	for {
		c, err := f.first(ctx)
		if err != nil {
			var none T
			return none, err
		}
		v, err := call(c)
		_, lost := errors.AsType[*remote.LostError](err)
		if !lost || c.Err() == nil || ctx.Err() != nil {
			return v, err
		}
	}
}

// first returns the best agent that can be reached, and waits for one if there is none.
func (f *Fleet) first(ctx context.Context) (*remote.Client, error) {
	var late <-chan time.Time
	for {
		f.mu.Lock()
		c, changed, closed := f.best(), f.changed, f.closed
		f.mu.Unlock()
		if c != nil {
			return c, nil
		}
		if closed {
			return nil, &remote.LostError{Errno: syscall.ENETUNREACH}
		}
		if late == nil {
			t := time.NewTimer(f.opts.Patience)
			defer t.Stop()
			late = t.C
		}
		select {
		case <-changed:
		case <-late:
			return nil, &remote.LostError{Errno: syscall.ENETUNREACH, Cause: errNoPod}
		case <-ctx.Done():
			return nil, errors.Join(syscall.ETIMEDOUT, context.Cause(ctx))
		}
	}
}

var errNoPod = errors.New("the target has no pod at the moment")

func (f *Fleet) best() *remote.Client {
	var broken *remote.Client
	for _, m := range f.members {
		switch {
		case m.Client.Err() != nil:
		case !m.broken:
			return m.Client
		case broken == nil:
			broken = m.Client
		}
	}
	return broken
}
