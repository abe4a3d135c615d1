package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// profile applies a profile of the test's namespace and returns its reference.
func (s *stage) profile(t *testing.T, name string, changes ...string) string {
	t.Helper()
	s.Apply(t, s.ns, profileManifest("MirrordProfile", name, changes...))
	return s.ns + "/" + name
}

func profileManifest(kind, name string, changes ...string) string {
	list := make([]object, 0, len(changes))
	for _, c := range changes {
		list = append(list, object{"change": c})
	}
	b, _ := json.Marshal(list)
	return "apiVersion: profiles.mirrord.metalbear.co/v1alpha\nkind: " + kind +
		"\nmetadata: {name: \"" + name + "\"}\nspec: {featureAdjustments: " + string(b) + "}\n"
}

// post makes one POST request with a body from the client pod.
func (s *stage) post(t *testing.T, url string, body []byte) answer {
	t.Helper()
	res := s.ExecInput(t, bytes.NewReader(body), s.ns, "client", "client",
		"/bin/workload", "get", "-method", "POST", "-body-file", "/dev/stdin", url)
	var a answer
	if err := json.Unmarshal([]byte(res.Stdout), &a); err != nil {
		t.Fatalf("posting to %s: exit code %d\n%s%s", url, res.Code, res.Stdout, res.Stderr)
	}
	return a
}

// answeredBy fails the test unless the request was answered by name.
func answeredBy(t *testing.T, what, name string, a answer) {
	t.Helper()
	if a.Echo == nil || a.Echo.Name != name {
		t.Errorf("%s: answered by %+v (%s), not by %s", what, a.Echo, a.Error, name)
	}
}

// counts is what a workload has received, by the word of its admin server, which the tests
// ask from this machine.
func counts(t *testing.T, ip string, admin int) (c struct{ Requests, Connections int64 }) {
	t.Helper()
	adminGet(t, url(ip, admin)+"count", &c)
	return c
}

// adminGet reads JSON from a workload's admin server; result may be nil.
func adminGet(t *testing.T, url string, result any) {
	t.Helper()
	res, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if result == nil {
		return
	}
	if err := json.NewDecoder(res.Body).Decode(result); err != nil {
		t.Fatalf("%s: %v", url, err)
	}
}

// TestIncoming shows the three adjustments of incoming traffic with every program: all of
// them listen at the same time, below one shell.
func TestIncoming(t *testing.T) {
	s := newStage(t)
	l, port := newListeners(t), freePort(t)
	s.deploy(t, web(append(l.all(), port))+"---"+client, "pod/web", "pod/client")
	t.Run("steal", func(t *testing.T) { testSteal(t, s, l) })
	t.Run("mirror", func(t *testing.T) { testMirror(t, s, l) })
	t.Run("mirrored bytes", func(t *testing.T) { testMirrorBytes(t, s, port) })
	t.Run("off", func(t *testing.T) { testIncomingOff(t, s, l) })
}

// testSteal: clients in another pod are answered by the local process, which sees their own
// addresses as its peers; afterwards they are answered by the pod again.
func testSteal(t *testing.T, s *stage, l listeners) {
	ip4, ip6 := s.ips(t, "web")
	for _, p := range l.list {
		answeredBy(t, "before", "web", s.ask(t, url(ip4, l.ports[p.name])))
	}
	adminGet(t, url(ip4, 8090)+"reset", nil)
	se := s.start(t, run{
		config:  object{"profile": s.profile(t, "steal", "incoming-steal"), "target": s.webTarget()},
		command: l.command(),
	})
	for _, p := range l.list {
		t.Run(p.name, func(t *testing.T) {
			p.need(t)
			se.subscribed(l.ports[p.name])
			for _, ip := range []string{ip4, ip6} {
				a := s.ask(t, url(ip, l.ports[p.name]))
				answeredBy(t, ip, p.name, a)
				if a.Echo != nil && !sameAddr(a.Echo.Peer, a.Local) {
					t.Errorf("the local process saw %s as its peer, the client is %s", a.Echo.Peer, a.Local)
				}
			}
			body := bytes.Repeat([]byte("stolen "), 10_000)
			a := s.post(t, url(ip4, l.ports[p.name]), body)
			answeredBy(t, "with a body", p.name, a)
			if sum := sha256.Sum256(body); a.Echo != nil && a.Echo.SHA256 != hex.EncodeToString(sum[:]) {
				t.Errorf("the local process received other bytes")
			}
			s.keptAlive(t, url(ip6, l.ports[p.name]), p.name)
		})
	}
	if c := counts(t, ip4, 8090); c.Requests != 0 || c.Connections != 0 {
		t.Errorf("the pod received %+v during the session", c)
	}
	se.stop()
	for _, p := range l.list {
		answeredBy(t, "afterwards", "web", s.ask(t, url(ip4, l.ports[p.name])))
		answeredBy(t, "afterwards", "web", s.ask(t, url(ip6, l.ports[p.name])))
	}
}

// keptAlive makes several requests on one connection.
func (s *stage) keptAlive(t *testing.T, url, name string) {
	t.Helper()
	res := s.Exec(t, s.ns, "client", "client", "/bin/workload", "get", "-keepalive", "-n", "5", url)
	lines := strings.Split(strings.TrimSpace(res.Stdout), "\n")
	for i, line := range lines {
		var a answer
		if err := json.Unmarshal([]byte(line), &a); err != nil {
			t.Fatalf("%v: %s%s", err, res.Stdout, res.Stderr)
		}
		answeredBy(t, fmt.Sprintf("request %d of a connection", i+1), name, a)
		if a.Reused != (i > 0) {
			t.Errorf("request %d: the connection was used before: %v", i+1, a.Reused)
		}
	}
	if len(lines) != 5 {
		t.Errorf("%d answers of 5", len(lines))
	}
}

// testMirror: the pod answers every request, and the local process receives the same bytes.
func testMirror(t *testing.T, s *stage, l listeners) {
	ip4, ip6 := s.ips(t, "web")
	se := s.start(t, run{
		config:  object{"profile": s.profile(t, "mirror", "incoming-mirror"), "target": s.webTarget()},
		command: l.command(),
	})
	big := make([]byte, 5<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(big)
	for _, p := range l.list {
		t.Run(p.name, func(t *testing.T) {
			p.need(t)
			se.subscribed(l.ports[p.name])
			var asked []answer
			for _, ip := range []string{ip4, ip6} {
				asked = append(asked, s.ask(t, url(ip, l.ports[p.name])))
			}
			asked = append(asked, s.post(t, url(ip4, l.ports[p.name]), big))
			for _, a := range asked {
				answeredBy(t, "mirrored", "web", a)
			}
			s.keptAlive(t, url(ip6, l.ports[p.name]), "web")
			eventually(t, func() error { return mirrored(se, p.name, asked, 5) })
		})
	}
	se.stop()
	answeredBy(t, "afterwards", "web", s.ask(t, url(ip4, l.ports[l.list[0].name])))
}

// mirrored checks that a program saw each of the requests with its client's address and the
// bytes that the pod saw, and others more.
func mirrored(se *session, name string, asked []answer, others int) error {
	seen := map[string]request{}
	n := 0
	for _, r := range se.requests() {
		if r.Name == name {
			seen[plain(r.Peer).String()] = r
			n++
		}
	}
	for _, a := range asked {
		r, ok := seen[plain(a.Local).String()]
		switch {
		case a.Echo == nil:
			return fmt.Errorf("no answer to compare with: %+v", a)
		case !ok:
			return fmt.Errorf("the local process has not received the request of %s", a.Local)
		case r.SHA256 != a.Echo.SHA256:
			return fmt.Errorf("the local process received %d other bytes than the pod: %s, not %s", r.Size, r.SHA256, a.Echo.SHA256)
		}
	}
	if want := len(asked) + others; n != want {
		return fmt.Errorf("the local process has received %d requests of %d", n, want)
	}
	return nil
}

// testMirrorBytes compares all that a mirrored connection carried, heads of requests and all,
// connection by connection.
func testMirrorBytes(t *testing.T, s *stage, port uint16) {
	admin := freePort(t)
	ip4, ip6 := s.ips(t, "web")
	se := s.start(t, run{
		config:  object{"profile": s.profile(t, "bytes", "incoming-mirror"), "target": s.webTarget()},
		command: []string{built.workload, "serve", "-name", "laptop", "-http", fmt.Sprintf(":%d", port), "-admin", fmt.Sprintf("127.0.0.1:%d", admin)},
	})
	se.subscribed(port)
	for _, ip := range []string{ip4, ip6} {
		s.keptAlive(t, url(ip, port), "web")
		answeredBy(t, "with a body", "web", s.post(t, url(ip, port), bytes.Repeat([]byte(ip), 50_000)))
	}
	type stream struct {
		Peer, Local, SHA256 string
		Size                int64
	}
	streams := func(ip string, admin uint16) map[string]stream {
		var all []stream
		adminGet(t, url(ip, admin)+"raw", &all)
		by := map[string]stream{}
		for _, x := range all {
			if plain(x.Local).Port() == port {
				by[plain(x.Peer).String()] = stream{SHA256: x.SHA256, Size: x.Size}
			}
		}
		return by
	}
	want := streams(ip4, 8090)
	if len(want) != 4 {
		t.Errorf("the pod has had the connections %v, want 4", want)
	}
	eventually(t, func() error {
		if diff := cmp.Diff(want, streams("127.0.0.1", admin)); diff != "" {
			return fmt.Errorf("connections by peer at the pod and the local process (-pod +local):\n%s", diff)
		}
		return nil
	})
}

// testIncomingOff: the local process listens on the target's ports and gets nothing, and the
// pod's connections stay as they are.
func testIncomingOff(t *testing.T, s *stage, l listeners) {
	ip4, ip6 := s.ips(t, "web")
	s.deploy(t, holder("holder", url(ip4, l.ports[l.list[0].name])), "pod/holder")
	s.held(t, "holder", "web", 1)
	se := s.start(t, run{
		config:  object{"profile": s.profile(t, "off", "incoming-off"), "target": s.webTarget()},
		command: l.command(),
	})
	for _, p := range l.list {
		t.Run(p.name, func(t *testing.T) {
			p.need(t)
			se.printed("listening " + p.name + " ")
			answeredBy(t, "IPv4", "web", s.ask(t, url(ip4, l.ports[p.name])))
			answeredBy(t, "IPv6", "web", s.ask(t, url(ip6, l.ports[p.name])))
		})
	}
	s.held(t, "holder", "web", 5)
	se.stop()
	if got := se.requests(); len(got) > 0 {
		t.Errorf("the local process received %+v", got)
	}
	for i, a := range s.held(t, "holder", "web", 5) {
		if a.Error != "" || a.Echo == nil || a.Echo.Name != "web" || a.Reused != (i > 0) {
			t.Fatalf("request %d of a connection that was open before: %+v", i+1, a)
		}
	}
}
