package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// backWithin is how soon the target serves again, whatever has died. It is the promise that
// users are given.
const backWithin = time.Second

// watcher asks the pod without pause, each time on a new connection, and remembers who
// answered when. It runs on the machine, which reaches pods directly.
type watcher struct {
	mu      sync.Mutex
	answers []sighting
	stop    chan struct{}
	stopped chan struct{}
}

// sighting is the outcome of one request.
type sighting struct {
	at   time.Time
	name string // of who answered; empty when the request failed
	err  error
}

// watch asks the URL. A request that takes longer than limit has failed.
func watch(t *testing.T, url string, limit time.Duration) *watcher {
	w := &watcher{stop: make(chan struct{}), stopped: make(chan struct{})}
	c := &http.Client{Timeout: limit, Transport: &http.Transport{DisableKeepAlives: true}}
	go func() {
		defer close(w.stopped)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			name, err := whoAnswers(c, url)
			w.mu.Lock()
			w.answers = append(w.answers, sighting{time.Now(), name, err})
			w.mu.Unlock()
			select {
			case <-tick.C:
			case <-w.stop:
				return
			}
		}
	}()
	t.Cleanup(w.end)
	return w
}

func (w *watcher) end() {
	select {
	case <-w.stop:
	default:
		close(w.stop)
	}
	<-w.stopped
}

func whoAnswers(c *http.Client, url string) (string, error) {
	res, err := c.Get(url)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	var e struct{ Name string }
	if err := json.NewDecoder(res.Body).Decode(&e); err != nil {
		return "", err
	}
	return e.Name, nil
}

// steadyAgain waits until name has answered ten times in a row after from, and says how long
// after from the first of them was.
func (w *watcher) steadyAgain(t *testing.T, from time.Time, name string) time.Duration {
	t.Helper()
	var took time.Duration
	eventually(t, func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		row := 0
		for i := len(w.answers) - 1; i >= 0 && w.answers[i].at.After(from); i-- {
			if w.answers[i].name != name {
				break
			}
			row++
			took = w.answers[i].at.Sub(from)
		}
		if row < 10 {
			return fmt.Errorf("%s answered %d times in a row since %v; at the end: %+v", name, row, from, w.answers[max(0, len(w.answers)-1):])
		}
		return nil
	})
	return took
}

// allowed is how long the target may take to serve again: what is promised, and as many times longer as the machine takes
// longer for the requests before than an idle one.
func (w *watcher) allowed(from time.Time) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	const count, idle = 20, 25 * time.Millisecond
	before := slices.IndexFunc(w.answers, func(s sighting) bool { return s.at.After(from) })
	if before < count {
		return backWithin
	}
	pace := w.answers[before-1].at.Sub(w.answers[before-count].at) / (count - 1)
	return max(backWithin, time.Duration(float64(backWithin)*pace.Seconds()/idle.Seconds()))
}

// quick is the limit of requests with which a watcher sees from when on somebody answers.
const quick = 300 * time.Millisecond

// deletedPod is the part that does not end at the moment when it is told to.
const deletedPod = "the agent's pod"

// part is something of a session that can die.
type part struct {
	name string
	kill func(t *testing.T, se *session)
	// inTime and late are the times that the target served again within what is promised, and that it did not.
	inTime, late int
}

// alwaysLate tells whether the target was late whenever the part died. A machine that stalls for a moment makes it late
// once; a part that nobody misses in time makes it late each time.
func (p *part) alwaysLate() bool { return p.late > 0 && p.inTime == 0 }

// muchLate is as many times what is promised as no single time may take.
const muchLate = 20

// moreRounds are how many more a part gets that was always late.
const moreRounds = 5

// last is when name answered last.
func (w *watcher) last(name string) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range slices.Backward(w.answers) {
		if a.name == name {
			return a.at
		}
	}
	return time.Time{}
}

// TestKilledAtAnyMoment ends each part of a session without warning at a random moment: the
// pod serves again within a second, and nothing of the session stays. Each time it serves again
// soon; that it is within a second is judged by all times that the part died.
func TestKilledAtAnyMoment(t *testing.T) {
	s := newStage(t)
	s.deploy(t, shop, "deployment/shop")
	pod, ip := s.shopPod(t)
	url := "http://" + net.JoinHostPort(ip, "8080") + "/"
	rounds := 20
	if testing.Short() {
		rounds = 5
	}
	parts := []*part{
		{name: "the CLI", kill: func(t *testing.T, se *session) { must(t, se.cmd.Process.Kill()) }},
		{name: "the CLI, by SIGTERM", kill: func(t *testing.T, se *session) { must(t, se.cmd.Process.Signal(syscall.SIGTERM)) }},
		{name: "the CLI, by Ctrl-C", kill: func(t *testing.T, se *session) { must(t, syscall.Kill(-se.cmd.Process.Pid, syscall.SIGINT)) }},
		{name: "the agent's worker", kill: func(t *testing.T, se *session) { s.killAgent(t, true) }},
		{name: "the agent's first process", kill: func(t *testing.T, se *session) { s.killAgent(t, false) }},
		{name: deletedPod, kill: func(t *testing.T, se *session) { s.deleteAgentPod(t) }},
		{name: "the local process", kill: func(t *testing.T, se *session) { must(t, syscall.Kill(se.started().PID, syscall.SIGKILL)) }},
	}
	w := watch(t, url, quick)
	restarts := s.restarts(t)
	for i := range rounds {
		p := parts[i%len(parts)]
		t.Run(fmt.Sprintf("%02d %s", i+1, p.name), func(t *testing.T) { s.dies(t, p, w, url, pod) })
	}
	for _, p := range parts {
		for n := 0; n < moreRounds && p.alwaysLate(); n++ {
			t.Run("again "+p.name, func(t *testing.T) { s.dies(t, p, w, url, pod) })
		}
		if p.alwaysLate() {
			t.Errorf("%s died %d times, and each time the pod served again too late", p.name, p.late)
		}
	}
	if now := s.restarts(t); now != restarts {
		t.Errorf("the target's container was restarted %d times", now-restarts)
	}
}

// dies is a session of which a part dies.
func (s *stage) dies(t *testing.T, p *part, w *watcher, url, pod string) {
	se := s.start(t, run{
		config: object{
			"feature": object{"network": object{"incoming": "steal"}},
			"agent":   object{"communication_timeout": 2},
		},
		command: []string{built.workload, "serve", "-http", ":8080", "-name", "laptop"},
	})
	se.subscribed(8080)
	local := se.started().PID
	eventually(t, func() error {
		name, err := whoAnswers(http.DefaultClient, url)
		if err == nil && name != "laptop" {
			err = fmt.Errorf("answered by %q", name)
		}
		return err
	})
	time.Sleep(rand.N(300 * time.Millisecond)) // the moment is random: that is the test
	killed := time.Now()
	p.kill(t, se)
	took := w.steadyAgain(t, killed, pod)
	if p.name == deletedPod {
		// The kubelet ends a deleted pod some time after it was asked to, and until
		// then the session serves.
		if last := w.last("laptop"); last.After(killed) {
			took -= last.Sub(killed)
		}
	}
	most := w.allowed(killed)
	t.Logf("the pod served again after %v, promised are %v", took.Round(time.Millisecond), most.Round(time.Millisecond))
	switch {
	case took > muchLate*most:
		t.Errorf("the pod served again after %v, want %v", took, most)
	case took > most:
		p.late++
	default:
		p.inTime++
	}
	se.wait()
	eventually(t, func() error {
		if alive(local) {
			return fmt.Errorf("the local process (%d) still runs", local)
		}
		return nil
	})
	s.nothingRemains(t)
}

// alive says whether a process is there and has not ended: a zombie has.
func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	return !strings.HasPrefix(rest, "Z") && !strings.HasPrefix(rest, "X")
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (s *stage) restarts(t *testing.T) int32 {
	t.Helper()
	name, _ := s.shopPod(t)
	return s.Pod(t, s.ns, name).Status.ContainerStatuses[0].RestartCount
}

const agentLabel = "app.kubernetes.io/name=mirrord-agent"

func (s *stage) agentPods(t *testing.T) []corev1.Pod {
	t.Helper()
	pods, err := s.Client.CoreV1().Pods(s.ns).List(t.Context(), metav1.ListOptions{LabelSelector: agentLabel})
	must(t, err)
	return pods.Items
}

func (s *stage) agentPod(t *testing.T) corev1.Pod {
	t.Helper()
	for _, p := range s.agentPods(t) {
		if p.DeletionTimestamp == nil && p.Status.Phase == corev1.PodRunning {
			return p
		}
	}
	t.Fatal("there is no agent")
	return corev1.Pod{}
}

func (s *stage) deleteAgentPod(t *testing.T) {
	t.Helper()
	p := s.agentPod(t)
	must(t, s.Client.CoreV1().Pods(s.ns).Delete(t.Context(), p.Name, metav1.DeleteOptions{GracePeriodSeconds: ptr.To(int64(0))}))
}

// killAgent kills the first process of the agent's container, or its worker.
func (s *stage) killAgent(t *testing.T, worker bool) {
	t.Helper()
	pids := processesOf(t, string(s.agentPod(t).UID))
	for pid, args := range pids {
		if strings.Contains(args, "worker") == worker && strings.Contains(args, "mirrord-agent") {
			must(t, syscall.Kill(pid, syscall.SIGKILL))
			return
		}
	}
	t.Fatalf("no such process of the agent: %v", pids)
}

// processesOf lists a pod's processes by their control group, with their arguments.
func processesOf(t *testing.T, podUID string) map[int]string {
	t.Helper()
	found := map[int]string{}
	groups, err := filepath.Glob("/proc/[0-9]*/cgroup")
	must(t, err)
	for _, g := range groups {
		b, err := os.ReadFile(g)
		if err != nil || !(bytes.Contains(b, []byte(podUID)) || bytes.Contains(b, []byte(strings.ReplaceAll(podUID, "-", "_")))) {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(g)))
		args, _ := os.ReadFile(filepath.Join(filepath.Dir(g), "cmdline"))
		found[pid] = string(bytes.ReplaceAll(args, []byte{0}, []byte{' '}))
	}
	return found
}

// nothingRemains waits until the session's objects are gone, and checks that the pod's
// network holds no rule and no process of it.
func (s *stage) nothingRemains(t *testing.T) {
	t.Helper()
	eventually(t, func() error {
		jobs, err := s.Client.BatchV1().Jobs(s.ns).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		if n := len(jobs.Items); n > 0 {
			return fmt.Errorf("%d jobs remain", n)
		}
		if pods := s.agentPods(t); len(pods) > 0 {
			return fmt.Errorf("%d pods of agents remain", len(pods))
		}
		return nil
	})
	name, _ := s.shopPod(t)
	for pid, args := range processesOf(t, string(s.Pod(t, s.ns, name).UID)) {
		if strings.Contains(args, "mirrord") {
			t.Errorf("process %d remains in the target: %s", pid, args)
		}
	}
	if rules := s.inPodNetwork(t, "nft", "list", "ruleset"); strings.TrimSpace(rules) != "" {
		t.Errorf("rules remain in the pod's network:\n%s", rules)
	}
	if links := s.inPodNetwork(t, "ip", "-o", "link"); strings.Count(links, "\n") != 2 {
		t.Errorf("the pod's network has other links than lo and eth0:\n%s", links)
	}
	if socks := s.inPodNetwork(t, "ss", "-tlnH"); strings.Contains(socks, "127.0.0.") || strings.Contains(socks, "[::1]") {
		t.Errorf("a listener remains in the pod's network:\n%s", socks)
	}
}

// inPodNetwork runs a program of this machine in the shop's network namespace.
func (s *stage) inPodNetwork(t *testing.T, args ...string) string {
	t.Helper()
	name, _ := s.shopPod(t)
	for pid, cmd := range processesOf(t, string(s.Pod(t, s.ns, name).UID)) {
		if strings.Contains(cmd, "workload") {
			out, err := exec.Command("nsenter", append([]string{"-t", strconv.Itoa(pid), "-n"}, args...)...).CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %v\n%s", args, err, out)
			}
			return string(out)
		}
	}
	t.Fatal("the shop has no process")
	return ""
}

// TestExitCodesAndSignals: what ends the local process is what its user's shell sees, and it has the timer slack that it would have without a session.
func TestExitCodesAndSignals(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	slack, err := os.ReadFile("/proc/self/timerslack_ns")
	must(t, err)
	s.deploy(t, shop, "deployment/shop")
	for _, c := range []struct {
		name    string
		command []string
		signal  syscall.Signal
		want    int
	}{
		{"success", []string{"true"}, 0, 0},
		{"its own code", []string{"sh", "-c", "exit 7"}, 0, 7},
		{"killed", []string{"sh", "-c", "kill -9 $$"}, 0, 128 + 9},
		{"a signal is passed on", []string{"sh", "-c", "trap 'exit 9' TERM; echo ready; while :; do sleep 0.1; done"}, syscall.SIGTERM, 9},
		{"a signal that ends it", []string{"sh", "-c", "echo ready; exec sleep 3000"}, syscall.SIGTERM, 128 + 15},
		{"its timer slack", []string{"sh", "-c", `[ "$(cat /proc/self/timerslack_ns)" = "$0" ]`, strings.TrimSpace(string(slack))}, 0, 0},
		{"not found", []string{"no-such-program-here"}, 0, 127},
		{"not executable", []string{"/etc/hosts"}, 0, 126},
	} {
		t.Run(c.name, func(t *testing.T) {
			se := s.start(t, run{config: object{"feature": object{"network": object{"incoming": "off"}}}, command: c.command})
			if c.signal != 0 {
				eventually(t, func() error {
					if !strings.Contains(se.out.String(), "ready") {
						return errors.New("the local process is not ready")
					}
					return nil
				})
				must(t, se.cmd.Process.Signal(c.signal))
			}
			if got := se.wait(); got != c.want {
				t.Errorf("exit code %d, want %d", got, c.want)
			}
		})
	}
}
