// Package httpsplit serves HTTP connections whose requests go different ways: those that a
// filter chooses to a session's process, all others to the application that the connection
// was meant for.
//
// HTTP/1 is split request by request, also on one connection that is kept alive. The package
// reads just as much of a message as it needs to know where it ends; the bytes themselves
// pass through as they came, header lines in their order and spelling. A connection that is
// not HTTP, or whose messages can't be told apart with certainty (RFC 9112, sections 6.3 and
// 11.2), goes to the application from there on: that is what would have happened without us.
//
// HTTP/2 (RFC 9113, with prior knowledge) is split stream by stream.
package httpsplit

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/mirrord-go/mirrord/internal/httpfilter"
	"github.com/mirrord-go/mirrord/internal/pipe"
)

// Conn is a connection whose directions end one at a time.
type Conn interface {
	net.Conn
	// CloseWrite ends the sending direction.
	CloseWrite() error
}

// Destination is where requests go. Values are compared: one connection of a client has at
// most one connection to each of them.
type Destination interface {
	// Dial opens a connection.
	Dial(ctx context.Context) (Conn, error)
}

// Options say where requests go.
type Options struct {
	// App is the application that the connection was meant for.
	App Destination
	// Choose returns where a request goes instead, or nil for the application. It is called
	// once for each request, from one goroutine for each connection, or one for each stream. A
	// chosen destination that can't be dialled leaves the request to the application.
	Choose func(*httpfilter.Request) Destination
	// Released says that a chosen destination which ended a connection without a response is on
	// its way out, and not only broken: then a safe request without a body (RFC 9110, section
	// 9.2.1) goes to the application after all. It may wait for a moment to know. A nil Released
	// is one that returns false.
	Released func(context.Context, Destination) bool
	// Raw returns where a connection goes that is not HTTP, or nil for the application. A nil
	// Raw is one that returns nil.
	Raw func() Destination
	// Mark, when not nil, returns a header line for responses of a destination, such as
	// "Server-Of: laptop", without line end; empty adds none.
	Mark func(Destination) string
	// DetectTimeout is how long a connection may be silent before it counts as one that is not
	// HTTP; 0 is [DefaultDetectTimeout]. One that says nothing at all goes on being listened to
	// while the application is connected: who speaks first decides.
	DetectTimeout time.Duration
	// HeadTimeout is how long the head of an HTTP/1 request may take to arrive, after which the
	// connection is the application's; 0 is [DefaultHeadTimeout].
	HeadTimeout time.Duration
	// Bodies bounds the memory for bodies that filters look at; nil is no bound but that of each.
	Bodies *Budget
	// Drain, when closed, makes connections end between two requests: HTTP/1 with a header line
	// "Connection: close" in the next response, HTTP/2 with GOAWAY. It may be nil.
	Drain <-chan struct{}
}

// The defaults of [Options].
const (
	DefaultDetectTimeout = 2 * time.Second
	DefaultHeadTimeout   = 30 * time.Second
)

// Serve serves one connection until it has ended, and closes it and everything it opened. The
// end of ctx ends it at once. A connection that ended as connections do is no error.
func Serve(ctx context.Context, log *slog.Logger, client Conn, o Options) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &splitter{
		ctx: ctx, log: log, o: o, client: client,
		src: &source{r: client}, upstreams: make(map[Destination]*upstream),
	}
	s.in = bufio.NewReaderSize(s.src, bufferSize)
	defer s.close()
	stop := context.AfterFunc(ctx, s.abort)
	defer stop()
	switch p, err := s.detect(); {
	case err != nil:
		return ended(err)
	case p == http1:
		return s.http1()
	case p == http2:
		return s.http2()
	}
	return s.rawAway(nil)
}

// splitter is one connection of a client.
type splitter struct {
	ctx    context.Context //nolint:containedctx // of the connection
	log    *slog.Logger
	o      Options
	client Conn
	src    *source       // of client
	in     *bufio.Reader // of src
	// refused says that the application can't be reached; the client sees it as a reset.
	refused bool

	mu        sync.Mutex // of the map, for abort
	upstreams map[Destination]*upstream
}

// upstream is the connection to one destination.
type upstream struct {
	Conn
	dst Destination
	in  *bufio.Reader
}

// source is a reader with bytes that were read before and put back.
type source struct {
	r    io.Reader
	back []byte
}

func (s *source) Read(p []byte) (int, error) {
	if len(s.back) == 0 {
		return s.r.Read(p)
	}
	n := copy(p, s.back)
	if s.back = s.back[n:]; len(s.back) == 0 {
		s.back = nil
	}
	return n, nil
}

// unread puts bytes back in front of those that a reader of the source gives next.
func (s *source) unread(in *bufio.Reader, b []byte) {
	if len(b) == 0 {
		return
	}
	next, _ := in.Peek(in.Buffered())
	s.back = slices.Concat(b, next, s.back)
	in.Reset(s)
}

// draining says that the connection is to end.
func (s *splitter) draining() bool {
	select {
	case <-s.o.Drain:
		return true
	default:
		return false
	}
}

// to returns the connection to a destination, an open one if there is.
func (s *splitter) to(d Destination) (u *upstream, fresh bool, err error) {
	s.mu.Lock()
	u = s.upstreams[d]
	s.mu.Unlock()
	if u != nil {
		return u, false, nil
	}
	c, err := d.Dial(s.ctx)
	if err != nil {
		s.refused = s.refused || d == s.o.App
		return nil, false, fmt.Errorf("dialling: %w", err)
	}
	u = &upstream{Conn: c, dst: d, in: bufio.NewReaderSize(c, bufferSize)}
	s.mu.Lock()
	s.upstreams[d] = u
	s.mu.Unlock()
	if s.ctx.Err() != nil {
		s.abort() // again, for the one that it has missed
	}
	return u, true, nil
}

// drop closes the connection to a destination.
func (s *splitter) drop(u *upstream) {
	s.mu.Lock()
	delete(s.upstreams, u.dst)
	s.mu.Unlock()
	_ = u.Close()
}

// abort resets all connections: what was under way is not complete.
func (s *splitter) abort() {
	s.mu.Lock()
	defer s.mu.Unlock()
	pipe.Reset(s.client)
	for _, u := range s.upstreams {
		pipe.Reset(u.Conn)
	}
}

func (s *splitter) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refused {
		pipe.Reset(s.client)
	}
	_ = s.client.Close()
	for _, u := range s.upstreams {
		_ = u.Close()
	}
}

// raw joins the client with a destination until both have ended. Held is what has been read
// from the client already.
func (s *splitter) raw(u *upstream, held []byte) error {
	if len(held) > 0 {
		if _, err := u.Write(held); err != nil {
			return ended(err)
		}
	}
	return ended(pipe.Join(s.ctx, &buffered{Conn: s.client, r: s.in}, &buffered{Conn: u.Conn, r: u.in}).Err)
}

// rawAway is [splitter.raw] with who gets what is not HTTP.
func (s *splitter) rawAway(held []byte) error {
	var u *upstream
	var err error
	if s.o.Raw != nil {
		if d := s.o.Raw(); d != nil {
			u, _, _ = s.to(d) // or else the application
		}
	}
	if u == nil {
		u, _, err = s.to(s.o.App)
	}
	if err != nil {
		return err
	}
	return s.raw(u, held)
}

// buffered is a connection with a reader that holds its next bytes.
type buffered struct {
	Conn
	r *bufio.Reader
}

func (b *buffered) Read(p []byte) (int, error) { return b.r.Read(p) }

// Reset implements what [pipe.Conn] may have.
func (b *buffered) Reset() error {
	pipe.Reset(b.Conn)
	return nil
}

// ended is nil for the errors with which connections end every day.
func ended(err error) error {
	var ne net.Error
	switch {
	case err == nil, errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed), errors.As(err, &ne):
		return nil
	}
	return err
}

// late says that a deadline has passed. The tunnel's streams have an error of their own for that.
func late(err error) bool {
	if err == nil {
		return false // most often; what follows allocates
	}
	var t interface{ Timeout() bool }
	return errors.Is(err, os.ErrDeadlineExceeded) ||
		errors.As(err, &t) && t.Timeout() && !errors.Is(err, syscall.ETIMEDOUT) // which ends a connection
}

var crlf = []byte("\r\n")

// mark inserts the header line of a destination behind the first line of a response.
func (s *splitter) mark(head []byte, d Destination) []byte {
	if s.o.Mark == nil {
		return head
	}
	return insert(head, s.o.Mark(d))
}

// insert puts a header line behind the first line of a message.
func insert(head []byte, line string) []byte {
	i := bytes.IndexByte(head, '\n')
	if line == "" || i < 0 {
		return head
	}
	out := make([]byte, 0, len(head)+len(line)+len(crlf))
	out = append(append(out, head[:i+1]...), line...)
	return append(append(out, crlf...), head[i+1:]...)
}
