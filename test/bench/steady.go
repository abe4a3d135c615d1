package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"time"

	"github.com/mirrord-go/mirrord/internal/cli/progress"
)

const (
	// steadyRate requests a second, of which one in ten is marked, go on for steadyFor.
	steadyRate = 1000
	steadyFor  = 3 * time.Second
	// steadyPort is the port of the first build's sessions; the next has the next.
	steadyPort = 7300
	// steadyAdmin is where the first local process tells its counts; the next has the next. Ports that the system hands out begin above: one of
	// them may be somebody else's by the time that the process listens.
	steadyAdmin = 7400
	// copyPatience is how long after the last answer a copy of a request may come.
	copyPatience = 5 * time.Second
	// maxFiltered is the aim for the 99th percentile of those requests that a filter leaves alone, times that without a session.
	maxFiltered = 1.3

	workloadImage = "cluster.local/bench-workload:bench"
	// laptopName is what the local processes call themselves. The pods' names are those of their loads.
	laptopName = "laptop"
)

// The loads, by the names of their pods.
const (
	plain    = "plain"
	again    = "again" // plain, a second time
	filtered = "filtered"
	mirrored = "mirrored"
)

// steadyLoads are the sessions under a steady load whose name contains only.
func steadyLoads(only string) (names []string) {
	for _, n := range []string{filtered, mirrored} {
		if strings.Contains(steadyName(n), only) {
			names = append(names, n)
		}
	}
	return names
}

// steadyName is what the table calls a load.
func steadyName(load string) string {
	return map[string]string{
		again: "without a session, again", filtered: "load: filtered steal", mirrored: "load: mirror",
	}[load]
}

// steadyWay is one session that is under a steady load.
type steadyWay struct {
	*Steady
	load    string
	url     string
	session *session
	port    int
	admin   string
	copies  int // so far
}

// stream is what "workload load" says.
type stream struct {
	Unmarked, Marked struct {
		Requests, Failed int
		By               map[string]int
		P50, P99         float64 // milliseconds
	}
	Failures []string

	used cpuTime
}

// requests are all of them.
func (r stream) requests() int { return r.Unmarked.Requests + r.Marked.Requests }

// steady sends a steady rate of requests to pods with and without sessions in turns.
func (s *stage) steady(loads []string, rounds int) *Load {
	s.env.LoadImage(s.t, workloadImage, []string{"/workload"}, map[string]string{"/workload": s.workload})
	names := append([]string{plain}, loads...)
	s.env.Apply(s.t, s.ns, steadyPods(names, len(s.builds)))
	ips := map[string]string{}
	for _, n := range names {
		s.env.WaitReady(s.t, s.ns, "pod/"+n)
		ips[n] = s.env.Pod(s.t, s.ns, n).Status.PodIP
	}
	report := &Load{Rate: steadyRate, Seconds: steadyFor.Seconds()}
	url := func(pod string, port int) string { return "http://" + hostPort(ips[pod], port) + "/" }
	ways := []*steadyWay{{Steady: report.steady(steadyName(again)), load: plain, url: url(plain, steadyPort)}}
	for i, b := range s.builds {
		if b.operator {
			continue // the same worker of an agent is in the way
		}
		for _, n := range loads {
			w := &steadyWay{
				Steady: report.steady(b.name + steadyName(n)), load: n, port: steadyPort + i, url: url(n, steadyPort+i),
				admin: fmt.Sprintf("127.0.0.1:%d", steadyAdmin+len(ways)),
			}
			s.startSteady(w, b)
			ways = append(ways, w)
		}
	}
	for round := range rounds {
		s.t.Logf("steady load, round %d of %d", round+1, rounds)
		base := s.stream(url(plain, steadyPort))
		report.add(base)
		for i := range ways {
			w := ways[(i+round)%len(ways)]
			w.take(s, s.stream(w.url))
		}
	}
	for _, w := range ways {
		w.finish(report)
		if w.session != nil {
			w.session.stop()
		}
	}
	return report
}

// steadyPods are pods with ports for so many builds.
func steadyPods(names []string, builds int) string {
	ports := make([]string, builds)
	for i := range ports {
		ports[i] = fmt.Sprintf(":%d", steadyPort+i)
	}
	var all []string
	for _, n := range names {
		all = append(all, fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s, labels: {app: %s}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: app, image: %s, imagePullPolicy: Never, args: [serve, -name, %s, -http, "%s"]}
`, n, n, workloadImage, n, strings.Join(ports, ",")))
	}
	return strings.Join(all, "---")
}

func (s *stage) startSteady(w *steadyWay, b build) {
	incoming := map[string]any{"mode": "mirror", "ports": []int{w.port}}
	if w.load == filtered {
		incoming["mode"], incoming["http_filter"] = "steal", map[string]any{"header_filter": "^x-marked: yes$"}
	}
	w.session = s.exec(b, map[string]any{
		"target":  map[string]any{"path": "pod/" + w.load, "namespace": s.ns},
		"feature": map[string]any{"fs": "local", "network": map[string]any{"incoming": incoming}},
	}, s.workload, "serve", "-name", laptopName, "-http", fmt.Sprintf(":%d", w.port), "-admin", w.admin)
	w.session.await("its port was taken", func(l progress.Line) bool { return l.Event == "port-subscribed" && int(l.Port) == w.port })
}

// stream sends requests. Those that fail are in its result.
func (s *stage) stream(url string) (r stream) {
	cmd := exec.CommandContext(s.t.ctx, s.workload, "load", "-rate", fmt.Sprint(steadyRate), "-for", steadyFor.String(), "-header", "X-Marked: yes", url)
	before := cpuTimes(s.env.Cluster.PID)
	out, err := cmd.Output()
	r.used = cpuTimes(s.env.Cluster.PID).since(before)
	if cmd.ProcessState != nil {
		r.used[loadCPU] += (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds() // it has ended
	}
	if jsonErr := json.Unmarshal(out, &r); jsonErr != nil {
		s.t.Fatalf("the load on %s: %v", url, errors.Join(err, jsonErr))
	}
	return r
}

// take notes what a round gave.
func (w *steadyWay) take(s *stage, r stream) {
	if w.session != nil {
		w.session.stillRuns()
	}
	w.p50, w.p99 = append(w.p50, r.Unmarked.P50), append(w.p99, r.Unmarked.P99)
	w.Requests += r.requests()
	w.cost.add(r)
	marked := w.load
	if w.load == filtered {
		marked = laptopName
	}
	w.Failed += r.Unmarked.Requests - r.Unmarked.By[w.load] + r.Marked.Requests - r.Marked.By[marked]
	for _, f := range r.Failures {
		s.t.Logf("%s: %s", w.Name, f)
	}
	if w.load == mirrored {
		w.awaitCopies(s)
	}
}

// awaitCopies waits for the copies of all requests so far, as long as they may take.
func (w *steadyWay) awaitCopies(s *stage) {
	for deadline := time.Now().Add(copyPatience); ; {
		n, err := received(w.admin)
		if err != nil {
			s.t.Fatalf("%s: asking the local process for what it got: %v", w.Name, err)
		}
		if w.copies = n; n >= w.Requests || time.Now().After(deadline) {
			return
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-s.t.ctx.Done():
			s.t.Fatalf("interrupted")
		}
	}
}

// received asks a local process how many requests it has had.
func received(admin string) (int, error) {
	res, err := http.Get("http://" + admin + "/count") //nolint:noctx // of our own process, on loopback
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	var counts struct{ Requests int }
	return counts.Requests, json.NewDecoder(res.Body).Decode(&counts)
}

// finish says what came of the copies.
func (w *steadyWay) finish(report *Load) {
	if w.load == mirrored {
		w.Mirror = &Copies{Copied: w.copies, Told: w.session.lines.warned(w.port)}
	}
	report.compare(w.Steady)
}

// warned says whether the user has read a warning about a port.
func (l *lines) warned(port int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.text {
		var p progress.Line
		if json.Unmarshal([]byte(line), &p) == nil && p.Event == "notice" && p.Level == "warning" && int(p.Port) == port {
			return true
		}
	}
	return false
}
