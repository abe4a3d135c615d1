package httpsplit

import (
	"bufio"
	"errors"
	"io"
	"strings"

	"github.com/mirrord-go/mirrord/internal/httpfilter"
)

// ErrNotSifted says that requests can't be told apart in a copy of a connection: it is not
// HTTP/1, or not clearly so. In a copy of HTTP/2, header fields depend on those of streams
// that were not chosen.
var ErrNotSifted = errors.New("requests can't be told apart here")

// Sift copies those requests that choose picks from src, a copy of what a client sends on one
// connection, to the writer that open returns. Open is called for the first of them, if there is one. It
// blocks until src has ended, reading or writing has failed, or src can't be followed any more:
// then the error wraps [ErrNotSifted].
//
// A request that asks for an upgrade takes along what follows it. Whether the server agreed
// is not to be seen here, but a client that goes on with another request is rare.
func Sift(open func() (io.Writer, error), src io.Reader, choose func(*httpfilter.Request) bool) error {
	in := bufio.NewReaderSize(src, bufferSize)
	var chosen io.Writer
	for {
		if _, err := in.Peek(1); err != nil {
			return ended(err)
		}
		req, err := readRequest(in)
		if errors.Is(err, errUnclear) {
			return ErrNotSifted
		}
		if err != nil {
			return ended(err)
		}
		out := io.Discard
		if choose(req.request(nil)) {
			if chosen == nil {
				if chosen, err = open(); err != nil {
					return err
				}
			}
			out = chosen
		}
		if _, err := out.Write(req.raw); err != nil {
			return err
		}
		if req.upgrades() {
			_, err := io.Copy(out, in)
			return ended(err)
		}
		if err := copyBody(out, in, req); errors.Is(err, errUnclear) {
			return ErrNotSifted
		} else if err != nil {
			return ended(err)
		}
	}
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
