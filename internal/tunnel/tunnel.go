// Package tunnel joins a session's two ends, the client on the laptop and the agent beside
// the target, over any byte carrier: a port-forward, a local socket.
//
// A carrier is wrapped in TLS 1.3 in which both sides prove a key that was made for this
// session ([Identity], [Fingerprint]), and then in a multiplexer. What comes out is a
// [Session]: either side opens a [Stream], says with package wire what it is for, and both
// then read and write bytes. Streams are independent: one whose reader is slow holds up
// neither its neighbours nor the session.
//
// SPEC.md is the protocol's text; package tunneltest is the suite that every
// implementation of Session passes.
package tunnel

import (
	"context"
	"errors"
	"io"
	"net"
	"time"
)

// ErrClosed is what calls on a session return, wrapped, after it was closed by this side.
var ErrClosed = errors.New("tunnel closed")

// Session is an authenticated, multiplexed connection. All methods may be called at once
// from any goroutine.
type Session interface {
	// Open starts a stream. It does not wait for the peer.
	Open(ctx context.Context) (Stream, error)
	// Accept blocks until the peer has opened a stream or the session has ended.
	Accept() (Stream, error)
	// Close ends the session and all its streams. Calls after the first do nothing.
	Close() error
	// Done is closed when the session has ended, whoever ended it.
	Done() <-chan struct{}
	// Err is nil before Done, [ErrClosed] after Close, and otherwise why the session ended.
	Err() error
	// RTT is the last measured round-trip time; 0 before the first measurement.
	RTT() time.Duration
}

// Stream is one ordered byte stream of a [Session]. Read and Write may run at the same
// time; deadlines are as in [net.Conn].
type Stream interface {
	net.Conn
	// CloseWrite ends this side's direction: the peer reads io.EOF after what was written.
	CloseWrite() error
	// Reset ends both directions at once and throws away what was not read. The peer's
	// calls fail with a [ResetError]. Resetting twice, or after Close, does nothing.
	Reset() error
}

// ResetError is what reads and writes return after one side has reset the stream.
type ResetError struct {
	// Remote says that the peer did it.
	Remote bool
}

// Error says which side reset the stream.
func (e *ResetError) Error() string {
	if e.Remote {
		return "stream reset by the peer"
	}
	return "stream reset"
}

// Later returns a writer to the stream for a few bytes for which nobody waits: they leave with the
// next frame of the session, or a moment later. Nobody else may write to the stream meanwhile.
func Later(s Stream) io.Writer {
	if l, ok := s.(interface{ writeLater(b []byte) (int, error) }); ok {
		return writerFunc(l.writeLater)
	}
	return s
}

type writerFunc func(b []byte) (int, error)

// Write calls f.
func (f writerFunc) Write(b []byte) (int, error) { return f(b) }
