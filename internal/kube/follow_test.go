package kube

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mirrord-go/mirrord/internal/config"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
)

// rollout is a deployment "shop" of an API server, with pods and replica sets that a test
// changes.
type rollout struct {
	*server
	events chan map[string]any

	mu    sync.Mutex
	pods  []corev1.Pod
	sets  []string
	gone  bool
	blind bool // the user may not watch
}

func newRollout(t *testing.T, pods ...corev1.Pod) *rollout {
	r := &rollout{events: make(chan map[string]any), pods: pods, sets: []string{"rs-1"}}
	r.server = newServer(t, map[string]http.HandlerFunc{
		"GET /apis/apps/v1/namespaces/shop/deployments/shop": func(w http.ResponseWriter, req *http.Request) {
			if r.gone {
				status(http.StatusNotFound, "NotFound", "no")(w, req)
				return
			}
			object(appsv1.Deployment{
				TypeMeta:   metav1.TypeMeta{Kind: "Deployment", APIVersion: "apps/v1"},
				ObjectMeta: metav1.ObjectMeta{Name: "shop", UID: "d"},
				Spec:       appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "shop"}}},
			})(w, req)
		},
		"GET /apis/apps/v1/namespaces/shop/replicasets": func(w http.ResponseWriter, req *http.Request) {
			r.mu.Lock()
			defer r.mu.Unlock()
			list := appsv1.ReplicaSetList{TypeMeta: metav1.TypeMeta{Kind: "ReplicaSetList", APIVersion: "apps/v1"}}
			for i, name := range r.sets {
				list.Items = append(list.Items, appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{
					Name: name, UID: types.UID(name), Annotations: map[string]string{"deployment.kubernetes.io/revision": string(rune('1' + i))},
					OwnerReferences: []metav1.OwnerReference{{UID: "d", Controller: new(true)}},
				}})
			}
			object(list)(w, req)
		},
		"GET /api/v1/namespaces/shop/pods": r.servePods,
	})
	return r
}

func (r *rollout) servePods(w http.ResponseWriter, req *http.Request) {
	if req.URL.Query().Get("watch") == "" {
		r.mu.Lock()
		defer r.mu.Unlock()
		podList(r.pods...)(w, req)
		return
	}
	if r.blind {
		status(http.StatusForbidden, "Forbidden", "no")(w, req)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	w.(http.Flusher).Flush()
	for {
		select {
		case e := <-r.events:
			if e == nil {
				return // the server ends watches as it likes
			}
			b, _ := json.Marshal(e)
			_, _ = w.Write(append(b, '\n'))
			w.(http.Flusher).Flush()
		case <-req.Context().Done():
			return
		}
	}
}

func (r *rollout) set(sets []string, pods ...corev1.Pod) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pods, r.sets = pods, sets
}

func (r *rollout) event(kind watch.EventType, pod corev1.Pod) {
	r.t.Helper()
	r.send(map[string]any{"type": kind, "object": pod})
}

// send gives the watch that is open, or the next one, an event; nil is its end.
func (r *rollout) send(e map[string]any) {
	r.t.Helper()
	select {
	case r.events <- e:
	case <-time.After(time.Minute):
		r.t.Fatal("nobody watches")
	}
}

// following is a run of Follow.
type following struct {
	t     *testing.T
	seen  chan []string
	said  chan string
	ended chan error
}

func (r *rollout) follow(t *testing.T) *following {
	t.Helper()
	c := connect(t, r.URL)
	w, err := c.FindWorkload(t.Context(), config.TargetPath{Kind: config.Deployment, Name: "shop"}, "")
	if err != nil {
		t.Fatal(err)
	}
	f := &following{t: t, seen: make(chan []string, 100), said: make(chan string, 100), ended: make(chan error, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		f.ended <- w.Follow(ctx, func(list []*Target) {
			var names []string
			for _, t := range list {
				name := t.Pod
				if t.Ending {
					name += "!"
				}
				names = append(names, name)
			}
			f.seen <- names
		}, func(text string) { f.said <- text })
		close(f.ended)
	}()
	t.Cleanup(func() {
		cancel()
		for range f.ended {
		}
	})
	return f
}

// sees waits for a list of pods.
func (f *following) sees(want ...string) {
	f.t.Helper()
	late := time.After(time.Minute)
	var last []string
	for {
		select {
		case last = <-f.seen:
			if slices.Equal(last, want) {
				return
			}
		case err := <-f.ended:
			f.t.Fatalf("it ended before it saw %q: %v", want, err)
		case <-late:
			f.t.Fatalf("it did not see %q, but %q at last", want, last)
		}
	}
}

func TestFollow(t *testing.T) {
	old := readyPod("old", ownedBy("rs-1", time.Hour))
	young := readyPod("young", ownedBy("rs-2", 0), unready)
	stranger := readyPod("stranger", ownedBy("rs-x", 0))
	r := newRollout(t, old)
	f := r.follow(t)
	f.sees("old")
	r.event(watch.Added, stranger)
	f.sees("old")
	r.set([]string{"rs-1", "rs-2"})
	r.event(watch.Added, readyPod("young", ownedBy("rs-2", 0), crashing)) // its container waits
	f.sees("old")
	r.event(watch.Modified, young) // runs, and is not ready yet
	f.sees("old", "young")
	r.event(watch.Modified, readyPod("young", ownedBy("rs-2", 0)))
	f.sees("young", "old")
	r.event(watch.Modified, readyPod("old", ownedBy("rs-1", time.Hour), deleting))
	f.sees("young", "old!")
	r.event(watch.Deleted, old)
	f.sees("young")
	r.set([]string{"rs-2"}, readyPod("third", ownedBy("rs-2", 0)))
	r.send(nil)
	f.sees("third")
	if len(f.said) > 0 {
		t.Errorf("the user was told %q", <-f.said)
	}
}

func TestFollowWithoutWatching(t *testing.T) {
	r := newRollout(t, readyPod("a", ownedBy("rs-1", 0)))
	r.blind = true
	f := r.follow(t)
	f.sees("a")
	r.set([]string{"rs-1"}, readyPod("b", ownedBy("rs-1", 0)))
	f.sees("b")
	if said := <-f.said; !strings.Contains(said, "you may not watch pods in namespace shop") || len(f.said) > 0 {
		t.Errorf("the user was told %q", said)
	}
}

func TestFollowUntilItIsGone(t *testing.T) {
	r := newRollout(t, readyPod("a", ownedBy("rs-1", 0)))
	r.blind = true // lists often
	f := r.follow(t)
	f.sees("a")
	r.gone = true
	r.set(nil)
	f.sees()
	if err := <-f.ended; reasonOf(err) != ReasonNotFound || !strings.Contains(err.Error(), "it was deleted from namespace") {
		t.Errorf("ended with %v", err)
	}
}

func TestCronJobsAndServices(t *testing.T) {
	job := func(uid, owner string) map[string]any {
		return map[string]any{"metadata": map[string]any{"name": uid, "uid": uid, "ownerReferences": []any{map[string]any{"uid": owner, "controller": true}}}}
	}
	var selectors []string
	list := podList(readyPod("night-1", ownedBy("job-1", 0)), readyPod("other", ownedBy("job-2", 0)), readyPod("agent", func(p *corev1.Pod) {
		p.Labels = map[string]string{labelName: agentName}
	}))
	s := newServer(t, map[string]http.HandlerFunc{
		"GET /apis/batch/v1/namespaces/shop/cronjobs/night": respond(http.StatusOK, `{"kind":"CronJob","apiVersion":"batch/v1","metadata":{"name":"night","uid":"c"}}`),
		"GET /apis/batch/v1/namespaces/shop/cronjobs/day":   respond(http.StatusOK, `{"kind":"CronJob","apiVersion":"batch/v1","metadata":{"name":"day","uid":"d"}}`),
		"GET /apis/batch/v1/namespaces/shop/jobs": object(map[string]any{"kind": "JobList", "apiVersion": "batch/v1", "items": []any{
			job("job-1", "c"), job("job-2", "x"),
		}}),
		"GET /api/v1/namespaces/shop/services/front": respond(http.StatusOK, `{"kind":"Service","apiVersion":"v1","metadata":{"name":"front"},"spec":{"selector":{"app":"shop"}}}`),
		"GET /api/v1/namespaces/shop/pods": func(w http.ResponseWriter, r *http.Request) {
			selectors = append(selectors, r.URL.Query().Get("labelSelector"))
			list(w, r)
		},
	})
	c := connect(t, s.URL)
	for _, test := range []struct {
		path     config.TargetPath
		selector string
		want     []string
	}{
		{config.TargetPath{Kind: config.CronJob, Name: "night"}, "job-name", []string{"night-1"}},
		{config.TargetPath{Kind: config.CronJob, Name: "day"}, "job-name", nil},
		{config.TargetPath{Kind: config.Service, Name: "front"}, "app=shop", []string{"night-1", "other"}},
		{config.TargetPath{Kind: config.Label, Labels: map[string]string{"b": "2", "a": "1"}}, "a=1,b=2", []string{"night-1", "other"}},
	} {
		w, err := c.FindWorkload(t.Context(), test.path, "")
		if err != nil {
			t.Fatal(errors.Join(err, errors.New(test.path.String())))
		}
		if diff := cmp.Diff(test.want, podNames(w.Targets())); diff != "" || selectors[len(selectors)-1] != test.selector {
			t.Errorf("%v: selector %q, pods %s", test.path, selectors[len(selectors)-1], diff)
		}
	}
}
