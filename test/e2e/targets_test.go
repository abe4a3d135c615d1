package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/mirrord-go/mirrord/test/clustertest"
)

// workload is one of any kind, with two pods where the kind allows. They serve on 8080.
func workload(kind, name string) string {
	api, head, restart := "apps/v1", "selector: {matchLabels: {app: "+name+"}}", "Always"
	switch kind {
	case "Deployment", "ReplicaSet", "StatefulSet":
		head += "\n  replicas: 2"
	case "Job":
		api, head, restart = "batch/v1", "parallelism: 2", "Never"
	}
	return `---
apiVersion: ` + api + `
kind: ` + kind + `
metadata: {name: ` + name + `}
spec:
  ` + head + `
  template:
    metadata: {labels: {app: ` + name + `}}
    spec:
      terminationGracePeriodSeconds: 1
      restartPolicy: ` + restart + `
      containers:
      - name: web
        image: ` + clustertest.WorkloadImage + `
        imagePullPolicy: Never
        args: [serve, -http, ":8080"]
        env: [{name: WHO, value: ` + name + `}]
        readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1, timeoutSeconds: 60}
`
}

// manyContainers is a pod with a mesh sidecar first, and two containers more.
const manyContainers = `
apiVersion: v1
kind: Pod
metadata: {name: many}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: istio-proxy, image: ` + clustertest.WorkloadImage + `, imagePullPolicy: Never, args: [sleep], env: [{name: WHO, value: mesh}]}
  - {name: first, image: ` + clustertest.WorkloadImage + `, imagePullPolicy: Never, args: [sleep], env: [{name: WHO, value: first}]}
  - {name: second, image: ` + clustertest.WorkloadImage + `, imagePullPolicy: Never, args: [sleep], env: [{name: WHO, value: second}]}
`

// TestTargets: a session attaches to a pod of each kind of workload, and the process's
// environment and connections are that pod's.
func TestTargets(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.deploy(t, workload("Deployment", "deploy")+workload("StatefulSet", "stateful")+workload("DaemonSet", "daemon")+
		workload("ReplicaSet", "replica")+workload("Job", "job")+"---"+manyContainers+"---"+db,
		"deployment/deploy", "statefulset/stateful", "daemonset/daemon", "replicaset/replica", "job/job", "pod/many", "pod/db")
	p := programs(t)[0]
	p.need(t)
	replica := s.Pods(t, s.ns, "app=stateful")[0].Name
	for _, tt := range []struct {
		target    any
		app, who  string // label of the pods, and what WHO is
		container string
	}{
		{"pod/" + replica, "stateful", "stateful", "web"},
		{"deployment/deploy", "deploy", "deploy", "web"},
		{"deploy/deploy", "deploy", "deploy", "web"},
		{object{"deployment": "deploy"}, "deploy", "deploy", "web"},
		{"statefulset/stateful", "stateful", "stateful", "web"},
		{"daemonset/daemon", "daemon", "daemon", "web"},
		{"replicaset/replica", "replica", "replica", "web"},
		{"job/job", "job", "job", "web"},
		{"label/app=deploy", "deploy", "deploy", "web"},
		{object{"labels": object{"app": "stateful"}}, "stateful", "stateful", "web"},
		{"deployment/deploy/container/web", "deploy", "deploy", "web"},
		{"pod/many", "", "first", "first"},
		{"pod/many/container/second", "", "second", "second"},
		{object{"pod": "many", "container": "istio-proxy"}, "", "mesh", "istio-proxy"},
	} {
		t.Run(fmt.Sprint(tt.target), func(t *testing.T) {
			t.Parallel()
			se := s.start(t, run{
				config:  object{"target": object{"path": tt.target, "namespace": s.ns}},
				command: []string{"sh", "-c", "echo who is $WHO; " + quote(p.command("tcp db 8080"))},
			})
			if code := se.wait(); code != 0 {
				t.Errorf("exit code %d", code)
			}
			if out := se.out.String(); !strings.HasPrefix(out, "who is "+tt.who+"\n") {
				t.Errorf("the process's environment is not %s's", tt.who)
			}
			sum := se.summary().Pods[0]
			if sum.Container != tt.container {
				t.Errorf("the summary names the container %s", sum.Container)
			}
			pod := s.Pod(t, s.ns, sum.Pod)
			if pod.Labels["app"] != tt.app {
				t.Errorf("the session attached to %s", sum.Pod)
			}
			peer := readResults(se.out.String()).peer(t, "tcp db 8080")
			if !slices.ContainsFunc(pod.Status.PodIPs, func(ip corev1.PodIP) bool { return ip.IP == peer.String() }) {
				t.Errorf("db saw %s, which is not of pod %s", peer, sum.Pod)
			}
		})
	}
}

// TestTargetless: with no target, connections leave from the cluster and its names resolve.
func TestTargetless(t *testing.T) {
	s := newStage(t)
	s.deploy(t, db, "pod/db")
	p := programs(t)[0]
	p.need(t)
	name := "db." + s.ns + ".svc.cluster.local"
	se := s.start(t, run{
		config:  object{"target": object{"path": "targetless", "namespace": s.ns}},
		command: p.command("tcp "+name+" 8080", "udp "+name+" 9001", "resolve db"),
	})
	if code := se.wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	got := readResults(se.out.String())
	db4, _ := s.ips(t, "db")
	own := p.direct(t, "tcp "+db4+" 8080").peer(t, "tcp "+db4+" 8080")
	for _, step := range []string{"tcp " + name + " 8080", "udp " + name + " 9001"} {
		if peer := got.peer(t, step); !peer.IsValid() || peer == own || peer.Is4() && !strings.HasPrefix(peer.String(), db4[:strings.LastIndex(db4, ".")]) {
			t.Errorf("%s: db saw %s, this machine is %s", step, peer, own)
		}
	}
	if got["resolve db"] == "nxdomain" {
		t.Errorf("db does not resolve in the agent's namespace")
	}
}

// TestEphemeral: the agent as an ephemeral container of the target's pod has the same effects.
func TestEphemeral(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	port := freePort(t)
	s.deploy(t, web([]uint16{port})+"---"+client+"---"+db, "pod/web", "pod/client", "pod/db")
	db4, _ := s.ips(t, "db")
	web4, web6 := s.ips(t, "web")
	se := s.start(t, run{
		config:  object{"profile": s.profile(t, "all", "incoming-steal", "outgoing-remote", "dns-remote"), "target": s.webTarget(), "agent": object{"ephemeral": true}},
		command: serveAndConnect(t, port, db4),
	})
	if got, want := s.observe(t, se, port), (effect{"steal", true, true}); got != want {
		t.Errorf("the session does %+v, want %+v", got, want)
	}
	a := s.ask(t, url(web6, port))
	answeredBy(t, "IPv6", "laptop", a)
	if a.Echo != nil && !sameAddr(a.Echo.Peer, a.Local) {
		t.Errorf("the local process saw %s as its peer, the client is %s", a.Echo.Peer, a.Local)
	}
	pod := s.Pod(t, s.ns, "web")
	if len(pod.Spec.EphemeralContainers) != 1 {
		t.Errorf("the pod has %d ephemeral containers", len(pod.Spec.EphemeralContainers))
	}
	se.stop()
	answeredBy(t, "afterwards", "web", s.ask(t, url(web4, port)))
}
