package kube

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/mirrord-go/mirrord/api/sessions/v1alpha"
	"github.com/mirrord-go/mirrord/internal/config"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

const (
	// findTimeout bounds the question whether there is an operator.
	findTimeout = 10 * time.Second
	// createTimeout bounds the start of a session, in which the operator may have to start
	// agents.
	createTimeout = 60 * time.Second
	// refollowPause is between two attempts to follow a session.
	refollowPause = time.Second
)

// OperatorDownError says that an operator is installed and does not answer.
type OperatorDownError struct {
	// Why is the API server's word.
	Why string
	Err error
}

// Error gives the API server's reason.
func (e *OperatorDownError) Error() string {
	return "the operator is installed in the cluster and does not answer: " + e.Why
}

// Unwrap returns the API server's answer.
func (e *OperatorDownError) Unwrap() error { return e.Err }

// Hint says where to look.
func (e *OperatorDownError) Hint() string {
	return "\"mirrord operator status\" tells more. Sessions wait for it: what policies forbid is not known without it.\n" +
		"Who has the rights to start agents can go without, with \"operator\": false."
}

// HasOperator says whether an operator is installed that this client can use. It makes one
// request that every user may make. An operator that does not answer is an
// [*OperatorDownError].
func (c *Cluster) HasOperator(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, findTimeout)
	defer cancel()
	err := c.sessionsAPI().Get().AbsPath(sessionPath("", "")).Do(ctx).Error()
	switch {
	case err == nil:
		return true, nil
	case apierrors.IsNotFound(err):
		return false, nil
	case apierrors.IsServiceUnavailable(err), apierrors.IsForbidden(err), apierrors.IsInternalError(err):
		return true, &OperatorDownError{Why: bare(err), Err: err}
	}
	return false, c.explain(ctx, err, "looking for the operator", sessionRule("get", ""))
}

// CreateSession starts a session at the operator; an empty namespace is the context's. A
// session that policies do not allow is an [*Error] with [ReasonRefused], whose hint has
// each reason and what to change.
func (c *Cluster) CreateSession(ctx context.Context, namespace string, spec v1alpha.SessionSpec) (*v1alpha.Session, error) {
	namespace = cmp.Or(namespace, c.namespace)
	ctx, cancel := context.WithTimeout(ctx, createTimeout)
	defer cancel()
	s := v1alpha.Session{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha.GroupVersion.String(), Kind: "Session"},
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace},
		Spec:       spec,
	}
	body, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encoding the session: %w", err)
	}
	var made v1alpha.Session
	for wait := retryMin; ; wait *= 2 {
		err = c.sendJSON(ctx, c.sessionsAPI().Post().AbsPath(sessionPath(namespace, "")).Body(body), &made)
		if !apierrors.IsServiceUnavailable(err) && !apierrors.IsTooManyRequests(err) || tooMany(err) || sleep(ctx, wait) != nil {
			break
		}
	}
	if err != nil {
		return nil, c.sessionRefusal(ctx, err, spec.Target, namespace)
	}
	return &made, nil
}

// sessionRefusal explains why the operator did not start a session.
func (c *Cluster) sessionRefusal(ctx context.Context, err error, target, namespace string) error {
	doing := "starting a session on " + target
	status := apierrors.APIStatus(nil)
	if !errors.As(err, &status) {
		return c.explain(ctx, err, doing, sessionRule("create", namespace))
	}
	details := status.Status().Details
	switch {
	case tooMany(err):
		why, next, _ := strings.Cut(status.Status().Message, "\n")
		return &Error{Reason: ReasonRefused, Doing: doing, Why: why, Next: next, Err: err}
	case apierrors.IsForbidden(err) && details != nil && len(details.Causes) > 0:
		return &Error{
			Reason: ReasonRefused, Doing: doing, Err: err,
			Why: "the cluster's policies do not allow it", Next: reasons(details.Causes),
		}
	case apierrors.IsForbidden(err) && details != nil && details.Kind == "targets":
		return &MissingRulesError{
			Doing: doing, User: c.whoami(ctx), Err: err,
			Rules: []Rule{{Verb: "get", Group: v1alpha.GroupName, Resource: "targets", Namespace: namespace}},
		}
	case apierrors.IsForbidden(err):
		return &MissingRulesError{Doing: doing, User: c.whoami(ctx), Err: err, Rules: sessionRules(namespace)}
	case apierrors.IsNotFound(err):
		return &Error{
			Reason: ReasonNotFound, Doing: doing, Why: status.Status().Message, Err: err,
			Next: "\"mirrord ls\" lists what there is. Another namespace is chosen with -n or the field \"target.namespace\".",
		}
	case apierrors.IsServiceUnavailable(err):
		return &OperatorDownError{Why: status.Status().Message, Err: err}
	case apierrors.IsBadRequest(err), apierrors.IsInvalid(err), apierrors.IsInternalError(err):
		why, next, _ := strings.Cut(status.Status().Message, "\n")
		if next == "" && apierrors.IsInternalError(err) {
			next = "The operator answered this; \"mirrord operator status\" tells more about it."
		}
		return &Error{Reason: ReasonOther, Doing: doing, Why: why, Err: err, Next: next}
	}
	return c.explain(ctx, err, doing, sessionRule("create", namespace))
}

// tooMany says that the user has as many sessions as the operator allows: unlike other answers of the same code, no
// later try makes a difference.
func tooMany(err error) bool {
	return apierrors.IsTooManyRequests(err) && apierrors.HasStatusCause(err, v1alpha.CauseSessionLimit)
}

// reasons are a policy's refusals, each with what to change below it.
func reasons(causes []metav1.StatusCause) string {
	var lines []string
	for _, cause := range causes {
		what, next, _ := strings.Cut(cause.Message, "\n")
		if cause.Field != "" {
			what = cause.Field + ": " + what
		}
		lines = append(lines, "- "+what)
		if next != "" && !slices.Contains(lines, "  "+next) {
			lines = append(lines, "  "+next)
		}
	}
	return strings.Join(lines, "\n")
}

// DeleteSession ends a session. One that is gone already is no error.
func (c *Cluster) DeleteSession(ctx context.Context, namespace, name string) error {
	err := c.deleteSession(ctx, namespace, name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	return c.explain(ctx, err, "ending session "+name, sessionRule("delete", namespace))
}

func (c *Cluster) deleteSession(ctx context.Context, namespace, name string) error {
	return c.retry(ctx, func(ctx context.Context) error {
		return c.sessionsAPI().Delete().AbsPath(sessionPath(namespace, name)).SetHeader("Accept", "application/json").Do(ctx).Error()
	})
}

// EndSession ends a session that a person names: one that is not there is an [*Error] with [ReasonNotFound].
func (c *Cluster) EndSession(ctx context.Context, namespace, name string) error {
	doing := "ending session " + name
	err := c.deleteSession(ctx, namespace, name)
	if apierrors.IsNotFound(err) {
		if there, findErr := c.HasOperator(ctx); findErr == nil && there {
			return &Error{
				Reason: ReasonNotFound, Doing: doing, Why: fmt.Sprintf("namespace %q has no session of that name", namespace), Err: err,
				Next: "\"mirrord session list --all-namespaces\" lists what there is; -n chooses the namespace. A session that has ended is gone.",
			}
		}
		return noOperator(doing, err)
	}
	return c.explain(ctx, err, doing, sessionRule("delete", namespace))
}

// noOperator is the error of who asks for sessions in a cluster without an operator.
func noOperator(doing string, err error) error {
	return &Error{
		Reason: ReasonNotFound, Doing: doing, Why: "no operator is installed in this cluster", Err: err,
		Next: "Sessions without an operator are known to nobody but their users, who end them with Ctrl-C; \"mirrord operator install\" installs one.",
	}
}

// ListSessions returns the sessions of a namespace; an empty one is all of them. In a cluster without an operator it is an [*Error] with
// [ReasonNotFound].
func (c *Cluster) ListSessions(ctx context.Context, namespace string) ([]v1alpha.Session, error) {
	const doing = "listing sessions"
	path := sessionPath(namespace, "")
	if namespace == "" {
		path += "/sessions"
	}
	var list v1alpha.SessionList
	err := c.retry(ctx, func(ctx context.Context) error {
		return c.sendJSON(ctx, c.sessionsAPI().Get().AbsPath(path), &list)
	})
	switch {
	case apierrors.IsNotFound(err):
		return nil, noOperator(doing, err)
	case err != nil:
		return nil, c.explain(ctx, err, doing, sessionRule("list", namespace))
	}
	return list.Items, nil
}

// OperatorTargets returns what a session through the operator could attach to in a
// namespace, in the order of [TargetKinds]; of the given kinds, or of all when there are
// none.
func (c *Cluster) OperatorTargets(ctx context.Context, namespace string, kinds []config.TargetKind) ([]config.TargetPath, error) {
	namespace = cmp.Or(namespace, c.namespace)
	var list v1alpha.TargetList
	path := strings.Join(append(sessionsBase(), "namespaces", namespace, "targets"), "/")
	err := c.retry(ctx, func(ctx context.Context) error {
		return c.sendJSON(ctx, c.sessionsAPI().Get().AbsPath(path), &list)
	})
	if err != nil {
		rule := Rule{Verb: "list", Group: v1alpha.GroupName, Resource: "targets", Namespace: namespace}
		return nil, c.explain(ctx, err, "listing the targets of namespace "+namespace, rule)
	}
	var found []config.TargetPath
	for _, t := range list.Items {
		p, err := config.ParseTargetPath(t.Spec.Path)
		if err != nil || p.Kind == config.Targetless || len(kinds) > 0 && !slices.Contains(kinds, p.Kind) {
			continue
		}
		found = append(found, p)
	}
	order := TargetKinds()
	slices.SortStableFunc(found, func(a, b config.TargetPath) int {
		return cmp.Or(slices.Index(order, a.Kind)-slices.Index(order, b.Kind), strings.Compare(a.Name, b.Name))
	})
	return found, nil
}

// FollowSession calls see with the session at once and whenever it changes, until ctx ends
// or the session is gone, which is an [*Error] with [ReasonNotFound]. A cluster that does
// not answer for a while changes nothing.
func (c *Cluster) FollowSession(ctx context.Context, namespace, name string, see func(*v1alpha.Session)) error {
	gone := &Error{Reason: ReasonNotFound, Doing: "following session " + name, Why: "it is gone"}
	for {
		var list v1alpha.SessionList
		one := "metadata.name=" + name
		err := c.sendJSON(ctx, c.sessionsAPI().Get().AbsPath(sessionPath(namespace, "")).Param("fieldSelector", one), &list)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err == nil {
			if len(list.Items) == 0 {
				return gone
			}
			see(&list.Items[0])
			var deleted bool
			deleted, err = c.watchSession(ctx, namespace, one, list.ResourceVersion, see)
			if deleted {
				return gone
			}
		}
		if apierrors.IsForbidden(err) {
			return c.explain(ctx, err, "following session "+name, sessionRule("watch", namespace))
		}
		if err != nil {
			c.log.DebugContext(ctx, "the session can't be followed", "session", name, "error", err)
		}
		if sleep(ctx, refollowPause) != nil {
			return context.Cause(ctx)
		}
	}
}

// watchSession says whether the session was deleted.
func (c *Cluster) watchSession(ctx context.Context, namespace, selector, version string, see func(*v1alpha.Session)) (deleted bool, err error) {
	body, err := c.sessionsAPI().Get().AbsPath(sessionPath(namespace, "")).SetHeader("Accept", "application/json").
		Param("watch", "true").Param("fieldSelector", selector).Param("resourceVersion", version).Stream(ctx)
	if err != nil {
		return false, err
	}
	defer func() { _ = body.Close() }()
	for d := json.NewDecoder(body); ; {
		var event struct {
			Type   string
			Object json.RawMessage
		}
		if err := d.Decode(&event); err != nil {
			return false, nil // the server ends watches as it likes
		}
		var s v1alpha.Session
		switch event.Type {
		case "DELETED":
			return true, nil
		case "ADDED", "MODIFIED":
			if err := json.Unmarshal(event.Object, &s); err != nil {
				return false, err
			}
			see(&s)
		case "BOOKMARK":
		default: // an error, such as an expired version
			return false, nil
		}
	}
}

// sendJSON sends a request of the sessions' API and reads its answer.
func (c *Cluster) sendJSON(ctx context.Context, r *rest.Request, into any) error {
	result := r.SetHeader("Accept", "application/json").SetHeader("Content-Type", "application/json").Do(ctx)
	body, _ := result.Raw()
	if err := result.Error(); err != nil { // unlike that of Raw, it has the server's words
		return err
	}
	return json.Unmarshal(body, into)
}

// sessionsAPI is a client for paths: the sessions' types need no place in the scheme.
func (c *Cluster) sessionsAPI() rest.Interface { return c.core() }

func sessionsBase() []string {
	return []string{"/apis", v1alpha.GroupName, v1alpha.GroupVersion.Version}
}

// sessionPath is the path of a session, of all without a name, and of the API without a
// namespace either.
func sessionPath(namespace, name string) string {
	path := sessionsBase()
	switch {
	case namespace != "":
		path = append(path, "namespaces", namespace, "sessions")
	case name == "":
		return strings.Join(path, "/")
	}
	if name != "" {
		path = append(path, name)
	}
	return strings.Join(path, "/")
}

func sessionRule(verb, namespace string) Rule {
	return Rule{Verb: verb, Group: v1alpha.GroupName, Resource: "sessions", Namespace: namespace}
}

// sessionRules are the rights to run sessions through the operator.
func sessionRules(namespace string) []Rule {
	connect := sessionRule("get", namespace)
	connect.Resource = "sessions/connect"
	return []Rule{
		sessionRule("create", namespace), sessionRule("get", namespace), sessionRule("list", namespace),
		sessionRule("watch", namespace), sessionRule("delete", namespace), connect,
	}
}
