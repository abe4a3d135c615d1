package httpsplit

import (
	"bufio"
	"cmp"
	"errors"
	"io"
	"strings"
	"time"

	"github.com/mirrord-go/mirrord/internal/httpfilter"
)

// ErrNotSifted says that requests can't be told apart in a copy of a connection: it is not
// HTTP, or not clearly so.
var ErrNotSifted = errors.New("requests can't be told apart here")

// Sift copies those requests that choose picks from src, a copy of what a client sends on one
// connection, to the writer that open returns. Open is called for the first of them, if there is one. It
// blocks until src has ended, reading or writing has failed, or src can't be followed any more:
// then the error wraps [ErrNotSifted]. Bodies bounds memory as in [Options]; a filter waits ten seconds or more for a body, if src has
// SetReadDeadline, and otherwise for as long as it takes.
//
// Requests of HTTP/1 are copied as they are, but for offers of HTTP/2. One that asks for an upgrade
// takes along what follows it, unless that is a request again: then the server has not agreed. Of HTTP/2 the chosen streams are written as a connection of their own; there
// a filter sees no bodies.
func Sift(open func() (io.Writer, error), src io.Reader, choose func(*httpfilter.Request) bool, bodies *Budget) error {
	s := &sifter{src: &source{r: src}, open: open, choose: choose, bodies: bodies}
	s.in = bufio.NewReaderSize(s.src, bufferSize)
	p, err := s.next()
	switch {
	case err != nil:
		return ended(err)
	case p == http1:
		return s.http1()
	case p == http2:
		return s.http2()
	}
	return ErrNotSifted
}

// next says what follows, which is not taken. With an error, all that follows is in the buffer.
func (s *sifter) next() (p protocol, err error) {
	for p == undecided && err == nil {
		if _, err = s.in.Peek(s.in.Buffered() + 1); err == nil {
			b, _ := s.in.Peek(s.in.Buffered())
			p = classify(b)
		}
	}
	return p, err
}

// sifter is a copy of one connection.
type sifter struct {
	src    *source
	in     *bufio.Reader // of src
	open   func() (io.Writer, error)
	choose func(*httpfilter.Request) bool
	bodies *Budget
	out    io.Writer // nil before the first chosen request
}

func (s *sifter) http1() error {
	for {
		if _, err := s.in.Peek(1); err != nil {
			return ended(err)
		}
		req, err := readRequest(s.in)
		if errors.Is(err, errUnclear) {
			return ErrNotSifted
		}
		if err != nil {
			return ended(err)
		}
		if end, err := s.request(req); end || err != nil {
			return err
		}
	}
}

// request copies a request, or skips it. End says that no other follows.
func (s *sifter) request(req *head) (end bool, err error) {
	var taken int64
	defer func() { s.bodies.give(taken) }()
	out := io.Discard
	var since time.Time
	if s.choose(req.request(func(limit int, timeout time.Duration) ([]byte, bool) {
		since = cmp.Or(since, time.Now())
		defer s.until(time.Time{})
		return s.src.peekBody(s.in, req, s.bodies, &taken, limit, func() error {
			s.until(since.Add(max(timeout, copyTime))) // nobody has to be asked for it
			return nil
		})
	})) {
		if s.out == nil {
			if s.out, err = s.open(); err != nil {
				return true, err
			}
		}
		out = s.out
	}
	if _, err := out.Write(req.raw); err != nil {
		return true, err
	}
	if req.start[0] == "CONNECT" {
		_, err := io.Copy(out, s.in)
		return true, ended(err)
	}
	if err := copyBody(out, s.in, req); errors.Is(err, errUnclear) {
		return true, ErrNotSifted
	} else if err != nil {
		return true, ended(err)
	}
	if req.offered || req.upgrades() {
		return s.upgraded(out)
	}
	return false, nil
}

// copyTime is how long a body has at least. Nobody waits for the copy; but of a client that is gone without a word nothing comes
// any more, and what its body may take of the memory for bodies would be lost.
const copyTime = 10 * time.Second

// until bounds reading, where the source can.
func (s *sifter) until(t time.Time) {
	if d, ok := s.src.r.(interface{ SetReadDeadline(t time.Time) error }); ok {
		_ = d.SetReadDeadline(t)
	}
}

// upgraded goes on behind a request that asked for another protocol.
func (s *sifter) upgraded(out io.Writer) (end bool, err error) {
	p, err := s.next()
	switch {
	case err == nil && p == http1:
		return false, nil
	case err == nil && p == http2 && s.out == nil:
		return true, s.http2()
	case err == nil && p == http2:
		return true, ErrNotSifted // the copy is one of HTTP/1
	}
	_, err = io.Copy(out, s.in)
	return true, ended(err)
}

// upgradesFor says that a destination may change the protocol: everything that the client sends is its own then. Who was chosen
// may do so only for a client that counts on it (RFC 9110, section 7.8).
func (h *head) upgradesFor(app bool) bool {
	if app {
		return h.upgrades()
	}
	return h.upgrades() && h.upgrade && h.minor > 0
}

// upgrades says that the connection may become something else after this request.
func (h *head) upgrades() bool {
	for _, l := range h.lines {
		if name, _, _ := strings.Cut(l, ":"); strings.EqualFold(name, "upgrade") {
			return true
		}
	}
	return h.start[0] == "CONNECT"
}
