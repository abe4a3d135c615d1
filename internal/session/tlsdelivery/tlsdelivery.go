// Package tlsdelivery gives the local process what the agent took out of TLS: in TLS again, as
// the process would have got it in the target, or plain.
package tlsdelivery

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/intercept"
	"github.com/mirrord-go/mirrord/internal/tlsconn"
	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

// handshakeTimeout bounds the handshake with the process. It is shorter than the agent's wait for
// an answer.
const handshakeTimeout = 8 * time.Second

// localhost is the name to ask for when nobody named one.
const localhost = "localhost"

// Delivery is ready to use, at once from any goroutine.
type Delivery struct {
	plain bool
	name  string // that the user or the certificate chose
	tls   *tls.Config
}

// New reads the files. An error is a *[FieldError].
func New(d config.TLSDelivery) (*Delivery, error) {
	out := &Delivery{
		plain: d.Protocol == config.DeliverTCP, name: d.ServerName,
		tls: &tls.Config{MinVersion: tls.VersionTLS12},
	}
	switch {
	case d.ServerCert != "":
		certs, err := certificates(d.ServerCert)
		if err != nil {
			return nil, &FieldError{"server_cert", err}
		}
		out.tls.RootCAs = x509.NewCertPool()
		out.tls.RootCAs.AddCert(certs[0])
		if out.name == "" {
			out.name = nameOf(certs[0])
		}
	case d.TrustRoots != nil:
		out.tls.RootCAs = x509.NewCertPool()
		for _, path := range d.TrustRoots {
			if err := addRoots(out.tls.RootCAs, path); err != nil {
				return nil, &FieldError{"trust_roots", err}
			}
		}
	default:
		// The process is the user's own, on the same machine.
		out.tls.InsecureSkipVerify = true
	}
	if d.ClientCert != "" {
		pair, err := tls.LoadX509KeyPair(d.ClientCert, d.ClientKey)
		if err != nil {
			return nil, &FieldError{"client_cert", err}
		}
		out.tls.Certificates = []tls.Certificate{pair}
	}
	return out, nil
}

// FieldError says which field of the delivery names something of no use.
type FieldError struct {
	Field string
	Err   error
}

// Error gives the reason.
func (e *FieldError) Error() string { return fmt.Sprintf("%s: %v", e.Field, e.Err) }

// Unwrap returns the reason.
func (e *FieldError) Unwrap() error { return e.Err }

// nameOf is the first name of a certificate.
func nameOf(c *x509.Certificate) string {
	switch {
	case len(c.DNSNames) > 0:
		return c.DNSNames[0]
	case len(c.IPAddresses) > 0:
		return c.IPAddresses[0].String()
	}
	return ""
}

// Wrap makes of a connection to the process one that takes what was inside of TLS. After an error
// the connection is closed.
func (d *Delivery) Wrap(ctx context.Context, c intercept.Conn, info wire.TLSInfo) (intercept.Conn, error) {
	if d.plain {
		return c, nil
	}
	conf := d.tls.Clone()
	for _, name := range []string{localhost, info.ServerName, d.name} {
		if name != "" {
			conf.ServerName = name
		}
	}
	if info.ALPN != "" {
		conf.NextProtos = []string{info.ALPN}
	}
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	t := tls.Client(c, conf)
	err := t.HandshakeContext(ctx)
	if err == nil && info.ALPN == "h2" && t.ConnectionState().NegotiatedProtocol != "h2" {
		err = errors.New("it does not speak HTTP/2, which the target's client does")
	}
	if err != nil {
		_ = c.Close()
		return nil, &HandshakeError{err}
	}
	return tlsconn.New(t, c), nil
}

// HandshakeError says that the process can't be given something in TLS.
type HandshakeError struct{ Err error }

// Error says why, and what else there is.
func (e *HandshakeError) Error() string {
	return fmt.Sprintf("the process's TLS: %v; for a process without TLS, set \"tls_delivery\": {\"protocol\": \"tcp\"}", e.Err)
}

// Unwrap returns the reason.
func (e *HandshakeError) Unwrap() error { return e.Err }

func addRoots(pool *x509.CertPool, path string) error {
	files := []string{path}
	if i, err := os.Stat(path); err == nil && i.IsDir() {
		entries, err := os.ReadDir(path)
		if err != nil {
			return err
		}
		files = nil
		for _, e := range entries {
			if f := filepath.Join(path, e.Name()); !isDir(f) {
				files = append(files, f)
			}
		}
		if len(files) == 0 {
			return fmt.Errorf("%s has no files", path)
		}
	}
	for _, f := range files {
		certs, err := certificates(f)
		if err != nil {
			return err
		}
		for _, c := range certs {
			pool.AddCert(c)
		}
	}
	return nil
}

func isDir(path string) bool {
	i, err := os.Stat(path)
	return err == nil && i.IsDir()
}

// certificates reads a PEM file of the laptop.
func certificates(path string) ([]*x509.Certificate, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	certs, err := tlsconn.Certificates(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return certs, nil
}
