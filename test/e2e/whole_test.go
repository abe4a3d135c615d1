package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/mirrord-go/mirrord/internal/cli/progress"
	"github.com/mirrord-go/mirrord/test/clustertest"
)

// TestWholeWorkload: a session on a deployment is with all its pods, and goes on through a
// rollout, scaling to nothing and back.
func TestWholeWorkload(t *testing.T) {
	s := newStage(t)
	s.deploy(t, twoShops()+"---"+db+"---"+client,
		"deployment/shop", "pod/db", "pod/client")
	w := &whole{stage: s, port: freePort(t)}
	w.session = s.start(t, run{
		config: object{
			"feature": object{"network": object{"incoming": object{"mode": "steal", "port_mapping": [][]uint16{{w.port, 8080}}}}},
		},
		command: w.command(),
		stdin:   true,
	})
	w.goesOn(t)
	if code := w.session.stop(); code != 128+15 && code != 0 {
		t.Errorf("exit code %d", code)
	}
	for _, p := range s.Pods(t, s.ns, "app=shop") {
		answeredBy(t, "afterwards", p.Name, s.ask(t, url(p.Status.PodIP, 8080)))
	}
	eventually(t, func() error {
		if jobs, err := s.Client.BatchV1().Jobs(s.ns).List(t.Context(), metav1.ListOptions{}); err != nil || len(jobs.Items) > 0 {
			return fmt.Errorf("%d jobs remain, %w", len(jobs.Items), err)
		}
		if pods := s.agentPods(t); len(pods) > 0 {
			return fmt.Errorf("%d pods of agents remain", len(pods))
		}
		return nil
	})
}

// twoShops is the shop with two replicas, which serve on for a moment when they are to end,
// as pods that lose no request do.
func twoShops() string {
	return strings.NewReplacer(
		"spec:\n  selector", "spec:\n  replicas: 2\n  selector",
		"terminationGracePeriodSeconds: 1", "terminationGracePeriodSeconds: 30",
		// The nodes learn once a second which pods there are, and later on a busy machine.
		"      - name: shop\n", "      - name: shop\n        lifecycle: {preStop: {sleep: {seconds: 5}}}\n",
	).Replace(shop)
}

// whole is a session on the shop with two replicas.
type whole struct {
	*stage
	session *session
	port    uint16
	answers int             // that were looked at
	known   map[string]bool // addresses of the shop's pods
}

// command serves on the port, and fetches each URL that it reads.
func (w *whole) command() []string {
	return []string{"bash", "-c", fmt.Sprintf(
		`%[1]s serve -http :%[2]d -name laptop & while read url; do %[1]s get -timeout 5m "$url"; done; kill %%1; wait`, built.workload, w.port)}
}

// goesOn is the story of the session.
func (w *whole) goesOn(t *testing.T) {
	w.session.subscribed(8080)
	if n := len(w.session.summary().Pods); n != 2 {
		t.Errorf("the summary has %d pods", n)
	}
	w.isWithAll(t, 2)
	w.leavesFromAPod(t)

	t.Log("a rollout")
	svc, err := w.Client.CoreV1().Services(w.ns).Get(t.Context(), "shop", metav1.GetOptions{})
	must(t, err)
	watching := watch(t, "http://"+net.JoinHostPort(svc.Spec.ClusterIP, "80")+"/", patience)
	before := w.names(t)
	w.restart(t)
	eventually(t, func() error {
		for _, p := range w.pods(t) {
			if before[p.Name] || !isReady(&p) {
				return fmt.Errorf("pod %s is there", p.Name)
			}
		}
		return nil
	})
	w.isWithAll(t, 2)
	watching.steadyAgain(t, time.Now(), "laptop")
	watching.end()
	watching.tally(t)
	w.leavesFromAPod(t)

	t.Log("no pods for a while")
	w.scale(t, 0)
	w.session.event("it waits", func(l progress.Line) bool { return l.Event == "waiting" })
	w.fetch(t, url(w.dbIP(t), 8080)) // waits for a pod
	w.scale(t, 1)
	w.fetched(t)
	w.isWithAll(t, 1)
}

func (w *whole) dbIP(t *testing.T) string {
	ip4, _ := w.ips(t, "db")
	return ip4
}

// isWithAll waits until each of the n pods is answered for by the local process.
func (w *whole) isWithAll(t *testing.T, n int) {
	t.Helper()
	eventually(t, func() error {
		pods := w.pods(t)
		if len(pods) != n {
			return fmt.Errorf("there are %d pods", len(pods))
		}
		for _, p := range pods {
			if p.Status.PodIP == "" {
				return fmt.Errorf("pod %s has no address", p.Name)
			}
			if a := w.ask(t, url(p.Status.PodIP, 8080)); a.Echo == nil || a.Echo.Name != "laptop" {
				return fmt.Errorf("pod %s answers: %+v", p.Name, a)
			}
		}
		return nil
	})
}

// leavesFromAPod checks that a connection of the local process comes from one of the pods.
func (w *whole) leavesFromAPod(t *testing.T) {
	t.Helper()
	w.fetch(t, "http://db."+w.ns+".svc.cluster.local:8080/")
	w.fetched(t)
}

// fetch has the local process fetch a URL of the database.
func (w *whole) fetch(t *testing.T, url string) {
	t.Helper()
	if _, err := w.session.stdin.Write([]byte(url + "\n")); err != nil {
		t.Fatal(err)
	}
}

// fetched waits for the answer, and checks as whom the database saw the process.
func (w *whole) fetched(t *testing.T) {
	t.Helper()
	var a answer
	eventually(t, func() error {
		n := 0
		for line := range strings.Lines(w.session.out.String()) {
			a = answer{}
			if json.Unmarshal([]byte(line), &a) == nil && (a.Status != 0 || a.Error != "") {
				if n++; n > w.answers {
					w.answers++
					return nil
				}
			}
		}
		return fmt.Errorf("no answer: %s", w.session.out.String())
	})
	if a.Echo == nil {
		t.Fatalf("the process got %+v", a)
	}
	host, _, err := net.SplitHostPort(a.Echo.Peer)
	must(t, err)
	// Also of one that is about to end.
	if w.pods(t); !w.known[host] {
		t.Errorf("the database saw %s, which is no pod of the shop: those are %v", host, w.known)
	}
}

// pods are those of the shop that are not being deleted, ready or not.
func (w *whole) pods(t *testing.T) []corev1.Pod {
	t.Helper()
	list, err := w.Client.CoreV1().Pods(w.ns).List(t.Context(), metav1.ListOptions{LabelSelector: "app=shop"})
	must(t, err)
	if w.known == nil {
		w.known = map[string]bool{}
	}
	for _, p := range list.Items {
		for _, ip := range p.Status.PodIPs {
			w.known[ip.IP] = true
		}
	}
	return slices.DeleteFunc(list.Items, func(p corev1.Pod) bool { return p.DeletionTimestamp != nil })
}

func (w *whole) names(t *testing.T) map[string]bool {
	names := map[string]bool{}
	for _, p := range w.pods(t) {
		names[p.Name] = true
	}
	return names
}

func (w *whole) restart(t *testing.T) {
	t.Helper()
	w.patch(t, fmt.Sprintf(`{"spec":{"template":{"metadata":{"annotations":{"restarted":%q}}}}}`, time.Now()))
}

func (w *whole) scale(t *testing.T, n int) {
	t.Helper()
	w.patch(t, fmt.Sprintf(`{"spec":{"replicas":%d}}`, n))
}

func (w *whole) patch(t *testing.T, patch string) {
	t.Helper()
	_, err := w.Client.AppsV1().Deployments(w.ns).Patch(t.Context(), "shop", types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{})
	must(t, err)
}

func isReady(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// tally says who answered during a rollout: the local process goes on answering, and no
// request is lost, but for one that a pod may take with it.
func (w *watcher) tally(t *testing.T) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	local, failed := 0, 0
	for _, a := range w.answers {
		switch {
		case a.err != nil:
			failed++
			t.Logf("failed: %v", a.err)
		case a.name == "laptop":
			local++
		}
	}
	t.Logf("%d requests: %d answered by the local process, %d by pods, %d failed", len(w.answers), local, len(w.answers)-local-failed, failed)
	if failed > 1 {
		t.Errorf("%d of %d requests failed", failed, len(w.answers))
	}
	if local == 0 {
		t.Errorf("the local process answered none of %d requests", len(w.answers))
	}
}

// serviceAndJobs are targets that have pods only in a roundabout way.
const serviceAndJobs = `
apiVersion: v1
kind: Service
metadata: {name: front}
spec: {selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: nightly}
spec:
  schedule: "0 0 1 1 *"
  jobTemplate:
    spec:
      template:
        metadata: {labels: {app: nightly}}
        spec:
          restartPolicy: Never
          terminationGracePeriodSeconds: 1
          containers:
          - name: job
            image: ` + clustertest.WorkloadImage + `
            imagePullPolicy: Never
            args: [serve, -http, ":8080"]
            env: [{name: WHO, value: nightly}]
`

// TestServicesAndCronJobs: a service stands for the pods that it selects, and a session on a
// cron job waits for its next run.
func TestServicesAndCronJobs(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.deploy(t, web([]uint16{freePort(t)})+"---"+serviceAndJobs, "pod/web")
	off := object{"network": object{"incoming": "off"}}
	se := s.start(t, run{
		config:  object{"target": object{"path": "service/front", "namespace": s.ns}, "feature": off},
		command: []string{"true"},
	})
	if code := se.wait(); code != 0 || se.summary().Pods[0].Pod != "web" {
		t.Errorf("exit code %d", code)
	}

	se = s.start(t, run{
		config:  object{"target": object{"path": "cronjob/nightly", "namespace": s.ns}, "feature": off},
		command: []string{"sh", "-c", "echo who is $WHO"},
	})
	se.event("it waits", func(l progress.Line) bool { return l.Event == "phase" && l.Name == "pod" })
	if out, err := s.Kubectl(t, s.Kubeconfig, nil, "create", "job", "-n", s.ns, "--from=cronjob/nightly", "tonight"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if code := se.wait(); code != 0 || se.out.String() != "who is nightly\n" {
		t.Errorf("exit code %d, output %q", code, se.out.String())
	}
	must(t, s.Client.BatchV1().Jobs(s.ns).Delete(t.Context(), "tonight", metav1.DeleteOptions{PropagationPolicy: new(metav1.DeletePropagationBackground)}))
}
