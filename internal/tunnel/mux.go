package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/libp2p/go-yamux/v5"

	"github.com/mirrord-go/mirrord/internal/gather"
)

// handshakeTimeout bounds how long a carrier may take to prove the peer's key.
const handshakeTimeout = 20 * time.Second

// Client starts a session on the carrier as the side that dialled it. It blocks until both
// keys are proven, ctx ends, or 20 seconds have passed, and owns the carrier from then on,
// also when it fails.
func Client(ctx context.Context, carrier net.Conn, id *Identity, peer Fingerprint) (Session, error) {
	below := below(carrier)
	c := tls.Client(below, id.tlsConfig(peer))
	if err := handshake(ctx, c); err != nil {
		return nil, err
	}
	b := newBatch(c, below)
	m, err := yamux.Client(b, muxConfig(), nil)
	return newMux(m, b, err)
}

// Server starts a session on the carrier as the side that accepted it. See [Client].
func Server(ctx context.Context, carrier net.Conn, id *Identity, peer Fingerprint) (Session, error) {
	below := below(carrier)
	c := tls.Server(below, id.tlsConfig(peer))
	if err := handshake(ctx, c); err != nil {
		return nil, err
	}
	b := newBatch(c, below)
	m, err := yamux.Server(b, muxConfig(), nil)
	return newMux(m, b, err)
}

// below is what TLS writes to and reads from.
func below(carrier net.Conn) *gather.Conn {
	_, socket := carrier.(syscall.Conn)
	return gather.New(carrier, socket)
}

func handshake(ctx context.Context, c *tls.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	if err := c.HandshakeContext(ctx); err != nil {
		_ = c.Close()
		return fmt.Errorf("securing the tunnel: %w", err)
	}
	return nil
}

func muxConfig() *yamux.Config {
	c := yamux.DefaultConfig()
	// The windows grow with the measured round trip up to 16 MiB. A session that is
	// saturated but healthy must not be taken for dead, so writes may take a minute,
	// and silence (no answer to a ping) decides.
	c.ConnectionWriteTimeout = 60 * time.Second
	c.KeepAliveInterval = 10 * time.Second
	c.AcceptBacklog = 4096
	c.MaxIncomingStreams = 1 << 20
	c.ReadBufSize = 64 << 10
	c.WriteCoalesceDelay = 0
	c.LogOutput = slog.NewLogLogger(slog.Default().Handler(), slog.LevelDebug).Writer()
	return c
}

type mux struct {
	m       *yamux.Session
	carrier *batch

	mu     sync.Mutex
	closed bool // by our own Close
}

func newMux(m *yamux.Session, carrier *batch, err error) (Session, error) {
	if err != nil {
		_ = carrier.Close()
		return nil, fmt.Errorf("starting the multiplexer: %w", err)
	}
	return &mux{m: m, carrier: carrier}, nil
}

func (s *mux) Open(ctx context.Context) (Stream, error) {
	st, err := s.m.OpenStream(ctx)
	if err != nil {
		return nil, s.explain(err)
	}
	return &stream{Stream: st, batch: s.carrier, opened: true}, nil
}

func (s *mux) Accept() (Stream, error) {
	st, err := s.m.AcceptStream()
	if err != nil {
		return nil, s.explain(err)
	}
	return &stream{Stream: st, batch: s.carrier}, nil
}

func (s *mux) Close() error {
	s.mu.Lock()
	already := s.closed || s.m.IsClosed()
	s.closed = s.closed || !already
	s.mu.Unlock()
	if already {
		return nil
	}
	err := s.m.Close()
	return errors.Join(err, ignoreClosed(s.carrier.Close()))
}

func (s *mux) Done() <-chan struct{} { return s.m.CloseChan() }

func (s *mux) RTT() time.Duration { return s.m.RTT() }

func (s *mux) Err() error {
	select {
	case <-s.m.CloseChan():
	default:
		return nil
	}
	// A closed session answers at once with why it closed.
	_, err := s.m.OpenStream(context.Background())
	return s.explain(err)
}

// explain turns the multiplexer's words into this package's.
func (s *mux) explain(err error) error {
	s.mu.Lock()
	closed := s.closed
	s.mu.Unlock()
	if closed {
		return ErrClosed
	}
	return fmt.Errorf("tunnel lost: %w", err)
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

type stream struct {
	*yamux.Stream
	batch  *batch
	opened bool        // by this side
	ended  atomic.Bool // the peer's data, as far as the reader knows
	closed atomic.Bool // our direction
}

func (s *stream) Read(b []byte) (int, error) {
	n, err := s.Stream.Read(b)
	if errors.Is(err, io.EOF) {
		s.ended.Store(true)
	}
	return n, explainStream(err)
}

func (s *stream) CloseWrite() error { return s.end(s.Stream.CloseWrite) }

func (s *stream) Close() error { return s.end(s.Stream.Close) }

// end ends our direction. Many answers end with their connection, so the end of the side that
// accepted is waited for, unless the other side has ended its own before. A client seldom ends
// its direction and goes on to wait; more often it has closed the connection, and makes the
// next one.
func (s *stream) end(end func() error) error {
	first := !s.closed.Swap(true)
	if first && (s.opened || s.ended.Load()) {
		s.batch.endMayWait(s.StreamID())
	}
	err := end()
	if first && err != nil {
		s.batch.endIsNot(s.StreamID())
	}
	return err
}

func (s *stream) Write(b []byte) (int, error) {
	n, err := s.Stream.Write(b)
	if errors.Is(err, io.EOF) {
		// A lost session says so with the word for a regular end of reading.
		err = fmt.Errorf("tunnel lost: %w", io.ErrClosedPipe)
	}
	return n, explainStream(err)
}

func (s *stream) Reset() error { return s.Stream.Reset() }

func explainStream(err error) error {
	var se *yamux.StreamError
	if errors.As(err, &se) {
		return &ResetError{Remote: se.Remote}
	}
	return err
}
