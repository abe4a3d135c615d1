package reconcile

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	recordsv1 "github.com/mirrord-go/mirrord/api/records/v1alpha"
	sessions "github.com/mirrord-go/mirrord/api/sessions/v1alpha"
	"github.com/mirrord-go/mirrord/internal/agent/nodeapi"
	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/grant"
	"github.com/mirrord-go/mirrord/internal/operator/records"
	"github.com/mirrord-go/mirrord/internal/operator/session"
	"github.com/mirrord-go/mirrord/internal/operator/workloads"
	"github.com/mirrord-go/mirrord/internal/policy"
)

// reconcile looks at one session. It returns after how long to look again, zero for never.
func (r *Reconciler) reconcile(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	rec := r.Records.Cached(key.Namespace, key.Name)
	if rec == nil {
		// It may have been looked at while it was taken away.
		r.mu.Lock()
		delete(r.missing, key)
		delete(r.asked, key)
		r.mu.Unlock()
		return 0, nil
	}
	if rec.Status.Phase == sessions.SessionEnded {
		return r.bury(ctx, rec)
	}
	if e := cmp.Or(r.overdue(rec), r.clientGone(rec)); e != nil {
		return 0, r.end(ctx, rec, e)
	}
	path, err := config.ParseTargetPath(rec.Spec.Target)
	if err != nil {
		return 0, r.end(ctx, rec, &ending{records.ReasonTargetGone, err.Error()})
	}
	target, err := r.resolve(key, path)
	if err != nil {
		return 0, r.end(ctx, rec, &ending{records.ReasonTargetGone, err.Error()})
	}
	if e := r.rights(ctx, rec, target); e != nil {
		return 0, r.end(ctx, rec, e)
	}
	work := rec.DeepCopy()
	if e := r.judge(work, target); e != nil {
		return 0, r.end(ctx, rec, e)
	}
	failed := r.attach(ctx, work, target)
	session.TellStuck(work, target)
	if err := r.write(ctx, rec, work); err != nil {
		return 0, err
	}
	return r.next(work), failed
}

// ending is why a session ends.
type ending struct{ reason, text string }

func (r *Reconciler) end(ctx context.Context, rec *recordsv1.SessionRecord, e *ending) error {
	ended, err := r.Records.Update(ctx, rec, func(rec *recordsv1.SessionRecord) error {
		return records.End(rec, time.Now(), records.Operator, e.reason, e.text)
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("ending the session: %w", err)
	}
	r.Log.Info("session ended", "session", keyOf(rec).String(), "user", rec.Status.User, "by", records.Operator, "reason", e.reason, "text", e.text)
	r.Sessions.Release(ctx, ended)
	return nil
}

// bury takes a session away that has ended a moment ago.
func (r *Reconciler) bury(ctx context.Context, rec *recordsv1.SessionRecord) (time.Duration, error) {
	if rec.Status.End != nil {
		if left := Linger - time.Since(rec.Status.End.Time.Time); left > 0 {
			return left, nil
		}
	}
	r.Sessions.Release(ctx, rec)
	if err := r.Records.Delete(ctx, rec); err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return 0, fmt.Errorf("removing the session's record: %w", err)
	}
	return 0, nil
}

// overdue says that a session is too old.
func (r *Reconciler) overdue(rec *recordsv1.SessionRecord) *ending {
	if r.MaxSessionTime > 0 && time.Since(rec.CreationTimestamp.Time) >= r.MaxSessionTime {
		return &ending{records.ReasonTimeLimit, fmt.Sprintf("sessions last %s at most here", r.MaxSessionTime)}
	}
	return nil
}

// rightsEvery is how often users' rights are looked at again: nothing tells when they change.
const rightsEvery = 2 * time.Minute

// rights asks now and then whether the user may still attach to the target.
func (r *Reconciler) rights(ctx context.Context, rec *recordsv1.SessionRecord, target *workloads.Target) *ending {
	if len(target.Pods) == 0 && target.Path.Kind != config.Targetless {
		return nil // a right to what owns a pod can't be told without the pod
	}
	key := keyOf(rec)
	r.mu.Lock()
	last, known := r.asked[key]
	due := known && time.Since(last) >= rightsEvery
	if due || !known {
		r.asked[key] = time.Now()
	}
	r.mu.Unlock()
	if !due {
		return nil
	}
	allowed, err := r.Sessions.StillAllowed(ctx, rec, target.Path)
	if err != nil {
		r.Log.Warn("a user's rights could not be looked at again", "session", key.String(), "user", rec.Status.User, "error", err)
		return nil
	}
	if !allowed {
		return &ending{records.ReasonRightsChanged, fmt.Sprintf("%s may not attach to %s any more", rec.Status.User, rec.Spec.Target)}
	}
	return nil
}

// next is after how long a session has to be looked at although nothing happens.
func (r *Reconciler) next(rec *recordsv1.SessionRecord) time.Duration {
	var next time.Duration
	sooner := func(d time.Duration) {
		if d = max(d, time.Second); next == 0 || d < next {
			next = d
		}
	}
	sooner(rightsEvery)
	if r.MaxSessionTime > 0 {
		sooner(r.MaxSessionTime - time.Since(rec.CreationTimestamp.Time))
	}
	if rec.Status.Phase == sessions.SessionWaiting && rec.Seen != nil {
		sooner(r.GracePeriod - r.unseen(rec))
	}
	return next
}

// resolve finds the target's pods. A target that is missing has none, for as long as the grace
// period; then it is an error.
func (r *Reconciler) resolve(key types.NamespacedName, path config.TargetPath) (*workloads.Target, error) {
	target, err := r.Workloads.Resolve(key.Namespace, path)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		delete(r.missing, key)
		return target, nil
	}
	var notFound *workloads.NotFoundError
	since, known := r.missing[key]
	if !known {
		since = time.Now()
		r.missing[key] = since
	}
	if errors.As(err, &notFound) && time.Since(since) < r.GracePeriod {
		return &workloads.Target{Path: path, Namespace: key.Namespace}, nil
	}
	return nil, err
}

// judge decides about a session again, and changes what it may do.
func (r *Reconciler) judge(rec *recordsv1.SessionRecord, target *workloads.Target) *ending {
	decision := r.Rules.Decide(target.Policy(), rec.Spec.Features, rec.Spec.Profile)
	if e := forbidden(decision); e != nil {
		return e
	}
	if generation := r.Rules.ProfileGeneration(rec.Spec.Profile); generation != rec.ProfileGeneration {
		rec.ProfileGeneration = generation
		level, text := profileNotice(rec.Spec.Profile, generation != "", decision)
		records.Notify(rec, time.Now(), level, text)
	}
	if len(target.Pods) == 0 && target.Path.Kind != config.Targetless {
		// Without pods, policies that choose by labels can't be told to bind. What was
		// granted stays as it was until there are pods again.
		return nil
	}
	raw, err := json.Marshal(decision.Grant)
	if err != nil {
		r.Log.Error("a grant can't be written", "session", keyOf(rec).String(), "error", err)
		return nil
	}
	before := session.GrantID(rec)
	changed := rec.DeepCopy()
	changed.Grant = runtime.RawExtension{Raw: raw}
	if session.GrantID(changed) == before {
		return nil
	}
	level, text := grantNotice(rec.Grant.Raw, decision)
	rec.Grant = changed.Grant
	rec.Status.Policies = nil
	for _, ref := range decision.Binding {
		rec.Status.Policies = append(rec.Status.Policies, ref.String())
	}
	records.Notify(rec, time.Now(), level, text)
	return nil
}

// grantNotice tells the user of a grant that has changed. How TLS ends is a part of it, and no rule.
func grantNotice(before []byte, now policy.Decision) (level, text string) {
	var g grant.Grant
	if err := json.Unmarshal(before, &g); err == nil {
		same := now.Grant
		g.TLS, same.TLS = nil, nil
		if a, b := encoded(g), encoded(same); a != "" && a == b {
			return records.Info, "the TLS configuration of the target's ports has changed; ports that the session has keep what they had: start it again to have the new one"
		}
	}
	var names []string
	for _, ref := range now.Binding {
		names = append(names, ref.String())
	}
	if len(names) == 0 {
		return records.Warning, "policies have changed what the session may do; no policy binds it now"
	}
	return records.Warning, "policies have changed what the session may do; these bind it now: " + strings.Join(names, ", ")
}

// encoded is a grant as JSON; empty when it can't be.
func encoded(g grant.Grant) string {
	raw, err := json.Marshal(g)
	if err != nil {
		return ""
	}
	return string(raw)
}

// forbidden is the end of a session that policies do not allow any more. A session that does
// not follow its profile any more goes on: it did when it was started.
func forbidden(d policy.Decision) *ending {
	reasons := slices.DeleteFunc(slices.Clone(d.Reasons), aboutProfile)
	if len(reasons) == 0 {
		return nil
	}
	return &ending{records.ReasonPolicyChanged, (&policy.RefusedError{Reasons: reasons}).Error()}
}

// aboutProfile says that no policy refuses, but what the session's profile says now.
func aboutProfile(r policy.Reason) bool {
	return r.Policy == nil && (r.Code == policy.CodeProfileNotFollowed || r.Code == policy.CodeProfileUnusable)
}

// profileNotice tells the user that the session's profile has changed, or is there no longer.
func profileNotice(name string, there bool, d policy.Decision) (level, text string) {
	const goesOn = "the session goes on as it was started; start it again to have what the profile says now"
	i := slices.IndexFunc(d.Reasons, aboutProfile)
	switch {
	case !there:
		return records.Warning, fmt.Sprintf("profile %q has been deleted; the session goes on as it was started", name)
	case i < 0:
		return records.Info, fmt.Sprintf("profile %q has changed; the session is still as it says", name)
	case d.Reasons[i].Code == policy.CodeProfileUnusable:
		return records.Warning, fmt.Sprintf("profile %q has changed: %s; %s", name, d.Reasons[i].Message, goesOn)
	}
	texts := make([]string, len(d.Reasons[i].Differences))
	for j, diff := range d.Reasons[i].Differences {
		texts[j] = fmt.Sprintf("%s is %s and would be %s", diff.Path, diff.Session, diff.Profile)
	}
	return records.Warning, fmt.Sprintf("profile %q has changed: %s; %s", name, strings.Join(texts, ", "), goesOn)
}

// attach makes a record's attachments those of the target's pods. It returns what failed, which
// is worth another try.
func (r *Reconciler) attach(ctx context.Context, rec *recordsv1.SessionRecord, target *workloads.Target) error {
	if target.Path.Kind == config.Targetless {
		if r.nodes.settle(rec); r.Sessions.Current(rec, nil, target.Path) {
			return nil
		}
		return r.register(ctx, rec, nil)
	}
	r.nodes.settle(rec)
	drop(rec, func(name string) bool {
		return !slices.ContainsFunc(target.Pods, func(p *corev1.Pod) bool { return string(p.UID) == name && p.Status.Phase == corev1.PodRunning })
	})
	var need []*corev1.Pod
	ready := target.Ready()
	for _, pod := range target.Pods {
		_, attached := rec.Routes[string(pod.UID)]
		if (attached && alive(pod) || slices.Contains(ready, pod)) && !r.Sessions.Current(rec, pod, target.Path) {
			need = append(need, pod)
		}
	}
	// A pod whose process has ended, and which is not to have another, is of no use any more.
	drop(rec, func(name string) bool {
		_, attached := rec.Routes[name]
		return !attached && !slices.ContainsFunc(need, func(p *corev1.Pod) bool { return string(p.UID) == name })
	})
	leavingLast(rec, target.Pods)
	if len(need) == 0 {
		return nil
	}
	return r.register(ctx, rec, need)
}

// leavingLast puts the attachments of pods that are being deleted behind the others: outgoing
// traffic goes through the first.
func leavingLast(rec *recordsv1.SessionRecord, pods []*corev1.Pod) {
	leaves := func(a sessions.Attachment) int {
		if slices.ContainsFunc(pods, func(p *corev1.Pod) bool { return string(p.UID) == a.Name && p.DeletionTimestamp != nil }) {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(rec.Status.Attachments, func(a, b sessions.Attachment) int { return leaves(a) - leaves(b) })
}

// alive says that a pod runs and stays, ready or not.
func alive(p *corev1.Pod) bool {
	return p.DeletionTimestamp == nil && p.Status.Phase == corev1.PodRunning
}

// drop removes attachments by name.
func drop(rec *recordsv1.SessionRecord, gone func(name string) bool) {
	rec.Status.Attachments = slices.DeleteFunc(rec.Status.Attachments, func(a sessions.Attachment) bool { return gone(a.Name) })
	for name := range rec.Routes {
		if gone(name) {
			delete(rec.Routes, name)
		}
	}
}

func (r *Reconciler) register(ctx context.Context, rec *recordsv1.SessionRecord, pods []*corev1.Pod) error {
	var failed []error
	for _, result := range r.Sessions.Attach(ctx, rec, pods) {
		if result.Err == nil {
			result.Into(rec)
			r.nodes.registered(rec.Name, result.Name, result.Route.AgentUID)
			continue
		}
		failed = append(failed, result.Err)
		if result.Name != "" {
			drop(rec, func(name string) bool { return name == result.Name })
		}
		if gone := (*nodeapi.Error)(nil); errors.As(result.Err, &gone) && gone.Code == nodeapi.CodeTargetGone {
			continue // the pod's end is on its way here
		}
		records.NotifyOnce(rec, time.Now(), result.Err.Error())
	}
	return errors.Join(failed...)
}

// write settles the phase, and writes a record that has changed.
func (r *Reconciler) write(ctx context.Context, before, work *recordsv1.SessionRecord) error {
	phase := sessions.SessionActive
	if len(work.Status.Attachments) == 0 {
		phase = sessions.SessionWaiting
	}
	if phase != work.Status.Phase {
		work.Status.Phase = phase
		work.Seen = nil
		if phase == sessions.SessionWaiting {
			work.Seen = new(metav1.Now())
			records.NotifyOnce(work, time.Now(), work.Spec.Target+" has no pod that is ready; the session waits for one")
		}
	}
	if reflect.DeepEqual(before, work) {
		return nil
	}
	over := false
	_, err := r.Records.Update(ctx, before, func(rec *recordsv1.SessionRecord) error {
		if rec.ResourceVersion != before.ResourceVersion {
			over = rec.Status.Phase == sessions.SessionEnded
			return errMoved
		}
		work.DeepCopyInto(rec)
		return nil
	})
	if over || apierrors.IsNotFound(err) {
		// Who ended it knew nothing of the agents that it was registered at just now.
		r.Sessions.Release(ctx, work)
	}
	if errors.Is(err, errMoved) || apierrors.IsNotFound(err) {
		return nil // the change that was faster brings us here again
	}
	return err
}

var errMoved = errors.New("the record has changed in the meantime")
