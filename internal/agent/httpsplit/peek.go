package httpsplit

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httputil"
	"sync"
	"time"
)

// Budget is memory for bodies that filters look at, shared by many connections. The zero value has
// none.
type Budget struct {
	mu   sync.Mutex
	left int64
}

// NewBudget returns a budget of so many bytes.
func NewBudget(n int64) *Budget { return &Budget{left: n} }

// take reports false when there is not as much left. A nil budget has always enough.
func (b *Budget) take(n int64) bool {
	if b == nil {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if n > b.left {
		return false
	}
	b.left -= n
	return true
}

func (b *Budget) give(n int64) {
	if b != nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.left += n
	}
}

// errTooLarge says that a body is larger than a filter looks at.
var errTooLarge = errors.New("the body is too large for the filter")

// held is a body as it stands on the wire, up to a limit.
type held struct {
	raw   []byte
	limit int
}

// Write keeps also what is above the limit: it has been read.
func (h *held) Write(p []byte) (int, error) {
	h.raw = append(h.raw, p...)
	if len(h.raw) > h.limit {
		return len(p), errTooLarge
	}
	return len(p), nil
}

// wireSize is what a body of so many bytes may take on the wire, when it is sent in chunks that are
// not tiny.
func wireSize(limit int) int { return 2*limit + maxChunkLine }

// peekBody reads the body of a request and puts it back. It returns false for one that is too large, too
// slow or broken. Taken is what of the budget is in use.
func (s *splitter) peekBody(h *head, taken *int64, limit int, timeout time.Duration) ([]byte, bool) {
	size := wireSize(limit)
	switch {
	case h.body == noBody:
		return nil, true
	case h.body == byLength && h.length > int64(limit):
		return nil, false
	case h.body == byLength:
		size = int(h.length)
	}
	if more := int64(size) - *taken; more > 0 {
		if !s.o.Bodies.take(more) {
			return nil, false
		}
		*taken += more
	}
	if h.expects && !h.asked {
		// The client waits for somebody who wants the body: that is the filter.
		h.asked = true
		if _, err := io.WriteString(s.client, "HTTP/1.1 100 Continue\r\n\r\n"); err != nil {
			return nil, false
		}
	}
	_ = s.client.SetReadDeadline(time.Now().Add(timeout))
	defer func() { _ = s.client.SetReadDeadline(time.Time{}) }()
	return s.src.peekBody(s.in, h, size, limit)
}

// peekBody reads a body that takes up to size on the wire, and puts it back.
func (s *source) peekBody(in *bufio.Reader, h *head, size, limit int) ([]byte, bool) {
	b := &held{limit: size}
	err := copyBody(b, in, h)
	s.unread(in, b.raw)
	if err != nil {
		return nil, false
	}
	body := b.raw
	if h.body == chunked {
		if body, err = io.ReadAll(httputil.NewChunkedReader(bytes.NewReader(b.raw))); err != nil {
			return nil, false
		}
	}
	return body, len(body) <= limit
}

// peeked is the body of a stream from which a filter has read.
type peeked struct {
	body io.ReadCloser

	done chan struct{} // closed when nobody reads ahead
	raw  []byte
	err  error // of reading ahead
}

// peek reads the body of a stream, which afterwards still has it. It returns false for one that
// is too large or too slow.
func (m *multiplexer) peek(r *http.Request, taken *int64, limit int, timeout time.Duration) ([]byte, bool) {
	if r.Body == nil || r.Body == http.NoBody {
		return nil, true
	}
	if r.ContentLength > int64(limit) {
		return nil, false
	}
	p, again := r.Body.(*peeked)
	if !again {
		p = &peeked{body: r.Body, done: make(chan struct{})}
		close(p.done)
		r.Body = p
	}
	select {
	case <-p.done:
	default:
		return nil, false // still waits, from an earlier filter's turn
	}
	if more := int64(limit) - *taken; more > 0 {
		if !m.s.o.Bodies.take(more) {
			return nil, false
		}
		*taken += more
	}
	p.done = make(chan struct{})
	late := make(chan struct{})
	go p.ahead(limit, late)
	t := time.NewTimer(timeout)
	defer t.Stop()
	select {
	case <-p.done:
	case <-t.C:
		close(late)
		return nil, false
	}
	return p.raw, errors.Is(p.err, io.EOF) && len(p.raw) <= limit
}

// ahead reads until the end, the limit, or until it is late.
func (p *peeked) ahead(limit int, late <-chan struct{}) {
	defer close(p.done)
	buf := make([]byte, 4<<10)
	for p.err == nil && len(p.raw) <= limit {
		select {
		case <-late:
			return
		default:
		}
		var n int
		n, p.err = p.body.Read(buf)
		p.raw = append(p.raw, buf[:n]...)
	}
}

// Read reads what was read ahead, and then the rest.
func (p *peeked) Read(b []byte) (int, error) {
	<-p.done
	switch {
	case len(p.raw) > 0:
		n := copy(b, p.raw)
		p.raw = p.raw[n:]
		return n, nil
	case p.err != nil:
		return 0, p.err
	}
	return p.body.Read(b)
}

// Close ends reading ahead too.
func (p *peeked) Close() error { return p.body.Close() }
