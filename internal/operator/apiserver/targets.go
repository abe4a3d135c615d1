package apiserver

import (
	"context"
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	sessions "github.com/mirrord-go/mirrord/api/sessions/v1alpha"
)

// Targets knows what sessions can attach to. It is safe for concurrent use.
type Targets interface {
	// Get returns one target by its name, KIND.NAME.
	Get(ctx context.Context, namespace, name string) (*sessions.Target, error)
	// List returns the targets of a namespace; an empty one means all.
	List(ctx context.Context, namespace string) (*sessions.TargetList, error)
}

type targetsREST struct {
	targets Targets
}

// What targets can do.
var (
	_ rest.Storage              = &targetsREST{}
	_ rest.Scoper               = &targetsREST{}
	_ rest.SingularNameProvider = &targetsREST{}
	_ rest.CategoriesProvider   = &targetsREST{}
	_ rest.Getter               = &targetsREST{}
	_ rest.Lister               = &targetsREST{}
)

func (*targetsREST) New() runtime.Object     { return &sessions.Target{} }
func (*targetsREST) NewList() runtime.Object { return &sessions.TargetList{} }
func (*targetsREST) Destroy()                {}
func (*targetsREST) NamespaceScoped() bool   { return true }
func (*targetsREST) GetSingularName() string { return "target" }
func (*targetsREST) Categories() []string    { return []string{"mirrord"} }
func (*targetsREST) Kind() string            { return "Target" }

// Get implements rest.Getter.
func (r *targetsREST) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	return result(r.targets.Get(ctx, request.NamespaceValue(ctx), name))
}

// List implements rest.Lister.
func (r *targetsREST) List(ctx context.Context, opts *internalversion.ListOptions) (runtime.Object, error) {
	l, err := r.targets.List(ctx, request.NamespaceValue(ctx))
	if err != nil {
		return nil, err
	}
	byLabel, byField := labels.Everything(), fields.Everything()
	if opts.LabelSelector != nil {
		byLabel = opts.LabelSelector
	}
	if opts.FieldSelector != nil {
		byField = opts.FieldSelector
	}
	kept := l.Items[:0]
	for _, t := range l.Items {
		has := fields.Set{"metadata.name": t.Name, "metadata.namespace": t.Namespace}
		if byLabel.Matches(labels.Set(t.Labels)) && byField.Matches(has) {
			kept = append(kept, t)
		}
	}
	l.Items = kept
	return l, nil
}

// ConvertToTable implements rest.TableConvertor.
func (*targetsREST) ConvertToTable(_ context.Context, object, _ runtime.Object) (*metav1.Table, error) {
	return table(object, []metav1.TableColumnDefinition{
		{Name: "Name", Type: "string", Format: "name", Description: "Name of the target, as in RBAC rules"},
		{Name: "Path", Type: "string", Description: "The target in a configuration"},
		{Name: "Ready", Type: "integer", Description: "Pods that a session would attach to"},
		{Name: "Containers", Type: "string", Description: "Containers that a session can choose", Priority: 1},
	}, func(t *sessions.Target) []any {
		return []any{t.Name, t.Spec.Path, int64(t.Spec.ReadyPods), strings.Join(t.Spec.Containers, ", ")}
	})
}

// ConvertToTable implements rest.TableConvertor.
func (*sessionsREST) ConvertToTable(_ context.Context, object, _ runtime.Object) (*metav1.Table, error) {
	return table(object, []metav1.TableColumnDefinition{
		{Name: "Name", Type: "string", Format: "name", Description: "Name of the session"},
		{Name: "User", Type: "string", Description: "Who created the session"},
		{Name: "Target", Type: "string", Description: "What the session attaches to"},
		{Name: "Profile", Type: "string", Description: "The profile that the session follows"},
		{Name: "Features", Type: "string", Description: "What the session does"},
		{Name: "Phase", Type: "string", Description: "Where the session stands"},
		{Name: "Age", Type: "string", Description: "How long the session is there"},
		{Name: "Pods", Type: "integer", Description: "Pods that the session is attached to", Priority: 1},
		{Name: "Program", Type: "string", Description: "What the session runs", Priority: 1},
		{Name: "Host", Type: "string", Description: "Where the session runs", Priority: 1},
	}, func(s *sessions.Session) []any {
		return []any{
			s.Name, s.Status.User, s.Spec.Target, s.Spec.Profile, Summary(s.Spec.Features), string(s.Status.Phase),
			age(s.CreationTimestamp), int64(len(s.Status.Attachments)), s.Spec.Client.Program, s.Spec.Client.Hostname,
		}
	})
}

// Summary says in a few words what a session does, such as "steal, outgoing, dns".
func Summary(f sessions.Features) string {
	var words []string
	add := func(word string, on bool) {
		if on {
			words = append(words, word)
		}
	}
	switch m := f.Incoming.Mode; {
	case (m == "steal" || m == "mirror") && f.Incoming.Filter != nil:
		words = append(words, m+" (filtered)")
	default:
		add(m, m != "" && m != "off")
	}
	switch {
	case f.Outgoing.TCP && f.Outgoing.UDP:
		words = append(words, "outgoing")
	default:
		add("outgoing (tcp)", f.Outgoing.TCP)
		add("outgoing (udp)", f.Outgoing.UDP)
	}
	add("dns", f.DNS.Enabled)
	add("env", f.Env.Enabled)
	add("files ("+f.Files.Mode+")", f.Files.Mode != "" && f.Files.Mode != "local")
	if len(words) == 0 {
		return "none"
	}
	return strings.Join(words, ", ")
}

func age(t metav1.Time) string {
	if t.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(time.Since(t.Time))
}

// table makes a table of an object T or of a list of them.
func table[T any, P interface {
	*T
	metav1.Object
	runtime.Object
}](object runtime.Object, columns []metav1.TableColumnDefinition, cells func(P) []any) (*metav1.Table, error) {
	t := &metav1.Table{ColumnDefinitions: columns}
	add := func(o runtime.Object) error {
		item, ok := o.(P)
		if !ok {
			return fmt.Errorf("no table is made of a %T", o)
		}
		t.Rows = append(t.Rows, metav1.TableRow{Cells: cells(item), Object: runtime.RawExtension{Object: o}})
		return nil
	}
	if !meta.IsListType(object) {
		if m, ok := object.(metav1.Object); ok {
			t.ResourceVersion = m.GetResourceVersion()
		}
		return t, add(object)
	}
	if m, err := meta.ListAccessor(object); err == nil {
		t.ResourceVersion, t.Continue, t.RemainingItemCount = m.GetResourceVersion(), m.GetContinue(), m.GetRemainingItemCount()
	}
	return t, meta.EachListItem(object, add)
}
