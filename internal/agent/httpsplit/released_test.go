package httpsplit

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
)

// TestReleased: what a local process has not answered that is on its way out, the application does, if
// nobody can be hurt by that.
func TestReleased(t *testing.T) {
	const me = " HTTP/1.1\r\nHost: a\r\nX-User: me\r\n"
	for _, test := range []struct {
		name, request, says string
		stays               bool
		status              int // 0 is none
		body                string
		asked               int32 // whether it is on its way out
	}{
		{name: "GET", request: "GET /a" + me + "\r\n", status: 200, body: "app GET /a 0", asked: 1},
		{name: "OPTIONS", request: "OPTIONS /a" + me + "\r\n", status: 200, body: "app OPTIONS /a 0", asked: 1},
		{name: "HEAD", request: "HEAD /a" + me + "\r\n", status: 200, asked: 1},
		{name: "an empty body", request: "GET /a" + me + "Content-Length: 0\r\n\r\n", status: 200, body: "app GET /a 0", asked: 1},
		{name: "only broken", request: "GET /a" + me + "\r\n", stays: true, status: 502, body: noResponse, asked: 1},
		{name: "not safe", request: "DELETE /a" + me + "\r\n", status: 502, body: noResponse},
		{name: "a method in lower case", request: "get /a" + me + "\r\n", status: 502, body: noResponse},
		{name: "a body", request: "GET /a" + me + "Content-Length: 1\r\n\r\nx", status: 502, body: noResponse},
		{name: "chunks", request: "GET /a" + me + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", status: 502, body: noResponse},
		{name: "half an answer", request: "GET /a" + me + "\r\n", says: "HTTP/1.1 200 OK\r\nContent-"},
		{name: "an interim answer", request: "GET /a" + me + "\r\n", says: "HTTP/1.1 103 Early Hints\r\n\r\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			app := serve(t, named("app"))
			local := listen(t, func(c *net.TCPConn) {
				b := make([]byte, len(test.request))
				_, _ = io.ReadFull(c, b)
				_, _ = io.WriteString(c, test.says)
			})
			var asked atomic.Int32
			c := dial(t, split(t, app, local, func(o *Options) {
				o.Released = func(_ context.Context, d Destination) bool {
					asked.Add(1)
					return d == local && !test.stays
				}
			}))
			c.send(test.request)
			if test.status == 0 {
				if b, _ := io.ReadAll(c.r); string(b) != test.says {
					t.Errorf("got %q", b)
				}
			} else {
				method, _, _ := strings.Cut(test.request, " ")
				if r, got := c.response(method); r.StatusCode != test.status || got != test.body {
					t.Errorf("got %d %q, want %d %q", r.StatusCode, got, test.status, test.body)
				}
			}
			if n := asked.Load(); n != test.asked {
				t.Errorf("asked %d times, want %d", n, test.asked)
			}
			if test.status == http.StatusOK {
				c.send("GET /b HTTP/1.1\r\nHost: a\r\n\r\n")
				c.wants("GET", "app GET /b 0")
				if n := app.dials(); n != 1 {
					t.Errorf("%d connections to the application, want 1", n)
				}
			}
		})
	}
}

// TestReleasedKept: it was on a connection that had answered before, and nobody takes another one.
func TestReleasedKept(t *testing.T) {
	local := listen(t, func(c *net.TCPConn) {
		r := bufio.NewReader(c)
		for _, answer := range []string{"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst", ""} {
			if _, err := http.ReadRequest(r); err != nil {
				return
			}
			_, _ = io.WriteString(c, answer)
		}
	})
	c := dial(t, split(t, serve(t, named("app")), local, func(o *Options) {
		o.Released = func(context.Context, Destination) bool { return true }
	}))
	const request = "GET /a HTTP/1.1\r\nHost: a\r\nX-User: me\r\n\r\n"
	c.send(request)
	c.wants("GET", "first")
	local.mu.Lock()
	local.addr = listen(t, func(*net.TCPConn) {}).addr // accepts, and ends at once
	local.mu.Unlock()
	c.send(request)
	c.wants("GET", "app GET /a 0")
}

// TestReleased2 is TestReleased for HTTP/2.
func TestReleased2(t *testing.T) {
	abort := func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	early := func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusEarlyHints)
		panic(http.ErrAbortHandler)
	}
	for _, test := range []struct {
		name, method, body string
		local              http.HandlerFunc // nil ends the connection
		stays              bool
		status             int
		want               string
		asked              int32
	}{
		{name: "the stream ends", method: "GET", local: abort, status: 200, want: "app GET / 0", asked: 1},
		{name: "the connection ends", method: "GET", status: 200, want: "app GET / 0", asked: 1},
		{name: "only broken", method: "GET", local: abort, stays: true, status: 502, want: noResponse, asked: 1},
		{name: "not safe", method: "POST", local: abort, status: 502, want: noResponse},
		{name: "a body", method: "GET", body: "x", local: abort, status: 502, want: noResponse},
		{name: "an interim answer", method: "GET", local: early, status: 502, want: noResponse},
	} {
		t.Run(test.name, func(t *testing.T) {
			app := serve2(t, named("app"))
			local := listen(t, func(c *net.TCPConn) {
				// The preface, and the frames that begin a connection and a stream.
				_, _ = io.ReadFull(c, make([]byte, len(preface)+64))
			})
			if test.local != nil {
				local = serve2(t, test.local)
			}
			var asked atomic.Int32
			url := "http://" + split(t, app, local, func(o *Options) {
				o.Released = func(_ context.Context, d Destination) bool {
					asked.Add(1)
					return d == local && !test.stays
				}
			})
			var body io.Reader
			if test.body != "" {
				body = strings.NewReader(test.body)
			}
			res, err := client2(t).Do(request2(t.Context(), t, test.method, url, body, true))
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			if b, err := io.ReadAll(res.Body); err != nil || res.StatusCode != test.status || string(b) != test.want {
				t.Errorf("got %d %q, %v, want %d %q", res.StatusCode, b, err, test.status, test.want)
			}
			if n := asked.Load(); n != test.asked {
				t.Errorf("asked %d times, want %d", n, test.asked)
			}
		})
	}
}
