package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/miekg/dns"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// startServer runs "serve" on free ports until the test ends.
func startServer(t *testing.T, args ...string) Listening {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- serve(ctx, args, w) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
		http.DefaultClient.CloseIdleConnections()
	})
	var l Listening
	if err := json.NewDecoder(r).Decode(&l); err != nil {
		t.Fatal(err)
	}
	return l
}

// output runs a client command, which has to succeed, and decodes its lines.
func output[T any](t *testing.T, run command, args ...string) []T {
	t.Helper()
	var b bytes.Buffer
	if err := run(t.Context(), args, &b); err != nil {
		t.Fatalf("%v: %v\n%s", args, err, b.String())
	}
	return lines[T](t, &b)
}

func lines[T any](t *testing.T, r io.Reader) []T {
	t.Helper()
	var all []T
	for d := json.NewDecoder(r); ; {
		var v T
		if err := d.Decode(&v); err == io.EOF {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, v)
	}
}

func getJSON[T any](t *testing.T, url string) (v T) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if err := json.NewDecoder(res.Body).Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestEchoSaysWhoAskedAndWhat(t *testing.T) {
	l := startServer(t, "-name", "me", "-http", "127.0.0.1:0,[::1]:0", "-admin", "127.0.0.1:0")
	for _, addr := range l.HTTP {
		answers := output[Answer](t, get, "-n", "3", "-keepalive", "-method", "POST", "-body", "hello", "-header", "X-Test: yes", "http://"+addr+"/a?b=c")
		if len(answers) != 3 {
			t.Fatalf("%d answers", len(answers))
		}
		for i, a := range answers {
			e := a.Echo
			if e == nil || e.Name != "me" || e.Peer != a.Local || e.Local != a.Remote || e.Local != addr || e.Path != "/a?b=c" ||
				e.Size != 5 || e.SHA256 != "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824" || e.Header.Get("X-Test") != "yes" {
				t.Errorf("answer %d: %+v, %+v", i, a, e)
			}
			if a.Reused != (i > 0) {
				t.Errorf("answer %d: reused %v", i, a.Reused)
			}
		}
	}
	if c := getJSON[Counts](t, "http://"+l.Admin+"/count"); c.Requests != 6 || c.Connections != 2 {
		t.Errorf("counts: %+v", c)
	}
}

func TestRawHoldsWhatArrived(t *testing.T) {
	l := startServer(t, "-http", "127.0.0.1:0", "-tcp", "127.0.0.1:0", "-udp", "127.0.0.1:0", "-admin", "127.0.0.1:0")
	raw := "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Odd:  two spaces\r\n\r\n"
	conn, err := net.Dial("tcp", l.HTTP[0])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, raw); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(conn); err != nil {
		t.Fatal(err)
	}
	if p := output[Probe](t, tcpProbe, "-send", "over tcp", l.TCP)[0]; p.Answer != "over tcp" || p.Remote != l.TCP {
		t.Errorf("tcp: %+v", p)
	}
	p := output[Probe](t, udpProbe, "-send", "over udp", l.UDP)[0]
	if want := l.Name + " " + p.Local + " over udp"; p.Answer != want {
		t.Errorf("udp: %+v, want %q", p, want)
	}
	want := map[string]string{conn.LocalAddr().String(): raw, p.Local: "over udp"}
	for _, r := range getJSON[[]Received](t, "http://"+l.Admin+"/raw") {
		if text, ok := want[r.Peer]; ok && string(r.Bytes) == text && r.Size == int64(len(text)) {
			delete(want, r.Peer)
		}
	}
	if len(want) > 0 {
		t.Errorf("not recorded: %q", want)
	}
	getReset, err := http.Get("http://" + l.Admin + "/reset")
	if err != nil {
		t.Fatal(err)
	}
	getReset.Body.Close()
	if left := getJSON[[]Received](t, "http://"+l.Admin+"/raw"); len(left) != 0 {
		t.Errorf("after reset: %+v", left)
	}
}

func TestBulk(t *testing.T) {
	l := startServer(t, "-http", "", "-source", "127.0.0.1:0", "-sink", "127.0.0.1:0")
	for _, size := range []string{"0", "1", "3000000"} {
		pulled := output[Bulk](t, pull, "-size", size, l.Source)[0]
		pushed := output[Bulk](t, push, "-size", size, l.Sink)[0]
		if pulled.SHA256 != pushed.SHA256 || pulled.Size != pushed.Size {
			t.Errorf("%s bytes: pulled %+v, pushed %+v", size, pulled, pushed)
		}
	}
	if err := check(io.Discard, Bulk{Size: 1, SHA256: "0"}, 1); err == nil {
		t.Error("a wrong checksum was accepted")
	}
}

func TestHoldGoesOnAfterFailures(t *testing.T) {
	// Two servers in turn on one address: what is held sees the first, a gap, and the second.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	answer := func(name string) *http.Server {
		return &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _ = report(w, Echo{Name: name}) })}
	}
	first, second := answer("first"), answer("second")
	go first.Serve(l) // closed below
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- hold(ctx, []string{"-every", "1ms", "http://" + addr}, w)
		w.Close()
	}()
	seen := bufio.NewScanner(r)
	until := func(what string, match func(Answer) bool) {
		t.Helper()
		for seen.Scan() {
			var a Answer
			if err := json.Unmarshal(seen.Bytes(), &a); err != nil {
				t.Fatal(err)
			}
			if match(a) {
				return
			}
		}
		t.Fatalf("hold ended before %s", what)
	}
	until("the first server's reused connection", func(a Answer) bool { return a.Echo != nil && a.Echo.Name == "first" && a.Reused })
	first.Close()
	until("the refusal", func(a Answer) bool { return a.Errno == "ECONNREFUSED" })
	if l, err = net.Listen("tcp", addr); err != nil {
		t.Fatal(err)
	}
	go second.Serve(l) // closed below
	until("the second server", func(a Answer) bool { return a.Echo != nil && a.Echo.Name == "second" })
	cancel()
	go io.Copy(io.Discard, r) // until hold ends
	if err := <-done; err != nil {
		t.Error(err)
	}
	second.Close()
	http.DefaultClient.CloseIdleConnections()
}

func TestGRPCHealth(t *testing.T) {
	l := startServer(t, "-http", "", "-grpc", "127.0.0.1:0")
	conn, err := grpc.NewClient(l.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	res, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil || res.Status != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("%v, %v", res, err)
	}
}

func TestProbeNamesTheError(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	var b bytes.Buffer
	if err := tcpProbe(t.Context(), []string{addr}, &b); err == nil {
		t.Error("a refused connection succeeded")
	}
	if p := lines[Probe](t, &b)[0]; p.Errno != "ECONNREFUSED" {
		t.Errorf("%+v", p)
	}
}

func TestLookup(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		if q.Question[0].Name == "text.example." {
			rr, err := dns.NewRR(`text.example. 5 IN TXT "a b" "c"`)
			if err != nil {
				t.Error(err)
			}
			m.Answer = append(m.Answer, rr)
		} else {
			m.Rcode = dns.RcodeNameError
		}
		_ = w.WriteMsg(m)
	})
	started := make(chan struct{})
	srv := &dns.Server{PacketConn: pc, Handler: handler, NotifyStartedFunc: func() { close(started) }}
	go srv.ActivateAndServe() // ended below
	<-started
	defer srv.Shutdown()
	got := output[Lookup](t, lookup, "-type", "TXT", "-server", pc.LocalAddr().String(), "text.example")[0]
	if got.Rcode != "NOERROR" || len(got.Answers) != 1 || got.Answers[0] != `TXT "a b" "c"` {
		t.Errorf("%+v", got)
	}
	var b bytes.Buffer
	if err := lookup(t.Context(), []string{"-type", "A", "-server", pc.LocalAddr().String(), "absent.example"}, &b); err == nil {
		t.Error("an absent name succeeded")
	}
	if l := lines[Lookup](t, &b)[0]; l.Rcode != "NXDOMAIN" {
		t.Errorf("%+v", l)
	}
}

func TestUpgradeAndDrip(t *testing.T) {
	l := startServer(t, "-http", "127.0.0.1:0")
	conn, err := net.Dial("tcp", l.HTTP[0])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	// What follows the upgrade in the same packet belongs to the new protocol.
	if _, err := io.WriteString(conn, "GET /upgrade HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nafter"); err != nil {
		t.Fatal(err)
	}
	br := bufio.NewReader(conn)
	res, err := http.ReadResponse(br, nil)
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v, %v", res, err)
	}
	got := make([]byte, 5)
	if _, err := io.ReadFull(br, got); err != nil || string(got) != "after" {
		t.Errorf("%q, %v", got, err)
	}
	if a := output[Answer](t, get, "http://"+l.HTTP[0]+"/drip?n=3&every=1ms")[0]; a.Body != "0\n1\n2\n" {
		t.Errorf("drip: %+v", a)
	}
	if a := output[Answer](t, get, "http://"+l.HTTP[0]+"/status?code=503")[0]; a.Status != 503 {
		t.Errorf("status: %+v", a)
	}
	t.Setenv("WORKLOAD_TEST", "x=y")
	if env := getJSON[map[string]string](t, "http://"+l.HTTP[0]+"/env"); env["WORKLOAD_TEST"] != "x=y" {
		t.Errorf("env: %q", env["WORKLOAD_TEST"])
	}
}

func TestWrongUsage(t *testing.T) {
	stderr := os.Stderr
	os.Stderr, _ = os.Open(os.DevNull) // the flag package writes its message there
	defer func() { os.Stderr = stderr }()
	for name, run := range map[string]func() error{
		"no argument": func() error { return get(t.Context(), nil, io.Discard) },
		"bad flag":    func() error { return get(t.Context(), []string{"-nosuch", "x"}, io.Discard) },
	} {
		if err := run(); err == nil || !strings.HasPrefix(err.Error(), "usage") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestLoad: every request is counted by its kind and by who answered it, and a failed one is seen.
func TestLoad(t *testing.T) {
	status := http.StatusOK
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := "plain"
		if r.Header.Get("X-Marked") != "" {
			name = "marked"
		}
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(Echo{Name: name})
	}))
	defer server.Close()
	run := func(url string) (l Load, err error) {
		var out bytes.Buffer
		err = load(t.Context(), []string{"-rate", "200", "-for", "500ms", "-connections", "4", url}, &out)
		if e := json.Unmarshal(out.Bytes(), &l); e != nil {
			t.Fatal(e)
		}
		return l, err
	}
	l, err := run(server.URL)
	if err != nil || l.Marked.Requests != 10 || l.Marked.By["marked"] != 10 || l.Unmarked.Requests != 90 || l.Unmarked.By["plain"] != 90 || l.Unmarked.P99 < l.Unmarked.P50 || l.Unmarked.P50 <= 0 {
		t.Errorf("%v: %+v", err, l)
	}
	server.Close()
	if l, err := run(server.URL); err == nil || l.Unmarked.Failed != 90 || l.Marked.Failed != 10 || len(l.Failures) != 10 {
		t.Errorf("%v: %+v", err, l)
	}
}
