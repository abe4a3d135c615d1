package session

import (
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	recordsv1 "github.com/mirrord-go/mirrord/api/records/v1alpha"
	sessions "github.com/mirrord-go/mirrord/api/sessions/v1alpha"
	"github.com/mirrord-go/mirrord/internal/policy"
)

// placeTime is how long a place is kept for a session whose record the cache does not show: longer than
// requests may last, and than a cache is behind.
const placeTime = 3 * time.Minute

// places are sessions that this replica starts, or has started, and that are not in the cache yet.
type places struct {
	mu    sync.Mutex
	taken map[string]place // by the session's name
}

type place struct {
	user, namespace string
	until           time.Time
}

// takePlace holds that the user of r may have one session more, and keeps its place. Sessions that other replicas have
// started count as soon as their records are in the cache. Give the place back with [Manager.leavePlace] when the
// session does not come to be.
func (m *Manager) takePlace(r *recordsv1.SessionRecord, dryRun bool) error {
	if m.MaxSessionsPerUser <= 0 {
		return nil
	}
	m.places.mu.Lock()
	defer m.places.mu.Unlock()
	known := m.Records.OfUser(r.Status.User)
	now, pending := time.Now(), 0
	for name, p := range m.places.taken {
		cached := m.Records.Cached(p.namespace, name) != nil
		if p.user == r.Status.User { // the cache may just have learnt of it
			cached = slices.ContainsFunc(known, func(r *recordsv1.SessionRecord) bool { return r.Name == name })
		}
		switch {
		case cached || now.After(p.until):
			delete(m.places.taken, name)
		case p.user == r.Status.User:
			pending++
		}
	}
	live := slices.DeleteFunc(known, func(r *recordsv1.SessionRecord) bool { return r.Status.Phase == sessions.SessionEnded })
	if len(live)+pending >= m.MaxSessionsPerUser {
		return m.tooMany(r, live)
	}
	if dryRun {
		return nil
	}
	if m.places.taken == nil {
		m.places.taken = map[string]place{}
	}
	m.places.taken[r.Name] = place{r.Status.User, r.Namespace, now.Add(placeTime)}
	return nil
}

// leavePlace gives the place of a session back that was not started.
func (m *Manager) leavePlace(name string) {
	m.places.mu.Lock()
	defer m.places.mu.Unlock()
	delete(m.places.taken, name)
}

// tooMany is the answer to who has as many sessions as the operator allows. It names the oldest of them, if it is
// known.
func (m *Manager) tooMany(r *recordsv1.SessionRecord, live []*recordsv1.SessionRecord) error {
	what := fmt.Sprintf("%s has as many sessions as the operator lets one user have at a time, %d", r.Status.User, m.MaxSessionsPerUser)
	next := `End one of them: "mirrord session list --all-namespaces" shows them`
	if len(live) > 0 {
		oldest := slices.MinFunc(live, func(a, b *recordsv1.SessionRecord) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
		next += fmt.Sprintf(`, and "mirrord session end %s -n %s" ends the oldest`, oldest.Name, oldest.Namespace)
	}
	next += ".\nWho administers the cluster sets the limit (operator.maxSessionsPerUser of the installation)."
	m.Log.Info("session refused", "namespace", r.Namespace, "target", r.Spec.Target, "profile", r.Spec.Profile, "user", r.Status.User, "reason", what)
	if m.Refused != nil {
		m.Refused(policy.Reason{Code: policy.Code(sessions.CauseSessionLimit), Message: what, Next: next})
	}
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusTooManyRequests, Reason: metav1.StatusReasonTooManyRequests, Message: what + "\n" + next,
		// Without a time to wait: trying again does not help.
		Details: &metav1.StatusDetails{
			Group: sessions.GroupName, Kind: "sessions",
			Causes: []metav1.StatusCause{{Type: sessions.CauseSessionLimit, Message: what + "\n" + next}},
		},
	}}
}
