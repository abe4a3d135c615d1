package httpsplit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"
)

// serve2 is a server that speaks HTTP/2 with prior knowledge.
func serve2(t *testing.T, h http.Handler) *address {
	t.Helper()
	srv := &http.Server{Handler: h, Protocols: new(http.Protocols)}
	srv.Protocols.SetUnencryptedHTTP2(true)
	return serveWith(t, srv)
}

// client2 is its client.
func client2(t *testing.T) *http.Client {
	t.Helper()
	tr := &http.Transport{Protocols: new(http.Protocols)}
	tr.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: patienceOfTests}
}

func request2(ctx context.Context, t *testing.T, method, url string, body io.Reader, me bool) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	if me {
		r.Header.Set("X-User", "me")
	}
	return r
}

// TestEachStreamGoesItsWay with many of them at once on one connection.
func TestEachStreamGoesItsWay(t *testing.T) {
	app, local := serve2(t, named("app")), serve2(t, named("local"))
	url := "http://" + split(t, app, local)
	c := client2(t)
	var all sync.WaitGroup
	for i := range 100 {
		all.Go(func() {
			want, me := "app", i%3 == 0
			if me {
				want = "local"
			}
			res, err := c.Do(request2(t.Context(), t, http.MethodGet, fmt.Sprintf("%s/%d?a=%%zz&b;c", url, i), nil, me))
			if err != nil {
				t.Error(err)
				return
			}
			defer res.Body.Close()
			b, err := io.ReadAll(res.Body)
			if text := fmt.Sprintf("%s GET /%d?a=%%zz&b;c 0", want, i); err != nil || string(b) != text {
				t.Errorf("got %q, %v, want %q", b, err, text)
			}
		})
	}
	all.Wait()
}

// TestStreams2: both directions go on at the same time, and trailers follow, announced or not, as
// gRPC needs it. The application sees nothing of us.
func TestStreams2(t *testing.T) {
	echo := serve2(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if v := r.Header["X-Forwarded-For"]; len(v) != 1 || v[0] != "192.0.2.1" || r.Header.Get("Te") != "trailers" || r.Header.Get("Via") != "" {
			t.Errorf("the request's header is %v", r.Header)
		}
		if r.Host != "shop.example" {
			t.Errorf("host %q", r.Host)
		}
		w.Header().Set("Trailer", "Announced")
		_ = http.NewResponseController(w).Flush()
		b := make([]byte, 4)
		for {
			n, err := r.Body.Read(b)
			if n > 0 {
				_, _ = w.Write(b[:n])
				_ = http.NewResponseController(w).Flush()
			}
			if err != nil {
				break
			}
		}
		w.Header().Set("Announced", r.Trailer.Get("Of-Request"))
		w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
	}))
	url := "http://" + split(t, serve2(t, named("app")), echo)
	in, out := io.Pipe()
	req := request2(t.Context(), t, http.MethodPost, url, in, true)
	req.Host = "shop.example"
	req.Header.Set("X-Forwarded-For", "192.0.2.1")
	req.Header.Set("Te", "trailers")
	req.Trailer = http.Header{"Of-Request": nil}
	res, err := client2(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b := make([]byte, 4)
	for i := range 10 {
		text := fmt.Sprintf("%04d", i)
		if _, err := io.WriteString(out, text); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(res.Body, b); err != nil || string(b) != text {
			t.Fatalf("got %q, %v, want %q", b, err, text)
		}
	}
	req.Trailer.Set("Of-Request", "yes")
	_ = out.Close()
	if b, err := io.ReadAll(res.Body); err != nil || len(b) > 0 {
		t.Errorf("got %q, %v", b, err)
	}
	if res.Trailer.Get("Grpc-Status") != "0" || res.Trailer.Get("Announced") != "yes" {
		t.Errorf("trailers %v", res.Trailer)
	}
}

func TestLocalIsGone2(t *testing.T) {
	app := serve2(t, named("app"))
	res, err := client2(t).Do(request2(t.Context(), t, http.MethodGet, "http://"+split(t, app, &address{addr: "127.0.0.1:1"}), nil, true))
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(res.Body)
	_ = res.Body.Close()
	if string(b) != "app GET / 0" {
		t.Errorf("got %q", b)
	}
	aborts := serve2(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	url := "http://" + split(t, aborts, &address{addr: aborts.addr})
	c := client2(t)
	res, err = c.Do(request2(t.Context(), t, http.MethodPost, url, nil, true))
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusBadGateway {
		t.Errorf("status %d", res.StatusCode)
	}
	if res, err := c.Do(request2(t.Context(), t, http.MethodPost, url, nil, false)); err == nil {
		_ = res.Body.Close()
		t.Errorf("what the application resets has status %d", res.StatusCode)
	}
}

// TestClientLeaves2: a stream that its client cancels is cancelled at its destination.
func TestClientLeaves2(t *testing.T) {
	arrived, ended := make(chan struct{}), make(chan error, 1)
	local := serve2(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(arrived)
		select {
		case <-r.Context().Done():
			ended <- nil
		case <-time.After(patienceOfTests):
			ended <- errors.New("the stream goes on")
		}
	}))
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-arrived
		cancel()
	}()
	c := client2(t)
	if res, err := c.Do(request2(ctx, t, http.MethodGet, "http://"+split(t, serve2(t, named("app")), local), nil, true)); err == nil {
		_ = res.Body.Close()
		t.Error("the request has not failed")
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestMark2(t *testing.T) {
	app := serve2(t, named("app"))
	url := "http://" + split(t, app, app, func(o *Options) { o.Mark = func(Destination) string { return "Mirrord-Agent: passed-through" } })
	res, err := client2(t).Do(request2(t.Context(), t, http.MethodGet, url, nil, false))
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if got := res.Header.Get("Mirrord-Agent"); got != "passed-through" {
		t.Errorf("marked %q", got)
	}
}

// TestReturns2: a destination that ended its connection is dialled again, once for all streams.
func TestReturns2(t *testing.T) {
	srv := &http.Server{Handler: named("first"), Protocols: new(http.Protocols)}
	srv.Protocols.SetUnencryptedHTTP2(true)
	app := serveWith(t, srv)
	c := client2(t)
	url := "http://" + split(t, app, app)
	get := func(want string) {
		res, err := c.Do(request2(t.Context(), t, http.MethodGet, url+"/", nil, false))
		if err != nil {
			t.Error(err)
			return
		}
		b, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if err != nil || string(b) != want+" GET / 0" {
			t.Errorf("%q, %v", b, err)
		}
	}
	get("first")
	second := serve2(t, named("second"))
	app.mu.Lock()
	app.addr = second.addr
	app.mu.Unlock()
	if err := srv.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() { get("second") })
	}
	all.Wait()
	if n := app.dials(); n != 2 {
		t.Errorf("%d connections, want 2", n)
	}
}
