// Package session starts sessions, connects their clients, and ends them, on any replica.
//
// A [Manager] is what the API server's verbs mean. [Manager.Create] decides about a session,
// makes sure of an agent on each node of its target, registers the session there, and writes
// its record: when the client has its answer, it can connect. [Manager.Dial] finds the agent's
// worker for a carrier. What happens to a session later is up to package reconcile, which uses
// the same [Manager.Attach].
package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"

	recordsv1 "github.com/mirrord-go/mirrord/api/records/v1alpha"
	sessions "github.com/mirrord-go/mirrord/api/sessions/v1alpha"
	"github.com/mirrord-go/mirrord/internal/operator/agents"
	"github.com/mirrord-go/mirrord/internal/operator/records"
	"github.com/mirrord-go/mirrord/internal/operator/rules"
	"github.com/mirrord-go/mirrord/internal/operator/workloads"
	"github.com/mirrord-go/mirrord/internal/policy"
)

// Config is what a manager is made of. All fields are required but MaxSessionsPerUser and Refused.
type Config struct {
	Records    *records.Store
	Workloads  *workloads.Index
	Rules      *rules.Rules
	Agents     *agents.Pool
	Authorizer authorizer.Authorizer
	// GracePeriod is how long a session may be without its client.
	GracePeriod time.Duration
	// MaxSessionsPerUser is how many sessions a user may have at a time; zero is no limit.
	MaxSessionsPerUser int
	Log                *slog.Logger
	// Refused, when not nil, is told of every reason for which a session was refused.
	Refused func(policy.Reason)
}

// Manager does what the verbs on sessions mean. It is safe for concurrent use.
type Manager struct {
	Config
	ends   ends
	places places
}

// New returns a manager. Call it before the records' cache runs.
func New(c Config) (*Manager, error) {
	m := &Manager{Config: c}
	if err := m.ends.follow(c.Records.Informer()); err != nil {
		return nil, err
	}
	return m, nil
}

// resource is what errors are about.
func resource() schema.GroupResource { return sessions.Resource("sessions") }

// Get reads one session.
func (m *Manager) Get(ctx context.Context, namespace, name string) (*sessions.Session, error) {
	r, err := m.Records.Get(ctx, namespace, name)
	if err != nil {
		return nil, translate(err, name)
	}
	m.asked(ctx, namespace, name)
	return records.Session(r), nil
}

// List reads sessions; an empty namespace means all.
func (m *Manager) List(ctx context.Context, namespace string, opts metav1.ListOptions) (*sessions.SessionList, error) {
	l, err := m.Records.List(ctx, namespace, opts)
	if err != nil {
		return nil, translate(err, "")
	}
	if name, one := strings.CutPrefix(opts.FieldSelector, "metadata.name="); one {
		m.asked(ctx, namespace, name)
	}
	return records.SessionList(l), nil
}

// Watch follows sessions.
func (m *Manager) Watch(ctx context.Context, namespace string, opts metav1.ListOptions) (watch.Interface, error) {
	w, err := m.Records.Watch(ctx, namespace, opts)
	if err != nil {
		return nil, translate(err, "")
	}
	if u, ok := request.UserFrom(ctx); ok {
		if name, one := strings.CutPrefix(opts.FieldSelector, "metadata.name="); one {
			go m.present(ctx, u, namespace, name)
		}
	}
	return shown(w), nil
}

// presentEvery is how often the presence of a client is noted.
func (m *Manager) presentEvery() time.Duration { return max(m.GracePeriod/4, time.Second) }

// asked notes that somebody has asked for one session. A client that may not watch its session,
// or whose watches a proxy cuts, is there all the same.
func (m *Manager) asked(ctx context.Context, namespace, name string) {
	u, ok := request.UserFrom(ctx)
	if !ok || !m.unnoted(m.Records.Cached(namespace, name), u) {
		return
	}
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
		defer cancel()
		m.note(ctx, u, namespace, name)
	}()
}

// present notes, while its creator watches a session that waits for pods, that the client is
// there. When the session has an agent, that one knows better. It ends with ctx, that of the
// watch.
func (m *Manager) present(ctx context.Context, u user.Info, namespace, name string) {
	tick := time.NewTicker(m.presentEvery())
	defer tick.Stop()
	for {
		m.note(ctx, u, namespace, name)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// unnoted says that r is a session of u that waits, and of whose client nothing was noted for
// a while.
func (m *Manager) unnoted(r *recordsv1.SessionRecord, u user.Info) bool {
	return r != nil && r.Status.User == u.GetName() && r.Status.Phase == sessions.SessionWaiting &&
		(r.Seen == nil || time.Since(r.Seen.Time) >= m.presentEvery())
}

// note writes down that the client of a session that waits is there.
func (m *Manager) note(ctx context.Context, u user.Info, namespace, name string) {
	r := m.Records.Cached(namespace, name)
	if !m.unnoted(r, u) {
		return
	}
	_, err := m.Records.Update(ctx, r, func(r *recordsv1.SessionRecord) error {
		if !m.unnoted(r, u) {
			return records.ErrUnchanged
		}
		r.Seen = new(metav1.Now())
		return nil
	})
	if err != nil && ctx.Err() == nil && !apierrors.IsNotFound(err) {
		m.Log.Warn("a client's presence could not be noted", "session", namespace+"/"+name, "error", err)
	}
}

// End ends a session in the name of u. The record stays until reconcile takes it away.
func (m *Manager) End(ctx context.Context, u user.Info, namespace, name string, pre *metav1.Preconditions, dryRun bool) (*sessions.Session, error) {
	r, err := m.Records.Get(ctx, namespace, name)
	if err != nil {
		return nil, translate(err, name)
	}
	if !meant(r, pre) {
		return nil, otherSession(name)
	}
	if dryRun {
		return records.Session(r), nil
	}
	text := u.GetName() + " ended the session"
	r, err = m.Records.Update(ctx, r, func(r *recordsv1.SessionRecord) error {
		if !meant(r, pre) {
			return otherSession(name)
		}
		return records.End(r, time.Now(), u.GetName(), records.ReasonDeleted, text)
	})
	if err != nil {
		return nil, translate(err, name)
	}
	m.Log.Info("session ended", "session", namespace+"/"+name, "user", r.Status.User, "by", u.GetName(), "reason", records.ReasonDeleted)
	// The agents tell the client at once; reconcile does it again where it failed.
	go m.Release(context.WithoutCancel(ctx), r)
	return records.Session(r), nil
}

// meant says that a record is the one that somebody has in mind.
func meant(r *recordsv1.SessionRecord, pre *metav1.Preconditions) bool {
	return pre == nil || (pre.UID == nil || *pre.UID == r.UID) && (pre.ResourceVersion == nil || *pre.ResourceVersion == r.ResourceVersion)
}

func otherSession(name string) error {
	return apierrors.NewConflict(resource(), name, errors.New("the session is not the one that was meant, or has changed"))
}

// releaseTimeout bounds how long agents may take to let go of a session.
const releaseTimeout = 10 * time.Second

// Release ends a session at all its agents, all at once: one that does not answer keeps nobody from
// the others. Agents that can't be reached are left out: they are gone, or reconcile finds what they
// have left. It blocks for ten seconds at most.
func (m *Manager) Release(ctx context.Context, r *recordsv1.SessionRecord) {
	ctx, cancel := context.WithTimeout(ctx, releaseTimeout)
	defer cancel()
	reason := "the session is over"
	if r.Status.End != nil {
		reason = r.Status.End.Text
	}
	var telling sync.WaitGroup
	told := map[string]bool{} // by UID: an agent's successor has its name
	for _, route := range r.Routes {
		a := m.Agents.Get(route.Agent)
		if a == nil || a.UID != route.AgentUID || told[a.UID] {
			continue
		}
		told[a.UID] = true
		telling.Go(func() {
			if err := m.Agents.Client(a).End(ctx, r.Name, reason); err != nil {
				m.Log.Warn("an agent did not end a session", "session", r.Namespace+"/"+r.Name, "agent", a.Pod, "error", err)
			}
		})
	}
	telling.Wait()
}

// translate makes errors about records errors about sessions.
func translate(err error, name string) error {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return apierrors.NewInternalError(err)
	}
	switch {
	case apierrors.IsNotFound(err):
		return apierrors.NewNotFound(resource(), name)
	case apierrors.IsConflict(err):
		return apierrors.NewConflict(resource(), name, errors.New("the session has changed in the meantime"))
	case apierrors.IsForbidden(err), apierrors.IsUnauthorized(err):
		// That is the operator, not the user.
		return apierrors.NewInternalError(fmt.Errorf("the operator may not keep sessions: %w", err))
	}
	s := status.Status()
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: s.Status, Code: s.Code, Reason: s.Reason, Message: s.Message,
	}}
}
