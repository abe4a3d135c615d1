package attach

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/mirrord-go/mirrord/internal/kube"
	"github.com/mirrord-go/mirrord/internal/session"
	"github.com/mirrord-go/mirrord/internal/tunnel"
)

// agent is one that nobody dials.
type agent struct {
	w     *world
	pod   string
	fate  error
	close sync.Once
}

func (a *agent) Key() tunnel.Fingerprint                { return tunnel.Fingerprint{} }
func (a *agent) Dial(context.Context) (net.Conn, error) { return nil, errors.New("not dialled") }
func (a *agent) Describe() string                       { return "agent of " + a.pod }
func (a *agent) Fate(context.Context) error             { return a.fate }
func (a *agent) Close(context.Context) error {
	a.close.Do(func() { a.w.count(a.pod, -1) })
	return nil
}

// world is a workload and the agents beside its pods.
type world struct {
	t     *testing.T
	first []*kube.Target
	lists chan []*kube.Target
	gone  chan error

	mu      sync.Mutex
	agents  map[string]int // that run, by pod
	starts  int
	refuse  map[string]error // by pod
	fate    error
	blocked chan struct{} // while it is open, agents do not get ready
}

func newWorld(t *testing.T, pods ...string) *world {
	w := &world{
		t: t, lists: make(chan []*kube.Target), gone: make(chan error, 1),
		agents: map[string]int{}, refuse: map[string]error{},
	}
	w.first = targets(pods...)
	return w
}

// targets are pods by name; "name!" is being deleted, "name/2" is in its second life.
func targets(pods ...string) []*kube.Target {
	var list []*kube.Target
	for _, p := range pods {
		name, ending := strings.CutSuffix(p, "!")
		name, life, _ := strings.Cut(name, "/")
		list = append(list, &kube.Target{Pod: name, PodUID: "uid-" + name, ContainerID: "c" + life, Node: "n", Ending: ending})
	}
	return list
}

func (w *world) Targets() []*kube.Target { return w.first }

func (w *world) Follow(ctx context.Context, see func([]*kube.Target), say func(string)) error {
	see(w.first)
	for {
		select {
		case list := <-w.lists:
			see(list)
		case err := <-w.gone:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (w *world) start(ctx context.Context, t *kube.Target, _ bool) (session.Agent, error) {
	w.mu.Lock()
	err, blocked := w.refuse[t.Pod], w.blocked
	w.starts++
	w.mu.Unlock()
	if blocked != nil {
		select {
		case <-blocked:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if err != nil {
		return nil, err
	}
	w.count(t.Pod, 1)
	return &agent{w: w, pod: t.Pod, fate: w.fate}, nil
}

func (w *world) count(pod string, n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.agents[pod] += n
	if w.agents[pod] == 0 {
		delete(w.agents, pod)
	}
}

func (w *world) begin() (session.Attachments, error) {
	return Direct(w.t.Context(), DirectOptions{Log: quiet(), Workload: w, Start: w.start})
}

// end closes the session as package session does: it removes what it was given.
func (w *world) end(a session.Attachments, given ...session.Attachment) {
	w.t.Helper()
	for _, g := range given {
		_ = g.Agent.Close(context.Background())
	}
	if err := a.Close(context.Background()); err != nil {
		w.t.Error(err)
	}
	if len(w.agents) > 0 {
		w.t.Errorf("agents remain: %v", w.agents)
	}
}

func TestPodsComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		a, err := w.begin()
		if err != nil {
			t.Fatal(err)
		}
		all, _ := next(t, a, "a", "b")
		w.lists <- targets("c", "b", "a!") // a rollout: the new pod is preferred
		rolled, _ := next(t, a, "c", "b", "a")
		if rolled.Attachments[2].Agent != all.Attachments[0].Agent {
			t.Error("a pod that stays has another agent")
		}
		w.lists <- targets("c")
		last, _ := next(t, a, "c")
		w.lists <- targets("c/2") // the container was restarted
		synctest.Wait()
		again, _ := next(t, a, "c")
		if again.Attachments[0].Agent == last.Attachments[0].Agent || again.Attachments[0].Name == last.Attachments[0].Name {
			t.Error("another process has the same agent")
		}
		w.lists <- nil
		next(t, a)
		w.lists <- targets("d!") // not worth it
		synctest.Wait()
		if w.agents["d"] != 0 {
			t.Error("an agent was started beside a pod that ends")
		}
		w.end(a, slices.Concat(rolled.Attachments, last.Attachments, again.Attachments)...)
	})
}

func TestAgentsThatNobodyWasToldOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a")
		a, err := w.begin()
		if err != nil {
			t.Fatal(err)
		}
		u, _ := next(t, a, "a")
		w.lists <- targets("a", "b") // starts, and goes before it is listed
		synctest.Wait()
		if w.agents["b"] != 1 {
			t.Fatal("no agent beside b")
		}
		w.lists <- targets("a")
		synctest.Wait()
		if w.agents["b"] != 0 {
			t.Error("the agent beside b remains")
		}
		w.blocked = make(chan struct{})
		w.lists <- targets("a", "c") // has not started at the end
		synctest.Wait()
		w.end(a, u.Attachments...)
	})
}

func TestStartsThatFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		w.refuse["a"], w.refuse["b"] = errors.New("no image"), errors.New("no image either")
		if _, err := w.begin(); err == nil || !strings.Contains(err.Error(), "no image") {
			t.Errorf("all have failed: %v", err)
		}
		delete(w.refuse, "b")
		a, err := w.begin()
		if err != nil {
			t.Fatal(err)
		}
		_, said := next(t, a, "b")
		if diff := cmp.Diff([]string{"pod a on node n is not part of the session: no image"}, said); diff != "" {
			t.Error(diff)
		}
		w.mu.Lock()
		delete(w.refuse, "a")
		w.mu.Unlock()
		u, said := next(t, a, "a", "b") // it was tried again
		if len(said) > 0 {
			t.Errorf("the user was told %q", said)
		}
		w.end(a, u.Attachments...)
	})
}

func TestLostAgents(t *testing.T) {
	cut := errors.New("cut")
	for name, test := range map[string]struct {
		pods  []string
		after []string // the pods a moment after the loss of a's agent
		fate  error
		says  string // when the session is over
		want  []string
	}{
		"with its pod":            {pods: []string{"a"}, after: []string{}, want: []string{}},
		"with its container":      {pods: []string{"a"}, after: []string{"a/2"}, want: []string{"a"}},
		"while its pod ends":      {pods: []string{"a"}, after: []string{"b", "a!"}, want: []string{"b", "a"}},
		"the only one":            {pods: []string{"a"}, says: "cut"},
		"one of two":              {pods: []string{"a", "b"}, want: []string{"a", "b"}},
		"somebody has deleted it": {pods: []string{"a", "b"}, fate: &kube.Error{Reason: kube.ReasonNotFound, Doing: "asking", Why: "it was deleted"}, says: "it was deleted"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, test.pods...)
				w.fate = test.fate
				a, err := w.begin()
				if err != nil {
					t.Fatal(err)
				}
				u, _ := next(t, a, test.pods...)
				a.Lost(u.Attachments[0], cut)
				if test.after != nil {
					w.lists <- targets(test.after...)
				}
				if test.says != "" {
					over(t, a, test.says)
					w.end(a, u.Attachments...)
					return
				}
				synctest.Wait()
				got, said := next(t, a, test.want...)
				if name == "one of two" {
					for len(said) == 0 { // the list before the loss was noticed
						got, said = next(t, a, test.want...)
					}
					if !strings.Contains(said[0], "started again: cut") || got.Attachments[0].Agent == u.Attachments[0].Agent {
						t.Errorf("the user was told %q, and the agents are %+v", said, got.Attachments)
					}
				}
				w.end(a, append(u.Attachments, got.Attachments...)...)
			})
		})
	}
}

func TestTooManyPods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var names []string
		for i := range maxPods + 4 {
			names = append(names, fmt.Sprintf("p%02d", i))
		}
		w := newWorld(t, names...)
		a, err := w.begin()
		if err != nil {
			t.Fatal(err)
		}
		u, said := next(t, a, names[:maxPods]...)
		if len(said) != 1 || !strings.Contains(said[0], "the target has 20 pods") {
			t.Errorf("the user was told %q", said)
		}
		w.end(a, u.Attachments...)
	})
}

func TestWorkloadIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a")
		a, err := w.begin()
		if err != nil {
			t.Fatal(err)
		}
		u, _ := next(t, a, "a")
		w.gone <- errors.New("it was deleted")
		over(t, a, "it was deleted")
		w.end(a, u.Attachments...)
	})
}
