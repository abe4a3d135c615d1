package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/fake"
	metadatafake "k8s.io/client-go/metadata/fake"
	"k8s.io/client-go/rest"

	recordsv1 "github.com/mirrord-go/mirrord/api/records/v1alpha"
	sessions "github.com/mirrord-go/mirrord/api/sessions/v1alpha"
	"github.com/mirrord-go/mirrord/internal/operator/records"
	"github.com/mirrord-go/mirrord/internal/operator/rules"
	"github.com/mirrord-go/mirrord/internal/operator/workloads"
	"github.com/mirrord-go/mirrord/internal/policy"
)

// limited is a manager whose users may have so many sessions, and with records that no API server is behind.
func limited(t *testing.T, limit int) *Manager {
	t.Helper()
	store, err := records.New(&rest.Config{Host: "http://127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	return &Manager{Config: Config{Records: store, MaxSessionsPerUser: limit, Log: slog.New(slog.DiscardHandler)}}
}

// sessionOf is a session that was begun so many minutes ago.
func sessionOf(user, namespace, name string, minutes int) *recordsv1.SessionRecord {
	return &recordsv1.SessionRecord{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, CreationTimestamp: metav1.NewTime(time.Now().Add(-time.Duration(minutes) * time.Minute))},
		Status:     sessions.SessionStatus{User: user, Phase: sessions.SessionActive},
	}
}

// know has the cache know records.
func know(t *testing.T, m *Manager, all ...*recordsv1.SessionRecord) {
	t.Helper()
	for _, r := range all {
		if err := m.Records.Informer().GetStore().Add(r); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSessionsOfOneUser: all that run count, in whatever namespace, and whoever has as many as they may is told what to
// do.
func TestSessionsOfOneUser(t *testing.T) {
	m := limited(t, 3)
	var told []policy.Reason
	m.Refused = func(r policy.Reason) { told = append(told, r) }
	over := sessionOf("alice", "shop", "s-0", 90)
	over.Status.Phase = sessions.SessionEnded
	know(t, m, over, sessionOf("bob", "shop", "s-4", 90), sessionOf("alice", "shop", "s-1", 10), sessionOf("alice", "billing", "s-2", 60))
	next := sessionOf("alice", "shop", "s-3", 0)
	if err := m.takePlace(next, true); err != nil {
		t.Fatalf("a trial of the third: %v", err)
	}
	if err := m.takePlace(next, false); err != nil {
		t.Fatalf("the third: %v", err)
	}
	for _, dryRun := range []bool{false, true} {
		err := m.takePlace(sessionOf("alice", "shop", "s-5", 0), dryRun)
		status := apierrors.APIStatus(nil)
		if !errors.As(err, &status) || status.Status().Code != http.StatusTooManyRequests || status.Status().Details.RetryAfterSeconds != 0 ||
			!apierrors.IsTooManyRequests(err) || !apierrors.HasStatusCause(err, sessions.CauseSessionLimit) {
			t.Fatalf("the fourth: %v", err)
		}
		for _, says := range []string{"alice has", ", 3\n", "mirrord session list", `"mirrord session end s-2 -n billing" ends the oldest`, "operator.maxSessionsPerUser"} {
			if !strings.Contains(err.Error(), says) {
				t.Errorf("%q is missing in: %v", says, err)
			}
		}
	}
	if len(told) != 2 || told[0].Code != "SessionLimit" {
		t.Errorf("counted: %+v", told)
	}
	if err := m.takePlace(sessionOf("bob", "shop", "s-6", 0), false); err != nil {
		t.Errorf("another user: %v", err)
	}
	// It was not started after all; or its record has come to the cache, and it has ended.
	m.leavePlace(next.Name)
	if err := m.takePlace(next, false); err != nil {
		t.Errorf("a place that was given back: %v", err)
	}
	next.Status.Phase = sessions.SessionEnded
	know(t, m, next)
	if err := m.takePlace(sessionOf("alice", "shop", "s-7", 0), false); err != nil {
		t.Errorf("after one has ended: %v", err)
	}
	if _, kept := m.places.taken[next.Name]; kept {
		t.Error("the place of a session with a record is remembered")
	}
	m.MaxSessionsPerUser = 0
	for i := range 100 {
		if err := m.takePlace(sessionOf("alice", "shop", fmt.Sprint("n-", i), 0), false); err != nil {
			t.Fatalf("without a limit: %v", err)
		}
	}
}

// TestNothingIsStartedBeyondTheLimit: the manager has no agents, and would end in a panic if it asked for one.
func TestNothingIsStartedBeyondTheLimit(t *testing.T) {
	m := limited(t, 1)
	var err error
	if m.Workloads, err = workloads.New(fake.NewClientset(), metadatafake.NewSimpleMetadataClient(metadatafake.NewTestScheme())); err != nil {
		t.Fatal(err)
	}
	m.Rules = rules.New(dynamicfake.NewSimpleDynamicClient(runtime.NewScheme()), m.Log)
	m.Authorizer = authorizer.AuthorizerFunc(func(context.Context, authorizer.Attributes) (authorizer.Decision, string, error) {
		return authorizer.DecisionAllow, "", nil
	})
	alice := &user.DefaultInfo{Name: "alice"}
	s := good()
	s.Namespace, s.Spec.Target, s.Spec.Features.Incoming.Mode = "shop", "targetless", "off"
	if _, err := m.Create(t.Context(), alice, s, true); err != nil {
		t.Fatalf("a trial: %v", err)
	}
	know(t, m, sessionOf("alice", "billing", "s-1", 1))
	for _, dryRun := range []bool{true, false} {
		if _, err := m.Create(t.Context(), alice, s, dryRun); !apierrors.IsTooManyRequests(err) {
			t.Errorf("dry run %t: %v", dryRun, err)
		}
	}
}

// TestSessionsThatNobodyHearsOf: a place is not kept for ever for a session that the cache never has.
func TestSessionsThatNobodyHearsOf(t *testing.T) {
	m := limited(t, 1)
	if err := m.takePlace(sessionOf("alice", "shop", "s-1", 0), false); err != nil {
		t.Fatal(err)
	}
	p := m.places.taken["s-1"]
	p.until = time.Now().Add(-time.Second)
	m.places.taken["s-1"] = p
	if err := m.takePlace(sessionOf("bob", "shop", "s-2", 0), false); err != nil {
		t.Fatal(err)
	}
	if _, kept := m.places.taken["s-1"]; kept {
		t.Error("it is remembered")
	}
}

// TestAllAtOnce: sessions that start at the same time are counted before their records are there.
func TestAllAtOnce(t *testing.T) {
	m := limited(t, 5)
	var started atomic.Int32
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			if m.takePlace(sessionOf("alice", "shop", fmt.Sprint("s-", i), 0), false) == nil {
				started.Add(1)
			}
		})
	}
	wg.Wait()
	if started.Load() != 5 {
		t.Errorf("%d sessions started, and 5 are allowed", started.Load())
	}
}
