package httpsplit

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/mirrord-go/mirrord/internal/httpfilter"
)

func quietLog() *slog.Logger { return slog.New(slog.DiscardHandler) }

// byBody sends to local what has a body that says so.
func byBody(t *testing.T, local *address, limits httpfilter.Limits) func(*Options) {
	t.Helper()
	f, err := httpfilter.CompileWith(httpfilter.Spec{Rule: httpfilter.Rule{Body: &httpfilter.Body{Query: "$.user", Matches: "^me$"}}}, limits)
	if err != nil {
		t.Fatal(err)
	}
	return func(o *Options) {
		o.Bodies = NewBudget(1 << 20)
		o.Choose = func(r *httpfilter.Request) Destination {
			if ok, _ := f.Match(r); ok {
				return local
			}
			return nil
		}
	}
}

func TestBodies(t *testing.T) {
	app, local := serve(t, named("app")), serve(t, named("local"))
	limits := httpfilter.Limits{Body: 1000, BodyTimeout: patienceOfTests}
	c := dial(t, split(t, app, local, byBody(t, local, limits)))
	const mine = `{"user":"me"}`
	large := `{"user":"me","x":"` + strings.Repeat("x", 1000) + `"}`
	post := func(body string) string {
		return fmt.Sprintf("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	}
	chunks := func(parts ...string) string {
		text := "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
		for _, p := range append(parts, "") {
			text += fmt.Sprintf("%x;e=1\r\n%s\r\n", len(p), p)
		}
		return text
	}
	for range 2 {
		for _, tt := range []struct{ text, want string }{
			{post(mine), "local POST / 13"},
			{post(`{"user":"you"}`), "app POST / 14"},
			{post("no JSON"), "app POST / 7"},
			{"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "app GET / 0"},
			{chunks(mine[:3], mine[3:]), "local POST / 13"},
			{strings.TrimSuffix(chunks(mine), "\r\n") + "Trailer: x\r\n\r\n", "local POST / 13"},
			{post(large), fmt.Sprintf("app POST / %d", len(large))},
			{chunks(large), fmt.Sprintf("app POST / %d", len(large))},
			{chunks(strings.Repeat("x", 100<<10)), "app POST / 102400"},
		} {
			c.send(tt.text)
			c.wants(tt.text[:4], tt.want)
		}
		// Pipelined, so that what follows was read along with the body.
		c.send(post(mine) + chunks(mine) + post("x") + chunks("x", mine))
		for _, want := range []string{"local POST / 13", "local POST / 13", "app POST / 1", "app POST / 14"} {
			c.wants("POST", want)
		}
	}

	// The filter asks for a body that waits to be asked for.
	c.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 13\r\n\r\n")
	if r, _ := c.response("POST"); r.StatusCode != 100 {
		t.Fatalf("status %d", r.StatusCode)
	}
	c.send(mine)
	for {
		r, body := c.response("POST")
		if r.StatusCode == 100 {
			continue // the destination's own
		}
		if body != "local POST / 13" {
			t.Errorf("got %q", body)
		}
		break
	}
	// HTTP/1.0 has no way to ask, and the client would take that for its answer (RFC 9110, section 10.1.1).
	c.send("POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 13\r\n\r\n" + mine)
	c.wants("POST", "local POST / 13")
}

// TestSlowBody: a body that does not come in time is the application's, and loses nothing.
func TestSlowBody(t *testing.T) {
	for _, text := range []string{
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 13\r\n\r\n{\"user\":|\"me\"}",
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nd\r\n{\"user\":|\"me\"}\r\n0\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n|d\r\n{\"user\":\"me\"}\r\n0\r\n\r\n",
	} {
		app, local := serve(t, named("app")), serve(t, named("local"))
		c := dial(t, split(t, app, local, byBody(t, local, httpfilter.Limits{BodyTimeout: 20 * time.Millisecond})))
		early, late, _ := strings.Cut(text, "|")
		c.send(early)
		eventually(t, func() bool { return app.dials() == 1 })
		c.send(late)
		c.wants("POST", "app POST / 13")
	}
}

// TestSlowBodyOfMany: however many filters look at a body that does not come, it is waited for once.
func TestSlowBodyOfMany(t *testing.T) {
	const timeout, rules = 500 * time.Millisecond, 100
	took := make(chan time.Duration, 1)
	c := dial(t, split(t, serve(t, named("app")), serve(t, named("local")), func(o *Options) {
		o.Choose = func(r *httpfilter.Request) Destination {
			start := time.Now()
			for range rules {
				if _, ok := r.Body(100, timeout); ok {
					t.Error("it has come")
				}
			}
			took <- time.Since(start)
			return nil
		}
	}))
	c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbo")
	if d := <-took; d > timeout*rules/2 {
		t.Errorf("it took %v", d)
	}
	c.send("dy")
	c.wants("POST", "app POST / 4")
}

func TestBodies2(t *testing.T) {
	const mine = `{"user":"me"}`
	for _, tt := range []struct{ body, want string }{
		{mine, "local POST / 13"},
		{`{"user":"you"}`, "app POST / 14"},
		{"", "app POST / 0"},
		{mine + strings.Repeat(" ", 1000), "app POST / 1013"},
		{strings.Repeat(" ", 1<<20), "app POST / 1048576"},
		{"slow" + mine, "app POST / 13"},
	} {
		app, local := serve2(t, named("app")), serve2(t, named("local"))
		limits := httpfilter.Limits{Body: 1000, BodyTimeout: patienceOfTests}
		body := io.MultiReader(strings.NewReader(tt.body)) // of unknown length
		if rest, ok := strings.CutPrefix(tt.body, "slow"); ok {
			r, w := io.Pipe()
			go func() {
				_, _ = io.WriteString(w, rest[:5])
				eventually(t, func() bool { return app.dials() > 0 })
				_, _ = io.WriteString(w, rest[5:])
				_ = w.Close()
			}()
			body, limits.BodyTimeout = r, 20*time.Millisecond
		}
		url := "http://" + split(t, app, local, byBody(t, local, limits))
		res, err := client2(t).Do(request2(t.Context(), t, http.MethodPost, url+"/", body, false))
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if want := strings.Replace(tt.want, "/ ", "/ ", 1); err != nil || string(b) != want {
			t.Errorf("%.20q: %q, %v, want %q", tt.body, b, err, want)
		}
	}
}

// TestBudget: without memory left a filter sees no bodies, and what was taken comes back.
func TestBudget(t *testing.T) {
	app, local := serve(t, named("app")), serve(t, named("local"))
	budget := NewBudget(20)
	change := byBody(t, local, httpfilter.Limits{})
	c := dial(t, split(t, app, local, change, func(o *Options) { o.Bodies = budget }))
	for range 3 {
		c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 13\r\n\r\n{\"user\":\"me\"}")
		c.wants("POST", "local POST / 13")
		c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 23\r\n\r\n{\"user\":\"me\"}          ")
		c.wants("POST", "app POST / 23")
	}
	_ = c.Close()
	eventually(t, func() bool {
		budget.mu.Lock()
		defer budget.mu.Unlock()
		return budget.left == 20
	})
}
