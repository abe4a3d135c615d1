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

// reserve takes what is missing to size, where taken is in use already. It reports false when there is
// not as much left.
func (b *Budget) reserve(taken *int64, size int) bool {
	more := max(0, int64(size)-*taken)
	ok := b.take(more)
	if ok {
		*taken += more
	}
	return ok
}

// settle gives back what is not needed after all.
func (b *Budget) settle(taken *int64, used int) {
	if less := *taken - int64(used); less > 0 {
		b.give(less)
		*taken -= less
	}
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
func (s *splitter) peekBody(h *head, taken *int64, limit int, until time.Time) ([]byte, bool) {
	_ = s.client.SetReadDeadline(until)
	defer func() { _ = s.client.SetReadDeadline(time.Time{}) }()
	return s.src.peekBody(s.in, h, s.o.Bodies, taken, limit, func() error {
		if !h.expects || h.asked {
			return nil
		}
		// The client waits for somebody who wants the body: that is the filter.
		h.asked = true
		_, err := io.WriteString(s.client, "HTTP/1.1 100 Continue\r\n\r\n")
		return err
	})
}

// peekBody reads a body up to a limit, and puts it back. What it takes on the wire counts for the budget;
// ask is called before anything is read.
func (s *source) peekBody(in *bufio.Reader, h *head, budget *Budget, taken *int64, limit int, ask func() error) ([]byte, bool) {
	size := wireSize(limit)
	switch {
	case h.body == noBody:
		return nil, true
	case h.body == byLength && h.length > int64(limit):
		return nil, false
	case h.body == byLength:
		size = int(h.length)
	}
	if !budget.reserve(taken, size) || ask() != nil {
		return nil, false
	}
	b := &held{limit: size}
	err := copyBody(b, in, h)
	s.unread(in, b.raw)
	budget.settle(taken, len(b.raw))
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

	mu      sync.Mutex
	changed sync.Cond // of mu: when raw, err or reading change
	raw     []byte    // read ahead
	err     error     // of reading ahead
	reading bool      // ahead
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
		p = &peeked{body: r.Body}
		p.changed.L = &p.mu
		r.Body = p
	}
	if p.busy() {
		return nil, false // still waits, from an earlier filter's turn
	}
	if !m.s.o.Bodies.reserve(taken, limit+aheadSize) {
		return nil, false
	}
	raw, ok := p.ahead(limit, timeout)
	if !p.busy() {
		m.s.o.Bodies.settle(taken, len(raw))
	}
	return raw, ok
}

// aheadSize is how much is read ahead at once.
const aheadSize = 4 << 10

func (p *peeked) busy() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.reading
}

// ahead reads until the end, the limit, or until it is late: then the last reading goes on, as there is
// no way to end it that leaves the body whole.
func (p *peeked) ahead(limit int, timeout time.Duration) ([]byte, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	late := false
	t := time.AfterFunc(timeout, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		late = true
		p.changed.Broadcast()
	})
	defer t.Stop()
	p.reading = true
	go func() {
		buf := make([]byte, aheadSize)
		p.mu.Lock()
		defer p.mu.Unlock()
		for p.err == nil && len(p.raw) <= limit && !late {
			p.mu.Unlock()
			n, err := p.body.Read(buf)
			p.mu.Lock()
			p.raw, p.err = append(p.raw, buf[:n]...), err
			p.changed.Broadcast()
		}
		p.reading = false
		p.changed.Broadcast()
	}()
	for p.reading && !late {
		p.changed.Wait()
	}
	return p.raw, !p.reading && errors.Is(p.err, io.EOF) && len(p.raw) <= limit
}

// Read reads what was read ahead, and then the rest. What is there does not wait for what is not: the
// client may be waiting for an answer to it.
func (p *peeked) Read(b []byte) (int, error) {
	p.mu.Lock()
	for len(p.raw) == 0 && p.reading {
		p.changed.Wait()
	}
	raw, err := p.raw, p.err
	n := copy(b, raw)
	p.raw = raw[n:]
	p.mu.Unlock()
	switch {
	case len(raw) > 0:
		return n, nil
	case err != nil:
		return 0, err
	}
	return p.body.Read(b)
}

// Close ends reading ahead too.
func (p *peeked) Close() error { return p.body.Close() }
