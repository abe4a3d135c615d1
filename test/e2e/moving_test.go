package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mirrord-go/mirrord/test/clustertest"
)

// holder is a pod that makes a request to url ten times a second on a connection that it
// keeps open.
func holder(name, url string) string {
	return `
apiVersion: v1
kind: Pod
metadata: {name: ` + name + `}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: holder, image: ` + clustertest.WorkloadImage + `, imagePullPolicy: Never, args: [hold, -timeout, 60s, "` + url + `"]}
`
}

// heldAnswer is what a holder saw of a request.
type heldAnswer struct {
	answer
	Millis int64 `json:"millis"`
}

// held waits until the holder has had n more answers from name, and returns all its answers.
func (s *stage) held(t *testing.T, holder, name string, n int) (all []heldAnswer) {
	t.Helper()
	before := -1
	eventually(t, func() error {
		all = all[:0]
		got := 0
		for line := range strings.Lines(s.Logs(t, s.ns, holder, "")) {
			var a heldAnswer
			if !strings.HasSuffix(line, "\n") || json.Unmarshal([]byte(line), &a) != nil {
				continue
			}
			all = append(all, a)
			if a.Echo != nil && a.Echo.Name == name {
				got++
			}
		}
		if before < 0 {
			before = got
		}
		if got < before+n {
			return fmt.Errorf("%s was not answered by %s: %d answers, the last %+v", holder, name, len(all), last(all))
		}
		return nil
	})
	return all
}

func last(all []heldAnswer) any {
	if len(all) == 0 {
		return nil
	}
	return all[len(all)-1]
}

// TestStealComesAndGoes: connections and ports move between the pod and the local process.
func TestStealComesAndGoes(t *testing.T) {
	s := newStage(t)
	ports := []uint16{freePort(t), freePort(t), freePort(t), freePort(t)}
	s.deploy(t, web(ports)+"---"+client, "pod/web", "pod/client")
	ref := s.profile(t, "steal", "incoming-steal")
	t.Run("open connections", func(t *testing.T) { testMoves(t, s, ref, ports[0]) })
	t.Run("mapped ports", func(t *testing.T) { testPortMapping(t, s, ref, ports[1], ports[2]) })
	t.Run("given back", func(t *testing.T) { testGivesBack(t, s, ref, ports[3]) })
}

// testMoves: clients that keep a connection open reach the local process at once, with no
// error, and the pod again when the session ends.
func testMoves(t *testing.T, s *stage, ref string, port uint16) {
	ip4, ip6 := s.ips(t, "web")
	s.deploy(t, holder("holder4", url(ip4, port))+"---"+holder("holder6", url(ip6, port)), "pod/holder4", "pod/holder6")
	for _, h := range []string{"holder4", "holder6"} {
		s.held(t, h, "web", 3)
	}
	p := programs(t)[0]
	p.need(t)
	se := s.start(t, run{
		config:  object{"profile": ref, "target": s.webTarget()},
		command: p.command(fmt.Sprintf("listen %d laptop", port)),
	})
	se.subscribed(port)
	for _, h := range []string{"holder4", "holder6"} {
		s.held(t, h, "laptop", 5)
	}
	se.stop()
	for _, h := range []string{"holder4", "holder6"} {
		checkMoves(t, h, s.held(t, h, "web", 5))
	}
}

// checkMoves checks that the answers came from web, then laptop, then web, with hardly an
// error, and each in time.
func checkMoves(t *testing.T, holder string, all []heldAnswer) {
	t.Helper()
	var moves []string
	errors, pause := 0, time.Duration(0)
	for i, a := range all {
		if a.Echo == nil {
			errors++
			t.Logf("%s: request %d: %+v", holder, i+1, a)
			continue
		}
		name := a.Echo.Name
		if i > 0 {
			pause = max(pause, time.Duration(a.Millis-all[i-1].Millis)*time.Millisecond)
		}
		if len(moves) == 0 || moves[len(moves)-1] != name {
			moves = append(moves, name)
		}
	}
	if got := strings.Join(moves, ", "); got != "web, laptop, web" {
		t.Errorf("%s was answered by %s", holder, got)
	}
	// One request may have been on its way to the process when that ended.
	if errors > 1 {
		t.Errorf("%s: %d of %d requests failed", holder, errors, len(all))
	}
	t.Logf("%s: %d requests, %d failed, longest pause %v", holder, len(all), errors, pause)
	// A request that nobody answers fails after a minute.
	if pause > 50*time.Second {
		t.Errorf("%s waited %v for an answer", holder, pause)
	}
}

// testPortMapping: a local port stands for another one of the target.
func testPortMapping(t *testing.T, s *stage, ref string, remote, local uint16) {
	ip4, _ := s.ips(t, "web")
	p := programs(t)[0]
	p.need(t)
	se := s.start(t, run{
		config: object{
			"profile": ref, "target": s.webTarget(),
			"feature": object{"network": object{"incoming": object{"port_mapping": [][]uint16{{local, remote}}}}},
		},
		command: p.command(fmt.Sprintf("listen %d laptop", local)),
	})
	se.subscribed(remote)
	answeredBy(t, "the mapped port", "laptop", s.ask(t, url(ip4, remote)))
	answeredBy(t, "the local port's namesake", "web", s.ask(t, url(ip4, local)))
	se.stop()
	answeredBy(t, "afterwards", "web", s.ask(t, url(ip4, remote)))
}

// testGivesBack: when the local process stops listening, the pod answers again, and
// when it listens again, it answers.
func testGivesBack(t *testing.T, s *stage, ref string, port uint16) {
	ip4, ip6 := s.ips(t, "web")
	list := programs(t)
	var script strings.Builder
	for _, p := range list {
		if p.has("listen") && p.name != "shell-tree" { // the shell would leave its child behind
			fmt.Fprintf(&script, "%s & server=$!\nread go; kill $server; wait $server\necho ended %s; read go\n",
				quote(p.command(fmt.Sprintf("listen %d %s", port, p.name))), p.name)
		}
	}
	se := s.start(t, run{
		config:  object{"profile": ref, "target": s.webTarget()},
		command: []string{"bash", "-c", script.String()},
		stdin:   true,
	})
	for _, p := range list {
		if !p.has("listen") || p.name == "shell-tree" {
			continue
		}
		t.Run(p.name, func(t *testing.T) {
			se.printed("listening " + p.name + " ")
			eventually(t, func() error {
				if a := s.ask(t, url(ip4, port)); a.Echo == nil || a.Echo.Name != p.name {
					return fmt.Errorf("while it listens: %+v", a)
				}
				return nil
			})
			next(t, se)
			se.printed("ended " + p.name + "\n")
			// Also the first client after it has its answer, with no error.
			answeredBy(t, "while nobody listens", "web", s.ask(t, url(ip6, port)))
			answeredBy(t, "while nobody listens", "web", s.ask(t, url(ip4, port)))
			next(t, se)
		})
	}
	if code := se.wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// next lets the local process go on.
func next(t *testing.T, se *session) {
	t.Helper()
	if _, err := se.stdin.Write([]byte("go\n")); err != nil {
		t.Fatal(err)
	}
}

// probed is a pod whose two servers the kubelet probes, by HTTP and by gRPC.
func probed(http, grpc uint16) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: http
    image: %[1]s
    imagePullPolicy: Never
    args: [serve, -admin, ":8090", -http, ":%[2]d"]
    ports: [{name: http, containerPort: %[2]d}]
    readinessProbe: {httpGet: {path: /ready, port: http}, periodSeconds: 1, timeoutSeconds: 60, failureThreshold: 1}
    livenessProbe: {httpGet: {path: /live, port: %[2]d}, periodSeconds: 1, timeoutSeconds: 60, failureThreshold: 2}
  - name: grpc
    image: %[1]s
    imagePullPolicy: Never
    args: [serve, -admin, ":8091", -http, "", -grpc, ":%[3]d"]
    readinessProbe: {tcpSocket: {port: 8091}, periodSeconds: 1, timeoutSeconds: 60}
    livenessProbe: {grpc: {port: %[3]d}, periodSeconds: 1, timeoutSeconds: 60, failureThreshold: 2}
`, clustertest.WorkloadImage, http, grpc)
}

// TestStealLeavesProbes: the kubelet's probes keep reaching the pod, which is not restarted,
// and the local process sees none of them, unless it is to answer them.
func TestStealLeavesProbes(t *testing.T) {
	s := newStage(t)
	http, grpc := freePort(t), freePort(t)
	s.deploy(t, probed(http, grpc)+"---"+client, "pod/web", "pod/client")
	ip4, _ := s.ips(t, "web")
	var p program
	for _, p = range programs(t) {
		if p.name == "python" {
			break
		}
	}
	p.need(t)
	se := s.start(t, run{
		config: object{"profile": s.profile(t, "steal", "incoming-steal"), "target": s.webTarget()},
		command: []string{"sh", "-c", quote(p.command(fmt.Sprintf("listen %d http", http))) + " & " +
			quote(p.command(fmt.Sprintf("listen %d grpc", grpc))) + " & wait"},
	})
	se.subscribed(http)
	se.subscribed(grpc)
	count := func(admin int) int64 { return counts(t, ip4, admin).Connections }
	http0, grpc0 := count(8090), count(8091)
	// Two failures in a row, a second apart, would end a container.
	eventually(t, func() error {
		if a, b := count(8090)-http0, count(8091)-grpc0; a < 12 || b < 6 {
			return fmt.Errorf("the pod got %d probes by HTTP and %d by gRPC during the session", a, b)
		}
		return nil
	})
	answeredBy(t, "a client", "http", s.ask(t, url(ip4, http)))
	answeredBy(t, "a client of the gRPC port", "grpc", s.ask(t, url(ip4, grpc)))
	requests := se.requests()
	se.stop()
	for _, r := range requests {
		if strings.HasPrefix(r.Agent, "kube-probe/") {
			t.Errorf("the local process was probed: %+v", r)
		}
	}
	if len(requests) != 2 {
		t.Errorf("the local process received %d requests, want the test's two: %+v", len(requests), requests)
	}
	pod := s.Pod(t, s.ns, "web")
	for _, c := range pod.Status.ContainerStatuses {
		if c.RestartCount != 0 || !c.Ready {
			t.Errorf("container %s: %d restarts, ready %v", c.Name, c.RestartCount, c.Ready)
		}
	}
	se = s.start(t, run{
		config:  s.incoming(object{"mode": "steal", "probes": "local"}),
		command: p.command(fmt.Sprintf("listen %d http", http)),
	})
	se.subscribed(http)
	eventually(t, func() error {
		for _, path := range []string{"/ready", "/live"} {
			if !slices.ContainsFunc(se.requests(), func(r request) bool { return r.Path == path && strings.HasPrefix(r.Agent, "kube-probe/") }) {
				return fmt.Errorf("the local process was not asked for %s: %+v", path, se.requests())
			}
		}
		return nil
	})
	se.stop()
}
