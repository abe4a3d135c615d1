package gather

import (
	"crypto/tls"
	"sync/atomic"
)

// TLS is a TLS connection that makes few large reads and writes of its records. Its peer sends
// nothing but data after the handshake, as Go's does when it gives out no session tickets: a message of
// TLS itself would be waited behind.
type TLS struct {
	*tls.Conn
	below   *Conn
	writing atomic.Int32
}

// Over returns c, whose connection is below, as one that gathers.
func Over(c *tls.Conn, below *Conn) *TLS { return &TLS{Conn: c, below: below} }

// maxRecord is the most that one record brings, in bytes.
const maxRecord = 16 << 10

// Read reads what has arrived, of as many records as p has room for.
func (t *TLS) Read(p []byte) (int, error) {
	n, err := t.Conn.Read(p)
	// The rest of a record that is here in part is on its way.
	for err == nil && len(p)-n >= maxRecord && t.below.ahead.Load() > 0 {
		var m int
		m, err = t.Conn.Read(p[n:])
		n += m
	}
	if n > 0 {
		return n, nil // an error comes again
	}
	return n, err
}

// Write writes p at once.
func (t *TLS) Write(p []byte) (int, error) {
	t.writing.Add(1)
	defer t.writing.Add(-1)
	t.below.Hold()
	n, err := t.Conn.Write(p)
	if rerr := t.below.Release(); rerr != nil {
		return 0, rerr
	}
	return n, err
}

// Close ends the connection, also while something is being written.
func (t *TLS) Close() error {
	if t.writing.Load() > 0 {
		// TLS would wait until its goodbye can follow.
		_ = t.below.Close()
	}
	return t.Conn.Close()
}
