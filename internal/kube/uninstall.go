package kube

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	records "github.com/mirrord-go/mirrord/api/records/v1alpha"
	sessions "github.com/mirrord-go/mirrord/api/sessions/v1alpha"
)

// UninstallOptions say what goes with the operator.
type UninstallOptions struct {
	// DeleteCRDs removes the resource types of profiles and policies too, and with them all
	// profiles and policies of the cluster.
	DeleteCRDs bool
	// Phase is called before each step, with what is done; the function that it returns is called when the
	// step has ended. It may be nil.
	Phase func(text string) func(error)
	// Each is told of every object that is removed; may be nil.
	Each func(*unstructured.Unstructured, Change)
}

// sessionsEnd bounds how long sessions may take to end by themselves; after that their agents are
// stopped.
const sessionsEnd = 15 * time.Second

// Uninstall ends all sessions, stops the agents, and removes everything that [Cluster.Install] has
// made; it returns when all of it is gone. Repeating it finishes what an earlier call did not. It refuses when
// Helm has installed the operator. Nothing is installed: that is no error, and found is false.
func (c *Cluster) Uninstall(ctx context.Context, opts UninstallOptions) (found bool, err error) {
	if opts.Phase == nil {
		opts.Phase = func(string) func(error) { return func(error) {} }
	}
	if opts.Each == nil {
		opts.Each = func(*unstructured.Unstructured, Change) {}
	}
	operator, err := c.installedOperator(ctx)
	if err != nil {
		return false, err
	}
	if operator != nil && operator.Labels[labelManager] != managedByThis {
		return true, &Error{
			Reason: ReasonRefused, Doing: "uninstalling the operator",
			Why:  fmt.Sprintf("%s installed it, as release %q", operator.Labels[labelManager], operator.Annotations[annotationRelease]),
			Next: fmt.Sprintf("helm uninstall %s -n %s", operator.Annotations[annotationRelease], operator.Annotations["meta.helm.sh/release-namespace"]),
		}
	}
	objects, err := c.installed(ctx)
	if err != nil {
		return false, err
	}
	objects = opts.selected(objects)
	step := func(text string, do func() error) {
		if err == nil {
			end := opts.Phase(text)
			err = do()
			end(err)
		}
	}
	if operator != nil {
		step("ending the sessions", func() error { return c.endSessions(ctx) })
	}
	byKind := func(wanted ...string) func() error {
		return func() error { return c.removeAll(ctx, objects, wanted, opts.Each) }
	}
	step("removing the API and the operator", byKind("APIService", "Deployment"))
	if operator != nil {
		step("stopping the agents", func() error { return c.stopAgents(ctx, operator.Namespace) })
	}
	if operator != nil {
		// The operator makes this one itself; it matters where the namespace stays.
		step("ending the election", func() error {
			return c.deleteObject(ctx, namespacedKind("coordination.k8s.io", "v1", "Lease", "leases"), operator.Namespace, operatorName)
		})
	}
	step("removing the resource types", byKind("CustomResourceDefinition"))
	step("removing the rest", byKind())
	return operator != nil || len(objects) > 0, err
}

// selected leaves out the resource types that stay.
func (o *UninstallOptions) selected(objects []unstructured.Unstructured) []unstructured.Unstructured {
	var all []unstructured.Unstructured
	for _, object := range objects {
		if object.GetKind() == "CustomResourceDefinition" && !o.DeleteCRDs && !strings.HasSuffix(object.GetName(), "."+records.GroupName) {
			continue
		}
		all = append(all, object)
	}
	return all
}

// endSessions deletes every session, so that each user is told by whom, and waits a moment for them
// to end. When the operator does not answer, their records are deleted later, with their type.
func (c *Cluster) endSessions(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, sessionsEnd)
	defer cancel()
	var list sessions.SessionList
	for told := map[string]bool{}; ; {
		if err := c.readJSON(ctx, sessionsPath, nil, &list); err != nil {
			c.log.DebugContext(ctx, "the sessions can't be listed and are not ended one by one", "error", err)
			return nil
		}
		left := 0
		for i := range list.Items {
			s := &list.Items[i]
			if s.Status.Phase == sessions.SessionEnded {
				continue
			}
			left++
			if told[string(s.UID)] {
				continue
			}
			told[string(s.UID)] = true
			path := []string{"/apis", sessions.GroupName, sessions.GroupVersion.Version, "namespaces", s.Namespace, "sessions", s.Name}
			if err := c.core().Delete().AbsPath(path...).SetHeader("Accept", "application/json").Do(ctx).Error(); err != nil && !apierrors.IsNotFound(err) {
				c.log.DebugContext(ctx, "a session can't be ended", "session", s.Name, "error", err)
			}
		}
		if left == 0 || sleep(ctx, operatorPoll) != nil {
			return nil
		}
	}
}

// stopAgents deletes the operator's agents and waits until they have undone what they did.
func (c *Cluster) stopAgents(ctx context.Context, namespace string) error {
	for {
		var list corev1.PodList
		if err := c.list(ctx, pods, namespace, metav1.ListOptions{LabelSelector: operatorAgents}, &list); err != nil {
			return c.explain(ctx, err, "listing the agents", pods.rule("list", namespace))
		}
		left := 0
		for i := range list.Items {
			pod := &list.Items[i]
			left++
			if pod.DeletionTimestamp == nil {
				if err := c.remove(ctx, pods, namespace, pod.Name); err != nil {
					return c.explain(ctx, err, "stopping agent "+pod.Name, pods.rule("delete", namespace))
				}
			}
		}
		if left == 0 {
			return nil
		}
		if err := sleep(ctx, operatorPoll); err != nil {
			return stillThere(ctx, fmt.Sprintf("%d agents in namespace %s", left, namespace))
		}
	}
}

// removeAll deletes objects and waits until they are gone. Without kinds, it is all of them.
func (c *Cluster) removeAll(ctx context.Context, objects []unstructured.Unstructured, wanted []string, each func(*unstructured.Unstructured, Change)) error {
	var removed []*unstructured.Unstructured
	for i := range objects {
		object := &objects[i]
		if len(wanted) > 0 && !slices.Contains(wanted, object.GetKind()) {
			continue
		}
		k, err := objectKindOf(object)
		if err != nil {
			return err
		}
		there, err := c.getObject(ctx, object)
		if err != nil {
			return err
		}
		if there == nil || !isOurs(there) {
			continue
		}
		if err := c.deleteObject(ctx, k, object.GetNamespace(), object.GetName()); err != nil {
			return err
		}
		removed = append(removed, object)
	}
	for _, object := range removed {
		if err := c.waitGone(ctx, object); err != nil {
			return err
		}
		each(object, Removed)
	}
	return nil
}

// waitGone waits until the object is not there any more.
func (c *Cluster) waitGone(ctx context.Context, object *unstructured.Unstructured) error {
	for {
		found, err := c.getObject(ctx, object)
		if ctx.Err() != nil {
			return stillThere(ctx, Describe(object))
		}
		if err != nil || found == nil || found.GetUID() != object.GetUID() {
			return err
		}
		if sleep(ctx, operatorPoll) != nil {
			return stillThere(ctx, Describe(object))
		}
	}
}

func stillThere(ctx context.Context, what string) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return fmt.Errorf("uninstalling the operator: %w", ctx.Err())
	}
	return &Error{
		Reason: ReasonTimeout, Doing: "uninstalling the operator", Why: what + " did not go away in time",
		Next: "Finalizers can hold it: \"kubectl get -o yaml\" shows them. Repeat the command to finish.", Err: ctx.Err(),
	}
}
