// Package tlsconn makes of a TLS connection one whose directions end one at a time and which can
// be reset, like the connection below it.
package tlsconn

import (
	"crypto/tls"
	"errors"
	"io"

	"github.com/mirrord-go/mirrord/internal/pipe"
)

// Conn is a TLS connection over a connection.
type Conn struct {
	*tls.Conn
	below pipe.Conn
}

var _ pipe.Conn = (*Conn)(nil)

// New joins a TLS connection with the one that it was made on.
func New(c *tls.Conn, below pipe.Conn) *Conn { return &Conn{Conn: c, below: below} }

// Read reads. Many programs end TLS by ending the connection, without saying goodbye (RFC 8446,
// section 6.1); who reads plain text can't tell the difference, and HTTP has lengths of its own.
func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF
	}
	return n, err
}

// CloseWrite ends the sending direction, of TLS and of the connection.
func (c *Conn) CloseWrite() error {
	return errors.Join(c.Conn.CloseWrite(), c.below.CloseWrite())
}

// Reset aborts the connection below.
func (c *Conn) Reset() error {
	pipe.Reset(c.below)
	return nil
}
