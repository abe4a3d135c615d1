// Package pipe copies bytes between two connections until both directions have ended, in
// such a way that neither side can tell the pair from one connection: an end of data stays
// an end of data, a reset stays a reset.
//
// A session holds many connections that are idle most of the time. So a direction that
// waits for data holds no buffer: memory goes with traffic, not with connections.
package pipe

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
)

// Conn is a connection whose directions end separately: *net.TCPConn, *net.UnixConn, and
// the tunnel's streams. A Conn that also has Reset() error, or SetLinger(int) error as
// *net.TCPConn has, can be aborted so that its peer notices; others are closed.
type Conn interface {
	net.Conn
	// CloseWrite ends the sending direction.
	CloseWrite() error
}

// Result is what [Join] has carried.
type Result struct {
	// AToB and BToA count the bytes that were written in each direction.
	AToB, BToA int64
	// Err is nil when both directions came to a regular end. Otherwise both connections
	// were reset, and this is the first failure.
	Err error
}

// Join copies both ways between a and b until both directions have ended, one of them fails
// or ctx ends, then closes both and returns. A failure or the end of ctx resets both, so
// that no peer takes a truncated stream for a complete one.
func Join(ctx context.Context, a, b Conn) Result {
	var (
		once  sync.Once
		first error
	)
	abort := func(err error) {
		once.Do(func() {
			first = err
			Reset(a)
			Reset(b)
		})
	}
	stop := context.AfterFunc(ctx, func() { abort(context.Cause(ctx)) })
	defer stop()

	var r Result
	done := make(chan struct{})
	go func() {
		defer close(done)
		var err error
		if r.BToA, err = oneWay(a, b); err != nil {
			abort(err)
		}
	}()
	var err error
	if r.AToB, err = oneWay(b, a); err != nil {
		abort(err)
	}
	<-done
	once.Do(func() {
		// A regular end: nothing is lost by closing.
		first = errors.Join(ignoreClosed(a.Close()), ignoreClosed(b.Close()))
	})
	r.Err = first
	return r
}

// Reset aborts a connection: its peer reads an error, not an end of data.
func Reset(c net.Conn) {
	switch c := c.(type) {
	case interface{ Reset() error }:
		_ = c.Reset()
		return
	case interface{ SetLinger(sec int) error }:
		_ = c.SetLinger(0)
	}
	_ = c.Close()
}

// oneWay copies src to dst and passes on the end of data.
func oneWay(dst, src Conn) (int64, error) {
	n, err := Copy(dst, src)
	if err != nil {
		return n, err
	}
	if err := dst.CloseWrite(); err != nil && !benign(err) {
		return n, err
	}
	return n, nil
}

// Copy copies src to dst until the end of data or a failure. It is io.Copy without a buffer
// that is held while src has nothing to say.
func Copy(dst io.Writer, src io.Reader) (int64, error) {
	read, write := readerOf(src), WriterOf(dst)
	var total int64
	for {
		buf, n, err := read()
		var werr error
		if n > 0 {
			var w int
			w, werr = write((*buf)[:n])
			total += int64(w)
			if werr == nil && w < n {
				werr = io.ErrShortWrite
			}
		}
		if buf != nil {
			PutBuffer(buf)
		}
		switch {
		case werr != nil:
			return total, werr // whatever it is: an end of data is what reading gives
		case errors.Is(err, io.EOF):
			return total, nil
		case err != nil:
			return total, err
		}
	}
}

// bufferSize is large enough that system calls do not decide the throughput; a smaller
// buffer and splice(2) were both slower. It is a full frame of the tunnel, whose header of 12
// bytes counts toward 128 KiB, so that no other one follows with a few bytes.
const bufferSize = 128<<10 - 12

// messageSize is the most that is taken for a message, in bytes. Where messages come one by one, each gets a
// buffer of this size: of a thousand connections that talk at once, many hold one.
const messageSize = 8 << 10

// buffers and messages hold *[]byte, so that putting one back allocates nothing.
var buffers, messages = pool(bufferSize), pool(messageSize)

func pool(size int) *sync.Pool {
	return &sync.Pool{New: func() any { b := make([]byte, size); return &b }}
}

// getBuffer returns a buffer for what may be a message, or for a part of something large.
func getBuffer(message bool) *[]byte {
	if message {
		return messages.Get().(*[]byte)
	}
	return buffers.Get().(*[]byte)
}

// A ReadFunc waits for data and returns it in a buffer, which the caller gives back with [PutBuffer] before the
// next call. The buffer may be nil when nothing was read.
type ReadFunc func() (buf *[]byte, n int, err error)

// PutBuffer gives back what a [ReadFunc] returned.
func PutBuffer(buf *[]byte) {
	switch len(*buf) {
	case bufferSize:
		buffers.Put(buf)
	case messageSize:
		messages.Put(buf)
	}
}

// ReaderOf reads a connection without a buffer while there is nothing to read; nil when the system has no
// way to do that. It is for one goroutine at a time.
func ReaderOf(c syscall.Conn) ReadFunc { return readinessReader(c) }

// WriterOf returns a function that does what w's Write does, and costs less for messages if w is a connection of the
// system. It is for one goroutine at a time.
func WriterOf(w io.Writer) func([]byte) (int, error) {
	if sc, ok := w.(syscall.Conn); ok {
		if f := readinessWriter(sc); f != nil {
			return f
		}
	}
	return w.Write
}

// readerOf chooses how to wait for src.
func readerOf(src io.Reader) ReadFunc {
	if sc, ok := src.(syscall.Conn); ok {
		if f := readinessReader(sc); f != nil {
			return f
		}
	}
	return growingReader(src)
}

// waitSize is how much a reader without a readiness signal waits for, since it may have to wait long with that: most
// idle streams wait for a short message.
const waitSize = 2 << 10

// growingReader reads with the next larger size while reads come back full, and with a smaller one when they bring no more
// than that could hold: few sources ever fill the largest, and the last read of a burst is rarely a full one.
func growingReader(src io.Reader) ReadFunc {
	wait := make([]byte, waitSize)
	last := 0
	return func() (*[]byte, int, error) {
		buf := &wait
		if last >= waitSize {
			buf = getBuffer(last < messageSize)
		}
		n, err := src.Read(*buf)
		last = n
		return buf, n, err
	}
}

// benign tells errors of closing a direction that the peer has already ended.
func benign(err error) bool {
	return errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.ENOTCONN)
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
