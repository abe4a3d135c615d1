package kube

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mirrord-go/mirrord/internal/config"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilproxy "k8s.io/apimachinery/pkg/util/proxy"
	"k8s.io/apiserver/pkg/util/proxy"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

const announced = "starting\n" + `{"mirrordAgent":1,"address":"127.0.0.1:4242","key":"sha256:0000000000000000000000000000000000000000000000000000000000000000","version":"v1"}` + "\n"

func testSpec() AgentSpec {
	return AgentSpec{
		Target: &Target{
			Namespace: "shop", Pod: "shop-1", PodUID: "uid-1", Node: "node-1", Container: "app", ContainerID: "abc",
		},
		Config:    config.Agent{Image: "example.test/agent:1", TTL: 1, CommunicationTimeout: 20, LogLevel: "info", StartupTimeout: 5},
		SessionID: "s1",
	}
}

// agentServer is a cluster in which a Job's pod is what pod makes of it.
type agentServer struct {
	*server
	mu      sync.Mutex
	created string
	deleted []string
}

func newAgentServer(t *testing.T, pod func(*corev1.Pod), more map[string]http.HandlerFunc) *agentServer {
	s := &agentServer{}
	jobPod := readyPod("agent-pod", func(p *corev1.Pod) {
		p.Spec.Containers[0].Name, p.Spec.Containers[0].Image = agentName, "example.test/agent:1"
		p.Status.ContainerStatuses[0].Name = agentName
	}, pod)
	answers := map[string]http.HandlerFunc{
		"POST /apis/batch/v1/namespaces/shop/jobs": func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			s.mu.Lock()
			s.created = string(b)
			s.mu.Unlock()
			object(batchv1.Job{})(w, r)
		},
		"GET /api/v1/namespaces/shop/pods":               podList(jobPod),
		"GET /api/v1/namespaces/shop/pods/agent-pod":     object(jobPod),
		"GET /api/v1/namespaces/shop/pods/agent-pod/log": respond(http.StatusOK, announced),
	}
	for k, h := range more {
		answers[k] = h
	}
	s.server = newServer(t, answers)
	next := s.Config.Handler
	s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		const jobs = "/apis/batch/v1/namespaces/shop/jobs/"
		if name, ok := strings.CutPrefix(r.URL.Path, jobs); ok {
			if r.Method == http.MethodDelete {
				s.mu.Lock()
				s.deleted = append(s.deleted, name)
				s.mu.Unlock()
			}
			object(batchv1.Job{})(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
	return s
}

func (s *agentServer) removed() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.deleted)
}

func same(*corev1.Pod) {}

func TestStartAgent(t *testing.T) {
	s := newAgentServer(t, same, nil)
	spec := testSpec()
	var said []string
	spec.Progress = func(text string) { said = append(said, text) }
	a, err := connect(t, s.URL).StartAgent(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	if a.Version() != "v1" || a.port != 4242 || !strings.HasPrefix(a.Describe(), "job shop/mirrord-agent-s1-") {
		t.Errorf("version %q, port %d, %s", a.Version(), a.port, a.Describe())
	}
	if diff := cmp.Diff([]string{string(phaseCreated), string(phaseRunning)}, said); diff != "" {
		t.Error(diff)
	}
	for range 2 {
		if err := a.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if n := s.removed(); n != 1 {
		t.Errorf("the job was deleted %d times", n)
	}
}

func TestStartAgentFailures(t *testing.T) {
	waiting := func(reason, message string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Status.ContainerStatuses[0].State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
		}
	}
	ended := func(message string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Status.ContainerStatuses[0].State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 1, Reason: "Error", Message: message}}
		}
	}
	log := func(text string) map[string]http.HandlerFunc {
		return map[string]http.HandlerFunc{"GET /api/v1/namespaces/shop/pods/agent-pod/log": respond(http.StatusOK, text)}
	}
	denied := func(verb string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			allowed := "true"
			if strings.Contains(string(b), verb) {
				allowed = "false"
			}
			respond(http.StatusCreated, `{"kind":"SelfSubjectAccessReview","apiVersion":"authorization.k8s.io/v1","status":{"allowed":`+allowed+`}}`)(w, r)
		}
	}
	for _, test := range []struct {
		name    string
		pod     func(*corev1.Pod)
		more    map[string]http.HandlerFunc
		change  func(*AgentSpec)
		says    []string
		removed int
	}{
		{name: "image", pod: waiting("ErrImagePull", "not found"), says: []string{"ErrImagePull: not found", "example.test/agent:1", "agent.image"}, removed: 1},
		{name: "capability", pod: waiting("RunContainerError", "unknown capability"), says: []string{"unknown capability", "disabled_capabilities"}, removed: 1},
		{name: "full node", pod: func(p *corev1.Pod) {
			p.Status = corev1.PodStatus{Phase: corev1.PodFailed, Reason: "OutOfpods", Message: "Node didn't have enough resource: pods"}
		}, says: []string{"node node-1 refused it", "enough resource: pods"}, removed: 1},
		{name: "agent says no", pod: same, more: log(`{"mirrordAgent":1,"error":"the container is gone"}`), says: []string{"the container is gone"}, removed: 1},
		{
			name: "agent lacks capabilities", pod: same, more: log(`{"mirrordAgent":1,"error":"not permitted"}`),
			change: func(s *AgentSpec) { s.Config.DisabledCapabilities = []string{"CAP_SYS_ADMIN", "SYS_PTRACE"} },
			says: []string{
				"not permitted", `"agent.disabled_capabilities" takes SYS_ADMIN away, with which the agent could enter the target's network namespace. "agent.ephemeral": true does without.`,
				"takes SYS_PTRACE away, with which the agent could read the environment",
			}, removed: 1,
		},
		{name: "ended with a word", pod: ended("panic: oh no"), more: log("panic: oh no\n"), says: []string{"ended with code 1", "panic: oh no"}, removed: 1},
		{name: "ended with an announcement", pod: ended(`{"mirrordAgent":1,"error":"no kernel support"}`), more: log(""), says: []string{"no kernel support"}, removed: 1},
		{name: "odd address", pod: same, more: log(strings.Replace(announced, "127.0.0.1:4242", "nowhere", 1)), says: []string{`announced "nowhere"`}, removed: 1},
		{
			name: "never ready", pod: waiting("ContainerCreating", ""), change: func(s *AgentSpec) { s.Config.StartupTimeout = 1 },
			more: map[string]http.HandlerFunc{"GET /api/v1/namespaces/shop/events": respond(200, `{"kind":"EventList","apiVersion":"v1","items":[{"reason":"FailedCreatePodSandBox","message":"no network"}]}`)},
			says: []string{"not ready after 1 seconds", "starting the agent's container", "FailedCreatePodSandBox: no network", "startup_timeout"}, removed: 1,
		},
		{
			name: "rights", pod: same, more: map[string]http.HandlerFunc{"POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews": denied("create")},
			says: []string{"create jobs.batch in namespace shop, create pods/portforward in namespace shop", `resources: ["pods/portforward"]`, "kind: RoleBinding"},
		},
		{
			name: "webhook", pod: same, more: map[string]http.HandlerFunc{"POST /apis/batch/v1/namespaces/shop/jobs": status(http.StatusForbidden, "Forbidden", `admission webhook "strict" denied the request: no`)},
			says: []string{`admission webhook "strict" denied`, "agent.namespace", "agent.ephemeral"},
		},
		{
			name: "webhook of another code", pod: same, more: map[string]http.HandlerFunc{"POST /apis/batch/v1/namespaces/shop/jobs": status(http.StatusBadRequest, "", `admission webhook "strict" denied the request: no`)},
			says: []string{`admission webhook "strict" denied`, "agent.namespace"},
		},
		{
			name: "wrong label", pod: same, more: map[string]http.HandlerFunc{"POST /apis/batch/v1/namespaces/shop/jobs": respond(http.StatusUnprocessableEntity,
				`{"kind":"Status","apiVersion":"v1","status":"Failure","code":422,"reason":"Invalid","message":"Job is invalid: metadata.labels","details":{"causes":[{"field":"metadata.labels","message":"no"}]}}`)},
			says: []string{"Job is invalid: metadata.labels", `the fields below "agent"`, `"agent.labels"`},
		},
		{
			name: "no such account", pod: same, more: map[string]http.HandlerFunc{
				"GET /api/v1/namespaces/shop/pods":   podList(),
				"GET /api/v1/namespaces/shop/events": respond(200, `{"kind":"EventList","apiVersion":"v1","items":[{"reason":"FailedCreate","message":"serviceaccount \"robot\" not found"}]}`),
			},
			change: func(s *AgentSpec) { s.Config.ServiceAccount = "robot" },
			says:   []string{"not found", `"agent.service_account" is "robot": is it there`}, removed: 1,
		},
		{
			name: "no such namespace", pod: same, more: map[string]http.HandlerFunc{"POST /apis/batch/v1/namespaces/shop/jobs": status(http.StatusNotFound, "NotFound", `namespaces "shop" not found`)},
			says: []string{`namespaces "shop" not found`, `Does namespace "shop" exist?`},
		},
		{
			name: "pod refused", pod: same, more: map[string]http.HandlerFunc{
				"GET /api/v1/namespaces/shop/pods":   podList(),
				"GET /api/v1/namespaces/shop/events": respond(200, `{"kind":"EventList","apiVersion":"v1","items":[{"reason":"FailedCreate","message":"violates PodSecurity \"restricted:latest\""}]}`),
			},
			says: []string{"violates PodSecurity", "pod-security.kubernetes.io/enforce=privileged"}, removed: 1,
		},
		{
			name: "pod refused before the job is made", pod: same, more: map[string]http.HandlerFunc{
				"POST /api/v1/namespaces/shop/pods":        dryRun(status(http.StatusForbidden, "Forbidden", `violates PodSecurity "baseline:latest"`)),
				"POST /apis/batch/v1/namespaces/shop/jobs": func(http.ResponseWriter, *http.Request) { t.Error("the job was made") },
				"GET /api/v1/namespaces/shop":              object(corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{enforceLabel: "baseline"}}}),
			},
			says: []string{
				"creating the agent's pod in namespace shop: violates PodSecurity", `Namespace "shop" has the label pod-security.kubernetes.io/enforce=baseline`,
				`set "agent.namespace"`, "kubectl label --overwrite namespace shop pod-security.kubernetes.io/enforce=privileged",
			},
		},
		{name: "no image", pod: same, change: func(s *AgentSpec) { s.Config.Image = "" }, says: []string{"agent.image"}},
		{name: "odd resources", pod: same, change: func(s *AgentSpec) { s.Config.Resources = map[string]any{"limit": 1} }, says: []string{`"agent.resources"`, "limit"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newAgentServer(t, test.pod, test.more)
			spec := testSpec()
			if test.change != nil {
				test.change(&spec)
			}
			_, err := connect(t, s.URL).StartAgent(t.Context(), spec)
			says(t, err, test.says...)
			if n := s.removed(); n != test.removed {
				t.Errorf("the job was deleted %d times, want %d", n, test.removed)
			}
		})
	}
}

// dryRun answers only requests that must not change anything.
func dryRun(answer http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("dryRun") != "All" {
			status(http.StatusTeapot, "", "this would make a pod")(w, r)
			return
		}
		answer(w, r)
	}
}

// An answer to the rehearsal that says nothing about the Job's pod does not end the start.
func TestStartAgentWithoutRehearsal(t *testing.T) {
	mayNot := func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		allowed := "true"
		if strings.Contains(string(b), "pods") && strings.Contains(string(b), "create") && !strings.Contains(string(b), "portforward") {
			allowed = "false"
		}
		respond(http.StatusCreated, `{"kind":"SelfSubjectAccessReview","apiVersion":"authorization.k8s.io/v1","status":{"allowed":`+allowed+`}}`)(w, r)
	}
	for name, answer := range map[string]http.HandlerFunc{
		"no right to create pods":          status(http.StatusForbidden, "Forbidden", "you may not create pods"),
		"a webhook that knows no dry runs": status(http.StatusBadRequest, "BadRequest", `admission webhook "w" does not support dry run`),
		"a webhook that fails":             status(http.StatusInternalServerError, "InternalError", "failed calling webhook"),
		"taken":                            object(corev1.Pod{}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newAgentServer(t, same, map[string]http.HandlerFunc{
				"POST /api/v1/namespaces/shop/pods":                           dryRun(answer),
				"POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews": mayNot,
			})
			a, err := connect(t, s.URL).StartAgent(t.Context(), testSpec())
			if err != nil {
				t.Fatal(err)
			}
			if err := a.Close(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// A user who gives up leaves nothing behind.
func TestStartAgentCancelled(t *testing.T) {
	s := newAgentServer(t, func(p *corev1.Pod) {
		p.Status.ContainerStatuses[0].State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}}
	}, nil)
	ctx, cancel := context.WithCancel(t.Context())
	spec := testSpec()
	spec.Progress = func(text string) {
		if text == string(phaseScheduled) {
			cancel()
		}
	}
	_, err := connect(t, s.URL).StartAgent(ctx, spec)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v", err)
	}
	if n := s.removed(); n != 1 {
		t.Errorf("the job was deleted %d times", n)
	}
}

// echoPort is a port-forward to a pod that sends everything back.
func echoPort(w http.ResponseWriter, r *http.Request) {
	streams := make(chan httpstream.Stream, 2)
	w.Header().Set("X-Stream-Protocol-Version", "portforward.k8s.io")
	conn := spdy.NewResponseUpgrader().UpgradeResponse(w, r, func(s httpstream.Stream, _ <-chan struct{}) error {
		streams <- s
		return nil
	})
	if conn == nil {
		return
	}
	for range 2 {
		if s := <-streams; s.Headers().Get("streamType") == "data" {
			_, _ = io.Copy(s, s)
			_ = s.Close()
		}
	}
	<-conn.CloseChan()
}

// Servers differ in which upgrades they know, and what they refuse keeps its kind.
func TestDial(t *testing.T) {
	refuse := status(http.StatusBadRequest, "BadRequest", "no such upgrade")
	forbid := status(http.StatusForbidden, "Forbidden", "no")
	const path = " /api/v1/namespaces/shop/pods/"
	// As in an API server: WebSocket is unwrapped and passed on to the node as SPDY.
	node := newServer(t, map[string]http.HandlerFunc{"POST /": echoPort})
	location, err := url.Parse(node.URL + "/")
	if err != nil {
		t.Fatal(err)
	}
	tunnel := proxy.NewTunnelingHandler(utilproxy.NewUpgradeAwareHandler(location, nil, false, true, failer{t})).ServeHTTP
	for _, test := range []struct {
		name           string
		spdy, ws       http.HandlerFunc
		wantSPDYCalled int
	}{
		{"SPDY", echoPort, refuse, 2},
		{"WebSocket", refuse, tunnel, 1},
		{"WebSocket, for the other verb is forbidden", forbid, tunnel, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			called := 0
			s := newServer(t, map[string]http.HandlerFunc{
				"POST" + path + "p/portforward": func(w http.ResponseWriter, r *http.Request) {
					called++
					test.spdy(w, r)
				},
				"GET" + path + "p/portforward": test.ws,
			})
			a := &Agent{c: connect(t, s.URL), namespace: "shop", pod: "p", port: 1}
			for range 2 {
				echo(t, a)
			}
			if called != test.wantSPDYCalled {
				t.Errorf("SPDY was tried %d times, want %d", called, test.wantSPDYCalled)
			}
		})
	}

	s := newServer(t, map[string]http.HandlerFunc{
		"GET" + path + "locked":              object(readyPod("locked")),
		"GET" + path + "locked/portforward":  forbid,
		"POST" + path + "locked/portforward": forbid,
	})
	c := connect(t, s.URL)
	_, err = (&Agent{c: c, namespace: "shop", pod: "gone", port: 1}).Dial(t.Context())
	if !errors.Is(err, ErrAgentGone) {
		t.Errorf("dialling a pod that is gone: %v", err)
	}
	_, err = (&Agent{c: c, namespace: "shop", pod: "locked", port: 1}).Dial(t.Context())
	says(t, err, "create pods/portforward in namespace shop")
}

// failer fails a test when a proxy fails.
type failer struct{ t *testing.T }

func (f failer) Error(_ http.ResponseWriter, _ *http.Request, err error) { f.t.Error(err) }

// echo dials the agent and checks that the connection outlives the dialling's context.
func echo(t *testing.T, a *Agent) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	conn, err := a.Dial(ctx)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	want := strings.Repeat("hello", 100_000)
	go func() { _, _ = io.WriteString(conn, want) }()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != want {
		t.Errorf("read %d bytes, %v; equal: %v", len(got), err, string(got) == want)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
}
