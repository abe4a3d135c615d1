package httpsplit

import (
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"slices"
	"strings"
	"sync"
	"time"

	xhttp2 "golang.org/x/net/http2"

	"github.com/mirrord-go/mirrord/internal/httpfilter"
)

// maxConcurrentStreams is what the client of an HTTP/2 connection may have open at once. The
// destinations' own limits hold beside it: what is above them waits.
const maxConcurrentStreams = 1000

// What a stream, and all of a connection, may have in our memory when the side that is to get it
// does not read. A stream of many that nobody reads must not hold up the others, so a connection has
// room for dozens of them. The way to the application is short, and a small window does for it; to a
// session's process it is long.
const (
	clientStreamWindow  = 256 << 10
	clientWindow        = 16 << 20
	appStreamWindow     = 128 << 10
	sessionStreamWindow = 1 << 20
	destinationWindow   = 32 << 20
)

// http2 serves an HTTP/2 connection as its server, and speaks to each destination as a client
// of its own. Streams, their trailers, resets and flow control pass through; the order of
// different header fields, which means nothing there (RFC 9110, section 5.3), may change.
//
// The server is that of x/net, though deprecated: net/http's own does not say which scheme a request has.
func (s *splitter) http2() error {
	m := newMultiplexer(s)
	defer m.close()
	srv := &http.Server{MaxHeaderBytes: maxHead, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug)}
	h2 := &xhttp2.Server{
		MaxConcurrentStreams:     maxConcurrentStreams,
		MaxUploadBufferPerStream: clientStreamWindow, MaxUploadBufferPerConnection: clientWindow,
	}
	if err := xhttp2.ConfigureServer(srv, h2); err != nil {
		return fmt.Errorf("serving HTTP/2: %w", err)
	}
	closed := make(chan struct{})
	var drain sync.WaitGroup
	drain.Go(func() { m.drain(srv, closed) })
	h2.ServeConn(schemed{&buffered{Conn: s.client, r: s.in}}, &xhttp2.ServeConnOpts{Context: s.ctx, BaseConfig: srv, Handler: m})
	close(closed)
	drain.Wait()
	return nil
}

// drain ends an HTTP/2 connection in order, behind the streams that are open.
func (m *multiplexer) drain(srv *http.Server, closed <-chan struct{}) {
	select {
	case <-m.s.o.Drain:
	case <-m.unreached:
	case <-closed:
		return
	}
	_ = srv.Shutdown(m.s.ctx)
}

// schemed makes Go's server say which scheme a request has: it shows the state of TLS to handlers of
// those with "https", and of no others. A load balancer may well send that without TLS.
type schemed struct{ *buffered }

// ConnectionState is what the server looks for. It refuses old versions and ciphers.
func (schemed) ConnectionState() tls.ConnectionState {
	return tls.ConnectionState{Version: tls.VersionTLS13, CipherSuite: tls.TLS_AES_128_GCM_SHA256, HandshakeComplete: true}
}

// multiplexer spreads the streams of one connection.
type multiplexer struct {
	s *splitter

	mu         sync.Mutex
	closed     bool
	transports map[Destination]*http.Transport
	conns      map[*tracked]struct{}
	refused    map[Destination]time.Time // when a chosen one did not take a connection last

	// unreached is closed when the application does not take a connection: another one of the client may lead to another.
	unreached chan struct{}
	once      sync.Once // of unreached
}

func newMultiplexer(s *splitter) *multiplexer {
	return &multiplexer{
		s: s, transports: map[Destination]*http.Transport{},
		conns: map[*tracked]struct{}{}, refused: map[Destination]time.Time{},
		unreached: make(chan struct{}),
	}
}

// ServeHTTP serves one stream.
func (m *multiplexer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var taken int64
	defer func() { m.s.o.Bodies.give(taken) }()
	q := describe(r)
	q.Body = func(limit int, timeout time.Duration) ([]byte, bool) { return m.peek(r, &taken, limit, timeout) }
	to := &way{m: m, d: m.s.o.Choose(q)}
	if to.d == nil {
		to.d = m.s.o.App
	}
	out := &response{ResponseWriter: w}
	proxy := httputil.ReverseProxy{
		Transport:     to,
		FlushInterval: -1,
		Rewrite:       rewrite,
		ErrorLog:      slog.NewLogLogger(m.s.log.Handler(), slog.LevelDebug),
		ModifyResponse: func(res *http.Response) error {
			// Nothing is added to what the destination says. An interim response before this one has
			// cleared the header.
			w.Header()["Date"], w.Header()["Content-Type"] = nil, nil
			out.empty = res.ContentLength == 0
			to.restore(res)
			m.mark(res, to.d)
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) { m.failed(w, to.d, err) },
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
	q := &httpfilter.Request{Method: r.Method, Target: r.RequestURI, Header: []string{"Host: " + r.Host}}
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
	if r.In.TLS != nil { // see schemed
		r.Out.URL.Scheme = "https"
	}
	r.Out.URL.RawQuery = r.In.URL.RawQuery
	// What a browser would have escaped stays as it came.
	if raw := r.In.RequestURI; strings.HasPrefix(raw, "/") && !strings.HasPrefix(raw, "//") && raw != r.Out.URL.RequestURI() {
		r.Out.URL.Opaque, _, _ = strings.Cut(raw, "?")
	}
	r.Out.Host = r.In.Host
	r.Out.Trailer = r.In.Trailer // filled when the body has ended
	for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "Proxy-Authorization"} {
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
		if untaken(err) {
			m.once.Do(func() { close(m.unreached) })
		}
		panic(http.ErrAbortHandler) // resets the stream
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(http.StatusBadGateway)
	_, _ = io.WriteString(w, noResponse)
}
