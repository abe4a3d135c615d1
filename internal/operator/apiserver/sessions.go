package apiserver

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	sessions "github.com/mirrord-go/mirrord/api/sessions/v1alpha"
)

// Sessions does what the verbs on sessions mean. Its errors are those of package
// k8s.io/apimachinery/pkg/api/errors; others become internal errors. It is safe for concurrent
// use.
type Sessions interface {
	// Create decides about a session in its namespace, and starts it.
	Create(ctx context.Context, u user.Info, s *sessions.Session, dryRun bool) (*sessions.Session, error)
	// Get reads one session.
	Get(ctx context.Context, namespace, name string) (*sessions.Session, error)
	// List reads sessions; an empty namespace means all.
	List(ctx context.Context, namespace string, opts metav1.ListOptions) (*sessions.SessionList, error)
	// Watch follows sessions from opts.ResourceVersion on, with bookmarks when opts asks for
	// them. All objects are *Session, or *metav1.Status in errors.
	Watch(ctx context.Context, namespace string, opts metav1.ListOptions) (watch.Interface, error)
	// End ends a session in the name of u.
	End(ctx context.Context, u user.Info, namespace, name string, preconditions *metav1.Preconditions, dryRun bool) (*sessions.Session, error)
}

// sessionsREST makes resources of Sessions.
type sessionsREST struct {
	sessions Sessions
}

// What sessions can do.
var (
	_ rest.Storage              = &sessionsREST{}
	_ rest.Scoper               = &sessionsREST{}
	_ rest.SingularNameProvider = &sessionsREST{}
	_ rest.ShortNamesProvider   = &sessionsREST{}
	_ rest.CategoriesProvider   = &sessionsREST{}
	_ rest.Creater              = &sessionsREST{} //nolint:misspell // the library's spelling
	_ rest.Getter               = &sessionsREST{}
	_ rest.Lister               = &sessionsREST{}
	_ rest.Watcher              = &sessionsREST{}
	_ rest.GracefulDeleter      = &sessionsREST{}
	_ rest.CollectionDeleter    = &sessionsREST{}
)

func (*sessionsREST) New() runtime.Object     { return &sessions.Session{} }
func (*sessionsREST) NewList() runtime.Object { return &sessions.SessionList{} }
func (*sessionsREST) Destroy()                {}
func (*sessionsREST) NamespaceScoped() bool   { return true }
func (*sessionsREST) GetSingularName() string { return "session" }
func (*sessionsREST) ShortNames() []string    { return []string{"ms"} }
func (*sessionsREST) Categories() []string    { return []string{"mirrord"} }
func (*sessionsREST) Kind() string            { return "Session" }

// Create implements the verb create.
func (r *sessionsREST) Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, opts *metav1.CreateOptions) (runtime.Object, error) {
	s, ok := obj.(*sessions.Session)
	if !ok {
		return nil, apierrors.NewBadRequest("the object is no session")
	}
	u, namespace, err := who(ctx)
	if err != nil {
		return nil, err
	}
	s.Namespace = namespace
	if validate != nil {
		if err := validate(ctx, s.DeepCopy()); err != nil {
			return nil, err
		}
	}
	audit.AddAuditAnnotations(ctx, auditPrefix+"target", s.Spec.Target, auditPrefix+"profile", s.Spec.Profile)
	made, err := r.sessions.Create(ctx, u, s, len(opts.DryRun) > 0)
	if err == nil {
		audit.AddAuditAnnotation(ctx, auditPrefix+"session", made.Namespace+"/"+made.Name)
	}
	return result(made, err)
}

// Get implements rest.Getter.
func (r *sessionsREST) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	return result(r.sessions.Get(ctx, request.NamespaceValue(ctx), name))
}

// List implements rest.Lister.
func (r *sessionsREST) List(ctx context.Context, opts *internalversion.ListOptions) (runtime.Object, error) {
	return result(r.sessions.List(ctx, request.NamespaceValue(ctx), external(opts)))
}

// Watch implements rest.Watcher.
func (r *sessionsREST) Watch(ctx context.Context, opts *internalversion.ListOptions) (watch.Interface, error) {
	return r.sessions.Watch(ctx, request.NamespaceValue(ctx), external(opts))
}

// Delete implements rest.GracefulDeleter. The session is there for a moment longer, so that its
// client can read why it ended.
func (r *sessionsREST) Delete(ctx context.Context, name string, validate rest.ValidateObjectFunc, opts *metav1.DeleteOptions) (runtime.Object, bool, error) {
	u, namespace, err := who(ctx)
	if err != nil {
		return nil, false, err
	}
	if validate != nil {
		s, err := r.sessions.Get(ctx, namespace, name)
		if err != nil {
			return nil, false, err
		}
		if err := validate(ctx, s); err != nil {
			return nil, false, err
		}
	}
	s, err := result(r.sessions.End(ctx, u, namespace, name, opts.Preconditions, len(opts.DryRun) > 0))
	return s, false, err
}

// DeleteCollection implements rest.CollectionDeleter: it ends all sessions of a namespace that
// opts choose, one after the other. Sessions that have ended already are left out. The first
// that can't be ended stops it. The answer is a Status: the controller of namespaces asks for
// protocol buffers, which sessions do not have, and would never get a namespace deleted.
func (r *sessionsREST) DeleteCollection(ctx context.Context, validate rest.ValidateObjectFunc, opts *metav1.DeleteOptions, list *internalversion.ListOptions) (runtime.Object, error) {
	_, namespace, err := who(ctx)
	if err != nil {
		return nil, err
	}
	if list == nil {
		list = &internalversion.ListOptions{}
	}
	all, err := r.sessions.List(ctx, namespace, external(list))
	if err != nil {
		return nil, err
	}
	for i := range all.Items {
		if all.Items[i].Status.Phase == sessions.SessionEnded {
			continue
		}
		one := opts.DeepCopy()
		one.Preconditions = &metav1.Preconditions{UID: &all.Items[i].UID}
		_, _, err := r.Delete(ctx, all.Items[i].Name, validate, one)
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) { // these ended by themselves
			return nil, err
		}
	}
	return &metav1.Status{Status: metav1.StatusSuccess}, nil
}

// result keeps a nil pointer from becoming an object.
func result[T any, P interface {
	*T
	runtime.Object
}](o P, err error) (runtime.Object, error) {
	if err != nil {
		return nil, err
	}
	return o, nil
}

// who is who asks, and about which namespace.
func who(ctx context.Context) (user.Info, string, error) {
	u, ok := request.UserFrom(ctx)
	if !ok {
		return nil, "", apierrors.NewUnauthorized("the request has no user")
	}
	namespace, ok := request.NamespaceFrom(ctx)
	if !ok || namespace == "" {
		return nil, "", apierrors.NewBadRequest("the request names no namespace")
	}
	return u, namespace, nil
}

// external is what of opts concerns the store.
func external(opts *internalversion.ListOptions) metav1.ListOptions {
	out := metav1.ListOptions{
		Limit: opts.Limit, Continue: opts.Continue, TimeoutSeconds: opts.TimeoutSeconds,
		ResourceVersion: opts.ResourceVersion, ResourceVersionMatch: opts.ResourceVersionMatch,
		AllowWatchBookmarks: opts.AllowWatchBookmarks, SendInitialEvents: opts.SendInitialEvents,
	}
	if opts.LabelSelector != nil {
		out.LabelSelector = opts.LabelSelector.String()
	}
	if opts.FieldSelector != nil {
		out.FieldSelector = opts.FieldSelector.String()
	}
	return out
}
