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
	"time"

	"github.com/libp2p/go-yamux/v5"

	"github.com/mirrord-go/mirrord/internal/gather"
	"github.com/mirrord-go/mirrord/internal/tunnel/resume"
)

const (
	// handshakeTimeout bounds how long a carrier may take to prove the peer's key.
	handshakeTimeout = 20 * time.Second
	// maxFrame is the most that a frame takes, with its header: what is copied at a time. Each frame wakes up
	// whoever waits for it.
	maxFrame = 128 << 10
)

// Client starts a session on one carrier as the side that dialled it, and the session ends with it;
// that of [Dial] does not. It blocks until both keys are proven, ctx ends, or 20 seconds have passed, and owns the
// carrier from then on, also when it fails.
func Client(ctx context.Context, carrier net.Conn, id *Identity, peer Fingerprint) (Session, error) {
	first := func(context.Context) (net.Conn, error) { return carrier, nil }
	return Dial(ctx, quiet, first, id, peer, resume.Options{Grace: -1})
}

// Dial starts a session on a carrier that dial returns, as the client, and calls dial again whenever a carrier
// broke. It blocks until both keys are proven, ctx ends, or 20 seconds have passed since there was a carrier.
// An error of dial is returned as it is.
func Dial(ctx context.Context, log *slog.Logger, dial func(context.Context) (net.Conn, error), id *Identity, peer Fingerprint, o resume.Options) (Session, error) {
	carrier, err := resume.Dial(ctx, log, dial, o)
	if err != nil {
		return nil, err
	}
	below := gather.New(carrier, false)
	c := tls.Client(below, id.tlsConfig(peer))
	if err := handshake(ctx, c, carrier); err != nil {
		return nil, err
	}
	b := newBatch(c, below)
	m, err := yamux.Client(b, muxConfig(), nil)
	return newMux(m, b, err)
}

// Server starts a session on one carrier as the side that accepted it, see [Client]. On a connection of a
// [resume.Server] the session outlives its carriers.
func Server(ctx context.Context, carrier net.Conn, id *Identity, peer Fingerprint) (Session, error) {
	s, _, err := ServerFor(ctx, carrier, id, only(peer))
	return s, err
}

// ServerFor is [Server] for a side that knows several peers: accept is called with the peer's
// key, and an error of it fails the handshake. The second result is that key.
func ServerFor(ctx context.Context, carrier net.Conn, id *Identity, accept func(peer Fingerprint) error) (Session, Fingerprint, error) {
	var peer Fingerprint
	conn, ok := carrier.(*resume.Conn)
	if !ok {
		var err error
		if conn, err = resume.NewServer(quiet, resume.Options{Grace: -1}).Accept(ctx, carrier); err != nil {
			return nil, peer, fmt.Errorf("securing the tunnel: %w", err)
		}
	}
	below := gather.New(conn, false)
	c := tls.Server(below, id.TLSConfig(alpn, func(got Fingerprint) error {
		peer = got
		return accept(got)
	}))
	if err := handshake(ctx, c, conn); err != nil {
		return nil, peer, err
	}
	b := newBatch(c, below)
	m, err := yamux.Server(b, muxConfig(), nil)
	s, err := newMux(m, b, err)
	return s, peer, err
}

// quiet is for carriers that are not replaced, of which there is nothing to log.
var quiet = slog.New(slog.DiscardHandler)

// resumeLabel names the secret by which a connection is resumed, see RFC 8446, 7.5.
const resumeLabel = "EXPORTER-mirrord-resume"

// handshake proves the keys of both sides, from which on the carrier may break.
func handshake(ctx context.Context, c *tls.Conn, carrier *resume.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	err := c.HandshakeContext(ctx)
	if err == nil {
		err = bind(c, carrier)
	}
	if err != nil {
		_ = c.Close()
		return fmt.Errorf("securing the tunnel: %w", err)
	}
	return nil
}

func bind(c *tls.Conn, carrier *resume.Conn) error {
	state := c.ConnectionState()
	secret, err := state.ExportKeyingMaterial(resumeLabel, nil, 32)
	if err != nil {
		return err
	}
	return carrier.Bind(secret)
}

func muxConfig() *yamux.Config {
	c := yamux.DefaultConfig()
	// The windows grow with the measured round trip up to 16 MiB. What is dead is decided below, where
	// a carrier can be replaced: here, a pause is just a connection that is slow.
	c.EnableKeepAlive = false
	c.ConnectionWriteTimeout = 24 * time.Hour
	c.AcceptBacklog = 4096
	c.MaxIncomingStreams = 1 << 20
	c.ReadBufSize = 64 << 10
	c.WriteCoalesceDelay = 0
	c.MaxMessageSize = maxFrame
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
		s.batch.mayWait(s.StreamID(), anEnd)
	}
	err := end()
	if first && err != nil {
		s.batch.isNot(s.StreamID(), anEnd)
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

// writeLater is [Later].
func (s *stream) writeLater(b []byte) (int, error) {
	s.batch.mayWait(s.StreamID(), someData)
	n, err := s.Write(b)
	if err != nil {
		s.batch.isNot(s.StreamID(), someData)
	}
	return n, err
}

func (s *stream) Reset() error { return s.Stream.Reset() }

func explainStream(err error) error {
	var se *yamux.StreamError
	if errors.As(err, &se) {
		return &ResetError{Remote: se.Remote}
	}
	return err
}
