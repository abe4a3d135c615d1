package httpsplit

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/mirrord-go/mirrord/internal/httpfilter"
)

func TestClassify(t *testing.T) {
	long := "GET /" + strings.Repeat("x", bufferSize)
	for text, want := range map[string]protocol{
		"":                          undecided,
		"P":                         undecided,
		"PUT":                       undecided,
		"PUT /":                     undecided,
		"PUT / HTTP/1.1\r":          undecided,
		"PUT / HTTP/1.1\r\n":        http1,
		"GET / HTTP/1.0\n":          http1,
		"M-SEARCH * HTTP/1.1\r\n":   http1,
		"GET / HTTP/2.0\r\n":        other,
		"GET /\r\n":                 other,
		"PING\r\n":                  other,
		"set a 1\r\n":               other,
		"EHLO x\r\n":                other,
		"*1\r\n$4\r\nPING\r\n":      other,
		"\x16\x03":                  other,
		"\x00\x00\x00\x08\x04\xd2":  other,
		"GET \x00":                  other,
		strings.Repeat("X", 40):     other,
		preface[:10]:                undecided,
		preface:                     http2,
		preface + "\x00\x00":        http2,
		"PRI * HTTP/1.1\r\nHost: x": http1,
		long[:bufferSize]:           http1,
	} {
		if got := classify([]byte(text)); got != want {
			t.Errorf("%.30q: %d, want %d", text, got, want)
		}
	}
}

// TestNotHTTP: protocols where the application speaks first, where the client says too little, and
// where it says nothing before it has been accepted.
func TestNotHTTP(t *testing.T) {
	first := listen(t, func(c *net.TCPConn) {
		_, _ = io.WriteString(c, "hello\n")
		_, _ = io.Copy(c, c)
		_ = c.CloseWrite()
	})
	local := serve(t, named("local"))
	soon := func(o *Options) { o.DetectTimeout = 30 * time.Millisecond }
	c := dial(t, split(t, first, local, soon))
	if line, err := c.r.ReadString('\n'); line != "hello\n" || err != nil {
		t.Fatalf("got %q, %v", line, err)
	}
	c.send("GET / HTTP/1.1\r\nX-User: me\r\n\r\n") // says the client of something else
	_ = c.CloseWrite()
	if b, err := io.ReadAll(c.r); string(b) != "GET / HTTP/1.1\r\nX-User: me\r\n\r\n" || err != nil {
		t.Errorf("got %q, %v", b, err)
	}

	// The client ends without a word.
	c = dial(t, split(t, first, local))
	_ = c.CloseWrite()
	if b, err := io.ReadAll(c.r); string(b) != "hello\n" || err != nil {
		t.Errorf("got %q, %v", b, err)
	}

	// Less than a line, and then silence.
	echo := listen(t, func(c *net.TCPConn) { _, _ = io.Copy(c, c) })
	c = dial(t, split(t, echo, local, soon))
	c.send("GET")
	b := make([]byte, 3)
	if _, err := io.ReadFull(c.r, b); string(b) != "GET" || err != nil {
		t.Errorf("got %q, %v", b, err)
	}

	// A head that takes too long.
	c = dial(t, split(t, echo, local, func(o *Options) { o.HeadTimeout = 30 * time.Millisecond }))
	c.send("GET / HTTP/1.1\r\nX-User: m")
	slow := make([]byte, len("GET / HTTP/1.1\r\nX-User: m"))
	if _, err := io.ReadFull(c.r, slow); err != nil {
		t.Errorf("got %q, %v", slow, err)
	}

	// A connection that is opened early and used late is HTTP all the same.
	app := serve(t, named("app"))
	c = dial(t, split(t, app, local, soon))
	eventually(t, func() bool { return app.dials() == 1 })
	c.send("GET /late HTTP/1.1\r\nHost: a\r\nX-User: me\r\n\r\n")
	c.wants("GET", "local GET /late 0")
	c.send("GET /app HTTP/1.1\r\nHost: a\r\n\r\n")
	c.wants("GET", "app GET /app 0")
	if app.dials() != 1 {
		t.Errorf("the application was dialled %d times", app.dials())
	}

	// Somebody else has what is not HTTP.
	c = dial(t, split(t, app, local, func(o *Options) { o.Raw = func() Destination { return echo } }))
	c.send("PING\n")
	if line, err := c.r.ReadString('\n'); line != "PING\n" || err != nil {
		t.Fatalf("got %q, %v", line, err)
	}
}

func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patienceOfTests); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("does not happen")
		}
	}
}

// TestAppRefuses: the client of an application that does not listen sees a reset.
func TestAppRefuses(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	nobody := &address{addr: l.Addr().String()}
	front := listen(t, func(c *net.TCPConn) {
		_ = Serve(t.Context(), quietLog(), c, Options{App: nobody, Choose: func(*httpfilter.Request) Destination { return nil }})
	})
	c := dial(t, front.addr)
	c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	if _, err := c.r.ReadByte(); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v, want a reset", err)
	}
}

// TestDrain: a connection that is to end does so between two requests.
func TestDrain(t *testing.T) {
	drain := make(chan struct{})
	var entered, leave atomic.Bool
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		entered.Store(true)
		for r.URL.Path == "/slow" && !leave.Load() {
			time.Sleep(time.Millisecond)
		}
		fmt.Fprint(w, "app")
	})
	draining := func(o *Options) { o.Drain = drain }
	c := dial(t, split(t, serve(t, h), serve(t, h), draining))
	idle := dial(t, split(t, serve(t, h), serve(t, h), draining))
	idle.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	idle.wants("GET", "app")
	c2 := client2(t)
	url := "http://" + split(t, serve2(t, h), serve2(t, h), draining)
	get2 := func(path string) error {
		res, err := c2.Get(url + path)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		_, err = io.ReadAll(res.Body)
		return err
	}
	if err := get2("/"); err != nil {
		t.Fatal(err)
	}
	entered.Store(false)
	var under sync.WaitGroup
	under.Go(func() {
		if err := get2("/slow"); err != nil {
			t.Error(err)
		}
	})
	eventually(t, entered.Load)
	entered.Store(false)
	c.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
	eventually(t, entered.Load)
	close(drain)
	leave.Store(true)
	for _, c := range []*talk{c, idle} {
		if c == idle {
			c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		}
		if r, body := c.response("GET"); !r.Close || body != "app" {
			t.Errorf("%q, close %v", body, r.Close)
		}
		c.wantsEnd()
	}
	under.Wait()
}
