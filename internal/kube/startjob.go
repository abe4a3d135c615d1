package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// podPatience is how long the cluster may take to make the Job's pod before it is
	// asked why there is none.
	podPatience = 2 * time.Second
	// placePatience is how long "no node fits" is taken for a passing thing.
	placePatience = 15 * time.Second
)

// jobRules are the rights to run an agent as a Job of a namespace.
func jobRules(namespace string) []Rule {
	return []Rule{
		jobs.rule("create", namespace),
		jobs.rule("delete", namespace),
		pods.rule("get", namespace),
		pods.rule("list", namespace),
		pods.rule("watch", namespace),
		{Verb: "get", Resource: "pods/log", Namespace: namespace},
		{Verb: "create", Resource: "pods/portforward", Namespace: namespace},
	}
}

func (s *starter) startJob(ctx context.Context) (*Agent, error) {
	ns := s.namespace
	job, err := s.spec.job(uniqueName(s.spec.SessionID), ns, true)
	if err != nil {
		return nil, err
	}
	// The right to change the Job is not vital: it lets the cluster remove an agent that
	// never started and whose client was killed.
	patch := make(chan bool, 1)
	go func() {
		ok, err := s.c.allowed(ctx, jobs.rule("patch", ns))
		patch <- ok && err == nil
	}()
	refused := s.mayStart(ctx, job)
	deadline := <-patch
	if refused != nil {
		return nil, refused
	}
	if !deadline {
		job.Spec.ActiveDeadlineSeconds = nil
	}
	if err := s.createJob(ctx, job); err != nil {
		return nil, err
	}
	pod, err := s.awaitJobPod(ctx)
	if err != nil {
		return nil, err
	}
	agent, err := s.ready(ctx, pod)
	if err != nil || !deadline {
		return agent, err
	}
	// It has started, so it now lives as long as its session.
	body := []byte(`{"spec":{"activeDeadlineSeconds":null}}`)
	if err := s.c.patch(ctx, jobs, ns, s.job, "", types.MergePatchType, body); err != nil {
		return nil, s.c.explain(ctx, err, "lifting the start-up deadline of job "+s.job, jobs.rule("patch", ns))
	}
	return agent, nil
}

// mayStart asks whether the user, and the cluster, will let the Job run.
func (s *starter) mayStart(ctx context.Context, job *batchv1.Job) error {
	if s.spec.Again {
		return nil
	}
	rehearsed := make(chan error, 1)
	go func() { rehearsed <- s.rehearse(ctx, job) }()
	err := s.c.check(ctx, "starting an agent in namespace "+s.namespace, jobRules(s.namespace))
	return cmp.Or(err, <-rehearsed)
}

func (s *starter) createJob(ctx context.Context, job *batchv1.Job) error {
	s.container, s.job = agentName, job.Name
	if s.spec.Creating != nil {
		s.spec.Creating(s.namespace, job.Name)
	}
	var made batchv1.Job
	err := s.c.create(ctx, jobs, s.namespace, job, &made)
	if status := apierrors.APIStatus(nil); errors.As(err, &status) {
		s.job = "" // the server said no: there is nothing to remove
	}
	if err != nil {
		return s.refusal(ctx, err, "creating the agent's job in namespace "+s.namespace, jobs.rule("create", s.namespace))
	}
	s.tell(phaseCreated)
	return nil
}

// refusal explains why the API server did not take an agent.
func (s *starter) refusal(ctx context.Context, err error, doing string, rule Rule) error {
	status := apierrors.APIStatus(nil)
	switch {
	case apierrors.IsForbidden(err):
		return s.c.refused(ctx, err, doing, s.advice(ctx), rule)
	case apierrors.IsNotFound(err):
		return &Error{
			Reason: ReasonNotFound, Doing: doing, Why: bare(err), Err: err,
			Next: fmt.Sprintf("Does namespace %q exist? See the fields \"agent.namespace\" and \"target.namespace\".", s.namespace),
		}
	case apierrors.IsUnauthorized(err), transient(err), !errors.As(err, &status):
		return s.c.explain(ctx, err, doing, rule)
	case ofFields(status):
		return &Error{
			Reason: ReasonOther, Doing: doing, Why: bare(err), Err: err,
			Next: "The values come from the fields below \"agent\" of the configuration, such as \"agent.labels\" and \"agent.resources\".",
		}
	}
	// Webhooks refuse with whatever code they like.
	return &Error{Reason: ReasonRefused, Doing: doing, Why: bare(err), Next: s.advice(ctx), Err: err}
}

// ofFields says whether the API server itself found values that the object can't have: it
// names their fields, unlike admission.
func ofFields(status apierrors.APIStatus) bool {
	details := status.Status().Details
	return status.Status().Reason == metav1.StatusReasonInvalid && details != nil &&
		slices.ContainsFunc(details.Causes, func(c metav1.StatusCause) bool { return c.Field != "" })
}

// advice is what to do when admission has refused the agent.
func (s *starter) advice(ctx context.Context) string {
	advice := s.waysOut(ctx)
	if c := s.spec.Config; s.spec.Target == nil || !c.Ephemeral {
		for _, f := range []struct{ field, value string }{{"service_account", c.ServiceAccount}, {"priority_class", c.PriorityClass}} {
			if f.value != "" {
				advice += fmt.Sprintf("\n- \"agent.%s\" is %q: is it there, and may you use it?", f.field, f.value)
			}
		}
	}
	return advice
}

// enforceLabel is the label of a namespace that has its Pod Security level.
const enforceLabel = "pod-security.kubernetes.io/enforce"

func (s *starter) waysOut(ctx context.Context) string {
	except := fmt.Sprintf("have the policy except pods labelled %s in namespace %s", AgentSelector, s.namespace)
	const refused = "You have the right, but a policy or a quota of the cluster refused the object. "
	if s.spec.Target == nil {
		return refused + "A targetless agent fits the Pod Security level \"restricted\", so it\nis another policy: " + except + `,
or see the fields "agent.resources", "agent.labels" and "agent.annotations".`
	}
	const elsewhere = `set "agent.namespace" to a namespace for agents, with the label that allows what they need:
  kubectl label namespace NAME ` + enforceLabel + "=privileged"
	needs, first := "hostPID and the capabilities", "- "+elsewhere
	other := "\n- if it is another policy than Pod Security, " + except + `
- if it is about hostPID, SYS_ADMIN or new pods only, set "agent.ephemeral": true`
	if s.spec.Config.Ephemeral {
		needs, first = "to run as root in the pod and the capabilities", `- leave out "agent.ephemeral", and `+elsewhere
		other = "\n- if it is another policy, have it except ephemeral containers called " + agentName + "-*"
	}
	why := refused
	if level := s.c.enforced(ctx, s.namespace); level != "" && level != "privileged" {
		why = fmt.Sprintf("Namespace %q has the label %s=%s.\n", s.namespace, enforceLabel, level)
		other = fmt.Sprintf("\n- let namespace %s have them, if its administrators agree:\n  kubectl label --overwrite namespace %[1]s %s=privileged", s.namespace, enforceLabel)
	}
	return why + "The agent needs " + needs + ` that docs/rbac.md explains,
which Pod Security allows at the level "privileged" only. Ways out:
` + first + other
}

// awaitJobPod waits until the container of the Job's pod runs or has ended.
func (s *starter) awaitJobPod(ctx context.Context) (*corev1.Pod, error) {
	watching, stop := context.WithCancelCause(ctx)
	doubting, trust := context.WithCancel(watching)
	var doubts sync.WaitGroup
	doubts.Go(func() {
		if err := s.neverCreated(doubting); err != nil {
			stop(err)
		}
	})
	defer doubts.Wait()
	defer trust()
	defer stop(nil)

	var running *corev1.Pod
	var unplaced *time.Timer
	opts := metav1.ListOptions{LabelSelector: batchv1.JobNameLabel + "=" + s.job}
	err := s.c.followPods(watching, s.namespace, opts, func(pod *corev1.Pod, deleted bool) (bool, error) {
		trust()
		s.pod = pod.Name
		if deleted {
			return false, &Error{
				Reason: ReasonAgent, Doing: "starting the agent's pod " + pod.Name, Why: "someone deleted it",
				Next: "Its node may be going away, or a policy of the cluster removes such pods.",
			}
		}
		p, err := progress(pod, s.container)
		if errors.Is(err, errUnschedulable) {
			s.last = err.Error()
			if unplaced == nil {
				unplaced = time.AfterFunc(placePatience, func() { stop(unplaceable(err)) })
			}
			return false, nil
		}
		if err != nil {
			return false, err
		}
		if unplaced != nil {
			unplaced.Stop()
		}
		s.tell(p)
		running = pod
		return p == phaseRunning || p == phaseEnded, nil
	})
	if unplaced != nil {
		unplaced.Stop()
	}
	if cause := context.Cause(watching); cause != nil && ctx.Err() == nil {
		return nil, cause
	}
	return running, err
}

func unplaceable(err error) error {
	return &Error{
		Reason: ReasonAgent, Doing: "starting the agent's pod", Why: err.Error(), Err: err,
		Next: "See the fields \"agent.node_selector\", \"agent.tolerations\" and \"agent.resources\".",
	}
}

// neverCreated asks why a Job has no pod: the Job itself is let in by policies that then
// refuse its pod. It returns nil when nothing speaks against waiting on.
func (s *starter) neverCreated(ctx context.Context) error {
	for sleep(ctx, podPatience) == nil {
		var list corev1.EventList
		err := s.c.list(ctx, events, s.namespace, metav1.ListOptions{
			FieldSelector: "involvedObject.kind=Job,reason=FailedCreate,involvedObject.name=" + s.job,
		}, &list)
		if err != nil {
			return nil //nolint:nilerr // events are a hint that users need no right to see
		}
		if len(list.Items) > 0 {
			return &Error{
				Reason: ReasonRefused, Doing: "creating the agent's pod in namespace " + s.namespace,
				Why: list.Items[0].Message, Next: s.advice(ctx),
			}
		}
	}
	return nil
}

// trouble returns the newest warning about an object; empty when there is none or the user
// may not see it.
func (c *Cluster) trouble(ctx context.Context, namespace, name string) string {
	if name == "" {
		return ""
	}
	var list corev1.EventList
	err := c.list(ctx, events, namespace, metav1.ListOptions{
		FieldSelector: "type=" + corev1.EventTypeWarning + ",involvedObject.name=" + name,
	}, &list)
	if err != nil || len(list.Items) == 0 {
		return ""
	}
	last := list.Items[0]
	for _, e := range list.Items[1:] {
		if e.LastTimestamp.After(last.LastTimestamp.Time) {
			last = e
		}
	}
	return last.Reason + ": " + last.Message
}
