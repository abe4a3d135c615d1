package worker

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mirrord-go/mirrord/internal/agent/testnet"
	"github.com/mirrord-go/mirrord/internal/grant"
	"github.com/mirrord-go/mirrord/internal/httpfilter"
	"github.com/mirrord-go/mirrord/internal/tunnel"
	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

// webAddr is a port on which the pod speaks HTTP, beside podAddr where it does not.
var webAddr = netip.AddrPortFrom(podAddr.Addr(), 8081)

// web is the handler of everybody here: it says who answers, to whom, and what it got.
func web(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		fmt.Fprintf(w, "%s %s %s", name, r.URL.Path, b)
	})
}

// newWebPod is a pod whose port 8081 speaks HTTP/1 and HTTP/2.
func newWebPod(t *testing.T, self *testnet.Namespace) *pod {
	t.Helper()
	p := newPod(t, self)
	l, err := net.Listen("tcp", ":8081")
	if err != nil {
		t.Fatal(err)
	}
	serveHTTP(t, l, web("target"))
	return p
}

func serveHTTP(t *testing.T, l net.Listener, h http.Handler) {
	t.Helper()
	srv := &http.Server{Handler: h, Protocols: new(http.Protocols)}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetUnencryptedHTTP2(true)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l)
	}()
	t.Cleanup(func() {
		_ = srv.Close()
		<-done
	})
}

// streams is a listener of the connections that the agent offers.
type streams struct {
	tun  tunnel.Session
	seen func(wire.Incoming) // may be nil
}

func (s streams) Accept() (net.Conn, error) {
	st, err := s.tun.Accept()
	if err != nil {
		return nil, err
	}
	if _, err := wire.ReadKind(st); err != nil {
		return nil, err
	}
	in, err := wire.ReadIncoming(st)
	if err != nil {
		return nil, err
	}
	if s.seen != nil {
		s.seen(in)
	}
	_ = wire.WriteIncomingReply(st, wire.IncomingReply{})
	if in.Mode == wire.Mirror {
		return quiet{st}, nil
	}
	return st, nil
}

func (s streams) Close() error   { return s.tun.Close() }
func (s streams) Addr() net.Addr { return &net.TCPAddr{} }

// quiet drops what is written: a mirrored connection has no way back.
type quiet struct{ net.Conn }

func (q quiet) Write(p []byte) (int, error) { return len(p), nil }

// webClient sends requests from the node.
func (p *pod) webClient(t *testing.T, h2 bool) *http.Client {
	t.Helper()
	tr := &http.Transport{
		Protocols: new(http.Protocols),
		DialContext: func(_ context.Context, _, addr string) (net.Conn, error) {
			var c net.Conn
			err := p.node.Do(func() (err error) {
				c, err = net.DialTimeout("tcp", addr, patience)
				return err
			})
			return c, err
		},
	}
	tr.Protocols.SetHTTP1(!h2)
	tr.Protocols.SetUnencryptedHTTP2(h2)
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: patience}
}

// send returns who answers a request of a user.
func send(t *testing.T, c *http.Client, user, body string) (who string, res *http.Response) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+webAddr.String()+"/x", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-User", user)
	res, err = c.Do(r)
	if err != nil {
		t.Fatalf("%s: %v", user, err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("%s: %v", user, err)
	}
	who, rest, _ := strings.Cut(string(b), " ")
	if rest != "/x "+body {
		t.Errorf("%s: %s got %q", user, who, rest)
	}
	return who, res
}

func mustGo(t *testing.T, c *http.Client, user, want string) {
	t.Helper()
	if who, _ := send(t, c, user, "body of "+user); who != want {
		t.Errorf("a request of %s went to %s, want %s", user, who, want)
	}
}

// byUser is a subscription to the requests of users.
func byUser(mode wire.Mode, pattern string) wire.Subscribe {
	return wire.Subscribe{
		Port: webAddr.Port(), Mode: mode,
		Filter: &httpfilter.Spec{Rule: httpfilter.Rule{Header: "^x-user: " + pattern + "$"}},
	}
}

// TestFilteredSteal goes through several sessions with filters on one port, over kept connections.
func TestFilteredSteal(t *testing.T) {
	if self, ok := testnet.Isolated(t); ok {
		filteredSteal(t, self, false)
	}
}

// TestFilteredSteal2 is the same over HTTP/2.
func TestFilteredSteal2(t *testing.T) {
	if self, ok := testnet.Isolated(t); ok {
		filteredSteal(t, self, true)
	}
}

func filteredSteal(t *testing.T, self *testnet.Namespace, h2 bool) {
	t.Helper()
	p := newWebPod(t, self)
	w := share(t, nil)
	c := p.webClient(t, h2)
	mustGo(t, c, "ann", "target")

	ann := w.visit(t, "ann", nil)
	if r := ann.subscribe(t, byUser(wire.Steal, "ann")); r.Moved != 1 {
		t.Errorf("%d connections moved, want 1", r.Moved)
	}
	var mu sync.Mutex
	var offered []wire.Incoming
	serveHTTP(t, streams{tun: ann.tun, seen: func(in wire.Incoming) {
		mu.Lock()
		defer mu.Unlock()
		offered = append(offered, in)
	}}, web("ann"))
	eventually(t, func() error { // The old connection was ended, as the client may notice late.
		res, err := c.Get("http://" + webAddr.String() + "/")
		if err == nil {
			err = res.Body.Close()
		}
		return err
	})
	mustGo(t, c, "ann", "ann")
	mustGo(t, c, "bob", "target")
	mustGo(t, c, "ann", "ann")
	mu.Lock()
	if len(offered) != 1 || offered[0].Local != webAddr || offered[0].Peer.Addr() != nodeAddr {
		t.Errorf("offered %+v, want one connection from the node", offered)
	}
	mu.Unlock()

	// Another session, whose filter matches more; who was first stays first.
	bob := w.visit(t, "bob", nil)
	bob.subscribe(t, byUser(wire.Steal, "(ann|bob)"))
	serveHTTP(t, streams{tun: bob.tun}, web("bob"))
	mustGo(t, c, "bob", "bob")
	mustGo(t, c, "ann", "ann")
	mustGo(t, c, "carl", "target")
	ann.notice(t, "matches the filter of session s-bob of bob too; this session gets")
	bob.notice(t, "matches the filter of session s-ann of ann too; that session gets")

	// One that has no filter gets the rest, and one that changes its filter keeps its place.
	carl := w.visit(t, "carl", nil)
	carl.subscribe(t, wire.Subscribe{Port: webAddr.Port(), Mode: wire.Steal})
	serveHTTP(t, streams{tun: carl.tun}, web("carl"))
	mustGo(t, c, "dora", "carl")
	ann.subscribe(t, byUser(wire.Steal, "(ann|dora)"))
	mustGo(t, c, "dora", "ann")
	mustGo(t, c, "bob", "bob")

	// They go, one after the other, without harm to anybody's requests.
	w.End("s-ann", "enough")
	mustGo(t, c, "ann", "bob")
	mustGo(t, c, "dora", "carl")
	if r := carl.request(t, wire.Control{Unsubscribe: &wire.Unsubscribe{Port: webAddr.Port()}}); r.Error != "" {
		t.Error(r.Error)
	}
	mustGo(t, c, "dora", "target")
	_ = bob.carrier.Close()
	eventually(t, func() error {
		// One that was sent before the worker noticed waits for bob to come back.
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+webAddr.String()+"/", nil)
		if err != nil {
			return err
		}
		r.Header.Set("X-User", "bob")
		res, err := c.Do(r)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if b, err := io.ReadAll(res.Body); err != nil || !strings.HasPrefix(string(b), "target ") {
			return fmt.Errorf("%q answers, %v", b, err) //nolint:errorlint // it may be nil
		}
		return nil
	})
}

// TestFilterAndWhole: filters on a port that a session has as a whole, and back.
func TestFilterAndWhole(t *testing.T) {
	self, ok := testnet.Isolated(t)
	if !ok {
		return
	}
	p := newWebPod(t, self)
	w := share(t, nil)
	whole := wire.Subscribe{Port: webAddr.Port(), Mode: wire.Steal}
	carl := w.visit(t, "carl", nil)
	carl.subscribe(t, whole)
	serveHTTP(t, streams{tun: carl.tun}, web("carl"))
	c := p.webClient(t, false)
	mustGo(t, c, "ann", "carl")

	ann := w.visit(t, "ann", nil)
	if r := ann.subscribe(t, byUser(wire.Steal, "ann")); r.Moved != 1 {
		t.Errorf("%d of carl's connections moved, want 1", r.Moved)
	}
	serveHTTP(t, streams{tun: ann.tun}, web("ann"))
	c.CloseIdleConnections()
	mustGo(t, c, "ann", "ann")
	mustGo(t, c, "bob", "carl")
	if r := ann.request(t, wire.Control{Subscribe: &whole}); r.Errno != wire.Errno(syscall.EADDRINUSE) {
		t.Errorf("a second whole port: %+v", r)
	}
	mustGo(t, c, "ann", "ann")

	// Carl wants a part too, and then all of it again. What was open for him is reset, a moment later.
	carl.subscribe(t, byUser(wire.Steal, "carl"))
	c.CloseIdleConnections()
	mustGo(t, c, "carl", "carl")
	mustGo(t, c, "bob", "target")
	carl.subscribe(t, whole)
	c.CloseIdleConnections()
	mustGo(t, c, "bob", "carl")
	mustGo(t, c, "ann", "ann")
	w.End("s-carl", "enough")
	w.End("s-ann", "enough")
	mustGo(t, c, "ann", "target")
}

// TestFilterAndOthers: what is not HTTP, marks, probes, and filters that are none.
func TestFilterAndOthers(t *testing.T) {
	self, ok := testnet.Isolated(t)
	if !ok {
		return
	}
	p := newWebPod(t, self)
	w := share(t, nil)
	ann := w.visit(t, "ann", func(s *Session) {
		s.Pod.Probes = map[uint16][]wire.Probe{webAddr.Port(): {{Kind: wire.ProbeHTTP}}}
	})
	sub := byUser(wire.Steal, "ann")
	sub.Port = podAddr.Port()
	ann.subscribe(t, sub)
	if got := p.answer(t, "not HTTP"); got != "target" {
		t.Errorf("%q answers what is not HTTP", got)
	}
	// The target accepted a connection that says nothing, and speaks when it is spoken to.
	silent := p.dial(t, podAddr, netip.Addr{})
	before := p.app.accepted.Load()
	eventually(t, func() error {
		if p.app.accepted.Load() == before {
			return errors.New("the target has not got the connection")
		}
		return nil
	})
	mustAsk(t, silent, "late", "target")

	marked := byUser(wire.Steal, ".*")
	marked.HTTP.MarkResponses = true
	ann.subscribe(t, marked)
	serveHTTP(t, streams{tun: ann.tun}, web("ann"))
	c := p.webClient(t, false)
	if who, res := send(t, c, "ann", ""); who != "ann" || res.Header.Get(wire.MarkHeader) != wire.MarkSession {
		t.Errorf("%s answers, marked %q", who, res.Header)
	}
	probe := p.dial(t, webAddr, nodeAddr)
	_, _ = io.WriteString(probe, "GET /healthz HTTP/1.1\r\nHost: x\r\nX-User: x\r\nUser-Agent: kube-probe/1.37\r\n\r\n")
	if res, err := http.ReadResponse(bufio.NewReader(probe), nil); err != nil || res.Header.Get(wire.MarkHeader) != "" {
		t.Errorf("a probe: %+v, %v", res, err)
	} else if b, _ := io.ReadAll(res.Body); string(b) != "target /healthz " {
		t.Errorf("a probe got %q", b)
	}
	// The operator's word about probes holds until the client wants them.
	marked.TakeProbes = true
	ann.subscribe(t, marked)
	taken := p.dial(t, webAddr, nodeAddr)
	_, _ = io.WriteString(taken, "GET /healthz HTTP/1.1\r\nHost: x\r\nX-User: x\r\nUser-Agent: kube-probe/1.37\r\n\r\n")
	if res, err := http.ReadResponse(bufio.NewReader(taken), nil); err != nil || res.Header.Get(wire.MarkHeader) != wire.MarkSession {
		t.Errorf("a probe that the client wants: %+v, %v", res, err)
	}
	marked.TakeProbes = false
	marked.Filter = &httpfilter.Spec{Rule: httpfilter.Rule{Path: "^/y"}}
	ann.subscribe(t, marked)
	if who, res := send(t, c, "ann", ""); who != "target" || res.Header.Get(wire.MarkHeader) != wire.MarkApp {
		t.Errorf("%s answers, marked %q", who, res.Header)
	}
	for text, spec := range map[string]*httpfilter.Spec{"0 of them": {}, "header: ": {Rule: httpfilter.Rule{Header: "("}}} {
		r := ann.request(t, wire.Control{Subscribe: &wire.Subscribe{Port: 8082, Mode: wire.Steal, Filter: spec}})
		if r.Errno != wire.Errno(syscall.EINVAL) || !strings.Contains(r.Error, text) {
			t.Errorf("%+v, want %q", r, text)
		}
	}
}

// TestFilterLoad: sessions come and go while clients that keep their connections send requests, and
// none of those fails.
func TestFilterLoad(t *testing.T) {
	self, ok := testnet.Isolated(t)
	if !ok {
		return
	}
	p := newWebPod(t, self)
	w := share(t, nil)
	// The port is taken throughout: taking it ends connections, as it has to.
	keeper := w.visit(t, "keeper", nil)
	keeper.subscribe(t, byUser(wire.Steal, "nobody"))
	stop := make(chan struct{})
	var load sync.WaitGroup
	for range 8 {
		c := p.webClient(t, false)
		load.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if who, _ := send(t, c, "bob", "body"); who != "target" {
					t.Errorf("%s answers", who)
				}
				if t.Failed() {
					return
				}
			}
		})
	}
	c := p.webClient(t, false)
	for range 5 {
		ann := w.visit(t, "ann", nil)
		ann.subscribe(t, byUser(wire.Steal, "ann"))
		srv := &http.Server{Handler: web("ann")}
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = srv.Serve(streams{tun: ann.tun})
		}()
		mustGo(t, c, "ann", "ann")
		w.End("s-ann", "enough")
		mustGo(t, c, "ann", "target")
		_ = srv.Close()
		<-done
	}
	close(stop)
	load.Wait()
}

// TestFilterGrant is a client that was changed to ignore the filter that its policies demand.
func TestFilterGrant(t *testing.T) {
	self, ok := testnet.Isolated(t)
	if !ok {
		return
	}
	p := newWebPod(t, self)
	w := share(t, nil)
	eve := w.visit(t, "eve", func(s *Session) {
		s.Grant = grant.Grant{Incoming: grant.Incoming{
			StealWithoutFilter: []string{"filter"},
			HeaderFilters:      []grant.HeaderRule{{Policy: "own", Pattern: "^x-user: .+"}},
		}}
	})
	rule := func(r httpfilter.Rule) *httpfilter.Spec { return &httpfilter.Spec{Rule: r} }
	user, path := httpfilter.Rule{Header: "^x-user: eve$"}, httpfilter.Rule{Path: "/"}
	for name, tt := range map[string]struct {
		filter *httpfilter.Spec
		policy string // that refuses
	}{
		"none":             {nil, "filter"},
		"another header":   {rule(httpfilter.Rule{Header: "^host: .*"}), "own"},
		"a path":           {rule(path), "own"},
		"a method":         {rule(httpfilter.Rule{Method: "GET"}), "own"},
		"jq":               {rule(httpfilter.Rule{JQ: `test("x-user: eve")`}), "own"},
		"a body":           {rule(httpfilter.Rule{Body: &httpfilter.Body{Query: "$.user", Matches: "eve"}}), "own"},
		"either":           {&httpfilter.Spec{AnyOf: []httpfilter.Rule{user, path}}, "own"},
		"a rule of two":    {rule(httpfilter.Rule{Header: "^x-user: eve$", Path: "/"}), "own"},
		"two filters":      {&httpfilter.Spec{Rule: user, AnyOf: []httpfilter.Rule{path}}, "own"},
		"an empty one":     {&httpfilter.Spec{}, "own"},
		"both":             {&httpfilter.Spec{AllOf: []httpfilter.Rule{user, path}}, ""},
		"what is demanded": {rule(user), ""},
	} {
		r := eve.request(t, wire.Control{Subscribe: &wire.Subscribe{Port: webAddr.Port(), Mode: wire.Steal, Filter: tt.filter}})
		if refused := r.Errno == wire.Errno(syscall.EACCES) && strings.Contains(r.Error, `"`+tt.policy+`"`); refused != (tt.policy != "") || r.Error != "" && tt.policy == "" {
			t.Errorf("%s: %+v, want a refusal by %q", name, r, tt.policy)
		}
	}
	serveHTTP(t, streams{tun: eve.tun}, web("eve"))
	c := p.webClient(t, false)
	eve.subscribe(t, byUser(wire.Steal, "eve"))
	mustGo(t, c, "eve", "eve")
	mustGo(t, c, "ann", "target")
	// A policy that becomes stricter takes the port back.
	spec := eve.spec
	spec.Grant.Incoming.HeaderFilters = []grant.HeaderRule{{Policy: "new", Pattern: "^tenant: .+"}}
	w.register(t, spec)
	eve.notice(t, `policy "new"`)
	mustGo(t, c, "eve", "target")
}

// TestFilteredMirror: the copy has the requests that match and no others.
func TestFilteredMirror(t *testing.T) {
	self, ok := testnet.Isolated(t)
	if !ok {
		return
	}
	p := newWebPod(t, self)
	w := share(t, nil)
	ann := w.visit(t, "ann", nil)
	ann.subscribe(t, byUser(wire.Mirror, "ann"))
	copies := make(chan string, 10)
	serveHTTP(t, streams{tun: ann.tun}, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		copies <- r.Header.Get("X-User") + " " + string(b)
	}))
	c := p.webClient(t, false)
	for _, user := range []string{"bob", "ann", "bob", "ann"} {
		mustGo(t, c, user, "target")
	}
	c = p.webClient(t, true)
	for _, user := range []string{"bob", "ann", "bob", "ann"} {
		mustGo(t, c, user, "target")
	}
	for range 4 {
		select {
		case got := <-copies:
			if got != "ann body of ann" {
				t.Errorf("a copy of %q", got)
			}
		case <-time.After(patience):
			t.Fatal("no copy")
		}
	}
	other := p.dial(t, webAddr, netip.Addr{})
	_, _ = io.WriteString(other, "\x16\x03\x01\x00")
	ann.notice(t, "is not HTTP, so")
	if len(copies) > 0 {
		t.Errorf("one more copy: %q", <-copies)
	}
}

// TestFilterBesideAnotherAgent: who has an agent of their own reads why the filter does not help.
func TestFilterBesideAnotherAgent(t *testing.T) {
	if _, ok := testnet.Isolated(t); !ok {
		return
	}
	ann := run(t, nil).client(t)
	ann.subscribe(t, byUser(wire.Steal, "ann"))
	bob := run(t, nil).client(t)
	subscribe := byUser(wire.Steal, "bob")
	r := bob.request(t, wire.Control{Subscribe: &subscribe})
	if r.Errno != wire.Errno(syscall.EADDRINUSE) || !strings.Contains(r.Error, "agents can't share a port") {
		t.Errorf("with a filter: %+v", r)
	}
	r = bob.request(t, wire.Control{Subscribe: &wire.Subscribe{Port: webAddr.Port(), Mode: wire.Steal}})
	if r.Errno != wire.Errno(syscall.EADDRINUSE) || strings.Contains(r.Error, "filter") {
		t.Errorf("without one: %+v", r)
	}
}
