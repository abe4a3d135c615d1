package httpsplit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"slices"
	"sync"
	"time"

	"github.com/mirrord-go/mirrord/internal/httpfilter"
	"github.com/mirrord-go/mirrord/internal/pipe"
)

// maxConcurrentStreams is what the client of an HTTP/2 connection may have open at once. The
// destinations' own limits hold beside it: what is above them waits.
const maxConcurrentStreams = 1000

// http2 serves an HTTP/2 connection as its server, and speaks to each destination as a client
// of its own. Streams, their trailers, resets and flow control pass through; the order of
// different header fields, which means nothing there (RFC 9110, section 5.3), may change.
func (s *splitter) http2() error {
	m := &multiplexer{s: s, transports: make(map[Destination]*http.Transport)}
	defer m.close()
	closed := make(chan struct{})
	var once sync.Once
	srv := &http.Server{
		Handler:     m,
		Protocols:   new(http.Protocols),
		HTTP2:       &http.HTTP2Config{MaxConcurrentStreams: maxConcurrentStreams},
		BaseContext: func(net.Listener) context.Context { return s.ctx },
		ErrorLog:    slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		ConnState: func(_ net.Conn, state http.ConnState) {
			if state == http.StateClosed {
				once.Do(func() { close(closed) })
			}
		},
	}
	srv.Protocols.SetUnencryptedHTTP2(true)
	var drain sync.WaitGroup
	drain.Go(func() { s.drain(srv, closed) })
	defer drain.Wait()
	err := srv.Serve(&single{conn: &buffered{Conn: s.client, r: s.in}, closed: closed})
	_ = srv.Close()
	if errors.Is(err, net.ErrClosed) || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// drain ends an HTTP/2 connection in order, behind the streams that are open.
func (s *splitter) drain(srv *http.Server, closed <-chan struct{}) {
	select {
	case <-s.o.Drain:
		_ = srv.Shutdown(s.ctx)
	case <-closed:
	}
}

// single is a listener of one connection, which it waits for.
type single struct {
	conn   net.Conn
	closed <-chan struct{}
}

func (l *single) Accept() (c net.Conn, err error) {
	if l.conn != nil {
		c, l.conn = l.conn, nil
		return c, nil
	}
	<-l.closed
	return nil, net.ErrClosed
}

func (l *single) Close() error   { return nil }
func (l *single) Addr() net.Addr { return &net.TCPAddr{} }

// multiplexer spreads the streams of one connection.
type multiplexer struct {
	s *splitter

	mu         sync.Mutex
	transports map[Destination]*http.Transport
	conns      []net.Conn
}

// ServeHTTP serves one stream.
func (m *multiplexer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var taken int64
	defer func() { m.s.o.Bodies.give(taken) }()
	q := describe(r)
	q.Body = func(limit int, timeout time.Duration) ([]byte, bool) { return m.peek(r, &taken, limit, timeout) }
	d := m.s.o.Choose(q)
	if d == nil {
		d = m.s.o.App
	}
	out := &response{ResponseWriter: w}
	// Nothing is added to what the destination says.
	w.Header()["Date"], w.Header()["Content-Type"] = nil, nil
	proxy := httputil.ReverseProxy{
		Transport:     m.transport(d),
		FlushInterval: -1,
		Rewrite:       rewrite,
		ErrorLog:      slog.NewLogLogger(m.s.log.Handler(), slog.LevelDebug),
		ModifyResponse: func(res *http.Response) error {
			out.empty = res.ContentLength == 0
			m.mark(res, d)
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) { m.failed(w, d, err) },
	}
	proxy.ServeHTTP(out, r)
}

// response is one to a client. Without a body it has to be one frame: gRPC tells a refusal from a
// response that was cut by that.
type response struct {
	http.ResponseWriter
	empty bool
}

// FlushError is what [http.ResponseController] looks for.
func (r *response) FlushError() error {
	if r.empty {
		return nil
	}
	return http.NewResponseController(r.ResponseWriter).Flush()
}

// Unwrap is, too.
func (r *response) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// describe is what a filter sees of a stream.
func describe(r *http.Request) *httpfilter.Request {
	q := &httpfilter.Request{Method: r.Method, Target: r.URL.RequestURI(), Header: []string{"Host: " + r.Host}}
	for name, values := range r.Header {
		for _, v := range values {
			q.Header = append(q.Header, name+": "+v)
		}
	}
	slices.Sort(q.Header[1:])
	return q
}

// rewrite takes back what a proxy that wants to be seen would change.
func rewrite(r *httputil.ProxyRequest) {
	r.Out.URL.Scheme, r.Out.URL.Host = "http", "destination"
	r.Out.URL.RawQuery = r.In.URL.RawQuery
	r.Out.Host = r.In.Host
	r.Out.Trailer = r.In.Trailer // filled when the body has ended
	for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
		if v, ok := r.In.Header[name]; ok {
			r.Out.Header[name] = v
		}
	}
}

func (m *multiplexer) mark(res *http.Response, d Destination) {
	if m.s.o.Mark == nil {
		return
	}
	if line := m.s.o.Mark(d); line != "" {
		for i := range len(line) {
			if line[i] == ':' {
				res.Header.Set(line[:i], line[min(i+2, len(line)):])
				return
			}
		}
	}
}

// failed answers for a chosen destination, and resets what the application does not answer.
func (m *multiplexer) failed(w http.ResponseWriter, d Destination, err error) {
	m.s.log.Debug("a stream has no response", "err", err)
	if d == m.s.o.App {
		panic(http.ErrAbortHandler) // resets the stream
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(http.StatusBadGateway)
	_, _ = io.WriteString(w, noResponse)
}

// transport returns the client of a destination.
func (m *multiplexer) transport(d Destination) *http.Transport {
	m.mu.Lock()
	defer m.mu.Unlock()
	if t := m.transports[d]; t != nil {
		return t
	}
	t := &http.Transport{
		Protocols:          new(http.Protocols),
		DisableCompression: true,
		// One connection, as the client has one; what is above the destination's limit waits.
		MaxConnsPerHost: 1,
		HTTP2:           &http.HTTP2Config{StrictMaxConcurrentRequests: true},
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			c, err := m.dial(ctx, d)
			if err != nil {
				return nil, err
			}
			return c, nil
		},
	}
	t.Protocols.SetUnencryptedHTTP2(true)
	m.transports[d] = t
	return t
}

// dial connects to a destination, or to the application for one that does not take it.
func (m *multiplexer) dial(ctx context.Context, d Destination) (Conn, error) {
	c, err := d.Dial(ctx)
	if err != nil && d != m.s.o.App {
		c, err = m.s.o.App.Dial(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("dialling: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.s.ctx.Err() != nil {
		_ = c.Close()
		return nil, m.s.ctx.Err()
	}
	m.conns = append(m.conns, c)
	return c, nil
}

// close ends the connections to the destinations.
func (m *multiplexer) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, t := range m.transports {
		t.CloseIdleConnections()
	}
	for _, c := range m.conns {
		if m.s.ctx.Err() != nil {
			pipe.Reset(c)
		} else {
			_ = c.Close()
		}
	}
}
