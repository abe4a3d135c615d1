package steal

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
)

// Backend is a way of taking connections.
type Backend string

// The backends, best first.
const (
	// SKLookup is a BPF program of type sk_lookup: Linux 5.9, with CAP_BPF (CAP_SYS_ADMIN
	// before 5.8) and CAP_NET_ADMIN in the initial user namespace.
	SKLookup Backend = "sk_lookup"
	// NFTables is a tproxy rule in a table owned by this process: Linux 5.12 with nft_tproxy
	// and nft_fib, and CAP_NET_ADMIN over the network namespace, so also in a user namespace.
	NFTables Backend = "nftables"
)

// Options are the choices of [Open]. The zero value is the default.
type Options struct {
	// Backend is the way to take connections; the empty value takes the best one that works.
	Backend Backend
}

// Stealer takes connections of the network namespace that the process runs in. Its methods
// may be called concurrently.
type Stealer struct {
	log       *slog.Logger
	backend   backend
	listeners []*net.TCPListener
	conns     chan *Conn
	done      chan struct{}
	loops     sync.WaitGroup

	mu     sync.Mutex
	closed bool
	stolen map[uint16]*os.File // with their claims
}

// backend is what differs between the ways of taking connections. Calls of steal, release
// and close are serialised by [Stealer].
type backend interface {
	steal(port uint16) error
	release(port uint16) error
	dialer
	// close gives every port back at once.
	close() error
}

// Open makes ready to take connections; none is taken before [Stealer.Steal]. The error says
// why each backend that was tried did not work.
func Open(log *slog.Logger, opts Options) (*Stealer, error) {
	candidates := []Backend{SKLookup, NFTables}
	if opts.Backend != "" {
		candidates = []Backend{opts.Backend}
	}
	var refusals []error
	for _, b := range candidates {
		s, err := openBackend(log, b)
		if err == nil {
			log.Debug("can take connections", "backend", b, "listeners", len(s.listeners))
			return s, nil
		}
		refusals = append(refusals, fmt.Errorf("%s: %w", b, err))
	}
	return nil, fmt.Errorf("connections can't be taken from the target: %w", errors.Join(refusals...))
}

func openBackend(log *slog.Logger, b Backend) (*Stealer, error) {
	var open func([]*net.TCPListener) (backend, error)
	switch b {
	case SKLookup:
		open = openSKLookup
	case NFTables:
		open = openNFTables
	default:
		return nil, fmt.Errorf("unknown backend; use %q or %q", SKLookup, NFTables)
	}
	listeners, err := listen(b == NFTables)
	if err != nil {
		return nil, err
	}
	be, err := open(listeners)
	if err != nil {
		closeAll(listeners)
		return nil, err
	}
	s := &Stealer{
		log:       log.With("backend", string(b)),
		backend:   be,
		listeners: listeners,
		conns:     make(chan *Conn),
		done:      make(chan struct{}),
		stolen:    map[uint16]*os.File{},
	}
	for _, l := range listeners {
		s.loops.Go(func() { s.acceptLoop(l) })
	}
	return s, nil
}

// Backend returns the way in which connections are taken.
func (s *Stealer) Backend() Backend {
	if _, ok := s.backend.(*skLookup); ok {
		return SKLookup
	}
	return NFTables
}

// Steal takes the connections of a port: from the moment it returns, every new TCP
// connection to that port on any local address comes to [Stealer.Accept]. Connections that
// exist stay with the application; [Stealer.Flush] ends them. A port that this stealer has
// taken already stays so; one that another process has taken is a [*TakenError].
func (s *Stealer) Steal(port uint16) error {
	if port == 0 {
		return errors.New("port 0 can't be taken")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	if _, ok := s.stolen[port]; ok {
		return nil
	}
	mark, err := claim(port)
	if err != nil {
		return err
	}
	if err := s.backend.steal(port); err != nil {
		_ = mark.Close()
		return fmt.Errorf("taking port %d: %w", port, err)
	}
	s.stolen[port] = mark
	return nil
}

// Release gives a port back: from the moment it returns, new connections reach the
// application. Those taken before live on, and one that is still in the accept queue comes
// out of [Stealer.Accept] yet. A port that is not taken is no error.
func (s *Stealer) Release(port uint16) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	mark, ok := s.stolen[port]
	if !ok {
		return nil
	}
	if err := s.backend.release(port); err != nil {
		return fmt.Errorf("giving port %d back: %w", port, err)
	}
	_ = mark.Close()
	delete(s.stolen, port)
	return nil
}

// Close gives all ports back at once and ends what waits in the accept queue. Connections
// that [Stealer.Accept] and [Stealer.DialTarget] returned live on. A second call does
// nothing.
func (s *Stealer) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	err := s.backend.close()
	for _, mark := range s.stolen {
		_ = mark.Close()
	}
	s.mu.Unlock()
	close(s.done)
	closeAll(s.listeners)
	s.loops.Wait()
	if err != nil {
		return fmt.Errorf("giving the ports back: %w", err)
	}
	return nil
}

// ours says whether a connection came to our listener under its own address, which nobody
// has a reason to use.
func (s *Stealer) ours(l *net.TCPListener, dst netip.AddrPort) bool {
	if dst != addrPort(l.Addr()) {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, stolen := s.stolen[dst.Port()]
	return !stolen
}
