package kube

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
)

// resource is one kind of API object.
type resource struct {
	gv   schema.GroupVersion
	name string // plural
}

// The resources that this package uses.
var (
	pods         = resource{corev1.SchemeGroupVersion, "pods"}
	namespaces   = resource{corev1.SchemeGroupVersion, "namespaces"}
	services     = resource{corev1.SchemeGroupVersion, "services"}
	events       = resource{corev1.SchemeGroupVersion, "events"}
	deployments  = resource{appsv1.SchemeGroupVersion, "deployments"}
	statefulSets = resource{appsv1.SchemeGroupVersion, "statefulsets"}
	daemonSets   = resource{appsv1.SchemeGroupVersion, "daemonsets"}
	replicaSets  = resource{appsv1.SchemeGroupVersion, "replicasets"}
	jobs         = resource{batchv1.SchemeGroupVersion, "jobs"}
	cronJobs     = resource{batchv1.SchemeGroupVersion, "cronjobs"}
	selfSubject  = resource{authenticationv1.SchemeGroupVersion, "selfsubjectreviews"}
	selfAccess   = resource{authorizationv1.SchemeGroupVersion, "selfsubjectaccessreviews"}
)

// rule is the right to do verb to the resource in a namespace.
func (r resource) rule(verb, namespace string) Rule {
	return Rule{Verb: verb, Group: r.gv.Group, Resource: r.name, Namespace: namespace}
}

// Retries of requests that failed for a passing reason.
const (
	retries     = 2
	retryMin    = 500 * time.Millisecond
	retryMax    = 5 * time.Second
	callTimeout = 30 * time.Second
)

func (c *Cluster) get(ctx context.Context, r resource, namespace, name string, into runtime.Object) error {
	return c.retry(ctx, func(ctx context.Context) error {
		return c.clients[r.gv].Get().NamespaceIfScoped(namespace, namespace != "").Resource(r.name).Name(name).Do(ctx).Into(into)
	})
}

func (c *Cluster) list(ctx context.Context, r resource, namespace string, opts metav1.ListOptions, into runtime.Object) error {
	return c.retry(ctx, func(ctx context.Context) error {
		return c.clients[r.gv].Get().Namespace(namespace).Resource(r.name).
			VersionedParams(&opts, c.params).Do(ctx).Into(into)
	})
}

// watch is not retried: its caller lists again anyway.
func (c *Cluster) watch(ctx context.Context, r resource, namespace string, opts metav1.ListOptions) (watch.Interface, error) {
	opts.Watch = true
	return c.clients[r.gv].Get().Namespace(namespace).Resource(r.name).
		VersionedParams(&opts, c.params).Watch(ctx)
}

// create makes an object whose name no one else uses. When an answer was lost, the next
// try finds the object there, which is as good.
func (c *Cluster) create(ctx context.Context, r resource, namespace string, obj, into runtime.Object) error {
	tries := 0
	return c.retry(ctx, func(ctx context.Context) error {
		tries++
		err := c.clients[r.gv].Post().NamespaceIfScoped(namespace, namespace != "").
			Resource(r.name).Body(obj).Do(ctx).Into(into)
		if tries > 1 && apierrors.IsAlreadyExists(err) {
			return nil
		}
		return err
	})
}

func (c *Cluster) patch(ctx context.Context, r resource, namespace, name, sub string, kind types.PatchType, body []byte) error {
	return c.retry(ctx, func(ctx context.Context) error {
		req := c.clients[r.gv].Patch(kind).Namespace(namespace).Resource(r.name).Name(name)
		if sub != "" {
			req = req.SubResource(sub)
		}
		return req.Body(body).Do(ctx).Error()
	})
}

// remove deletes an object and what it owns. One that is gone already is no error.
func (c *Cluster) remove(ctx context.Context, r resource, namespace, name string) error {
	background := metav1.DeletePropagationBackground
	err := c.retry(ctx, func(ctx context.Context) error {
		return c.clients[r.gv].Delete().Namespace(namespace).Resource(r.name).Name(name).
			Body(&metav1.DeleteOptions{PropagationPolicy: &background}).Do(ctx).Error()
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// logs opens a container's output.
func (c *Cluster) logs(ctx context.Context, namespace, pod string, opts corev1.PodLogOptions) (io.ReadCloser, error) {
	return c.clients[pods.gv].Get().Namespace(namespace).Resource(pods.name).Name(pod).SubResource("log").
		VersionedParams(&opts, c.params).Stream(ctx)
}

func (c *Cluster) core() rest.Interface { return c.clients[corev1.SchemeGroupVersion] }

// retry calls fn until it succeeds, fails for good, or has failed three times.
func (c *Cluster) retry(ctx context.Context, fn func(context.Context) error) error {
	wait := retryMin
	for try := 0; ; try++ {
		attempt, cancel := context.WithTimeout(ctx, callTimeout)
		err := fn(attempt)
		cancel()
		if err == nil || try == retries || ctx.Err() != nil || !transient(err) {
			return err
		}
		c.log.DebugContext(ctx, "request failed, trying again", "error", err, "in", wait)
		if sleep(ctx, wait) != nil {
			return err
		}
		wait = min(2*wait, retryMax)
	}
}

func transient(err error) bool {
	return apierrors.IsServerTimeout(err) || apierrors.IsServiceUnavailable(err) ||
		apierrors.IsInternalError(err) || apierrors.IsTooManyRequests(err) || apierrors.IsTimeout(err) ||
		utilnet.IsConnectionReset(err) || utilnet.IsConnectionRefused(err) ||
		utilnet.IsHTTP2ConnectionLost(err) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// sleep waits for d or the end of ctx.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// warnings receives the warnings that the server adds to its answers, which client-go
// would print.
type warnings struct{ log *slog.Logger }

func (w warnings) HandleWarningHeaderWithContext(ctx context.Context, _ int, _, text string) {
	w.log.DebugContext(ctx, "the API server warns", "text", text)
}
