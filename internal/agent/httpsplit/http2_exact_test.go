package httpsplit

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	xhttp2 "golang.org/x/net/http2"

	"github.com/mirrord-go/mirrord/internal/httpfilter"
	"github.com/mirrord-go/mirrord/internal/tlsconn"
)

func limitsOf(body int) httpfilter.Limits {
	return httpfilter.Limits{Body: body, BodyTimeout: patienceOfTests}
}

// tlsPair is a connection through TLS.
func tlsPair(t *testing.T) (*tls.Conn, *tlsconn.Conn) {
	t.Helper()
	srv := httptest.NewUnstartedServer(nil)
	srv.StartTLS() // for its certificate
	certificates := srv.TLS.Certificates
	srv.Close()
	accepted := make(chan *tls.Conn, 1)
	at := listen(t, func(c *net.TCPConn) {
		s := tls.Server(c, &tls.Config{Certificates: certificates})
		if err := s.HandshakeContext(t.Context()); err != nil {
			t.Error(err)
		}
		accepted <- s
		<-t.Context().Done()
	})
	below, err := at.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = below.Close() })
	c := tls.Client(below, &tls.Config{InsecureSkipVerify: true})
	if err := c.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	return <-accepted, tlsconn.New(c, below)
}

// body2 is the body of a response to a request.
func body2(t *testing.T, c *http.Client, r *http.Request) string {
	t.Helper()
	res, err := c.Do(r)
	if err != nil {
		t.Error(err)
		return ""
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

// TestLocalComesBack2: a local process that did not take a connection, as while it is started again, gets the
// next streams on the same connection of the client; what it did not take loses nothing.
func TestLocalComesBack2(t *testing.T) {
	app, up := serve2(t, named("app")), serve2(t, named("local"))
	local := &address{addr: "127.0.0.1:1"}
	addr := split(t, app, local)
	c := client2(t)
	post := func() string {
		return body2(t, c, request2(t.Context(), t, http.MethodPost, "http://"+addr+"/", io.MultiReader(strings.NewReader("hello")), true))
	}
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if got := post(); got != "app POST / 5" {
				t.Errorf("got %q", got)
			}
		})
	}
	all.Wait()
	local.mu.Lock()
	local.addr = up.addr
	local.mu.Unlock()
	eventually(t, func() bool { return post() == "local POST / 5" })
}

// TestGoaway2: a destination that ends its connection while a stream goes on gets the next ones on another.
func TestGoaway2(t *testing.T) {
	release := make(chan struct{})
	srv := &http.Server{Protocols: new(http.Protocols), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).Flush()
		<-release
	})}
	srv.Protocols.SetUnencryptedHTTP2(true)
	app := serveWith(t, srv)
	c := client2(t)
	addr := "http://" + split(t, app, app)
	res, err := c.Do(request2(t.Context(), t, http.MethodGet, addr, nil, false))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	second := serve2(t, named("second"))
	app.mu.Lock()
	app.addr = second.addr
	app.mu.Unlock()
	down := make(chan error, 1)
	go func() { down <- srv.Shutdown(context.WithoutCancel(t.Context())) }()
	eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		res, err := c.Do(request2(ctx, t, http.MethodGet, addr+"/x", nil, false))
		if err != nil {
			return false // it came before the end was said
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		return string(b) == "second GET /x 0"
	})
	close(release)
	if err := <-down; err != nil {
		t.Error(err)
	}
}

// TestAppIsGone2: a client whose application does not take connections is told not to use its connection any more, as another one
// may lead elsewhere. Streams that are open go on.
func TestAppIsGone2(t *testing.T) {
	release := make(chan struct{})
	local := serve2(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).Flush()
		<-release
		_, _ = io.WriteString(w, "local")
	}))
	url := "http://" + split(t, &address{addr: "127.0.0.1:1"}, local)
	var dials atomic.Int32
	tr := &http.Transport{Protocols: new(http.Protocols), DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		dials.Add(1)
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}}
	tr.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(tr.CloseIdleConnections)
	c := &http.Client{Transport: tr, Timeout: patienceOfTests}
	open, err := c.Do(request2(t.Context(), t, http.MethodGet, url, nil, true))
	if err != nil {
		t.Fatal(err)
	}
	defer open.Body.Close()
	eventually(t, func() bool {
		if res, err := c.Do(request2(t.Context(), t, http.MethodGet, url, nil, false)); err == nil {
			_ = res.Body.Close()
			t.Errorf("status %d", res.StatusCode)
		}
		return dials.Load() > 1
	})
	close(release)
	if b, err := io.ReadAll(open.Body); err != nil || string(b) != "local" {
		t.Errorf("the open stream got %q, %v", b, err)
	}
}

// TestExact2: nothing of a stream is changed on its way that a program can see.
func TestExact2(t *testing.T) {
	seen := make(chan *http.Request, 1)
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen <- r
		w.Header()["Date"], w.Header()["Content-Type"] = nil, nil
		w.Header().Set("Link", "</a>")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Set("Proxy-Authenticate", "Basic")
		w.WriteHeader(http.StatusTeapot)
		_, _ = io.WriteString(w, "<html>")
	})
	app := listen(t, func(c *net.TCPConn) {
		new(xhttp2.Server).ServeConn(schemed{&buffered{Conn: c, r: bufio.NewReader(c)}}, &xhttp2.ServeConnOpts{Handler: h})
	})
	addr := split(t, app, app)
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	}
	tr := &http.Transport{Protocols: new(http.Protocols), DialContext: dial, DialTLSContext: dial}
	tr.Protocols.SetUnencryptedHTTP2(true)
	defer tr.CloseIdleConnections()
	for _, scheme := range []string{"http", "https"} {
		for _, path := range []string{"/", "/a|b^{c}\"<d>`?e=|&f;g", "/%7e%2F?", "//a//b?c#d", "/é", "*"} {
			r := request2(t.Context(), t, http.MethodOptions, scheme+"://shop/", nil, false)
			p, q, has := strings.Cut(path, "?")
			r.URL = &url.URL{Scheme: scheme, Host: "shop", Opaque: p, RawQuery: q, ForceQuery: has}
			if strings.HasPrefix(p, "//") {
				r.URL.Opaque, r.URL.Path = "", p
			}
			r.Header.Set("Proxy-Authorization", "Basic x")
			r.Header.Set("User-Agent", "")
			res, err := tr.RoundTrip(r)
			if err != nil {
				t.Errorf("%s: %v", path, err)
				continue
			}
			b, _ := io.ReadAll(res.Body)
			_ = res.Body.Close()
			got := <-seen
			if got.RequestURI != path || (got.TLS != nil) != (scheme == "https") || got.Host != "shop" ||
				got.Header.Get("Proxy-Authorization") != "Basic x" || len(got.Header["User-Agent"]) > 0 {
				t.Errorf("%s %s: got %s of %s, TLS %v, %v", scheme, path, got.RequestURI, got.Host, got.TLS != nil, got.Header)
			}
			if res.StatusCode != http.StatusTeapot || string(b) != "<html>" || res.Header.Get("Proxy-Authenticate") != "Basic" ||
				res.Header.Get("Date") != "" || res.Header.Get("Content-Type") != "" {
				t.Errorf("%s: status %d, %q, %v", path, res.StatusCode, b, res.Header)
			}
		}
	}
}

// TestBothWaysWithBodyFilter: a client that waits for an answer before it goes on gets it, though a filter
// would like to see the whole body.
func TestBothWaysWithBodyFilter(t *testing.T) {
	echo := serve2(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b := make([]byte, 4)
		for {
			if _, err := io.ReadFull(r.Body, b); err != nil {
				return
			}
			_, _ = w.Write(b)
			_ = http.NewResponseController(w).Flush()
		}
	}))
	local := serve2(t, named("local"))
	in, out := io.Pipe()
	defer out.Close()
	addr := split(t, echo, local, byBody(t, local, httpfilter.Limits{BodyTimeout: 20 * time.Millisecond}))
	go func() { _, _ = io.WriteString(out, "ping") }()
	res, err := client2(t).Do(request2(t.Context(), t, http.MethodPost, "http://"+addr, in, false))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b := make([]byte, 4)
	for _, text := range []string{"ping", "pong"} {
		if text != "ping" {
			if _, err := io.WriteString(out, text); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := io.ReadFull(res.Body, b); err != nil || string(b) != text {
			t.Fatalf("got %q, %v", b, err)
		}
	}
}

// TestStalledStreams: uploads that a local process does not read, being stopped in a debugger, hold up
// nobody else on the connection.
func TestStalledStreams(t *testing.T) {
	release := make(chan struct{})
	local := serve2(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		<-release
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n)
	}))
	addr := "http://" + split(t, serve2(t, named("app")), local)
	c := client2(t)
	c.Timeout = 0
	large := strings.Repeat("x", 3<<20)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			if got := body2(t, c, request2(t.Context(), t, http.MethodPost, addr, strings.NewReader(large), true)); got != fmt.Sprint(len(large)) {
				t.Errorf("got %q", got)
			}
		})
	}
	eventually(t, func() bool { return local.dials() > 0 })
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), patienceOfTests)
		if got := body2(t, c, request2(ctx, t, http.MethodPost, addr+"/", strings.NewReader(large), false)); got != fmt.Sprintf("app POST / %d", len(large)) {
			t.Errorf("got %q", got)
		}
		cancel()
	}
	close(release)
	all.Wait()
}
