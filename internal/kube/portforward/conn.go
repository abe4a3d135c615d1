// Package portforward turns one upgraded connection to a Kubernetes API server into one
// net.Conn to a port of a pod.
//
// The API server speaks SPDY/3.1 there, either directly or inside WebSocket messages, with
// two streams per forwarded connection: one for data and one for an error text. The stock
// client is made for many local connections and writes each SPDY header field by itself,
// which becomes a WebSocket message each. A session needs a single connection and wants it
// fast, so this package speaks the little SPDY that is needed itself: what is written
// leaves in one write, both streams are opened without waiting for an answer, and what
// arrives goes straight to who reads it.
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
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/moby/spdystream/spdy"
)

// Protocol is the name under which the API server offers port-forwarding.
const Protocol = "portforward.k8s.io"

const (
	errorStream spdy.StreamId = 1
	dataStream  spdy.StreamId = 3

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
// goroutine. It has no goroutine and, beside its frames, no buffer of its own. Pings of the server are answered while
// somebody reads.
//
// Deadlines are those of the connection below, if it has any. One that is TLS can't be written to after a
// write that missed its deadline.
type Conn struct {
	rwc  io.ReadWriteCloser
	addr Addr

	reading sync.Mutex // held while frames are read
	in      *decoder

	writing sync.Mutex // held while frames are written
	out     []byte     // the frames of one write
	unsent  []byte     // of the last write: a frame can't be left incomplete

	answering sync.Mutex // held by the answer to a ping

	mu     sync.Mutex
	closed bool
	broken error // why nothing can be written any more

	closeOnce sync.Once
	closeErr  error
	pings     sync.WaitGroup
}

var _ net.Conn = (*Conn)(nil)

// New takes over rwc, an upgraded connection, and asks the server to connect it to addr.
// It does not wait for an answer: a refusal arrives as a [ForwardError] from Read. Each Write
// becomes one Write of rwc. Deadlines work if rwc has them.
func New(rwc io.ReadWriteCloser, addr Addr) (*Conn, error) {
	c := &Conn{rwc: rwc, addr: addr}
	c.in = newDecoder(rwc, c.pong)
	hello, err := opening(addr.Port)
	if err == nil {
		_, err = rwc.Write(hello)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening a port-forward to %s: %w", addr, err), rwc.Close())
	}
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
func (c *Conn) Read(p []byte) (int, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	if c.isClosed() {
		return 0, net.ErrClosed
	}
	n, err := c.in.Read(p)
	switch text := strings.TrimSpace(c.in.errorText.String()); {
	case err == nil:
		return n, nil
	case c.isClosed():
		return 0, net.ErrClosed
	case errors.Is(err, os.ErrDeadlineExceeded):
		return n, err
	case text != "":
		err = &ForwardError{Addr: c.addr.String(), Text: text}
	case errors.Is(err, errFinished):
		return n, io.EOF
	default:
		err = fmt.Errorf("%w: %w", ErrLost, err)
	}
	c.fail(err)
	return n, err
}

// Write sends p to the pod. After a missed deadline, a part of p may follow with the next write, and
// is counted as written.
func (c *Conn) Write(p []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	if err := c.writable(); err != nil {
		return 0, err
	}
	if err := c.sendRest(); err != nil {
		return 0, err
	}
	c.out = c.out[:0]
	for rest := p; len(rest) > 0; {
		n := min(len(rest), maxPayload)
		c.out = append(appendHeader(c.out, dataStream, 0, n), rest[:n]...)
		rest = rest[n:]
	}
	if n, err := c.send(c.out); err != nil {
		if n == 0 {
			return 0, err
		}
		return len(p), err
	}
	return len(p), nil
}

// send writes whole frames, of which the unsent part is kept when a deadline was missed. Zero says that
// nothing of them is on its way. The caller holds c.writing.
func (c *Conn) send(frames []byte) (int, error) {
	n, err := c.rwc.Write(frames)
	switch {
	case err == nil:
		return n, nil
	case c.isClosed():
		return n, net.ErrClosed
	case errors.Is(err, os.ErrDeadlineExceeded):
		if n > 0 {
			c.unsent = bytes.Clone(frames[n:])
		}
		return n, err
	}
	err = fmt.Errorf("%w: %w", ErrLost, err)
	c.fail(err)
	return n, err
}

func (c *Conn) sendRest() error {
	if len(c.unsent) == 0 {
		return nil
	}
	rest := c.unsent
	n, err := c.send(rest)
	if n == 0 && err != nil {
		return err
	}
	if err == nil {
		c.unsent = nil
	}
	return err
}

// pong answers a ping, which must not hold up reading: the server may read nothing before it
// can write. When one answer is on its way already, the next is left out.
func (c *Conn) pong(frame []byte) {
	if !c.answering.TryLock() {
		return
	}
	c.pings.Go(func() {
		defer c.answering.Unlock()
		c.writing.Lock()
		defer c.writing.Unlock()
		if c.writable() == nil && c.sendRest() == nil {
			_, _ = c.send(frame)
		}
	})
}

// fail ends writing.
func (c *Conn) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.broken == nil {
		c.broken = err
	}
}

func (c *Conn) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

func (c *Conn) writable() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	return c.broken
}

// Close lets the pod read what was written and close its side, for at most a second, and
// ends the connection. It returns when nothing of it runs any more.
func (c *Conn) Close() error {
	c.closeOnce.Do(func() {
		c.mu.Lock()
		c.closed = true
		c.mu.Unlock()
		heard := make(chan struct{})
		go func() {
			defer close(heard)
			c.goodbye()
		}()
		grace := time.NewTimer(closeGrace)
		defer grace.Stop()
		select {
		case <-heard:
		case <-grace.C:
		}
		c.closeErr = c.rwc.Close()
		<-heard
		c.pings.Wait()
	})
	return c.closeErr
}

// goodbye says that nothing more will be written, and reads until the server has said its last word.
func (c *Conn) goodbye() {
	c.writing.Lock()
	if c.sendRest() == nil {
		_, _ = c.rwc.Write(appendHeader(nil, dataStream, spdy.DataFlagFin, 0))
	}
	c.writing.Unlock()
	c.reading.Lock()
	defer c.reading.Unlock()
	// A deadline of the owner's would end it too early.
	_ = c.SetReadDeadline(time.Time{})
	for b := make([]byte, 4<<10); ; {
		if _, err := c.in.Read(b); err != nil {
			return
		}
	}
}

// LocalAddr is the same as RemoteAddr: the local end has no address of its own.
func (c *Conn) LocalAddr() net.Addr { return c.addr }

// RemoteAddr names the pod and the port.
func (c *Conn) RemoteAddr() net.Addr { return c.addr }

// SetDeadline is as in [net.Conn].
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline is as in [net.Conn], if the connection below has deadlines.
func (c *Conn) SetReadDeadline(t time.Time) error {
	if d, ok := c.rwc.(interface{ SetReadDeadline(time.Time) error }); ok {
		return d.SetReadDeadline(t)
	}
	return os.ErrNoDeadline
}

// SetWriteDeadline is as in [net.Conn], if the connection below has deadlines. A write that missed its
// deadline may have sent a part of its bytes.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	if d, ok := c.rwc.(interface{ SetWriteDeadline(time.Time) error }); ok {
		return d.SetWriteDeadline(t)
	}
	return os.ErrNoDeadline
}

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
