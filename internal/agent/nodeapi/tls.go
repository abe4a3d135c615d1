package nodeapi

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/mirrord-go/mirrord/internal/agent/strangers"
	"github.com/mirrord-go/mirrord/internal/gather"
	"github.com/mirrord-go/mirrord/internal/tunnel"
)

// What is spoken over TLS, by ALPN: one key never serves as another protocol's.
const (
	apiProtocol     = "http/1.1"
	carrierProtocol = "mirrord-carrier/1"
)

const (
	// handshakeTimeout bounds how long a peer may take to prove its key.
	handshakeTimeout = 10 * time.Second
	// maxStrangers bounds the peers of one listener that have not yet. A thousand sessions
	// may begin at once, behind one operator.
	maxStrangers = 1024
	// acceptPause is how long accepting rests after a failure such as EMFILE.
	acceptPause = 50 * time.Millisecond
)

// DialCarrier connects to the worker of a pod, at the address of the agent's pod and the port
// of [Registered]. What it returns carries one client's tunnel, in both directions. It blocks
// until both keys are proven, ctx ends, or 10 seconds have passed.
func DialCarrier(ctx context.Context, addr string, own *tunnel.Identity, worker tunnel.Fingerprint) (net.Conn, error) {
	secure, below, err := dial(ctx, addr, own, worker, carrierProtocol)
	if err != nil {
		return nil, err
	}
	return gather.Over(secure, below), nil
}

func dial(ctx context.Context, addr string, own *tunnel.Identity, peer tunnel.Fingerprint, protocol string) (*tls.Conn, *gather.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, nil, fmt.Errorf("connecting to the agent at %s: %w", addr, err)
	}
	below := gather.New(c, true)
	secure := tls.Client(below, own.TLSConfig(protocol, only(peer)))
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = c.Close()
		return nil, nil, fmt.Errorf("connecting to the agent at %s: %w", addr, err)
	}
	return secure, below, nil
}

func only(peer tunnel.Fingerprint) func(tunnel.Fingerprint) error {
	return func(got tunnel.Fingerprint) error {
		if got != peer {
			return &tunnel.PeerError{Want: peer, Got: got}
		}
		return nil
	}
}

// ListenCarriers makes of a worker's listener one whose connections come from [DialCarrier]
// with the operator's key. Closing it closes l and waits until nothing of it is left;
// connections that were accepted live on.
func ListenCarriers(log *slog.Logger, l net.Listener, own *tunnel.Identity, operator tunnel.Fingerprint) net.Listener {
	s := listen(log, l, own, operator, carrierProtocol)
	s.gathers = true
	s.loops.Go(s.run)
	return s
}

// listener accepts the peers that prove a key.
type listener struct {
	net.Listener
	log       *slog.Logger
	config    *tls.Config
	strangers *strangers.Set
	gathers   bool // its connections are [gather.TLS]

	ctx    context.Context //nolint:containedctx // of the handshakes; ends with Close
	cancel context.CancelFunc
	proven chan net.Conn
	loops  sync.WaitGroup
}

// listen makes a listener, which accepts once it runs.
func listen(log *slog.Logger, l net.Listener, own *tunnel.Identity, operator tunnel.Fingerprint, protocol string) *listener {
	s := &listener{
		Listener: l, log: log, config: own.TLSConfig(protocol, only(operator)),
		strangers: strangers.New(maxStrangers), proven: make(chan net.Conn),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// Accept waits for the next peer that has proven its key.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.proven:
		return c, nil
	case <-l.ctx.Done():
		return nil, net.ErrClosed
	}
}

// Close implements [net.Listener].
func (l *listener) Close() error {
	l.cancel()
	err := l.Listener.Close()
	l.loops.Wait()
	return err
}

func (l *listener) run() {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				l.cancel() // also when somebody else closed it
				return
			}
			l.log.Warn("accepting a connection failed, trying again", "err", err)
			select {
			case <-time.After(acceptPause):
			case <-l.ctx.Done():
			}
			continue
		}
		l.strangers.Add(c)
		l.loops.Go(func() { l.prove(c) })
	}
}

func (l *listener) prove(c net.Conn) {
	ctx, cancel := context.WithTimeout(l.ctx, handshakeTimeout)
	defer cancel()
	below := gather.New(c, true)
	secure := tls.Server(below, l.config)
	err := secure.HandshakeContext(ctx)
	l.strangers.Remove(c)
	if err != nil {
		_ = c.Close()
		if l.ctx.Err() == nil {
			l.log.Warn("someone who is not the operator connected", "from", c.RemoteAddr().String(), "err", err)
		}
		return
	}
	var proven net.Conn = secure
	if l.gathers {
		proven = gather.Over(secure, below)
	}
	select {
	case l.proven <- proven:
	case <-l.ctx.Done():
		_ = c.Close()
	}
}
