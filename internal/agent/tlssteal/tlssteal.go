// Package tlssteal ends TLS in the place of an application, so that package httpsplit can tell
// requests apart where the application terminates TLS itself.
//
// A [Port] is made of what a resource in the cluster says (package tlsport) and of the files of
// the target's container that it names. [Port.Accept] looks at a connection: one that begins
// with TLS is decrypted, any other goes on as it is. What nobody steals reaches the application
// encrypted again: [Port.App] is the way there.
//
// Keys stay in this process. They are in no error, no log and no answer to a client.
package tlssteal

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/mirrord-go/mirrord/internal/agent/httpsplit"
	"github.com/mirrord-go/mirrord/internal/pipe"
	"github.com/mirrord-go/mirrord/internal/tlsconn"
	"github.com/mirrord-go/mirrord/internal/tlsport"
)

// Files are those of the target's container.
type Files interface {
	// OpenFile opens a regular file.
	OpenFile(name string) (*os.File, error)
	// ReadDirNames lists a directory of at most limit entries.
	ReadDirNames(name string, limit int) ([]string, error)
}

const (
	// handshakeTimeout bounds a handshake on either side.
	handshakeTimeout = 10 * time.Second
	// freshFor is how long the files count as read: certificates are renewed while pods run.
	freshFor = 30 * time.Second
)

// Port ends TLS on one port. Its methods may be called at once from any goroutine.
type Port struct {
	log    *slog.Logger
	config tlsport.Port
	files  Files

	mu      sync.Mutex
	server  *tls.Config
	client  *tls.Config
	read    time.Time // when the files were
	reading bool
}

// New reads the files once. The error names the field and the file that is wrong.
func New(log *slog.Logger, config tlsport.Port, files Files) (*Port, error) {
	if err := config.Check(); err != nil {
		return nil, fmt.Errorf("the TLS configuration of port %d: %w", config.Port, err)
	}
	p := &Port{log: log, config: config, files: files, read: time.Now()}
	var err error
	if p.server, p.client, err = p.load(); err != nil {
		return nil, fmt.Errorf("the TLS configuration of port %d: %w", config.Port, err)
	}
	return p, nil
}

// configs are both sides as the files say now, or said when they could be read last. One connection reads
// them again when it is time, and others do not wait for it: the target's file system may hang.
func (p *Port) configs() (server, client *tls.Config) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Since(p.read) <= freshFor || p.reading {
		return p.server, p.client
	}
	p.reading = true
	p.mu.Unlock()
	server, client, err := p.load()
	p.mu.Lock()
	p.reading, p.read = false, time.Now()
	if err != nil {
		p.log.Warn("the target's TLS files can't be read again; those of before are used", "port", p.config.Port, "err", err)
	} else {
		p.server, p.client = server, client
	}
	return p.server, p.client
}

// load reads the files.
func (p *Port) load() (server, client *tls.Config, err error) {
	s, c := p.config.AgentAsServer, p.config.AgentAsClient
	cert, err := p.pair("agentAsServer.authentication", s.Authentication)
	if err != nil {
		return nil, nil, err
	}
	server = &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: s.ALPNProtocols, MinVersion: tls.VersionTLS12}
	if v := s.Verification; v != nil {
		server.ClientAuth = clientAuth(*v)
		if server.ClientCAs, err = p.roots("agentAsServer.verification.trustRoots", v.TrustRoots); err != nil {
			return nil, nil, err
		}
	}
	v := c.Verification
	client = &tls.Config{InsecureSkipVerify: v.AcceptAnyCert, MinVersion: tls.VersionTLS12} //nolint:gosec // asked for, and within the pod
	if !v.AcceptAnyCert {
		if client.RootCAs, err = p.roots("agentAsClient.verification.trustRoots", v.TrustRoots); err != nil {
			return nil, nil, err
		}
	}
	if a := c.Authentication; a != nil {
		cert, err := p.pair("agentAsClient.authentication", *a)
		if err != nil {
			return nil, nil, err
		}
		client.Certificates = []tls.Certificate{cert}
	}
	return server, client, nil
}

func clientAuth(v tlsport.ClientVerification) tls.ClientAuthType {
	switch {
	case v.AcceptAnyCert && v.AllowAnonymous:
		return tls.RequestClientCert
	case v.AcceptAnyCert:
		return tls.RequireAnyClientCert
	case v.AllowAnonymous:
		return tls.VerifyClientCertIfGiven
	}
	return tls.RequireAndVerifyClientCert
}

// Info is what a client of a decrypted connection chose.
type Info struct {
	// ServerName is the name that it asked for (SNI); empty when it named none.
	ServerName string
	// ALPN is the protocol that was agreed on; empty for none.
	ALPN string
}

// Accept decrypts a connection that begins with TLS, and returns what to read instead. Info is
// nil for one that does not, or that says nothing within the time: it goes on as it is. After an
// error the connection is of no use; it is still the caller's to close.
func (p *Port) Accept(ctx context.Context, c httpsplit.Conn, wait time.Duration) (httpsplit.Conn, *Info, error) {
	first, err := firstByte(ctx, c, wait)
	if err != nil {
		return nil, nil, err
	}
	held := &heldConn{Conn: c, held: first}
	if len(first) == 0 || first[0] != FirstByte {
		return held, nil, nil
	}
	server, _ := p.configs()
	t := tls.Server(held, server)
	if err := shake(ctx, t); err != nil {
		return nil, nil, fmt.Errorf("a client's TLS: %w", err)
	}
	s := t.ConnectionState()
	return tlsconn.New(t, held), &Info{ServerName: s.ServerName, ALPN: s.NegotiatedProtocol}, nil
}

// FirstByte begins a TLS connection: it is the type of a record with a handshake (RFC 8446, section
// 5.1). No request of HTTP begins with it.
const FirstByte = 22

// firstByte reads one byte; none when there is none in time, or at the end.
func firstByte(ctx context.Context, c net.Conn, wait time.Duration) ([]byte, error) {
	if wait <= 0 {
		wait = httpsplit.DefaultDetectTimeout
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	_ = c.SetReadDeadline(time.Now().Add(wait))
	b := make([]byte, 1)
	n, err := c.Read(b)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	_ = c.SetReadDeadline(time.Time{})
	if n == 0 && err != nil && !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return b[:n], nil
}

// shake makes the handshake of either side.
func shake(ctx context.Context, t *tls.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	return t.HandshakeContext(ctx)
}

// App is the way to the application, through TLS, for what a client with this Info sent. Dialling
// fails when the application does not speak the client's protocol, or is not who it must be.
// Values for the same application and client are equal.
func (p *Port) App(app httpsplit.Destination, info Info) httpsplit.Destination {
	return encrypted{p, app, info}
}

type encrypted struct {
	port *Port
	app  httpsplit.Destination
	info Info
}

func (e encrypted) Dial(ctx context.Context) (httpsplit.Conn, error) {
	c, err := e.app.Dial(ctx)
	if err != nil {
		return nil, err
	}
	_, client := e.port.configs()
	client = client.Clone()
	client.ServerName = e.info.ServerName
	if client.ServerName == "" {
		client.ServerName = e.port.config.AgentAsClient.Verification.ServerName
	}
	if client.ServerName == "" {
		client.ServerName, _, _ = net.SplitHostPort(c.RemoteAddr().String())
	}
	if e.info.ALPN != "" {
		client.NextProtos = []string{e.info.ALPN}
	}
	t := tls.Client(c, client)
	err = shake(ctx, t)
	if err == nil && e.info.ALPN == protocolHTTP2 && t.ConnectionState().NegotiatedProtocol != protocolHTTP2 {
		err = errors.New("it does not speak h2, which agentAsServer.alpnProtocols offers")
	}
	if err != nil {
		_ = c.Close()
		e.port.log.Warn("the way to the application fails; see agentAsClient of its TLS configuration", "port", e.port.config.Port, "err", err)
		return nil, fmt.Errorf("the application's TLS: %w", err)
	}
	return tlsconn.New(t, c), nil
}

const protocolHTTP2 = "h2"

// heldConn is a connection with its first bytes, which were read.
type heldConn struct {
	httpsplit.Conn
	held []byte
}

func (c *heldConn) Read(p []byte) (int, error) {
	if len(c.held) > 0 {
		n := copy(p, c.held)
		c.held = c.held[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

// Reset aborts the connection.
func (c *heldConn) Reset() error {
	pipe.Reset(c.Conn)
	return nil
}

// pool is what roots collects.
type pool struct {
	*x509.CertPool
	n int
}
