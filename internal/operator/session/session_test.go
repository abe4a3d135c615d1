package session

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/kubernetes/fake"
	metadatafake "k8s.io/client-go/metadata/fake"

	recordsv1 "github.com/mirrord-go/mirrord/api/records/v1alpha"
	sessions "github.com/mirrord-go/mirrord/api/sessions/v1alpha"
	"github.com/mirrord-go/mirrord/internal/agent/nodeapi"
	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/operator/agents"
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
