package session

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/kubernetes/fake"
	metadatafake "k8s.io/client-go/metadata/fake"
	"k8s.io/client-go/rest"

	recordsv1 "github.com/mirrord-go/mirrord/api/records/v1alpha"
	sessions "github.com/mirrord-go/mirrord/api/sessions/v1alpha"
	"github.com/mirrord-go/mirrord/internal/agent/nodeapi"
	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/operator/agents"
	"github.com/mirrord-go/mirrord/internal/operator/records"
	"github.com/mirrord-go/mirrord/internal/operator/workloads"
	"github.com/mirrord-go/mirrord/internal/policy"
)

func good() *sessions.Session {
	return &sessions.Session{Spec: sessions.SessionSpec{
		Target: "deployment/shop", ClientKey: "sha256:" + strings.Repeat("0a", 32),
		Features: sessions.Features{Incoming: sessions.Incoming{Mode: "steal"}, Files: sessions.Files{Mode: "local"}},
	}}
}

func TestCheck(t *testing.T) {
	if path, err := check(good()); err != nil || path.String() != "deployment/shop" {
		t.Fatalf("%v, %v", path, err)
	}
	for field, change := range map[string]func(*sessions.Session){
		"metadata.name":          func(s *sessions.Session) { s.Name = "mine" },
		"spec.target":            func(s *sessions.Session) { s.Spec.Target = "shop" },
		"spec.clientKey":         func(s *sessions.Session) { s.Spec.ClientKey = "0a" },
		"spec.onConcurrentSteal": func(s *sessions.Session) { s.Spec.OnConcurrentSteal = "share" },
		"spec.features":          func(s *sessions.Session) { s.Spec.Features.Incoming.Mode = "all" },
		"spec.profile":           func(s *sessions.Session) { s.Spec.Profile = strings.Repeat("x", maxText+1) },
		"spec.features.outgoing.filter.entries": func(s *sessions.Session) {
			s.Spec.Features.Outgoing.Filter = &sessions.Filter{Side: "local", Entries: make([]string, maxEntries+1)}
		},
		"spec.features.files.readWrite": func(s *sessions.Session) {
			// Patterns of some bytes that are many MiB when they are compiled: none of them is.
			s.Spec.Features.Files.ReadWrite = slices.Repeat([]string{"x{1000}"}, maxPatterns+1)
		},
		"spec.features.env.include": func(s *sessions.Session) { s.Spec.Features.Env.Include = make([]string, maxEntries+1) },
	} {
		s := good()
		change(s)
		_, err := check(s)
		if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
}

func TestARefusalNamesEveryReason(t *testing.T) {
	err := refusal("", []policy.Reason{
		{Code: policy.CodeBlocked, Policy: &policy.Ref{Namespace: "shop", Name: "strict"}, Rule: "block: steal", Message: "it steals", Next: "Mirror instead."},
		{Code: policy.CodeProfileNotFollowed, Rule: "profile", Message: "it does otherwise", Next: "Follow it."},
	})
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().Code != http.StatusForbidden {
		t.Fatalf("%v", err)
	}
	want := []metav1.StatusCause{
		{Type: "Blocked", Field: "shop/strict: block: steal", Message: "it steals\nMirror instead."},
		{Type: "ProfileNotFollowed", Field: "profile", Message: "it does otherwise\nFollow it."},
	}
	if diff := cmp.Diff(want, status.Status().Details.Causes); diff != "" {
		t.Errorf("causes (-want +got):\n%s", diff)
	}
	for _, word := range []string{"shop/strict", "it steals", "Mirror instead.", "it does otherwise"} {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("the message does not say %q: %s", word, err)
		}
	}
}

func TestNotStarted(t *testing.T) {
	start := &agents.StartError{Node: "n1", Pod: "p", Why: "its image can't be used"}
	for name, test := range map[string]struct {
		errs []error
		code int32
	}{
		"an agent that does not start": {[]error{start, start}, http.StatusInternalServerError},
		"another session's key":        {[]error{&nodeapi.Error{Code: nodeapi.CodeConflict, Message: "taken"}}, http.StatusConflict},
		"an agent that is gone":        {[]error{errors.New("connection refused")}, http.StatusServiceUnavailable},
	} {
		var status apierrors.APIStatus
		if err := notStarted(test.errs); !errors.As(err, &status) || status.Status().Code != test.code || strings.Count(status.Status().Message, "image") > 1 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTheRightToAWorkloadIsTheRightToItsPods(t *testing.T) {
	objects := []policy.Object{{Kind: config.Pod, Name: "shop-1"}, {Kind: config.ReplicaSet, Name: "shop"}, {Kind: config.Deployment, Name: "shop"}}
	owners := func(kind config.TargetKind, name string) []string {
		return ownersOf(&workloads.Target{Path: config.TargetPath{Kind: kind, Name: name}, Objects: objects})
	}
	if diff := cmp.Diff([]string{"replicaset.shop", "deployment.shop"}, owners(config.Pod, "shop-1")); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"deployment.shop"}, owners(config.ReplicaSet, "shop")); diff != "" {
		t.Error(diff)
	}
	for _, kind := range []config.TargetKind{config.Deployment, config.Service, config.Label, config.Targetless} {
		if got := owners(kind, "shop"); got != nil {
			t.Errorf("the right to a pod is the right to a %s: %v", kind, got)
		}
	}
}

func TestRightsThatAreTakenAway(t *testing.T) {
	index, err := workloads.New(fake.NewClientset(), metadatafake.NewSimpleMetadataClient(metadatafake.NewTestScheme()))
	if err != nil {
		t.Fatal(err)
	}
	rec := &recordsv1.SessionRecord{
		ObjectMeta: metav1.ObjectMeta{Name: "s-1", Namespace: "shop"},
		Status:     sessions.SessionStatus{User: "alice"}, Groups: []string{"team"},
	}
	for name, test := range map[string]struct {
		decision authorizer.Decision
		err      error
		allowed  bool
	}{
		"allowed":      {authorizer.DecisionAllow, nil, true},
		"no more":      {authorizer.DecisionNoOpinion, nil, false},
		"not answered": {authorizer.DecisionNoOpinion, errors.New("down"), false},
	} {
		m := &Manager{Config: Config{Workloads: index, Authorizer: authorizer.AuthorizerFunc(func(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
			if a.GetUser().GetName() != "alice" || a.GetUser().GetGroups()[0] != "team" || a.GetName() != "targetless" || a.GetVerb() != "get" || a.GetNamespace() != "shop" {
				t.Errorf("%s: asked for %+v", name, a)
			}
			return test.decision, "", test.err
		})}}
		allowed, err := m.StillAllowed(t.Context(), rec, config.TargetPath{})
		if allowed != test.allowed || (err != nil) != (test.err != nil) {
			t.Errorf("%s: %t, %v", name, allowed, err)
		}
	}
}

// TestASessionThatWaitsForAPodThatCrashes: its user is told why, once, and not when there is another pod.
func TestASessionThatWaitsForAPodThatCrashes(t *testing.T) {
	target := &workloads.Target{Pods: []*corev1.Pod{{
		ObjectMeta: metav1.ObjectMeta{Name: "shop-1"},
		Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{
			Name: "web", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}},
		}}},
	}}}
	r := &recordsv1.SessionRecord{}
	for range 3 {
		TellStuck(r, target)
		records.Notify(r, time.Now(), records.Info, "something else")
	}
	if n := r.Status.Notices; len(n) != 4 || n[0].Level != records.Warning || n[0].Text != "pod shop-1 is not ready: container web ends again and again" {
		t.Errorf("notices: %+v", n)
	}
	r = &recordsv1.SessionRecord{Status: sessions.SessionStatus{Attachments: []sessions.Attachment{{Name: "a"}}}}
	if TellStuck(r, target); len(r.Status.Notices) > 0 {
		t.Errorf("beside a pod that is ready: %+v", r.Status.Notices)
	}
}

func TestGrantsAreComparedByMeaning(t *testing.T) {
	id := func(raw string) string {
		return GrantID(&recordsv1.SessionRecord{Grant: runtime.RawExtension{Raw: []byte(raw)}})
	}
	if id(`{"policies":["a"],"incoming":{"steal":["a"]}}`) != id(`{ "incoming": {"steal": ["a"]}, "policies": ["a"] }`) {
		t.Error("spaces and order make a difference")
	}
	if id(`{"incoming":{"steal":["a"]}}`) == id(`{"incoming":{"mirror":["a"]}}`) {
		t.Error("different grants are the same")
	}
}

// TestWhatThereIsOnlyForWhoMaySeeIt: a right to one target is no right to the names of the others.
func TestWhatThereIsOnlyForWhoMaySeeIt(t *testing.T) {
	missing := workloads.NotFoundError{Path: config.TargetPath{Kind: config.Deployment, Name: "shpo"}, Namespace: "shop", Have: []string{"secret-project", "shop"}}
	for _, lists := range []bool{true, false} {
		m := &Manager{Config: Config{Authorizer: authorizer.AuthorizerFunc(func(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
			if a.GetVerb() == "list" && a.GetResource() == "targets" && a.GetNamespace() == "shop" && lists {
				return authorizer.DecisionAllow, "", nil
			}
			return authorizer.DecisionNoOpinion, "", nil
		})}}
		err := m.noTarget(t.Context(), &user.DefaultInfo{Name: "alice"}, "shop", "deployment.shpo", missing)
		if !apierrors.IsNotFound(err) || !strings.Contains(err.Error(), `has no deployment "shpo"`) || strings.Contains(err.Error(), "secret-project") != lists {
			t.Errorf("may list: %t: %v", lists, err)
		}
	}
}

// recordsAPI is an API server that has the session s-1, and no other. Somebody is always faster than who
// wants to change it: it is in its second version before the first try, which is counted, and so on.
func recordsAPI(t *testing.T) (*records.Store, *atomic.Int32) {
	t.Helper()
	tries := &atomic.Int32{}
	reply := func(w http.ResponseWriter, code int, body any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(body)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case !strings.HasSuffix(r.URL.Path, "/sessionrecords/s-1"):
			reply(w, http.StatusNotFound, metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: "Failure", Code: http.StatusNotFound, Reason: metav1.StatusReasonNotFound})
		case r.Method == http.MethodPut:
			tries.Add(1)
			reply(w, http.StatusConflict, metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: "Failure", Code: http.StatusConflict, Reason: metav1.StatusReasonConflict})
		default:
			reply(w, http.StatusOK, recordsv1.SessionRecord{
				TypeMeta:   metav1.TypeMeta{APIVersion: recordsv1.GroupVersion.String(), Kind: "SessionRecord"},
				ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "s-1", UID: "one", ResourceVersion: fmt.Sprint(2 + tries.Load())},
			})
		}
	}))
	t.Cleanup(server.Close)
	store, err := records.New(&rest.Config{Host: server.URL, Transport: &http.Transport{DisableKeepAlives: true}})
	if err != nil {
		t.Fatal(err)
	}
	return store, tries
}

// TestAnEndThatWasToldAlready: who asks to be told of the end of a session that is gone learns so, and
// is not kept waiting; a session that the cache has not heard of is waited for.
func TestAnEndThatWasToldAlready(t *testing.T) {
	store, _ := recordsAPI(t)
	m := &Manager{Config: Config{Records: store}, ends: ends{over: map[types.UID]chan struct{}{}}}
	rec := func(name string, uid types.UID) *recordsv1.SessionRecord {
		return &recordsv1.SessionRecord{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: uid}}
	}
	other := m.ends.of("gone")
	if _, err := m.goneOf(t.Context(), rec("s-2", "gone")); !apierrors.IsNotFound(err) {
		t.Errorf("a session that is gone: %v", err)
	}
	select {
	case <-other:
	default:
		t.Error("another carrier of the session is not told")
	}
	gone, err := m.goneOf(t.Context(), rec("s-1", "one"))
	if err != nil || len(m.ends.over) != 1 {
		t.Fatalf("%v; %d sessions are remembered", err, len(m.ends.over))
	}
	m.ends.end("one")
	<-gone
}

// TestWhoMeansAnotherVersionEndsNothing: also when it becomes another one in the meantime.
func TestWhoMeansAnotherVersionEndsNothing(t *testing.T) {
	for name, test := range map[string]struct {
		pre   metav1.Preconditions
		tries int32
	}{
		"another session": {metav1.Preconditions{UID: new(types.UID("two"))}, 0},
		"another version": {metav1.Preconditions{ResourceVersion: new("1")}, 0},
		"this version":    {metav1.Preconditions{ResourceVersion: new("2")}, 1},
	} {
		store, tries := recordsAPI(t)
		m := &Manager{Config: Config{Records: store, Log: slog.New(slog.DiscardHandler)}}
		_, err := m.End(t.Context(), &user.DefaultInfo{Name: "alice"}, "shop", "s-1", &test.pre, false)
		if !apierrors.IsConflict(err) || tries.Load() != test.tries {
			t.Errorf("%s: %v after %d tries", name, err, tries.Load())
		}
	}
}

func TestEndsAreTold(t *testing.T) {
	e := &ends{over: map[types.UID]chan struct{}{}}
	first, again, other := e.of("a"), e.of("a"), e.of("b")
	e.end("a")
	e.end("unknown")
	<-first
	<-again
	select {
	case <-other:
		t.Error("another session ended, too")
	default:
	}
}
