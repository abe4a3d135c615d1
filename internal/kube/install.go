package kube

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// fieldManager owns the fields of what is installed.
const fieldManager = "mirrord"

// Labels and annotations that say whose an object is.
const (
	labelPartOf       = "app.kubernetes.io/part-of"
	partOf            = "mirrord"
	managedByThis     = "mirrord"
	annotationRelease = "meta.helm.sh/release-name"
	labelPodSecurity  = "pod-security.kubernetes.io/enforce"
)

// Change is what became of an object.
type Change string

// The changes.
const (
	Created   Change = "created"
	Changed   Change = "changed"
	Unchanged Change = "unchanged"
	Removed   Change = "removed"
	// Foreign objects are somebody else's and stay as they are.
	Foreign Change = "not ours"
)

// InstallOptions say how objects are applied.
type InstallOptions struct {
	// DryRun has the API server check everything and change nothing.
	DryRun bool
	// Each is told of every object, in order; may be nil.
	Each func(*unstructured.Unstructured, Change)
}

// Install makes the cluster have the objects, and removes those of an earlier installation that are
// not among them; namespaces and resource types are never removed so. It can be repeated at any
// time. Objects that somebody else has made are found before anything is changed, and refused,
// but for resource types, which are taken over, and a namespace, which is used as it is. Rights that
// the user lacks are found before anything is changed, too, and are all in one [*MissingRulesError].
func (c *Cluster) Install(ctx context.Context, objects []*unstructured.Unstructured, opts InstallOptions) error {
	if opts.Each == nil {
		opts.Each = func(*unstructured.Unstructured, Change) {}
	}
	may := c.newInstaller(ctx)
	if err := may.mayRead(ctx, objects); err != nil {
		return err
	}
	present, err := c.survey(ctx, objects)
	if err != nil {
		return err
	}
	stale, err := c.stale(ctx, objects)
	if err != nil {
		return err
	}
	if err := may.mayWrite(ctx, objects, present, stale); err != nil {
		return err
	}
	for i, object := range objects {
		change, err := c.installOne(ctx, object, present[i], opts.DryRun)
		if err != nil {
			return err
		}
		opts.Each(object, change)
	}
	return c.prune(ctx, stale, opts)
}

// survey reads what is there of the objects, and refuses what belongs to others.
func (c *Cluster) survey(ctx context.Context, objects []*unstructured.Unstructured) ([]*unstructured.Unstructured, error) {
	present := make([]*unstructured.Unstructured, len(objects))
	var helm, foreign []string
	release := ""
	for i, object := range objects {
		found, err := c.getObject(ctx, object)
		if err != nil {
			return nil, err
		}
		present[i] = found
		switch {
		case found == nil, isOurs(found):
		case object.GetKind() == "CustomResourceDefinition": // what Helm has left when it uninstalled, for one
		case found.GetAnnotations()[annotationRelease] != "":
			release = found.GetAnnotations()[annotationRelease]
			helm = append(helm, Describe(object))
		case object.GetKind() == "Namespace":
		default:
			foreign = append(foreign, Describe(object))
		}
	}
	if len(helm) > 0 {
		return nil, &Error{
			Reason: ReasonRefused, Doing: installing,
			Why:  fmt.Sprintf("%s belongs to the Helm release %q, and so may more", helm[0], release),
			Next: "Upgrade it with \"helm upgrade\". To change over, uninstall it with Helm first; profiles and policies stay.",
		}
	}
	if len(foreign) > 0 {
		return nil, &Error{
			Reason: ReasonRefused, Doing: installing,
			Why:  "these objects are there already, and were not made by this command: " + strings.Join(foreign, ", "),
			Next: "Another operator of mirrord may be installed; there can be one in a cluster. Remove it, or these objects, first.",
		}
	}
	return present, nil
}

func isOurs(object *unstructured.Unstructured) bool {
	labels := object.GetLabels()
	return labels[labelPartOf] == partOf && labels[labelManager] == managedByThis
}

func (c *Cluster) installOne(ctx context.Context, object, present *unstructured.Unstructured, dryRun bool) (Change, error) {
	if present != nil && object.GetKind() == "Namespace" && !isOurs(present) {
		return Foreign, usable(object, present)
	}
	applied, err := c.applyObject(ctx, object, dryRun)
	switch {
	case dryRun && apierrors.IsNotFound(err) && object.GetNamespace() != "":
		return Created, nil // in a namespace that is not there because this is a dry run
	case apierrors.IsNotFound(err) && object.GroupVersionKind().Group == "cert-manager.io":
		return "", &Error{
			Reason: ReasonNotFound, Doing: "making " + Describe(object), Why: "the cluster does not have the resource types of cert-manager",
			Next: "Install cert-manager first, or leave tls.certManager.enabled false: the operator then makes its certificate itself.", Err: err,
		}
	case apierrors.IsNotFound(err) && object.GetNamespace() != "":
		return "", &Error{
			Reason: ReasonNotFound, Doing: "making " + Describe(object), Why: fmt.Sprintf("there is no namespace %q", object.GetNamespace()),
			Next: "Make the namespace, or take it out of roleNamespaces; with createNamespace true, the operator's own is made.", Err: err,
		}
	case err != nil:
		k, kindErr := objectKindOf(object)
		if kindErr != nil {
			return "", kindErr
		}
		return "", c.explainApply(ctx, err, object, k, present == nil)
	case present == nil:
		return Created, nil
	case sameContent(applied, present):
		return Unchanged, nil
	}
	return Changed, nil
}

// sameContent compares all but what the API server writes at every change.
func sameContent(a, b *unstructured.Unstructured) bool {
	plain := func(o *unstructured.Unstructured) map[string]any {
		o = o.DeepCopy()
		o.SetManagedFields(nil)
		o.SetResourceVersion("")
		o.SetGeneration(0)
		unstructured.RemoveNestedField(o.Object, "status")
		return o.Object
	}
	return equality.Semantic.DeepEqual(plain(a), plain(b))
}

// usable says whether agents can run in a namespace that somebody else made.
func usable(object, present *unstructured.Unstructured) error {
	level := present.GetLabels()[labelPodSecurity]
	if level == "" || level == object.GetLabels()[labelPodSecurity] {
		return nil
	}
	return &Error{
		Reason: ReasonRefused, Doing: installing,
		Why:  fmt.Sprintf("the namespace %s has the Pod Security level %q, which lets no agent run", present.GetName(), level),
		Next: fmt.Sprintf("Choose another namespace, or: kubectl label namespace %s %s=privileged --overwrite", present.GetName(), labelPodSecurity),
	}
}

// explainApply explains a refusal. Who grants rights must have them: the API server says which
// are missing, so its words are kept.
func (c *Cluster) explainApply(ctx context.Context, err error, object *unstructured.Unstructured, k objectKind, create bool) error {
	doing := "applying " + Describe(object)
	if apierrors.IsForbidden(err) {
		rule := k.rule("patch", object.GetNamespace())
		if create {
			rule = k.rule("create", object.GetNamespace())
		}
		return c.refused(ctx, err, doing, "Installing needs the rights of a cluster's administrator (the ClusterRole cluster-admin).", rule)
	}
	return c.explain(ctx, err, doing, k.rule("patch", object.GetNamespace()))
}

// stale is what an earlier installation had and this one does not, and what is to be removed.
func (c *Cluster) stale(ctx context.Context, objects []*unstructured.Unstructured) ([]unstructured.Unstructured, error) {
	keep := map[string]bool{}
	for _, object := range objects {
		keep[Describe(object)] = true
	}
	installed, err := c.installed(ctx)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(installed, func(object unstructured.Unstructured) bool {
		return keep[Describe(&object)] || object.GetKind() == "Namespace" || object.GetKind() == "CustomResourceDefinition"
	}), nil
}

// prune removes what is stale.
func (c *Cluster) prune(ctx context.Context, stale []unstructured.Unstructured, opts InstallOptions) error {
	for i := range stale {
		object := &stale[i]
		if !opts.DryRun {
			k, err := objectKindOf(object)
			if err != nil {
				return err
			}
			if err := c.deleteObject(ctx, k, object.GetNamespace(), object.GetName()); err != nil {
				return err
			}
		}
		opts.Each(object, Removed)
	}
	return nil
}

// installed lists all objects that this command has installed, the ones that need others first.
func (c *Cluster) installed(ctx context.Context) ([]unstructured.Unstructured, error) {
	var all []unstructured.Unstructured
	for _, k := range slices.Backward(objectKinds) {
		found, err := c.listObjects(ctx, k, labelPartOf+"="+partOf+","+labelManager+"="+managedByThis)
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return all, nil
}
