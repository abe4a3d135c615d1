package session

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"

	recordsv1 "github.com/mirrord-go/mirrord/api/records/v1alpha"
	sessions "github.com/mirrord-go/mirrord/api/sessions/v1alpha"
	"github.com/mirrord-go/mirrord/internal/agent/nodeapi"
	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/kube"
	"github.com/mirrord-go/mirrord/internal/operator/agents"
	"github.com/mirrord-go/mirrord/internal/operator/records"
	"github.com/mirrord-go/mirrord/internal/operator/workloads"
	"github.com/mirrord-go/mirrord/internal/policy"
)

// Create decides about a session, and starts it. See package session.
func (m *Manager) Create(ctx context.Context, u user.Info, s *sessions.Session, dryRun bool) (*sessions.Session, error) {
	path, err := check(s)
	if err != nil {
		return nil, err
	}
	target, err := m.allowedTarget(ctx, u, s.Namespace, path)
	if err != nil {
		return nil, err
	}
	if err := attachable(target); err != nil {
		return nil, err
	}
	decision := m.Rules.Decide(target.Policy(), s.Spec.Features, s.Spec.Profile)
	if !decision.Allowed() {
		m.refused(u, s, decision)
		return nil, refusal(s.Name, decision.Reasons)
	}
	r, err := m.newRecord(u, s, decision)
	if err != nil {
		return nil, err
	}
	if err := m.takePlace(r, dryRun); err != nil {
		return nil, err
	}
	if dryRun {
		return records.Session(r), nil
	}
	made, err := m.start(ctx, r, target)
	if err != nil {
		m.leavePlace(r.Name)
	}
	return made, err
}

// start registers a session at its agents and writes its record.
func (m *Manager) start(ctx context.Context, r *recordsv1.SessionRecord, target *workloads.Target) (*sessions.Session, error) {
	pods := target.Ready()
	var failed []error
	for _, result := range m.Attach(ctx, r, pods) {
		if result.Err != nil {
			failed = append(failed, result.Err)
			continue
		}
		result.Into(r)
	}
	if len(failed) > 0 && len(r.Status.Attachments) == 0 {
		return nil, notStarted(failed)
	}
	for _, err := range failed {
		records.Notify(r, time.Now(), records.Warning, err.Error())
	}
	r.Status.Phase = sessions.SessionActive
	if len(r.Status.Attachments) == 0 {
		r.Status.Phase = sessions.SessionWaiting
		TellStuck(r, target)
		r.Seen = new(metav1.NewTime(time.Now()))
	}
	made, err := m.Records.Create(ctx, r)
	if err != nil {
		go m.Release(context.WithoutCancel(ctx), r)
		return nil, translate(err, r.Name)
	}
	m.Log.Info("session started", "session", r.Namespace+"/"+r.Name, "user", r.Status.User,
		"target", r.Spec.Target, "profile", r.Spec.Profile, "pods", len(r.Status.Attachments), "phase", r.Status.Phase)
	return records.Session(made), nil
}

// TellStuck tells the user of a session without a pod, once, why the target's pods do not become ready.
func TellStuck(r *recordsv1.SessionRecord, target *workloads.Target) {
	if len(r.Status.Attachments) > 0 {
		return
	}
	for _, text := range target.Stuck() {
		records.NotifyNew(r, time.Now(), text)
	}
}

// allowedTarget finds what path means, if u may attach to it: the right to get the target
// KIND.NAME. The right to a workload is the right to its pods.
func (m *Manager) allowedTarget(ctx context.Context, u user.Info, namespace string, path config.TargetPath) (*workloads.Target, error) {
	name := workloads.TargetName(path)
	allowed, err := m.mayGetTarget(ctx, u, namespace, name)
	if err != nil {
		return nil, err
	}
	target, err := m.Workloads.Resolve(namespace, path)
	if !allowed && err == nil {
		for _, owner := range ownersOf(target) {
			if allowed, err = m.mayGetTarget(ctx, u, namespace, owner); err != nil {
				return nil, err
			}
			if allowed {
				break
			}
		}
	}
	if !allowed {
		return nil, apierrors.NewForbidden(sessions.Resource("targets"), name, fmt.Errorf(
			"%s may not attach to %s: the right to get targets.%s with the resource name %q in namespace %q is missing",
			u.GetName(), path, sessions.GroupName, name, namespace))
	}
	if missing := (*workloads.NotFoundError)(nil); errors.As(err, &missing) {
		return nil, m.noTarget(ctx, u, namespace, name, *missing)
	}
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	return target, nil
}

// noTarget is the answer when there is no target of that name. What there is instead is only for who may
// list targets.
func (m *Manager) noTarget(ctx context.Context, u user.Info, namespace, name string, missing workloads.NotFoundError) error {
	if may, err := m.mayList(ctx, u, namespace); err != nil || !may {
		missing.Have = nil
	}
	e := apierrors.NewNotFound(sessions.Resource("targets"), name)
	e.ErrStatus.Message = missing.Error()
	return e
}

// StillAllowed says whether who created a session may still attach to its target, which is
// there.
func (m *Manager) StillAllowed(ctx context.Context, r *recordsv1.SessionRecord, path config.TargetPath) (bool, error) {
	u := &user.DefaultInfo{Name: r.Status.User, Groups: r.Groups, Extra: r.Extra}
	switch _, err := m.allowedTarget(ctx, u, r.Namespace, path); {
	case err == nil, apierrors.IsNotFound(err):
		return true, nil
	case apierrors.IsForbidden(err):
		return false, nil
	default:
		return false, err
	}
}

// ownersOf are the names of the targets that own a named pod, replica set or job.
func ownersOf(t *workloads.Target) []string {
	if !slices.Contains([]config.TargetKind{config.Pod, config.ReplicaSet, config.Job}, t.Path.Kind) {
		return nil
	}
	var names []string
	for _, o := range t.Objects {
		if o.Kind != config.Pod && (o.Kind != t.Path.Kind || o.Name != t.Path.Name) {
			names = append(names, workloads.TargetName(config.TargetPath{Kind: o.Kind, Name: o.Name}))
		}
	}
	return names
}

// newRecord is a session's record before it has attachments.
func (m *Manager) newRecord(u user.Info, s *sessions.Session, d policy.Decision) (*recordsv1.SessionRecord, error) {
	grant, err := json.Marshal(d.Grant)
	if err != nil {
		return nil, apierrors.NewInternalError(fmt.Errorf("encoding the grant: %w", err))
	}
	name, err := newName()
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	r := &recordsv1.SessionRecord{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: s.Namespace, Labels: s.Labels, Annotations: s.Annotations},
		Spec:       s.Spec,
		Status:     sessions.SessionStatus{Phase: sessions.SessionStarting, User: u.GetName()},
		Grant:      runtime.RawExtension{Raw: grant},
		Groups:     u.GetGroups(), Extra: u.GetExtra(),
		Routes:            map[string]recordsv1.Route{},
		ProfileGeneration: m.Rules.ProfileGeneration(s.Spec.Profile),
	}
	for _, ref := range d.Binding {
		r.Status.Policies = append(r.Status.Policies, ref.String())
	}
	return r, nil
}

// newName names a session. Names are unique in the cluster, since agents know sessions by
// them, and hard to guess.
func newName() (string, error) {
	var b [10]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", fmt.Errorf("naming the session: %w", err)
	}
	return "s-" + hex.EncodeToString(b[:]), nil
}

// attachable holds that the pods of a target can have an agent at all, as far as the first one
// tells.
func attachable(t *workloads.Target) error {
	ready := t.Ready()
	if len(ready) == 0 {
		return nil
	}
	if _, err := kube.TargetIn(ready[0], t.Path); err != nil {
		return apierrors.NewBadRequest(textOf(err))
	}
	return nil
}

func (m *Manager) refused(u user.Info, s *sessions.Session, d policy.Decision) {
	for _, r := range d.Reasons {
		by := ""
		if r.Policy != nil {
			by = r.Policy.String()
		}
		m.Log.Info("session refused", "namespace", s.Namespace, "target", s.Spec.Target, "profile", s.Spec.Profile,
			"user", u.GetName(), "policy", by, "rule", r.Rule, "reason", r.Message)
		if m.Refused != nil {
			m.Refused(r)
		}
	}
}

// refusal is the answer to a session that policies do not allow: its message is for people,
// and each cause is one reason, with its code as the type, "POLICY: RULE" as the field, and
// what the session does and what to change, one a line, as the message.
func refusal(name string, reasons []policy.Reason) error {
	err := &policy.RefusedError{Reasons: reasons}
	details := &metav1.StatusDetails{Group: sessions.GroupName, Kind: "sessions", Name: name}
	for _, r := range reasons {
		field := r.Rule
		if r.Policy != nil {
			field = r.Policy.String() + ": " + r.Rule
		}
		details.Causes = append(details.Causes, metav1.StatusCause{
			Type: metav1.CauseType(r.Code), Field: field, Message: r.Message + "\n" + r.Next,
		})
	}
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusForbidden, Reason: metav1.StatusReasonForbidden,
		Message: err.Error() + "\n" + err.Hint(), Details: details,
	}}
}

// notStarted is the answer when no agent could take the session.
func notStarted(errs []error) error {
	var texts []string
	for _, err := range errs {
		if t := err.Error(); !slices.Contains(texts, t) {
			texts = append(texts, t)
		}
	}
	text := strings.Join(texts, "; ")
	if start := (*agents.StartError)(nil); errors.As(errors.Join(errs...), &start) {
		e := apierrors.NewInternalError(errors.New(text))
		e.ErrStatus.Message = text
		return e
	}
	if refused := (*nodeapi.Error)(nil); errors.As(errors.Join(errs...), &refused) && refused.Code == nodeapi.CodeConflict {
		return apierrors.NewConflict(resource(), "", errors.New(text))
	}
	return apierrors.NewServiceUnavailable(text)
}
