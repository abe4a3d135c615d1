package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	sessions "github.com/mirrord-go/mirrord/api/sessions/v1alpha"
	"github.com/mirrord-go/mirrord/internal/kube"
	"github.com/mirrord-go/mirrord/test/clustertest"
	"github.com/mirrord-go/mirrord/test/sessionload"
)

// nextImage is an operator of another version.
const nextImage = "test.mirrord.local/mirrord-operator:e2e-next"

// crowdStage is many sessions of one user on one target.
type crowdStage struct {
	*stage
	i    *installation
	user string // the user's kubeconfig
	load sessionload.Options
	all  *sessionload.Crowd
}

// newCrowdStage installs an operator of so many replicas. Each session sends a line every so often.
func newCrowdStage(t *testing.T, replicas int, every time.Duration) *crowdStage {
	t.Helper()
	i := withoutOperator(t)
	s := &crowdStage{stage: &stage{Env: i.env, ns: i.env.Namespace(t)}, i: i}
	s.deploy(t, shop+"---"+db, "deployment/shop", "pod/db")
	group := []string{sessions.GroupName}
	s.user = s.User(t, "alice-"+s.ns, clustertest.Grant{Namespace: s.ns, Rules: []rbacv1.PolicyRule{
		{APIGroups: group, Resources: []string{"targets"}, Verbs: []string{"get", "list"}},
		{APIGroups: group, Resources: []string{"sessions"}, Verbs: []string{"create", "get", "list", "watch", "delete"}},
		{APIGroups: group, Resources: []string{"sessions/connect"}, Verbs: []string{"get", "create"}},
	}})
	i.mustInstall("--replicas", fmt.Sprint(replicas), "--max-sessions-per-user", "0")
	ip, err := netip.ParseAddr(s.Pod(t, s.ns, "db").Status.PodIP)
	must(t, err)
	// A target without probes: on a busy machine, the kubelet would start one with them again.
	s.load = sessionload.Options{
		Namespace: s.ns, Target: "pod/db", Mirror: 8080, Echo: netip.AddrPortFrom(ip, 9000), Every: every,
	}
	// The first brings the agent.
	s.begins(t)
	return s
}

// assemble starts n sessions.
func (s *crowdStage) assemble(t *testing.T, n int) {
	t.Helper()
	began := time.Now()
	var err error
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	s.all, err = sessionload.Assemble(ctx, s.user, n, s.load)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := s.all.Close(ctx); err != nil {
			t.Errorf("ending the sessions: %v", err)
		}
	})
	t.Logf("%d sessions started in %v, the slowest took %v", n, time.Since(began).Round(time.Millisecond), s.all.Longest().Round(time.Millisecond))
}

// begins starts and ends one more session, as soon as that works, and returns how long it took
// from now on.
func (s *crowdStage) begins(t *testing.T) time.Duration {
	t.Helper()
	cluster, err := kube.Connect(kube.Options{Kubeconfig: s.user})
	must(t, err)
	defer cluster.Close()
	o := s.load
	o.Cluster = cluster
	began := time.Now()
	var took time.Duration
	eventually(t, func() error {
		c, err := sessionload.Start(t.Context(), o)
		if err != nil {
			return err
		}
		took = time.Since(began)
		return c.Close(t.Context())
	})
	return took
}

// goOn waits until a line has come back for every session, and checks that none was lost.
func (s *crowdStage) goOn(t *testing.T, after string) {
	t.Helper()
	var sum sessionload.State
	began := time.Now()
	waiting := map[*sessionload.Client]bool{}
	for _, c := range s.all.Clients {
		waiting[c] = true
	}
	eventually(t, func() error {
		for c := range waiting {
			got := c.Take()
			sum.Lines += got.Lines
			sum.Pauses += got.Pauses
			sum.Longest = max(sum.Longest, got.Longest)
			if got.Lines > 0 {
				delete(waiting, c)
			}
		}
		if n := len(waiting); n > 0 {
			return fmt.Errorf("%d sessions are silent", n)
		}
		return nil
	})
	if lost := s.all.Lost(); len(lost) > 0 {
		t.Fatalf("%s: %d sessions are lost, the first: %v", after, len(lost), lost[0])
	}
	t.Logf("%s: every session goes on after %v; %d carriers broke, the slowest answer took %v", after,
		time.Since(began).Round(time.Millisecond), sum.Pauses, sum.Longest.Round(time.Millisecond))
}

// metric sums a metric over all replicas. The labels are as in the text format, such as
// {mode="steal"}.
func (s *crowdStage) metric(t *testing.T, name string) (sum float64, err error) {
	t.Helper()
	for _, pod := range s.Pods(t, "mirrord", "app.kubernetes.io/name=mirrord-operator") {
		port := int32(0)
		for _, p := range pod.Spec.Containers[0].Ports {
			if p.Name == "metrics" {
				port = p.ContainerPort
			}
		}
		resp, err := http.Get(url(pod.Status.PodIP, int(port)) + "metrics")
		if err != nil {
			return 0, err
		}
		text, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil {
			return 0, err
		}
		for line := range strings.Lines(string(text)) {
			if value, ok := strings.CutPrefix(strings.TrimSpace(line), name+" "); ok {
				v, err := strconv.ParseFloat(value, 64)
				must(t, err)
				sum += v
			}
		}
	}
	return sum, nil
}

// killReplica takes one away without a word.
func (s *crowdStage) killReplica(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	must(t, s.Client.CoreV1().Pods("mirrord").Delete(t.Context(), pod.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))}))
}

// TestReplicasUnderSessions: sessions do not notice more than a pause when replicas of the
// operator are killed, or replaced by those of another version.
func TestReplicasUnderSessions(t *testing.T) {
	s := newCrowdStage(t, 3, 250*time.Millisecond)
	const n = 100
	s.assemble(t, n)
	cli := s.start(t, run{
		config: object{
			"operator": true, "target": object{"path": "pod/db", "namespace": s.ns},
			"feature": object{"network": object{"incoming": "steal"}},
		},
		kubeconfig: s.user, command: []string{built.workload, "serve", "-http", ":8080", "-name", "laptop"},
	})
	cli.subscribed(8080)
	s.goOn(t, "at first")

	t.Run("metrics", func(t *testing.T) {
		eventually(t, func() error {
			for name, want := range map[string]float64{
				`mirrord_operator_sessions{phase="Active"}`: 3 * float64(n+1), // every replica knows all
				`mirrord_operator_ports{mode="mirror"}`:     float64(n),
				`mirrord_operator_ports{mode="steal"}`:      1,
				`mirrord_operator_carriers`:                 float64(n + 1),
				`mirrord_operator_leader`:                   1,
				`mirrord_operator_agents`:                   3,
			} {
				if got, err := s.metric(t, name); err != nil || got != want {
					return fmt.Errorf("%s is %v, want %v: %w", name, got, want, err)
				}
			}
			if bytes, err := s.metric(t, `mirrord_operator_session_bytes{direction="from_client"}`); err != nil || bytes == 0 {
				return fmt.Errorf("no bytes of sessions are counted: %w", err)
			}
			return nil
		})
	})
	agents := s.agentsNow(t)
	if len(agents) == 0 {
		t.Fatal("there is no agent")
	}
	for i, pod := range s.Pods(t, "mirrord", "app.kubernetes.io/name=mirrord-operator") {
		s.killReplica(t, &pod)
		t.Logf("replica %d killed: a new session runs after %v", i+1, s.begins(t).Round(time.Millisecond))
		s.goOn(t, fmt.Sprintf("replica %d killed", i+1))
		s.WaitReady(t, "mirrord", "deployment/mirrord-operator")
	}

	s.buildNext(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		code, _, stderr := s.i.install("--replicas", "3", "--image", nextImage, "--max-sessions-per-user", "0")
		if code != 0 {
			t.Errorf("the upgrade: exit code %d\n%s", code, stderr)
		}
	}()
	var worst time.Duration
	for upgrading := true; upgrading; {
		worst = max(worst, s.begins(t))
		select {
		case <-done:
			upgrading = false
		case <-time.After(200 * time.Millisecond):
		}
	}
	t.Logf("while the operator is upgraded, the slowest of new sessions runs after %v", worst.Round(time.Millisecond))
	s.goOn(t, "upgraded")
	for uid, name := range agents {
		if s.agentsNow(t)[uid] == "" {
			t.Errorf("agent %s of the old version is gone, and has sessions", name)
		}
	}
	// A replica of the old version that is on its way out may still be asked, over a connection that it has; those of the new version have
	// an agent of their own.
	eventually(t, func() error {
		s.begins(t)
		if now := s.agentsNow(t); len(now) != len(agents)+1 {
			return fmt.Errorf("the new version's sessions have no agent of its own version: there were %v, there are %v", agents, now)
		}
		return nil
	})

	eventually(t, func() error {
		if broke, back := cli.pauses(); broke != back {
			return fmt.Errorf("a real client was told of %d pauses and %d ends of one", broke, back)
		}
		return nil
	})
	broke, back := cli.pauses()
	t.Logf("a real client was told of %d pauses and %d ends of one", broke, back)
	if code := cli.stop(); code == 1 {
		t.Error("the session failed")
	}
}

// agentsNow are the operator's agents: their names by UID.
func (s *crowdStage) agentsNow(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	// Ready or not: that changes on a busy machine.
	list, err := s.Client.CoreV1().Pods("mirrord").List(t.Context(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=mirrord-agent"})
	must(t, err)
	for _, p := range list.Items {
		if p.DeletionTimestamp == nil {
			all[string(p.UID)] = p.Name
		}
	}
	return all
}

// buildNext makes the image of an operator that differs in its version.
func (s *crowdStage) buildNext(t *testing.T) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "mirrord-operator")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-X github.com/mirrord-go/mirrord/internal/version.version=v999.0.0", "-o", file, "./cmd/mirrord-operator")
	cmd.Dir = filepath.Join("..", "..")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	s.LoadImage(t, nextImage, []string{"/mirrord-operator"}, map[string]string{"/mirrord-operator": file})
}

// usage is what processes have used.
type usage struct {
	kib int           // resident, of their own
	cpu time.Duration // user and system
	n   int
}

// usageOf sums what the processes of pods use.
func (s *crowdStage) usageOf(t *testing.T, pods []corev1.Pod) (u usage) {
	t.Helper()
	for _, p := range pods {
		for pid, args := range processesOf(t, string(p.UID)) {
			if !strings.Contains(args, "mirrord") {
				continue
			}
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
			if err != nil {
				continue // it has ended
			}
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			if err != nil {
				continue
			}
			u.n++
			for line := range strings.Lines(string(b)) {
				var kib int
				if n, _ := fmt.Sscanf(line, "RssAnon: %d kB", &kib); n == 1 {
					u.kib += kib
				}
			}
			_, rest, _ := strings.Cut(string(stat), ") ")
			fields := strings.Fields(rest) // utime and stime are 14 and 15, see proc_pid_stat(5)
			for _, f := range fields[11:13] {
				ticks, _ := strconv.Atoi(f)
				u.cpu += time.Duration(ticks) * 10 * time.Millisecond
			}
		}
	}
	return u
}

// leavesPlace checks that the API server does not count the connections of sessions among the
// requests that it serves at a time: other users would wait for as long as sessions last.
func (s *crowdStage) leavesPlace(t *testing.T, sessions int) {
	t.Helper()
	eventually(t, func() error { // other requests may have many at a moment
		metrics, err := s.Kubectl(t, s.Kubeconfig, nil, "get", "--raw", "/metrics")
		if err != nil {
			return err
		}
		seats, levels := 0, 0
		for line := range strings.Lines(metrics) {
			const metric = "apiserver_flowcontrol_current_executing_seats{"
			if !strings.HasPrefix(line, metric) || strings.Contains(line, `priority_level="exempt"`) {
				continue
			}
			levels++
			n, err := strconv.Atoi(strings.TrimSpace(line[strings.LastIndexByte(line, ' '):]))
			must(t, err)
			seats += n
		}
		if levels == 0 || seats >= sessions/2 {
			return fmt.Errorf("%d sessions take %d seats of the API server in %d priority levels", sessions, seats, levels)
		}
		return nil
	})
}

// TestManySessions: one replica and one agent bear 200 sessions, and need less than a MiB for
// each. It is about half of that; the rest is for a runtime that collects garbage late, on a busy
// machine.
func TestManySessions(t *testing.T) {
	const most = 1024 // KiB for each session, operator and agent together
	const n = 200
	s := newCrowdStage(t, 1, 2*time.Second)
	operator := func() []corev1.Pod { return s.Pods(t, "mirrord", "app.kubernetes.io/name=mirrord-operator") }
	agent := func() []corev1.Pod {
		return s.Pods(t, "mirrord", "app.kubernetes.io/name=mirrord-agent")
	}
	o0, a0 := s.usageOf(t, operator()), s.usageOf(t, agent())
	s.assemble(t, n)
	s.goOn(t, "at first")
	s.leavesPlace(t, n)
	o1, a1 := s.usageOf(t, operator()), s.usageOf(t, agent())
	began := time.Now()
	for time.Since(began) < 20*time.Second {
		s.goOn(t, "later")
		select {
		case <-time.After(time.Second):
		case <-t.Context().Done():
		}
	}
	o2, a2 := s.usageOf(t, operator()), s.usageOf(t, agent())
	over := time.Since(began)
	perSession := func(before, after usage) int { return (after.kib - before.kib) / n }
	share := func(before, after usage) float64 {
		return float64(after.cpu-before.cpu) / float64(over) * 100 / float64(n)
	}
	t.Logf("operator: %d MiB without, %d MiB with %d sessions, %d KiB each; %.3f %% of a core each while each sends a line in 2 s",
		o0.kib>>10, o2.kib>>10, n, perSession(o0, o2), share(o1, o2))
	t.Logf("agent (%d processes): %d MiB without, %d MiB with, %d KiB each; %.3f %% of a core each", a2.n, a0.kib>>10, a2.kib>>10, perSession(a0, a2), share(a1, a2))
	t.Logf("to start one took the operator %v and the agent %v of a core", ((o1.cpu - o0.cpu) / time.Duration(n)).Round(10*time.Microsecond), ((a1.cpu - a0.cpu) / time.Duration(n)).Round(10*time.Microsecond))
	if a2.n == 0 || o2.n == 0 {
		t.Fatalf("the processes were not found: operator %+v, agent %+v", o2, a2)
	}
	eventually(t, func() error { // when garbage is collected is up to the runtime
		o2, a2 = s.usageOf(t, operator()), s.usageOf(t, agent())
		if each := perSession(o0, o2) + perSession(a0, a2); each > most {
			return fmt.Errorf("a session needs %d KiB of operator and agent, want at most %d", each, most)
		}
		return nil
	})
}
