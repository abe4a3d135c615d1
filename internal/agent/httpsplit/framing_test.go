package httpsplit

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestUnclearBody: a body that not everybody reads in the same way is the application's, with all that
// follows. Nobody else gets it.
func TestUnclearBody(t *testing.T) {
	echo := listen(t, func(c *net.TCPConn) { _, _ = io.Copy(c, c); _ = c.CloseWrite() })
	const head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"
	for name, body := range map[string]string{
		"LF in an extension": "5;a\nhello\r\n0\r\n\r\nGET /2 HTTP/1.1\r\n\r\n",
		"CR in an extension": "5;a\rb\r\nhello\r\n0\r\n\r\n",
		"LF behind a size":   "5\nhello\r\n0\r\n\r\n",
		"LF behind a chunk":  "5\r\nhello\n0\r\n\r\n",
		"LF as the end":      "5\r\nhello\r\n0\r\n\n",
		"no size":            "\r\nhello",
		"a longer chunk":     "3\r\nhello\r\n0\r\n\r\n",
		"a signed size":      "+5\r\nhello\r\n0\r\n\r\n",
		"a prefixed size":    "0x5\r\nhello\r\n0\r\n\r\n",
		"a huge size":        "fffffffffffffffff\r\nhello",
	} {
		t.Run(name, func(t *testing.T) {
			c := dial(t, split(t, echo, echo))
			text := head + "\r\n" + body
			go func() {
				_, _ = io.WriteString(c, text)
				_ = c.CloseWrite()
			}()
			if b, err := io.ReadAll(c.r); err != nil || string(b) != text {
				t.Errorf("got %q, %v", b, err)
			}
			whole := make(chan bool, 1)
			local := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				_, err := io.ReadAll(r.Body)
				whole <- err == nil
				panic(http.ErrAbortHandler)
			}))
			c = dial(t, split(t, echo, local))
			c.send(head + "X-User: me\r\n\r\n" + body)
			if r, text := c.response("POST"); r.StatusCode != http.StatusBadRequest || text != unclearBody {
				t.Errorf("status %d, %q", r.StatusCode, text)
			}
			select {
			case ok := <-whole:
				if ok {
					t.Error("the chosen one has got a whole request")
				}
			case <-time.After(patienceOfTests):
				t.Error("the chosen one still waits")
			}
		})
	}
}

func TestConnect(t *testing.T) {
	proxy := listen(t, func(c *net.TCPConn) {
		r := bufio.NewReader(c)
		if _, err := http.ReadRequest(r); err != nil {
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 200 Connected\r\n\r\n")
		_, _ = io.Copy(c, r)
		_ = c.CloseWrite()
	})
	for _, header := range []string{"", "X-User: me\r\n"} {
		c := dial(t, split(t, proxy, proxy))
		c.send("CONNECT db:1 HTTP/1.1\r\nHost: db:1\r\n" + header + "\r\n")
		answer := make([]byte, len("HTTP/1.1 200 Connected\r\n\r\n"))
		if _, err := io.ReadFull(c.r, answer); err != nil {
			t.Fatal(err)
		}
		c.send("GET / HTTP/1.1\r\n\r\n")
		_ = c.CloseWrite()
		if b, err := io.ReadAll(c.r); err != nil || string(b) != "GET / HTTP/1.1\r\n\r\n" {
			t.Errorf("got %q, %v", b, err)
		}
	}
}

// TestNobodyElsesRequests: a local process whose answers are not HTTP does not get what the client sends
// on the connection afterwards, which may be for the application.
func TestNobodyElsesRequests(t *testing.T) {
	app := serve(t, named("app"))
	for name, answer := range map[string]string{
		"lonely LF":         "HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
		"two lengths":       "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
		"chunks of 1.0":     "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
		"a broken chunk":    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\nok\n0\n\n",
		"another protocol":  "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
		"an answer as well": "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
	} {
		t.Run(name, func(t *testing.T) {
			var later atomic.Int64
			local := listen(t, func(c *net.TCPConn) {
				r := bufio.NewReader(c)
				if _, err := http.ReadRequest(r); err != nil {
					return
				}
				_, _ = io.WriteString(c, answer)
				n, _ := io.Copy(io.Discard, r)
				later.Add(n)
			})
			c := dial(t, split(t, app, local))
			c.send("GET / HTTP/1.1\r\nHost: a\r\nX-User: me\r\n\r\n")
			want := answer
			switch name {
			case "another protocol":
				want = "HTTP/1.1 502 Bad Gateway\r\n"
			case "an answer as well":
				want, _, _ = strings.Cut(answer, "HTTP/1.1 200 OK\r\nContent-Length: 6")
			}
			b := make([]byte, len(want))
			if _, err := io.ReadFull(c.r, b); err != nil || string(b) != want {
				t.Fatalf("got %q, %v", b, err)
			}
			if name == "an answer as well" {
				c.send("GET / HTTP/1.1\r\nHost: a\r\nX-User: me\r\n\r\n")
				c.wants("GET", "ok") // of another connection
			}
			_, _ = io.WriteString(c, "GET /secret HTTP/1.1\r\nHost: a\r\n\r\n")
			_ = c.CloseWrite()
			_, _ = io.ReadAll(c.r)
			if n := later.Load(); n > 0 {
				t.Errorf("the local process has got %d bytes that were not for it", n)
			}
		})
	}
}

// TestUpgradeNotAsked: a hop that sends Upgrade without the option of Connection, or in HTTP/1.0, has asked for nothing
// (RFC 9110, section 7.8), and may go on with requests for others. The application is as careful as it is.
func TestUpgradeNotAsked(t *testing.T) {
	const changed = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"
	taker := listen(t, func(c *net.TCPConn) {
		if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
			return
		}
		_, _ = io.WriteString(c, changed)
		_, _ = io.Copy(io.Discard, c)
	})
	for _, test := range []struct{ text, want string }{
		{"GET / HTTP/1.1\r\nHost: a\r\nX-User: me\r\nUpgrade: x\r\n\r\n", "HTTP/1.1 502 Bad Gateway\r\n"},
		{"GET / HTTP/1.1\r\nHost: a\r\nX-User: me\r\nUpgrade: x\r\nConnection: keep-alive\r\n\r\n", "HTTP/1.1 502 Bad Gateway\r\n"},
		{"GET / HTTP/1.0\r\nX-User: me\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n", "HTTP/1.1 502 Bad Gateway\r\n"},
		{"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nX-User: me\r\n\r\n", "HTTP/1.1 502 Bad Gateway\r\n"},
		{"GET / HTTP/1.1\r\nHost: a\r\nX-User: me\r\nUpgrade: x\r\nConnection: keep-alive, upgrade\r\n\r\n", changed},
		{"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\n\r\n", changed},
	} {
		c := dial(t, split(t, taker, taker, func(o *Options) {
			o.App = &address{addr: taker.addr}
		}))
		c.send(test.text)
		b := make([]byte, len(test.want))
		if _, err := io.ReadFull(c.r, b); err != nil || string(b) != test.want {
			t.Errorf("%q got %q, %v, want %q", test.text, b, err, test.want)
		}
		_ = c.Close()
	}
}

// TestHeadWithoutAnswer: there is no body in the answer to HEAD, nor in ours.
func TestHeadWithoutAnswer(t *testing.T) {
	gone := listen(t, func(*net.TCPConn) {})
	c := dial(t, split(t, serve(t, named("app")), gone))
	c.send("HEAD / HTTP/1.1\r\nHost: a\r\nX-User: me\r\n\r\n")
	if r, _ := c.response("HEAD"); r.StatusCode != http.StatusBadGateway {
		t.Errorf("status %d", r.StatusCode)
	}
	c.wantsEnd()
}

// TestClientLeavesBody: who sent a request with a body, or a part of it, and is gone, is gone for its
// destination too.
func TestClientLeavesBody(t *testing.T) {
	for name, text := range map[string]string{
		"whole": "POST / HTTP/1.1\r\nHost: a\r\nX-User: me\r\nContent-Length: 4\r\n\r\nbody",
		"half":  "POST / HTTP/1.1\r\nHost: a\r\nX-User: me\r\nContent-Length: 4\r\n\r\nbo",
	} {
		t.Run(name, func(t *testing.T) {
			arrived, ended := make(chan struct{}), make(chan struct{})
			local := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				close(arrived)
				_, _ = io.ReadAll(r.Body)
				<-r.Context().Done()
				close(ended)
			}))
			c := dial(t, split(t, serve(t, named("app")), local))
			c.send(text)
			<-arrived
			_ = c.Close()
			select {
			case <-ended:
			case <-time.After(patienceOfTests):
				t.Fatal("the request goes on")
			}
		})
	}
}

// TestEarlyAnswer: a response that comes before the request has been read is whole for the client, which
// sees an end and no reset.
func TestEarlyAnswer(t *testing.T) {
	early := listen(t, func(c *net.TCPConn) {
		_, _ = http.ReadRequest(bufio.NewReaderSize(c, 16))
		_, _ = io.WriteString(c, "HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno")
		_ = c.CloseWrite()
		_, _ = io.Copy(io.Discard, c)
	})
	for _, header := range []string{"", "X-User: me\r\n"} {
		c := dial(t, split(t, early, early))
		c.send("POST / HTTP/1.1\r\nHost: a\r\n" + header + "Content-Length: 1000000\r\n\r\n" + strings.Repeat("x", 100_000))
		c.wants("POST", "no")
		c.send(strings.Repeat("x", 100_000))
		_ = c.CloseWrite()
		c.wantsEnd()
	}
}

func TestOriginForm(t *testing.T) {
	for target, want := range map[string]string{
		"/a?b":              "/a?b",
		"*":                 "*",
		"http://shop":       "/",
		"http://shop/a?b=/": "/a?b=/",
		"HTTPS://shop:1/a":  "/a",
		"http://shop?b":     "/?b",
		"shop:443":          "shop:443",
		"/?to=http://x/y":   "/?to=http://x/y",
		"ftp://shop/a":      "ftp://shop/a",
	} {
		if got := originForm(target); got != want {
			t.Errorf("%s: %s, want %s", target, got, want)
		}
	}
}

// TestBudgetIsForWhatIsThere: a small body in chunks does not keep memory that others need.
func TestBudgetIsForWhatIsThere(t *testing.T) {
	budget := NewBudget(int64(wireSize(1000)))
	seen := make(chan int64, 1)
	local := listen(t, func(c *net.TCPConn) {
		_, _ = http.ReadRequest(bufio.NewReader(c))
		budget.mu.Lock()
		seen <- budget.left
		budget.mu.Unlock()
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		_, _ = io.Copy(io.Discard, c)
	})
	change := byBody(t, local, limitsOf(1000))
	c := dial(t, split(t, serve(t, named("app")), local, change, func(o *Options) { o.Bodies = budget }))
	const body = "d\r\n{\"user\":\"me\"}\r\n0\r\n\r\n"
	c.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
	c.wants("POST", "ok")
	if left := <-seen; left != int64(wireSize(1000)-len(body)) {
		t.Errorf("%d bytes are left for others", left)
	}
}

// TestStaleTLS: a kept connection that has ended is noticed through TLS too, before a request is lost on it.
func TestStaleTLS(t *testing.T) {
	server, client := tlsPair(t)
	u := &upstream{Conn: client, in: bufio.NewReader(client)}
	if u.stale(true) {
		t.Error("a connection that is open counts as ended")
	}
	_ = server.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patienceOfTests)
	defer cancel()
	for !u.stale(true) {
		if ctx.Err() != nil {
			t.Fatal("the end is not noticed")
		}
		time.Sleep(time.Millisecond)
	}
	if _, err := client.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the connection's end is %v", err)
	}
}
