package httpsplit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mirrord-go/mirrord/internal/pipe"
)

// way is that of one stream: to who was chosen, or, when it does not take a connection, to the
// application. The next stream is offered to who was chosen again.
type way struct {
	m *multiplexer
	d Destination // who has the stream

	authenticate []string // see restore
}

// RoundTrip implements [http.RoundTripper].
func (w *way) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := w.chosen(r)
	if res == nil && err == nil {
		w.d = w.m.s.o.App
		res, err = w.m.transport(w.d).RoundTrip(r)
	}
	if err == nil {
		w.authenticate = res.Header["Proxy-Authenticate"]
	}
	return res, err
}

// restore puts back what a proxy takes out of a response, being for the proxy.
func (w *way) restore(res *http.Response) {
	if w.authenticate != nil {
		res.Header["Proxy-Authenticate"] = w.authenticate
	}
}

// chosen asks who was chosen. Without a result, the stream is the application's.
func (w *way) chosen(r *http.Request) (*http.Response, error) {
	if w.d == w.m.s.o.App {
		return nil, nil //nolint:nilnil // as it says
	}
	first := *r
	var body *lent
	if r.Body != nil && r.Body != http.NoBody {
		body = &lent{body: r.Body}
		first.Body = body
	}
	safe := body == nil && isSafe(r.Method)
	var begun atomic.Bool // the response, be it an interim one
	if safe {
		first = *r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{GotFirstResponseByte: func() { begun.Store(true) }}))
	}
	res, err := w.m.transport(w.d).RoundTrip(&first)
	switch {
	case err == nil, r.Context().Err() != nil:
	case body.returned() && untaken(err), safe && !begun.Load() && w.m.s.leaving(r.Context(), w.d):
		return nil, nil //nolint:nilnil // as it says
	}
	if err != nil && body != nil {
		_ = r.Body.Close()
	}
	return res, err
}

// lent is a body that somebody else gets when it comes back unread.
type lent struct {
	body io.ReadCloser

	mu           sync.Mutex
	read, closed bool
}

// Read reads, unless the body has been given back.
func (l *lent) Read(p []byte) (int, error) {
	l.mu.Lock()
	closed := l.closed && !l.read
	l.read = l.read || !closed
	l.mu.Unlock()
	if closed {
		return 0, http.ErrBodyReadAfterClose
	}
	return l.body.Read(p)
}

// Close gives it back, or closes it when some of it is gone.
func (l *lent) Close() error {
	l.mu.Lock()
	read := l.read
	l.closed = true
	l.mu.Unlock()
	if read {
		return l.body.Close()
	}
	return nil
}

// returned says that nothing of it is gone. There is nothing of a nil body.
func (l *lent) returned() bool {
	if l == nil {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.read
}

// transport returns the client of a destination.
func (m *multiplexer) transport(d Destination) *http.Transport {
	m.mu.Lock()
	defer m.mu.Unlock()
	if t := m.transports[d]; t != nil {
		return t
	}
	window := sessionStreamWindow
	if d == m.s.o.App {
		window = appStreamWindow
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) { return m.dial(ctx, d) }
	t := &http.Transport{
		Protocols:              new(http.Protocols),
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxResponseHead,
		// One connection, as the client has one; what is above the destination's limit waits.
		MaxConnsPerHost: 1,
		HTTP2: &http.HTTP2Config{
			StrictMaxConcurrentRequests: true,
			MaxReceiveBufferPerStream:   window, MaxReceiveBufferPerConnection: destinationWindow,
		},
		DialContext: dial, DialTLSContext: dial, // either scheme; TLS is the destination's own matter
	}
	t.Protocols.SetUnencryptedHTTP2(true)
	if len(m.transports) > maxKept {
		m.prune()
	}
	m.transports[d] = t
	return t
}

// maxKept is how many destinations are remembered without need: sessions come and go while a connection
// stays for weeks.
const maxKept = 16

// prune forgets the destinations without a connection. The caller holds mu.
func (m *multiplexer) prune() {
	used := map[Destination]bool{}
	for c := range m.conns {
		used[c.dst] = true
	}
	maps.DeleteFunc(m.transports, func(d Destination, _ *http.Transport) bool { return !used[d] })
	maps.DeleteFunc(m.refused, func(d Destination, _ time.Time) bool { return !used[d] })
}

// maxResponseHead bounds the header of a response, in bytes.
const maxResponseHead = 1 << 20

// untakenError says that a destination does not take a connection.
type untakenError struct{ err error }

func (e *untakenError) Error() string { return fmt.Sprintf("dialling: %v", e.err) }

func (e *untakenError) Unwrap() error { return e.err }

func untaken(err error) bool {
	_, ok := errors.AsType[*untakenError](err)
	return ok
}

var errJustRefused = errors.New("it has refused a connection just now")

// dial connects to a destination. A chosen one that has refused is not asked again for a moment, in
// which others may wait for the same answer.
func (m *multiplexer) dial(ctx context.Context, d Destination) (net.Conn, error) {
	m.mu.Lock()
	just := time.Since(m.refused[d]) < lull
	m.mu.Unlock()
	if just {
		return nil, &untakenError{errJustRefused}
	}
	c, err := d.Dial(ctx)
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil {
		if d != m.s.o.App && ctx.Err() == nil {
			m.refused[d] = time.Now()
		}
		return nil, &untakenError{err}
	}
	t := &tracked{Conn: c, m: m, dst: d}
	if m.closed || m.s.ctx.Err() != nil {
		_ = c.Close()
		return nil, net.ErrClosed
	}
	m.conns[t] = struct{}{}
	return t, nil
}

// tracked is a connection to a destination, which is known until it is closed.
type tracked struct {
	Conn
	m   *multiplexer
	dst Destination
}

// Close closes it.
func (t *tracked) Close() error {
	t.m.mu.Lock()
	delete(t.m.conns, t)
	t.m.mu.Unlock()
	return t.Conn.Close()
}

// close ends the connections to the destinations. There are no others from here on.
func (m *multiplexer) close() {
	m.mu.Lock()
	m.closed = true
	transports, conns := slices.Collect(maps.Values(m.transports)), slices.Collect(maps.Keys(m.conns))
	m.mu.Unlock()
	for _, t := range transports {
		t.CloseIdleConnections()
	}
	for _, c := range conns {
		if m.s.ctx.Err() != nil {
			pipe.Reset(c.Conn)
		} else {
			_ = c.Conn.Close()
		}
	}
}
