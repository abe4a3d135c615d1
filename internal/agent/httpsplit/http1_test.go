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
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mirrord-go/mirrord/internal/httpfilter"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patienceOfTests bounds what must happen soon.
const patienceOfTests = time.Minute

// address is a destination on this machine.
type address struct {
	addr string
	mu   sync.Mutex
	n    int
}

func (a *address) Dial(ctx context.Context) (Conn, error) {
	a.mu.Lock()
	a.n++
	a.mu.Unlock()
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", a.addr)
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

func (a *address) dials() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.n
}

// listen serves each connection with f.
func listen(t testing.TB, f func(c *net.TCPConn)) *address {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var served sync.WaitGroup
	served.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			served.Go(func() {
				defer c.Close()
				f(c.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		served.Wait()
	})
	return &address{addr: l.Addr().String()}
}

// serve is an HTTP server.
func serve(t testing.TB, h http.Handler) *address {
	t.Helper()
	return serveWith(t, &http.Server{Handler: h})
}

func serveWith(t testing.TB, srv *http.Server) *address {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l)
	}()
	t.Cleanup(func() {
		_ = srv.Close()
		<-done
	})
	return &address{addr: l.Addr().String()}
}

// split is a server in front of app and local, which gets what has "X-User: me".
func split(t testing.TB, app, local *address, change ...func(*Options)) string {
	t.Helper()
	f, err := httpfilter.Compile(httpfilter.Spec{Rule: httpfilter.Rule{Header: "^x-user: me$"}})
	if err != nil {
		t.Fatal(err)
	}
	o := Options{App: app, Choose: func(r *httpfilter.Request) Destination {
		if ok, _ := f.Match(r); ok {
			return local
		}
		return nil
	}}
	for _, c := range change {
		c(&o)
	}
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel) // before the servers behind are waited for
	front := listen(t, func(c *net.TCPConn) {
		if err := Serve(ctx, slog.New(slog.DiscardHandler), c, o); err != nil && ctx.Err() == nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return front.addr
}

// named answers with its name and what it got.
func named(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		w.Header().Set("Server-Name", name)
		fmt.Fprintf(w, "%s %s %s %d", name, r.Method, r.URL, len(b))
	})
}

// talk is a client that writes and reads bytes.
type talk struct {
	*net.TCPConn
	t testing.TB
	r *bufio.Reader
}

func dial(t testing.TB, addr string) *talk {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patienceOfTests))
	return &talk{TCPConn: c.(*net.TCPConn), t: t, r: bufio.NewReader(c)}
}

func (c *talk) send(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		c.t.Fatal(err)
	}
}

// response reads one, and returns its body.
func (c *talk) response(method string) (*http.Response, string) {
	c.t.Helper()
	r, err := http.ReadResponse(c.r, &http.Request{Method: method})
	if err != nil {
		c.t.Fatal(err)
	}
	b, err := io.ReadAll(r.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return r, string(b)
}

func (c *talk) wants(method, body string) {
	c.t.Helper()
	if _, got := c.response(method); got != body {
		c.t.Errorf("got %q, want %q", got, body)
	}
}

func (c *talk) wantsEnd() {
	c.t.Helper()
	if b, err := io.ReadAll(c.r); err != nil || len(b) > 0 {
		c.t.Errorf("got %q, %v, want the end", b, err)
	}
}

// TestEachRequestGoesItsWay on one connection that is kept alive.
func TestEachRequestGoesItsWay(t *testing.T) {
	app, local := serve(t, named("app")), serve(t, named("local"))
	c := dial(t, split(t, app, local))
	for range 3 {
		c.send("GET /a HTTP/1.1\r\nHost: shop\r\n\r\n")
		c.wants("GET", "app GET /a 0")
		c.send("POST /b?x=1 HTTP/1.1\r\nHost: shop\r\nX-USER:me\r\nContent-Length: 5\r\n\r\nhello")
		c.wants("POST", "local POST /b?x=1 5")
		c.send("PUT /c HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n5;ext=1\r\nhello\r\n6\r\n world\r\n0\r\nTrailer: x\r\n\r\n")
		c.wants("PUT", "app PUT /c 11")
		c.send("HEAD /d HTTP/1.1\r\nHost: shop\r\nX-User: me\r\n\r\n")
		if r, _ := c.response("HEAD"); r.Header.Get("Server-Name") != "local" {
			t.Errorf("HEAD was answered by %v", r.Header)
		}
	}
	if app.dials() != 1 || local.dials() != 1 {
		t.Errorf("%d and %d connections", app.dials(), local.dials())
	}
}

func TestPipelined(t *testing.T) {
	app, local := serve(t, named("app")), serve(t, named("local"))
	c := dial(t, split(t, app, local))
	c.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\nX-User: me\r\n\r\nPOST /3 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nxGET /4 HTTP/1.1\r\nHost: a\r\nX-User: me\r\n\r\n")
	for i, want := range []string{"app GET /1 0", "local GET /2 0", "app POST /3 1", "local GET /4 0"} {
		if _, got := c.response("GET"); got != want {
			t.Errorf("response %d: %q, want %q", i, got, want)
		}
	}
}

// TestBytesStayAsTheyAre: what goes to the application reaches it, and what it says comes back,
// byte for byte.
func TestBytesStayAsTheyAre(t *testing.T) {
	const (
		request  = "GET /a%20b?q HTTP/1.1\r\nhOsT: shop\r\nX-Twice: 1\r\nx-twice:2\r\nAccept:   */*  \r\n\r\n"
		response = "HTTP/1.1 200 All Right\r\nset-cookie: a\r\nSet-Cookie: b\r\nX-odd:  y\r\nContent-Length: 3\r\n\r\nyes"
	)
	got := make(chan string, 1)
	app := listen(t, func(c *net.TCPConn) {
		b := make([]byte, len(request))
		_, _ = io.ReadFull(c, b)
		got <- string(b)
		_, _ = io.WriteString(c, response)
		_, _ = io.Copy(io.Discard, c)
	})
	c := dial(t, split(t, app, app))
	for i := range len(request) { // in the smallest pieces
		c.send(request[i : i+1])
	}
	if b := <-got; b != request {
		t.Errorf("the application got %q", b)
	}
	b := make([]byte, len(response))
	if _, err := io.ReadFull(c.r, b); err != nil || string(b) != response {
		t.Errorf("the client got %q, %v", b, err)
	}
}

// TestUnclear: everything that is not HTTP as everybody reads it is the application's, from
// there on.
func TestUnclear(t *testing.T) {
	echo := listen(t, func(c *net.TCPConn) { _, _ = io.Copy(c, c); _ = c.CloseWrite() })
	local := serve(t, named("local"))
	me := "Host: a\r\nX-User: me\r\n"
	for name, text := range map[string]string{
		"binary":            "\x00\x01\x02 nothing of HTTP",
		"server speaks TLS": "\x16\x03\x01\x00\xa5\x01\x00\x00\xa1",
		"two lengths":       "POST / HTTP/1.1\r\n" + me + "Content-Length: 1\r\nContent-Length: 2\r\n\r\nx",
		"length and chunks": "POST / HTTP/1.1\r\n" + me + "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"other coding":      "POST / HTTP/1.1\r\n" + me + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
		"folded line":       "GET / HTTP/1.1\r\n" + me + " folded\r\n\r\n",
		"space before :":    "GET / HTTP/1.1\r\nX-User : me\r\n\r\n",
		"signed length":     "GET / HTTP/1.1\r\n" + me + "Content-Length: +1\r\n\r\nx",
		"no version":        "GET /\r\n\r\n",
		"future version":    "GET / HTTP/1.2\r\n" + me + "\r\n",
		"huge head":         "GET / HTTP/1.1\r\n" + me + "X: " + strings.Repeat("x", maxHead) + "\r\n\r\n",
		"half a head":       "GET / HTTP/1.1\r\n" + me,
		"empty line first":  "\r\nGET / HTTP/1.1\r\n" + me + "\r\n",
		"lonely LF":         "GET / HTTP/1.1\r\nHost: a\nX-User: me\r\n\r\n",
		"LF as the end":     "GET / HTTP/1.1\r\n" + me + "\n",
		"NUL":               "GET / HTTP/1.1\r\n" + me + "A: \x00\r\n\r\n",
		"lonely CR":         "GET / HTTP/1.1\r\n" + me + "A: b\rX: c\r\n\r\n",
		"almost HTTP/2":     "PRI * HTTP/2.0\r\n\r\nSN\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			c := dial(t, split(t, echo, local))
			go func() {
				_, _ = io.WriteString(c, text)
				_ = c.CloseWrite()
			}()
			if b, err := io.ReadAll(c.r); err != nil || string(b) != text {
				t.Errorf("got %d bytes, %v, sent %d", len(b), err, len(text))
			}
		})
	}
}

func TestStreaming(t *testing.T) {
	parts := make(chan string)
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for p := range parts {
			_, _ = io.WriteString(w, p)
			_ = http.NewResponseController(w).Flush()
		}
	})
	local := serve(t, h)
	c := dial(t, split(t, serve(t, named("app")), local))
	c.send("GET / HTTP/1.1\r\nHost: a\r\nX-User: me\r\n\r\n")
	r, err := func() (*http.Response, error) { parts <- "one"; return http.ReadResponse(c.r, nil) }()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 3)
	for _, want := range []string{"one", "two"} {
		if want != "one" {
			parts <- want
		}
		if _, err := io.ReadFull(r.Body, b); err != nil || string(b) != want {
			t.Fatalf("got %q, %v", b, err)
		}
	}
	close(parts)
	if b, err := io.ReadAll(r.Body); err != nil || len(b) > 0 {
		t.Errorf("got %q, %v", b, err)
	}
	c.send("GET /after HTTP/1.1\r\nHost: a\r\n\r\n")
	c.wants("GET", "app GET /after 0")
}

func TestExpectContinue(t *testing.T) {
	app := serve(t, named("app"))
	local := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "no", http.StatusExpectationFailed)
	}))
	addr := split(t, app, local)
	c := dial(t, addr)
	c.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
	if r, _ := c.response("POST"); r.StatusCode != 100 {
		t.Fatalf("status %d", r.StatusCode)
	}
	c.send("body")
	c.wants("POST", "app POST / 4")
	c.send("POST / HTTP/1.1\r\nHost: a\r\nX-User: me\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
	if r, body := c.response("POST"); r.StatusCode != 417 || body != "no\n" {
		t.Fatalf("status %d, %q", r.StatusCode, body)
	}
	c.wantsEnd()
}

func TestUpgrade(t *testing.T) {
	local := listen(t, func(c *net.TCPConn) {
		r := bufio.NewReader(c)
		if _, err := http.ReadRequest(r); err != nil {
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\nhello ")
		_, _ = io.Copy(c, r)
		_ = c.CloseWrite()
	})
	c := dial(t, split(t, serve(t, named("app")), local))
	c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	c.wants("GET", "app GET / 0")
	c.send("GET / HTTP/1.1\r\nHost: a\r\nX-User: me\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n")
	r, err := http.ReadResponse(c.r, nil)
	if err != nil || r.StatusCode != 101 {
		t.Fatalf("%v, %v", r, err)
	}
	c.send("GET / is data now")
	_ = c.CloseWrite()
	if b, err := io.ReadAll(c.r); err != nil || string(b) != "hello GET / is data now" {
		t.Errorf("got %q, %v", b, err)
	}
}

func TestOldHTTP(t *testing.T) {
	app, local := serve(t, named("app")), serve(t, named("local"))
	addr := split(t, app, local)
	c := dial(t, addr)
	c.send("GET /old HTTP/1.0\r\nX-User: me\r\n\r\n")
	c.wants("GET", "local GET /old 0")
	c.wantsEnd()
	c = dial(t, addr)
	for range 2 {
		c.send("GET /old HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n")
		c.wants("GET", "app GET /old 0")
	}
	c.send("GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	c.wants("GET", "app GET /last 0")
	c.wantsEnd()
}

func TestResponseUntilTheEnd(t *testing.T) {
	app := listen(t, func(c *net.TCPConn) {
		_, _ = http.ReadRequest(bufio.NewReader(c))
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\nall of it")
	})
	c := dial(t, split(t, app, app))
	c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	if b, err := io.ReadAll(c.r); err != nil || string(b) != "HTTP/1.1 200 OK\r\n\r\nall of it" {
		t.Errorf("got %q, %v", b, err)
	}
}

// TestAppClosesIdle: the client learns at once that the application has ended the connection.
func TestAppClosesIdle(t *testing.T) {
	closing := make(chan struct{})
	app := listen(t, func(c *net.TCPConn) {
		_, _ = http.ReadRequest(bufio.NewReader(c))
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		<-closing
	})
	c := dial(t, split(t, app, serve(t, named("local"))))
	c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	c.wants("GET", "")
	c.send("GET / HTTP/1.1\r\nHost: a\r\nX-User: me\r\n\r\n")
	c.wants("GET", "local GET / 0")
	close(closing)
	c.wantsEnd()
}

// TestLocalClosesIdle: a local server's own time-out is no business of the client's.
func TestLocalClosesIdle(t *testing.T) {
	local := listen(t, func(c *net.TCPConn) {
		_, _ = http.ReadRequest(bufio.NewReader(c))
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	})
	c := dial(t, split(t, serve(t, named("app")), local))
	for range 5 {
		c.send("GET / HTTP/1.1\r\nHost: a\r\nX-User: me\r\n\r\n")
		c.wants("GET", "ok")
	}
	c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	c.wants("GET", "app GET / 0")
}

func TestLocalIsGone(t *testing.T) {
	gone := listen(t, func(*net.TCPConn) {})
	refused := &address{addr: "127.0.0.1:1"}
	app := serve(t, named("app"))
	c := dial(t, split(t, app, refused))
	c.send("GET / HTTP/1.1\r\nHost: a\r\nX-User: me\r\n\r\n")
	c.wants("GET", "app GET / 0") // what it refuses goes to the application
	c = dial(t, split(t, app, gone))
	c.send("POST / HTTP/1.1\r\nHost: a\r\nX-User: me\r\nContent-Length: 0\r\n\r\n")
	r, body := c.response("POST")
	if r.StatusCode != http.StatusBadGateway || body != noResponse {
		t.Errorf("status %d, %q", r.StatusCode, body)
	}
	c.wantsEnd()
}

// TestClientLeaves: a request that nobody waits for any more is seen as such at its destination.
func TestClientLeaves(t *testing.T) {
	ended := make(chan error, 1)
	local := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
			ended <- nil
		case <-time.After(patienceOfTests):
			ended <- errors.New("the request goes on")
		}
	}))
	c := dial(t, split(t, serve(t, named("app")), local))
	c.send("GET / HTTP/1.1\r\nHost: a\r\nX-User: me\r\n\r\n")
	_ = c.Close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestContextEnds(t *testing.T) {
	arrived := make(chan struct{})
	app := listen(t, func(c *net.TCPConn) {
		close(arrived)
		_, _ = io.Copy(io.Discard, c)
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	front := listen(t, func(c *net.TCPConn) {
		done <- Serve(ctx, slog.New(slog.DiscardHandler), c, Options{App: app, Choose: func(*httpfilter.Request) Destination { return nil }})
	})
	c := dial(t, front.addr)
	c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	<-arrived
	cancel()
	select {
	case <-done:
	case <-time.After(patienceOfTests):
		t.Fatal("Serve goes on")
	}
	if _, err := c.r.ReadByte(); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("the client reads %v, want a reset", err)
	}
}

func TestMark(t *testing.T) {
	app, local := serve(t, named("app")), serve(t, named("local"))
	c := dial(t, split(t, app, local, func(o *Options) {
		o.Mark = func(d Destination) string {
			if d == Destination(local) {
				return "Mirrord-Agent: forwarded-to-client"
			}
			return ""
		}
	}))
	c.send("GET / HTTP/1.1\r\nHost: a\r\nX-User: me\r\n\r\n")
	if r, _ := c.response("GET"); r.Header.Get("Mirrord-Agent") != "forwarded-to-client" {
		t.Errorf("header %v", r.Header)
	}
	c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	if r, _ := c.response("GET"); r.Header.Get("Mirrord-Agent") != "" {
		t.Errorf("header %v", r.Header)
	}
}

// TestLarge moves bodies that fit no buffer, both ways at once.
func TestLarge(t *testing.T) {
	echo := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		_, _ = io.Copy(w, r.Body)
	}))
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	url := "http://" + split(t, serve(t, named("app")), echo)
	body := bytes.Repeat([]byte("0123456789abcdef"), 1<<18)
	for _, length := range []int64{int64(len(body)), -1} {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, url, io.NopCloser(bytes.NewReader(body)))
		req.ContentLength = length
		req.Header.Set("X-User", "me")
		r, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r.Body)
		_ = r.Body.Close()
		if err != nil || !bytes.Equal(b, body) {
			t.Errorf("length %d: %d bytes back, %v", length, len(b), err)
		}
	}
}

func FuzzReadHead(f *testing.F) {
	f.Add([]byte("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"))
	f.Add([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		in := bufio.NewReader(bytes.NewReader(b))
		h, err := readRequest(in)
		if !bytes.HasPrefix(b, h.raw) {
			t.Fatalf("the head %q is not what was read", h.raw)
		}
		if err != nil {
			return
		}
		var body bytes.Buffer
		_ = copyBody(&body, in, h)
		if !bytes.HasPrefix(b[len(h.raw):], body.Bytes()) {
			t.Errorf("the body %q is not what followed", body.Bytes())
		}
		// What Go's server takes for another message would be seen differently by an application.
		req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(b)))
		if err == nil && (req.Method != h.start[0] || req.ContentLength > 0 && req.ContentLength != h.length) {
			t.Errorf("%q is %s with %d bytes here, %s with %d there", h.raw, h.start[0], h.length, req.Method, req.ContentLength)
		}
	})
}
