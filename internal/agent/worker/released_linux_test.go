package worker

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mirrord-go/mirrord/internal/agent/testnet"
	"github.com/mirrord-go/mirrord/internal/httpfilter"
	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

// TestReleased: a session that gives its port back costs nobody a request for a page.
func TestReleased(t *testing.T) {
	if self, ok := testnet.Isolated(t); ok {
		released(t, self, false)
	}
}

// TestReleased2 is the same over HTTP/2.
func TestReleased2(t *testing.T) {
	if self, ok := testnet.Isolated(t); ok {
		released(t, self, true)
	}
}

func released(t *testing.T, self *testnet.Namespace, h2 bool) {
	t.Helper()
	p := newWebPod(t, self)
	w := share(t, nil)
	c := p.webClient(t, h2)
	// The port is taken throughout: taking it ends connections, as it has to.
	keeper := w.visit(t, "keeper", nil)
	keeper.subscribe(t, byUser(wire.Steal, "nobody"))
	for _, test := range []struct {
		user, method, want string
		leave              func(*visitor)
	}{
		{"ann", http.MethodGet, "target /x ", func(v *visitor) {
			if r := v.request(t, wire.Control{Unsubscribe: &wire.Unsubscribe{Port: webAddr.Port()}}); r.Error != "" {
				t.Error(r.Error)
			}
		}},
		{"carl", http.MethodPost, "mirrord: ", func(*visitor) { w.End("s-carl", "enough") }},
		{"dora", http.MethodGet, "mirrord: ", func(*visitor) {}},
	} {
		v := w.visit(t, test.user, nil)
		v.subscribe(t, byUser(wire.Steal, test.user))
		arrived, gone := make(chan struct{}), make(chan struct{})
		serveHTTP(t, streams{tun: v.tun}, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			close(arrived)
			<-gone
			panic(http.ErrAbortHandler)
		}))
		go func() {
			defer close(gone)
			select {
			case <-arrived:
				test.leave(v)
			case <-time.After(patience):
			}
		}()
		r, err := http.NewRequestWithContext(t.Context(), test.method, "http://"+webAddr.String()+"/x", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-User", test.user)
		res, err := c.Do(r)
		if err != nil {
			t.Fatalf("%s: %v", test.user, err)
		}
		b, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if err != nil || !strings.HasPrefix(string(b), test.want) {
			t.Errorf("%s got %q, %v, want %q", test.user, b, err, test.want)
		}
	}
}

// TestReleasedLate: the end of a session may be somewhat behind that of its process.
func TestReleasedLate(t *testing.T) {
	for _, test := range []struct {
		name string
		do   func(*incoming, *subscription)
		want bool
	}{
		{"it stays", func(*incoming, *subscription) {}, false},
		{"it goes", func(in *incoming, sub *subscription) { in.forget(sub) }, true},
		{"another one goes", func(in *incoming, sub *subscription) {
			other := &subscription{link: &link{}, port: sub.port, mode: wire.Steal, filter: &httpfilter.Filter{}}
			in.keep(other)
			in.forget(other)
		}, false},
		{"it mirrors instead", func(in *incoming, sub *subscription) {
			in.keep(&subscription{link: sub.link, port: sub.port, mode: wire.Mirror})
			in.forget(sub)
		}, true},
		{"another one takes it", func(in *incoming, sub *subscription) {
			in.keep(&subscription{link: &link{}, port: sub.port, mode: wire.Steal})
		}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				in := newIncoming(slog.New(slog.DiscardHandler), nil, nil, time.Second)
				defer in.cancel()
				sub := &subscription{link: &link{}, port: webAddr.Port(), mode: wire.Steal}
				in.keep(sub)
				time.AfterFunc(releaseTime/2, func() { test.do(in, sub) })
				start := time.Now()
				got := in.released(t.Context(), toSession{in: in, link: sub.link, local: webAddr})
				if took := time.Since(start); got != test.want || got && took != releaseTime/2 {
					t.Errorf("%v after %v, want %v", got, took, test.want)
				}
				ctx, cancel := context.WithCancel(t.Context())
				cancel()
				if in.keep(sub); in.released(ctx, toSession{in: in, link: sub.link, local: webAddr}) {
					t.Error("the client is gone")
				}
				if in.released(t.Context(), toApp{in, netip.AddrPort{}}) {
					t.Error("the application is")
				}
			})
		})
	}
}
