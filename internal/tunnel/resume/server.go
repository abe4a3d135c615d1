package resume

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"
)

// refuseTime bounds how long a refusal may take to arrive.
const refuseTime = time.Second

// Server is the side that carriers come to. Its methods may be called at once from any goroutine.
type Server struct {
	log  *slog.Logger
	opts Options

	mu      sync.Mutex
	conns   map[[idSize]byte]*Conn // those that were bound and have not ended
	pending []net.Conn             // carriers in their handshake, the oldest first
}

// NewServer returns a server that waits for carriers. It has nothing to close: its connections have.
func NewServer(log *slog.Logger, o Options) *Server {
	return &Server{log: log, opts: o.withDefaults(), conns: make(map[[idSize]byte]*Conn)}
}

// Accept serves a carrier, and owns it from then on. It blocks until the peer has said what the carrier is for, for
// 10 seconds at most. It returns a new connection; or nil and no error when a connection that exists goes
// on over the carrier, in place of the one that it had.
func (s *Server) Accept(ctx context.Context, carrier net.Conn) (*Conn, error) {
	s.enter(carrier)
	defer s.leave(carrier)
	var r *resumption
	err := within(ctx, carrier, func() (err error) {
		r, err = s.greet(carrier)
		return err
	})
	switch {
	case err != nil:
		_ = carrier.Close()
		return nil, err
	case r != nil:
		return nil, r.conn.install(newCarrier(carrier), r.received, r.epoch)
	}
	c := newConn(s.log, s.opts, carrier)
	c.server = s
	c.out.appendGreeting(answerOK) // leaves with the first bytes
	c.start(newCarrier(carrier))
	return c, nil
}

// resumption is what was agreed on a carrier for a connection that exists.
type resumption struct {
	conn     *Conn
	received uint64 // by the client
	epoch    int
}

// greet hears what the peer wants: to resume a connection, or, without a result, a new one.
func (s *Server) greet(carrier net.Conn) (*resumption, error) {
	b := make([]byte, requestSize)
	if _, err := io.ReadFull(carrier, b[:helloSize]); err != nil {
		return nil, err
	}
	version, want, err := parseHello(b[:helloSize])
	switch {
	case err != nil:
		return nil, err
	case version != Version:
		refuse(carrier, answerVersion)
		return nil, &VersionError{Ours: Version, Theirs: int(version)}
	case want == wantNew:
		return nil, nil
	case want != wantResume:
		return nil, fmt.Errorf("%w: a request of kind %d", ErrMalformed, want)
	}
	if _, err := io.ReadFull(carrier, b[helloSize:]); err != nil {
		return nil, err
	}
	var x exchange
	copy(x.id[:], b[helloSize:])
	copy(x.clientNonce[:], b[helloSize+idSize:])
	c := s.lookup(x.id)
	if c == nil {
		refuse(carrier, answerUnknown)
		return nil, errUnknown
	}
	return c.offer(carrier, &x)
}

// offer is the server's part of resuming a connection.
func (c *Conn) offer(carrier net.Conn, x *exchange) (*resumption, error) {
	_, _ = rand.Read(x.serverNonce[:]) // never fails
	b := appendHello(make([]byte, 0, offerSize), answerOK)
	if _, err := carrier.Write(append(b, x.serverNonce[:]...)); err != nil {
		return nil, err
	}
	b = make([]byte, statementSize)
	if _, err := io.ReadFull(carrier, b); err != nil {
		return nil, err
	}
	r := &resumption{conn: c}
	var proof []byte
	r.received, proof = statement(b)
	x.clientOffset = r.received
	if !hmac.Equal(proof, c.keys.clientProof(x)) {
		return nil, errProof
	}
	var err error
	if x.serverOffset, r.epoch, err = c.freeze(); err != nil {
		return nil, err
	}
	_, err = carrier.Write(appendStatement(nil, x.serverOffset, c.keys.serverProof(x)))
	return r, err
}

// freeze ends the use of the old carrier, which the client has given up. It returns how much was received, which is
// final until somebody installs a carrier with the epoch, or freezes again: what still arrives on the
// old one does not count.
func (c *Conn) freeze() (received uint64, epoch int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.err != nil || c.ended {
		return 0, 0, errUnknown
	}
	if c.carrier != nil {
		c.broken(c.carrier, errStale)
	}
	c.epoch++
	return c.received, c.epoch, nil
}

// refuse answers no, and lets the answer arrive: closing at once would reset a connection on which the
// peer has said more than was read.
func refuse(carrier net.Conn, word byte) {
	if _, err := carrier.Write(appendHello(nil, word)); err != nil {
		return
	}
	if h, ok := carrier.(interface{ CloseWrite() error }); ok && h.CloseWrite() == nil {
		if carrier.SetReadDeadline(time.Now().Add(refuseTime)) != nil {
			return
		}
		_, _ = io.CopyN(io.Discard, carrier, 64<<10)
	}
}

func (s *Server) lookup(id [idSize]byte) *Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns[id]
}

// add and remove are called with the connection's lock held.
func (s *Server) add(c *Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[c.keys.id] = c
}

func (s *Server) remove(c *Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c.keys.id)
}

func (s *Server) enter(carrier net.Conn) {
	s.mu.Lock()
	var oldest net.Conn
	if len(s.pending) == s.opts.Handshakes {
		oldest = s.pending[0]
		s.pending = s.pending[1:]
	}
	s.pending = append(s.pending, carrier)
	s.mu.Unlock()
	if oldest != nil {
		_ = oldest.Close()
	}
}

func (s *Server) leave(carrier net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.pending, carrier); i >= 0 {
		s.pending = slices.Delete(s.pending, i, i+1)
	}
}
