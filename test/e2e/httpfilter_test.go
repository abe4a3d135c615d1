package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mirrord-go/mirrord/internal/cli/progress"
)

// asked is a request of these tests, and whether a filter chooses it.
type asked struct {
	method, path, header, body string
	chosen                     bool
}

// answered is what became of one.
type answered struct {
	echoed
	local  netip.AddrPort // of the client
	reused bool
	mark   string
	proto  string
}

// echoed is what the workload answers.
type echoed struct {
	Name, Peer, Method, Path string
	Size                     int64
}

// one is a client that has one connection; h2 is HTTP/2 without TLS.
func one(t *testing.T, h2 bool) *http.Client {
	t.Helper()
	tr := &http.Transport{MaxConnsPerHost: 1, Protocols: new(http.Protocols)}
	tr.Protocols.SetHTTP1(!h2)
	tr.Protocols.SetUnencryptedHTTP2(h2)
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: patience}
}

// do makes a request.
func (r asked) do(c *http.Client, base string) (a answered, err error) {
	method := r.method
	if method == "" {
		method = http.MethodGet
	}
	var body io.Reader
	if r.body != "" {
		body = strings.NewReader(r.body)
	}
	req, err := http.NewRequest(method, base+strings.TrimPrefix(r.path, "/"), body)
	if err != nil {
		return a, err
	}
	if name, value, ok := strings.Cut(r.header, ": "); ok {
		req.Header.Set(name, value)
	}
	if r.body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	trace := &httptrace.ClientTrace{GotConn: func(g httptrace.GotConnInfo) {
		a.reused, a.local = g.Reused, g.Conn.LocalAddr().(*net.TCPAddr).AddrPort()
	}}
	res, err := c.Do(req.WithContext(httptrace.WithClientTrace(req.Context(), trace)))
	if err != nil {
		return a, err
	}
	defer res.Body.Close()
	a.mark, a.proto = res.Header.Get("Mirrord-Agent"), res.Proto
	if err := json.NewDecoder(res.Body).Decode(&a.echoed); err != nil {
		return a, err
	}
	_, err = io.Copy(io.Discard, res.Body)
	return a, err
}

// checkMix makes the requests on one connection, several times over, and looks at who answers.
func checkMix(t *testing.T, base string, h2 bool, requests []asked) {
	t.Helper()
	c := one(t, h2)
	first := true
	for round := range 3 {
		for _, r := range requests {
			a, err := r.do(c, base)
			want := "web"
			if r.chosen {
				want = "laptop"
			}
			switch {
			case err != nil:
				t.Fatalf("round %d, %+v: %v", round, r, err)
			case a.Name != want:
				t.Errorf("round %d, %+v: answered by %s, not by %s", round, r, a.Name, want)
			case !first && !a.reused:
				t.Errorf("round %d, %+v: a new connection", round, r)
			case a.Size != int64(len(r.body)):
				t.Errorf("%+v: %d bytes of the body arrived", r, a.Size)
			case r.chosen && !sameAddr(a.Peer, a.local.String()):
				t.Errorf("%+v: the local process saw %s as its peer, the client is %s", r, a.Peer, a.local)
			case h2 != (a.proto == "HTTP/2.0"):
				t.Errorf("the answer came over %s", a.proto)
			}
			first = false
		}
	}
}

// incoming is a configuration of incoming traffic of the pod of [web].
func (s *stage) incoming(settings object) object {
	return object{"target": s.webTarget(), "feature": object{"network": object{"incoming": settings}}}
}

// startedSoon is closed when the local process has been started.
func (se *session) startedSoon() <-chan struct{} {
	started := make(chan struct{})
	go func() {
		for {
			se.mu.Lock()
			more, yes := se.more, slices.ContainsFunc(se.events, func(l progress.Line) bool { return l.Event == "started" })
			se.mu.Unlock()
			if yes {
				close(started)
				return
			}
			select {
			case <-more:
			case <-se.done:
				return
			}
		}
	}()
	return started
}

func laptop(name string, port uint16, more ...string) []string {
	return append([]string{built.workload, "serve", "-name", name, "-http", fmt.Sprintf(":%d", port)}, more...)
}

// TestHTTPFilter steals by each kind of filter: on one kept-alive connection, HTTP/1.1 and
// HTTP/2, some requests are answered by the local process, and all others by the pod.
func TestHTTPFilter(t *testing.T) {
	s := newStage(t)
	port := freePort(t)
	s.deploy(t, web([]uint16{port}), "pod/web")
	ip4, ip6 := s.ips(t, "web")
	anna, bob := `{"user": {"name": "Anna"}, "n": 1}`, `{"user": {"name": "bob"}}`
	body := object{"body": "json", "query": "$.user.name", "matches": "^anna$"}
	for _, tt := range []struct {
		name     string
		filter   object
		env      []string
		requests []asked
	}{
		{
			"header",
			object{"header_filter": "^x-user: (?=an)an+a$"},
			nil,
			[]asked{
				{path: "/", header: "X-User: Anna", chosen: true},
				{path: "/"},
				{path: "/", header: "X-User: bob"},
				{method: "POST", path: "/a", header: "x-user: anna", body: strings.Repeat("a", 100_000), chosen: true},
			},
		},
		{
			"path",
			object{"path_filter": `^/api/\d+$`},
			nil,
			[]asked{
				{path: "/api/1", chosen: true}, {path: "/API/22?q=x", chosen: true}, {path: "/api/x"}, {path: "/"},
			},
		},
		{
			"method",
			object{"method_filter": "post"},
			nil,
			[]asked{
				{method: "POST", path: "/", body: "{}", chosen: true}, {path: "/"}, {method: "PUT", path: "/", body: "{}"},
			},
		},
		{
			"body",
			object{"body_filter": body},
			nil,
			[]asked{
				{method: "POST", path: "/", body: anna, chosen: true},
				{method: "POST", path: "/", body: bob},
				{path: "/"},
				{method: "POST", path: "/", body: "not json: anna"},
			},
		},
		{
			"jq",
			object{"header_filter_jq": `ascii_downcase | test("^x-user: an")`},
			nil,
			[]asked{
				{path: "/", header: "X-User: Anna", chosen: true}, {path: "/"}, {path: "/", header: "X-User: bob"},
			},
		},
		{
			"all_of",
			object{"all_of": []object{{"path": "^/api"}, {"header": "^x-user: anna$"}, body}},
			nil,
			[]asked{
				{method: "POST", path: "/api", header: "X-User: anna", body: anna, chosen: true},
				{method: "POST", path: "/api", header: "X-User: anna", body: bob},
				{path: "/api", header: "X-User: anna"},
				{method: "POST", path: "/", header: "X-User: anna", body: anna},
			},
		},
		{
			"any_of",
			object{"any_of": []object{{"method": "DELETE"}, {"query": `. == "X-User: anna"`}, {"path": "^/mine"}}},
			nil,
			[]asked{
				{method: "DELETE", path: "/", chosen: true}, {path: "/mine?x", chosen: true}, {path: "/"}, {method: "POST", path: "/", body: anna},
			},
		},
		{"variable", object{}, []string{"MIRRORD_HTTP_PATH_FILTER=^/api$"}, []asked{{path: "/api", chosen: true}, {path: "/"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			se := s.start(t, run{
				config: s.incoming(object{"mode": "steal", "http_filter": tt.filter}), env: tt.env, command: laptop("laptop", port),
			})
			se.subscribed(port)
			for _, h2 := range []bool{false, true} {
				t.Run(fmt.Sprintf("h2=%v", h2), func(t *testing.T) {
					checkMix(t, url(ip4, port), h2, tt.requests)
					checkMix(t, url(ip6, port), h2, tt.requests)
				})
			}
			se.stop()
			a, err := tt.requests[0].do(one(t, false), url(ip4, port))
			if err != nil || a.Name != "web" {
				t.Errorf("afterwards answered by %s: %v", a.Name, err)
			}
		})
	}
}

// TestHTTPFilterPorts: a filter for some ports leaves the others whole, which the user reads;
// responses are marked, upgrades go where their request goes, and the limits of bodies hold.
func TestHTTPFilterPorts(t *testing.T) {
	s := newStage(t)
	filtered, whole, left := freePort(t), freePort(t), freePort(t)
	s.deploy(t, web([]uint16{filtered, whole, left}), "pod/web")
	ip4, _ := s.ips(t, "web")
	config := s.incoming(object{
		"mode": "steal", "ports": []uint16{filtered, whole},
		"http_filter": object{"ports": []uint16{filtered}, "any_of": []object{
			{"path": "^/(mine|upgrade)"}, {"body": "json", "query": "$.user", "matches": "^anna$"},
		}},
	})
	config["agent"] = object{"inject_headers": true, "max_body_buffer_size": 1000}
	se := s.start(t, run{config: config, command: []string{
		built.workload, "serve", "-name", "laptop", "-http", fmt.Sprintf(":%d,:%d,:%d", filtered, whole, left),
	}})
	se.subscribed(filtered)
	se.subscribed(whole)
	told := se.event("the filter was named", func(l progress.Line) bool { return l.Event == "port-subscribed" && l.Port == filtered })
	if !strings.Contains(told.Text, "the requests with path ^/(mine|upgrade) or body $.user is ^anna$") {
		t.Errorf("the user was told %q", told.Text)
	}
	long := `{"user": "anna", "x": "` + strings.Repeat("x", 2000) + `"}`
	for _, tt := range []struct {
		name, want, mark string
		port             uint16
		request          asked
	}{
		{"chosen", "laptop", "forwarded-to-client", filtered, asked{path: "/mine"}},
		{"not chosen", "web", "passed-through", filtered, asked{path: "/"}},
		{"short body", "laptop", "forwarded-to-client", filtered, asked{method: "POST", path: "/", body: `{"user": "anna"}`}},
		{"body above the limit", "web", "passed-through", filtered, asked{method: "POST", path: "/", body: long}},
		{"a port without a filter", "laptop", "", whole, asked{path: "/"}},
		{"a port that is not taken", "web", "", left, asked{path: "/mine"}},
	} {
		for _, h2 := range []bool{false, true} {
			a, err := tt.request.do(one(t, h2), url(ip4, tt.port))
			if err != nil || a.Name != tt.want || a.mark != tt.mark {
				t.Errorf("%s (h2 %v): answered by %s, marked %q: %v", tt.name, h2, a.Name, a.mark, err)
			}
		}
	}
	upgraded(t, ip4, filtered, "GET /upgrade")
	se.stop()
	upgraded(t, ip4, filtered, "GET /upgrade")
}

// upgraded leaves HTTP on a connection, and says something else on it.
func upgraded(t *testing.T, ip string, port uint16, request string) {
	t.Helper()
	c, err := net.DialTimeout("tcp", net.JoinHostPort(ip, fmt.Sprint(port)), patience)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(c, "%s HTTP/1.1\r\nHost: web\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n", request)
	r := bufio.NewReader(c)
	res, err := http.ReadResponse(r, nil)
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%+v: %v", res, err)
	}
	for i := range 3 {
		fmt.Fprintf(c, "line %d\n", i)
		if line, err := r.ReadString('\n'); err != nil || line != fmt.Sprintf("line %d\n", i) {
			t.Fatalf("%q: %v", line, err)
		}
	}
}

// TestHTTPFilterOperator: through the operator, several sessions have a port with filters of
// their own; and policies say what filters there may be.
func TestHTTPFilterOperator(t *testing.T) {
	i := withoutOperator(t)
	s := &stage{Env: i.env, ns: i.env.Namespace(t)}
	i.mustInstall()
	port := freePort(t)
	s.deploy(t, web([]uint16{port}), "pod/web")
	t.Run("sessions", func(t *testing.T) { testFilterSessions(t, s, port) })
	t.Run("override", func(t *testing.T) { testOverride(t, s, port) })
	t.Run("policies", func(t *testing.T) { testFilterPolicies(t, s, port) })
}

// testFilterSessions: two sessions have a port with different filters; a request for both
// goes to the first of them, and both are told. A third has what is left.
func testFilterSessions(t *testing.T, s *stage, port uint16) {
	p1, p2, p3 := freePort(t), freePort(t), freePort(t)
	ip4, _ := s.ips(t, "web")
	start := func(name string, filter any, local uint16) *session {
		config := s.incoming(object{"mode": "steal", "http_filter": filter, "port_mapping": [][]uint16{{local, port}}})
		config["operator"] = true
		se := s.start(t, run{config: config, command: laptop(name, local)})
		se.subscribed(port)
		return se
	}
	anna := start("anna", object{"header_filter": "^x-user: .*anna"}, p1)
	bob := start("bob", object{"header_filter": "^x-user: .*bob"}, p2)
	c := one(t, false)
	check := func(header, want string) {
		t.Helper()
		if a, err := (asked{path: "/", header: header}).do(c, url(ip4, port)); err != nil || a.Name != want {
			t.Errorf("%s: answered by %s, not by %s: %v", header, a.Name, want, err)
		}
	}
	for range 3 {
		check("X-User: anna", "anna")
		check("X-User: bob", "bob")
		check("X-User: eve", "web")
	}
	check("X-User: anna and bob", "anna")
	for name, se := range map[string]*session{"anna": anna, "bob": bob} {
		se.event(name+" is told of the other", func(l progress.Line) bool {
			return l.Level == "warning" && strings.Contains(l.Text, "matches the filter of session")
		})
	}
	rest := start("rest", true, p3)
	check("X-User: anna", "anna")
	check("X-User: bob", "bob")
	check("X-User: eve", "rest")
	rest.stop()
	anna.stop()
	check("X-User: anna", "web")
	check("X-User: anna and bob", "bob")
	check("X-User: bob", "bob")
	bob.stop()
	check("X-User: bob", "web")
}

// testOverride: a session with on_concurrent_steal takes the port from another one, which is
// told by whom.
func testOverride(t *testing.T, s *stage, port uint16) {
	ip4, _ := s.ips(t, "web")
	start := func(name, concurrent string, local uint16) *session {
		config := s.incoming(object{"mode": "steal", "on_concurrent_steal": concurrent, "port_mapping": [][]uint16{{local, port}}})
		config["operator"] = true
		return s.start(t, run{config: config, command: laptop(name, local)})
	}
	answers := func(want string) {
		t.Helper()
		if a, err := (asked{path: "/"}).do(one(t, false), url(ip4, port)); err != nil || a.Name != want {
			t.Errorf("answered by %s, not by %s: %v", a.Name, want, err)
		}
	}
	first := start("first", "abort", freePort(t))
	first.subscribed(port)
	answers("first")
	late := start("late", "continue", freePort(t))
	late.event("the port was refused", func(l progress.Line) bool { return l.Event == "port-failed" && l.Port == port })
	answers("first")
	late.stop()
	second := start("second", "override", freePort(t))
	second.subscribed(port)
	answers("second")
	first.event("the port was lost", func(l progress.Line) bool {
		return l.Level == "warning" && strings.Contains(l.Text, "and this session has it no more")
	})
	second.stop()
	first.stop()
	answers("web")
}

// testFilterPolicies: a policy that says what header a filter must be about.
func testFilterPolicies(t *testing.T, s *stage, port uint16) {
	s.Apply(t, s.ns, `{apiVersion: policies.mirrord.metalbear.co/v1alpha, kind: MirrordPolicy, metadata: {name: own-header}, `+
		`spec: {block: [], network: {incoming: {httpFilter: {headerFilter: "^x-user: [a-z]+$"}}}}}`)
	ip4, _ := s.ips(t, "web")
	start := func(filter any, more object) *session {
		settings := object{"mode": "steal", "http_filter": filter}
		for k, v := range more {
			settings[k] = v
		}
		config := s.incoming(settings)
		config["operator"] = true
		return s.start(t, run{config: config, command: laptop("laptop", port)})
	}
	refused := func(what string, filter any, more object) {
		t.Helper()
		eventually(t, func() error { // until the operator has read it
			se := start(filter, more)
			select {
			case <-se.done:
			case <-se.startedSoon():
				se.stop()
				return fmt.Errorf("%s was allowed", what)
			}
			for _, want := range []string{"the cluster's policies do not allow it", s.ns + "/own-header", "^x-user: [a-z]+$"} {
				if se.code != 1 || !strings.Contains(se.stderr(), want) {
					return fmt.Errorf("%s: exit code %d, %q is not said:\n%s", what, se.code, want, se.stderr())
				}
			}
			return nil
		})
	}
	refused("no filter", true, nil)
	refused("another header", object{"header_filter": "^x-team: a$"}, nil)
	refused("a header that goes on", object{"header_filter": "^x-user: anna|.*$"}, nil)
	refused("alternatives", object{"any_of": []object{{"header": "^x-user: anna$"}, {"path": "/"}}}, nil)
	refused("a path", object{"path_filter": "/"}, nil)
	refused("other ports whole", object{"header_filter": "^x-user: anna$", "ports": []uint16{port}}, object{"ports": []uint16{port, port + 1}})

	se := start(object{"all_of": []object{{"header": "^x-user: anna$"}, {"path": "^/api"}}}, nil)
	se.subscribed(port)
	checkMix(t, url(ip4, port), false, []asked{
		{path: "/api", header: "X-User: anna", chosen: true}, {path: "/api"}, {path: "/", header: "X-User: anna"},
	})
	se.stop()

	// The client is not asked: the agent refuses the port that the filter is not for.
	se = start(object{"header_filter": "^x-user: anna$", "ports": []uint16{port + 1}}, nil)
	e := se.event("the port was refused", func(l progress.Line) bool { return l.Event == "port-failed" && l.Port == port })
	if !strings.Contains(e.Text, s.ns+"/own-header") {
		t.Errorf("the user was told %q", e.Text)
	}
	if a, err := (asked{path: "/"}).do(one(t, false), url(ip4, port)); err != nil || a.Name != "web" {
		t.Errorf("answered by %s: %v", a.Name, err)
	}
	se.stop()
}

// TestHTTPFilterMirror: the pod answers everything, and the local process gets a copy of what
// the filter chooses.
func TestHTTPFilterMirror(t *testing.T) {
	s := newStage(t)
	port, admin := freePort(t), freePort(t)
	s.deploy(t, web([]uint16{port}), "pod/web")
	ip4, _ := s.ips(t, "web")
	se := s.start(t, run{
		config:  s.incoming(object{"mode": "mirror", "http_filter": object{"path_filter": "^/mine"}}),
		command: laptop("laptop", port, "-admin", fmt.Sprintf("127.0.0.1:%d", admin)),
	})
	se.subscribed(port)
	c := one(t, false)
	const rounds = 5
	for range rounds {
		for _, path := range []string{"/mine/1", "/other", "/mine/2", "/"} {
			a, err := (asked{method: "POST", path: path, body: `{"a": 1}`}).do(c, url(ip4, port))
			if err != nil || a.Name != "web" || a.Path != path {
				t.Fatalf("%s: %+v, %v", path, a, err)
			}
		}
	}
	eventually(t, func() error {
		if n := counts(t, "127.0.0.1", int(admin)).Requests; n != 2*rounds {
			return fmt.Errorf("%d requests were mirrored, want %d", n, 2*rounds)
		}
		return nil
	})
	for range rounds {
		if _, err := (asked{path: "/other"}).do(c, url(ip4, port)); err != nil {
			t.Fatal(err)
		}
	}
	if n := counts(t, "127.0.0.1", int(admin)).Requests; n != 2*rounds {
		t.Errorf("%d requests were mirrored, want %d", n, 2*rounds)
	}
	se.stop()
}

// TestHTTPFilterProbes: a filter that matches everything takes no probe of the kubelet.
func TestHTTPFilterProbes(t *testing.T) {
	s := newStage(t)
	s.deploy(t, shop+"---"+client, "deployment/shop", "pod/client")
	local, admin := freePort(t), freePort(t)
	before := s.restarts(t)
	se := s.start(t, run{
		config: object{"feature": object{"network": object{"incoming": object{
			"mode": "steal", "port_mapping": [][]uint16{{local, 8080}}, "http_filter": object{"any_of": []object{{"path": ".*"}, {"header": ".*"}}},
		}}}},
		command: laptop("laptop", local, "-admin", fmt.Sprintf("127.0.0.1:%d", admin)),
	})
	se.subscribed(8080)
	pod, ip := s.shopPod(t)
	probes := counts(t, ip, 8090).Requests
	eventually(t, func() error {
		if n := counts(t, ip, 8090).Requests; n < probes+6 {
			return fmt.Errorf("the pod has had %d requests, probes among them", n-probes)
		}
		return nil
	})
	if n := counts(t, "127.0.0.1", int(admin)).Requests; n != 0 {
		t.Errorf("the local process has had %d requests, and nobody but the kubelet asked", n)
	}
	answeredBy(t, "during the session", "laptop", s.ask(t, "http://shop/"))
	if n := s.restarts(t); n != before {
		t.Errorf("%s was restarted", pod)
	}
	se.stop()
	answeredBy(t, "afterwards", pod, s.ask(t, "http://shop/"))
}
