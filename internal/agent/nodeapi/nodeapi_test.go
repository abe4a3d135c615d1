package nodeapi

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/mirrord-go/mirrord/internal/grant"
	"github.com/mirrord-go/mirrord/internal/tunnel"
	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = time.Minute

var discard = slog.New(slog.DiscardHandler)

func identity(t *testing.T) *tunnel.Identity {
	t.Helper()
	id, err := tunnel.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// agent records what it is asked, and answers what the test says.
type agent struct {
	registered Registered
	err        error
	state      State
	events     chan Event

	mu    sync.Mutex
	calls []any
}

func (a *agent) record(call any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.calls = append(a.calls, call)
}

func (a *agent) got() []any {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.calls
}

type call struct {
	Session string
	What    any
}

func (a *agent) Register(_ context.Context, session string, r Registration) (Registered, error) {
	a.record(call{session, r})
	return a.registered, a.err
}

func (a *agent) End(_ context.Context, session string, e End) error {
	a.record(call{session, e})
	return a.err
}

func (a *agent) State() State { return a.state }

func (a *agent) Watch() (State, <-chan Event, func()) {
	return a.state, a.events, func() { a.record("stopped") }
}

// serve serves a until the test ends.
func serve(t *testing.T, a Agent) (addr string, operator *tunnel.Identity, key tunnel.Fingerprint) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	own, operator := identity(t), identity(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, discard, l, own, operator.Fingerprint(), a) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Serve: %v", err)
			}
		case <-time.After(patience):
			t.Error("Serve does not end")
		}
	})
	return l.Addr().String(), operator, own.Fingerprint()
}

func client(t *testing.T, addr string, own *tunnel.Identity, agent tunnel.Fingerprint) *Client {
	t.Helper()
	c := NewClient(addr, own, agent)
	t.Cleanup(c.Close)
	return c
}

func registration(t *testing.T) Registration {
	t.Helper()
	host := `^db\.`
	return Registration{
		User: "ann@example.org", ClientKey: identity(t).Fingerprint(), OnConcurrentSteal: StealContinue, Timeout: time.Minute,
		Pod: Pod{
			Namespace: "shop", Name: "cart-0", UID: "7e571000-2222-3333-4444-555555555555", Container: "app", ContainerID: "containerd://" + strings.Repeat("ab", 32),
			Probes: map[uint16][]wire.Probe{8080: {{Kind: wire.ProbeHTTP}}}, ProbeSources: []netip.Addr{netip.MustParseAddr("10.0.0.1")},
		},
		Grant: grant.Grant{
			Policies: []string{"base"}, Incoming: grant.Incoming{Steal: []string{"base"}},
			Outgoing: []grant.OutgoingRules{{Policy: "base", Block: []grant.Rule{{CIDR: "10.0.0.0/8", Hostname: &host}}}},
			Env:      []grant.Exclusion{{Policy: "base", Patterns: []string{"*_TOKEN"}}},
		},
	}
}

var compareAddr = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

func TestConversation(t *testing.T) {
	a := &agent{
		registered: Registered{Port: 7, Key: identity(t).Fingerprint(), Version: "v1"},
		state:      State{Version: "v1", Sessions: []SessionState{{ID: "s1", Connected: true, Since: time.Unix(1, 0).UTC(), Stolen: []uint16{80}, Refused: 2}}},
	}
	c := asking(t, a)
	reg := registration(t)
	got, err := c.Register(t.Context(), "s1", reg)
	if err != nil || got != a.registered {
		t.Errorf("Register: %+v, %v", got, err)
	}
	if err := c.End(t.Context(), "s1", "deleted by ann"); err != nil {
		t.Errorf("End: %v", err)
	}
	state, err := c.State(t.Context())
	if err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(a.state, state); diff != "" {
		t.Errorf("state (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]any{call{"s1", reg}, call{"s1", End{Reason: "deleted by ann"}}}, a.got(), compareAddr); diff != "" {
		t.Errorf("asked (-want +got):\n%s", diff)
	}
}

// asking serves a and returns its client.
func asking(t *testing.T, a Agent) *Client {
	t.Helper()
	addr, own, key := serve(t, a)
	return client(t, addr, own, key)
}

func TestRefusals(t *testing.T) {
	for name, tt := range map[string]struct {
		session string
		change  func(*Registration)
		err     error
		code    string
		text    string
	}{
		"a session's name":  {session: "../x", code: CodeInvalid, text: "no session's ID"},
		"an empty name":     {code: CodeInvalid, text: "no session's ID"},
		"a long name":       {session: strings.Repeat("x", maxName+1), code: CodeInvalid, text: "no session's ID"},
		"no key":            {session: "s", change: func(r *Registration) { r.ClientKey = tunnel.Fingerprint{} }, code: CodeInvalid, text: "clientKey"},
		"a pod's name":      {session: "s", change: func(r *Registration) { r.Pod.UID = "a/b" }, code: CodeInvalid, text: "no uid"},
		"no container":      {session: "s", change: func(r *Registration) { r.Pod.ContainerID = "" }, code: CodeInvalid, text: "containerID"},
		"concurrent steals": {session: "s", change: func(r *Registration) { r.OnConcurrentSteal = "share" }, code: CodeInvalid, text: `"share"`},
		"a time":            {session: "s", change: func(r *Registration) { r.Timeout = -1 }, code: CodeInvalid, text: "below zero"},
		"a rule":            {session: "s", change: func(r *Registration) { r.Grant.Outgoing[0].Block[0].CIDR = "x" }, code: CodeInvalid, text: "range of addresses"},
		"by the agent":      {session: "s", err: &Error{Code: CodeTargetGone, Message: "no process"}, code: CodeTargetGone, text: "no process"},
		"stopping":          {session: "s", err: &Error{Code: CodeStopping, Message: "it ends"}, code: CodeStopping, text: "it ends"},
		"a failure":         {session: "s", err: errors.New("broken"), code: CodeFailed, text: "broken"},
	} {
		t.Run(name, func(t *testing.T) {
			a := &agent{err: tt.err}
			c := asking(t, a)
			reg := registration(t)
			if tt.change != nil {
				tt.change(&reg)
			}
			_, err := c.Register(t.Context(), tt.session, reg)
			var e *Error
			if !errors.As(err, &e) || e.Code != tt.code || !strings.Contains(e.Message, tt.text) {
				t.Errorf("got %v (%+v), want %s with %q", err, e, tt.code, tt.text)
			}
			if asked := len(a.got()) > 0; asked != (tt.err != nil) {
				t.Errorf("the agent was asked: %v", asked)
			}
		})
	}
}

// TestHostileRequests: the server checks for itself what the client would not send.
func TestHostileRequests(t *testing.T) {
	a := &agent{}
	addr, own, key := serve(t, a)
	c := client(t, addr, own, key)
	for name, tt := range map[string]struct {
		method, path, body string
		status             int
	}{
		"no JSON":           {http.MethodPut, "/v1/sessions/s/pods/targetless", "{", 400},
		"another pod":       {http.MethodPut, "/v1/sessions/s/pods/a", `{"pod":{"targetless":true},"clientKey":"sha256:` + strings.Repeat("ab", 32) + `"}`, 400},
		"nothing":           {http.MethodPut, "/v1/sessions/s/pods/targetless", "{}", 400},
		"a name":            {http.MethodDelete, "/v1/sessions/%2e%2e%2fx", "{}", 400},
		"a key":             {http.MethodPut, "/v1/sessions/s/pods/targetless", `{"clientKey":"x"}`, 400},
		"too large":         {http.MethodDelete, "/v1/sessions/s", strings.Repeat(" ", maxBody+1), 400},
		"an unknown path":   {http.MethodGet, "/v2/sessions", "", 404},
		"an unknown method": {http.MethodPost, "/v1/sessions", "", 405},
	} {
		t.Run(name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), tt.method, "https://agent"+tt.path, strings.NewReader(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			resp, err := c.http.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if resp.StatusCode != tt.status {
				t.Errorf("status %d, want %d", resp.StatusCode, tt.status)
			}
		})
	}
	if calls := a.got(); len(calls) > 0 {
		t.Errorf("the agent was asked %v", calls)
	}
}

func TestEvents(t *testing.T) {
	a := &agent{state: State{Sessions: []SessionState{{ID: "a"}, {ID: "b"}}}, events: make(chan Event)}
	c := asking(t, a)
	go func() {
		a.events <- Event{Type: EventEnded, Session: &SessionState{ID: "a"}, Reason: ReasonGoodbye}
		close(a.events)
	}()
	var got []string
	err := c.Events(t.Context(), func(e Event) error {
		s := string(e.Type)
		if e.Session != nil {
			s += " " + e.Session.ID
		}
		got = append(got, s)
		return nil
	})
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("at the end of the stream: %v", err)
	}
	if diff := cmp.Diff([]string{"state a", "state b", "synced", "ended a"}, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}

	c = asking(t, &agent{state: a.state}) // says nothing more
	stop := errors.New("enough")
	if err := c.Events(t.Context(), func(Event) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("ended by the reader: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = c.Events(ctx, func(e Event) error {
		if e.Type == EventSynced {
			cancel()
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("ended by the context: %v", err)
	}
}

// TestServeEndsStreams: a reader that stays does not keep the agent from ending.
func TestServeEndsStreams(t *testing.T) {
	synced, ended := make(chan struct{}), make(chan error, 1)
	t.Cleanup(func() { // after the server's
		if err := <-ended; err == nil {
			t.Error("no error")
		}
	})
	c := asking(t, &agent{})
	go func() {
		ended <- c.Events(context.Background(), func(Event) error { close(synced); return nil })
	}()
	select {
	case <-synced:
	case <-time.After(patience):
		t.Error("no events")
	}
}

func TestStrangers(t *testing.T) {
	a := &agent{}
	addr, own, key := serve(t, a)
	_, err := client(t, addr, own, identity(t).Fingerprint()).State(t.Context())
	var peer *tunnel.PeerError
	if !errors.As(err, &peer) {
		t.Errorf("another agent: %v", err)
	}
	if _, err := client(t, addr, identity(t), key).State(t.Context()); err == nil {
		t.Error("another operator is answered")
	}
	if c, err := DialCarrier(t.Context(), addr, own, key); err == nil {
		// TLS lets the client believe until it reads.
		_ = c.SetDeadline(time.Now().Add(patience))
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("a carrier is accepted where requests are")
		}
		_ = c.Close()
	}
	for range 3 {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close() // says nothing meanwhile
	}
	if _, err := client(t, addr, own, key).State(t.Context()); err != nil {
		t.Errorf("among strangers: %v", err)
	}
}

func TestCarriers(t *testing.T) {
	raw, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	worker, operator := identity(t), identity(t)
	l := ListenCarriers(discard, raw, worker, operator.Fingerprint())
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			})
		}
	})
	defer conns.Wait()
	defer l.Close()
	c, err := DialCarrier(t.Context(), l.Addr().String(), operator, worker.Fingerprint())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, "hello\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(c).ReadString('\n'); line != "hello\n" || err != nil {
		t.Errorf("%q, %v", line, err)
	}
	if c, err := DialCarrier(t.Context(), l.Addr().String(), identity(t), worker.Fingerprint()); err == nil {
		_ = c.SetDeadline(time.Now().Add(patience))
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("a stranger has a carrier")
		}
		_ = c.Close()
	}
	var peer *tunnel.PeerError
	if _, err := DialCarrier(t.Context(), l.Addr().String(), operator, identity(t).Fingerprint()); !errors.As(err, &peer) {
		t.Errorf("another worker: %v", err)
	}
}

// FuzzRegistration: whatever a request holds, it is refused or can be sent on.
func FuzzRegistration(f *testing.F) {
	f.Add([]byte(`{"user":"ann","clientKey":"sha256:` + strings.Repeat("ab", 32) + `","pod":{"targetless":true},"timeout":5}`))
	f.Add([]byte(`{"pod":{"uid":"7e571000-2222","containerID":"c","probes":{"80":[{"kind":"http"}]}},"grant":{"outgoing":[{"policy":"p","allow":[{"cidr":"10.0.0.0/8"}]}]}}`))
	f.Add([]byte(`{"pod":{"probes":{"70000":null}}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var r Registration
		if read(bytes.NewReader(body), &r) != nil || r.Check() != nil {
			return
		}
		if a := r.Pod.Attachment(); !validName(a) {
			t.Errorf("attachment %q", a)
		}
		b, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		var again Registration
		if err := json.Unmarshal(b, &again); err != nil {
			t.Fatal(err)
		}
		if err := again.Check(); err != nil {
			t.Errorf("sent on, it is refused: %v", err)
		}
	})
}
