// Package portforward turns one upgraded connection to a Kubernetes API server into one
// net.Conn to a port of a pod.
//
// The API server speaks SPDY/3.1 there, either directly or inside WebSocket messages, with
// two streams per forwarded connection: one for data and one for an error text. The stock
// client is made for many local connections and writes each SPDY header field by itself,
// which becomes a WebSocket message each. A session needs a single connection and wants it
// fast, so this package speaks the little SPDY that is needed itself: what was written in
// the meantime leaves as one frame in one write, both streams are opened without waiting
// for an answer, and deadlines work.
//
// The protocol is KEP-4006 (SPDY inside WebSocket, Kubernetes 1.30) and the older SPDY
// upgrade; the frames are draft-mbelshe-httpbis-spdy-00.
package portforward

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/moby/spdystream/spdy"
)

// Protocol is the name under which the API server offers port-forwarding.
const Protocol = "portforward.k8s.io"

const (
	errorStream spdy.StreamId = 1
	dataStream  spdy.StreamId = 3

	// bufferSize bounds what each direction holds between the caller and the network.
	bufferSize = 256 << 10
	// maxPayload is how much one data frame carries. The server copies 32 KiB at a time.
	maxPayload = 64 << 10
	// maxErrorText bounds what is kept of the error stream.
	maxErrorText = 4 << 10
	// closeGrace is how long Close waits for the pod to take what was written and to close
	// its side. A connection that is cut before loses its last bytes: the server's SPDY
	// library drops what is in its queues.
	closeGrace = time.Second
)

// ForwardError is the node's report that it could not reach the port: nothing listens
// there any more, or the pod is gone.
type ForwardError struct {
	Addr string
	// Text is the node's.
	Text string
}

// Error repeats the node's text.
func (e *ForwardError) Error() string {
	return fmt.Sprintf("forwarding to %s: %s", e.Addr, e.Text)
}

// ErrLost is what reads return, wrapped, when the connection ended without a goodbye:
// the network, the API server or the node broke it.
var ErrLost = errors.New("port-forward lost")

// Conn is a connection to a port of a pod. Its methods may be called at once from any
// goroutine. Like a socket it accepts up to 256 KiB before they are on their way.
type Conn struct {
	rwc  io.ReadWriteCloser
	addr Addr

	in, out *buffer

	sending sync.Mutex // held while a frame is written to rwc

	closeOnce sync.Once
	closeErr  error
	loops     sync.WaitGroup
	heard     chan struct{} // closed when the server has said its last word
}

var _ net.Conn = (*Conn)(nil)

// New takes over rwc, an upgraded connection, and asks the server to connect it to addr.
// It does not wait for an answer: a refusal arrives as a [ForwardError] from Read.
func New(rwc io.ReadWriteCloser, addr Addr) (*Conn, error) {
	c := &Conn{
		rwc:   rwc,
		addr:  addr,
		in:    newBuffer(bufferSize),
		out:   newBuffer(bufferSize),
		heard: make(chan struct{}),
	}
	hello, err := opening(addr.Port)
	if err == nil {
		_, err = rwc.Write(hello)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening a port-forward to %s: %w", addr, err), rwc.Close())
	}
	c.loops.Go(c.readLoop)
	c.loops.Go(c.writeLoop)
	return c, nil
}

// opening is what the client says first: an error stream, on which it will say nothing,
// and a data stream.
func opening(port uint16) ([]byte, error) {
	var b bytes.Buffer
	f, err := spdy.NewFramer(&b, nil)
	if err != nil {
		return nil, err
	}
	stream := func(id spdy.StreamId, kind string) *spdy.SynStreamFrame {
		h := http.Header{}
		h.Set("streamType", kind)
		h.Set("port", strconv.Itoa(int(port)))
		h.Set("requestID", "0")
		return &spdy.SynStreamFrame{StreamId: id, Headers: h}
	}
	for _, frame := range []spdy.Frame{
		stream(errorStream, "error"),
		&spdy.DataFrame{StreamId: errorStream, Flags: spdy.DataFlagFin},
		stream(dataStream, "data"),
	} {
		if err := f.WriteFrame(frame); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), nil
}

// Read reads what the pod sent. It returns io.EOF after the pod has closed its side, a
// [ForwardError] when the node could not reach the port, and [ErrLost] otherwise.
func (c *Conn) Read(p []byte) (int, error) { return c.in.Read(p) }

// Write queues p for the pod. It blocks while the queue is full.
func (c *Conn) Write(p []byte) (int, error) { return c.out.Write(p) }

// Close lets the pod read what was written and close its side, for at most a second, and
// ends the connection. It returns when nothing of it runs any more.
func (c *Conn) Close() error {
	c.closeOnce.Do(func() {
		c.in.fail(net.ErrClosed)
		c.out.end(net.ErrClosed)
		grace := time.NewTimer(closeGrace)
		defer grace.Stop()
		select {
		case <-c.heard:
		case <-grace.C:
		}
		c.out.fail(net.ErrClosed)
		c.closeErr = c.rwc.Close()
		c.loops.Wait()
	})
	return c.closeErr
}

// LocalAddr is the same as RemoteAddr: the local end has no address of its own.
func (c *Conn) LocalAddr() net.Addr { return c.addr }

// RemoteAddr names the pod and the port.
func (c *Conn) RemoteAddr() net.Addr { return c.addr }

// SetDeadline is as in [net.Conn].
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline is as in [net.Conn].
func (c *Conn) SetReadDeadline(t time.Time) error { c.in.setReadDeadline(t); return nil }

// SetWriteDeadline is as in [net.Conn]. A write that missed its deadline may have queued
// a part of its bytes.
func (c *Conn) SetWriteDeadline(t time.Time) error { c.out.setWriteDeadline(t); return nil }

// Addr is a port of a pod.
type Addr struct {
	Namespace, Pod string
	Port           uint16
}

// Network is "port-forward".
func (Addr) Network() string { return "port-forward" }

// String is NAMESPACE/POD:PORT.
func (a Addr) String() string {
	return a.Namespace + "/" + net.JoinHostPort(a.Pod, strconv.Itoa(int(a.Port)))
}
