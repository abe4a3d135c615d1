package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/mirrord-go/mirrord/internal/tunnel"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/rand"
)

// cleanupTimeout bounds the removal of what was created, also when the caller is in a hurry.
const cleanupTimeout = 10 * time.Second

// Agent is an agent in a cluster that is ready for its client. Its methods may be called at
// once from any goroutine.
type Agent struct {
	c         *Cluster
	namespace string
	pod       string
	container string
	job       string // empty for an ephemeral container
	node      string
	key       tunnel.Fingerprint
	version   string
	port      uint16

	closing sync.Mutex
	closed  bool
}

// StartAgent starts an agent and waits until it is ready, for at most the configured
// start-up timeout. When it fails, what it created is deleted before it returns, also when
// ctx has ended; an ephemeral container is the exception, since the API can't remove one
// from a pod. Errors are an [*Error] or a [*MissingRulesError].
func (c *Cluster) StartAgent(ctx context.Context, spec AgentSpec) (*Agent, error) {
	if err := spec.check(); err != nil {
		return nil, err
	}
	seconds := spec.startupSeconds()
	late := &Error{
		Reason: ReasonTimeout, Doing: "starting the agent",
		Why:  fmt.Sprintf("it was not ready after %d seconds", seconds),
		Next: "\"agent.startup_timeout\" gives it more time.",
	}
	starting, cancel := context.WithTimeoutCause(ctx, time.Duration(seconds)*time.Second, late)
	defer cancel()
	s := &starter{c: c, spec: &spec, namespace: spec.namespace(c.namespace), say: spec.Progress}
	start := s.startJob
	if spec.Config.Ephemeral && spec.Target != nil {
		start = s.startEphemeral
	}
	agent, err := start(starting)
	if err == nil {
		return agent, nil
	}
	err = s.explain(ctx, starting, err)
	if cleanup := s.undo(ctx); cleanup != nil {
		err = errors.Join(err, cleanup)
	}
	return nil, err
}

// starter is one run of StartAgent.
type starter struct {
	c         *Cluster
	spec      *AgentSpec
	namespace string
	say       func(string)

	job       string // set as soon as it may exist
	pod       string
	container string
	said      phase
	last      string // the last obstacle that may pass
}

func (s *starter) tell(p phase) {
	if s.say != nil && p != s.said {
		s.say(string(p))
	}
	s.said = p
}

func uniqueName(session string) string { return agentName + "-" + session + "-" + rand.String(5) }

// explain adds to the error of a step what is known when time ran out.
func (s *starter) explain(ctx, starting context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("starting the agent: %w", context.Cause(ctx))
	}
	if starting.Err() == nil {
		return err
	}
	var late *Error
	if !errors.As(context.Cause(starting), &late) {
		return err
	}
	waited := *late
	waited.Next = fmt.Sprintf("It was %s.", cmp.Or(string(s.said), "being created"))
	if s.last == "" {
		lookup, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout/2)
		defer cancel()
		s.last = s.c.trouble(lookup, s.namespace, cmp.Or(s.pod, s.job))
	}
	if s.last != "" {
		waited.Next += "\nThe cluster says: " + s.last
	}
	waited.Next += "\n" + late.Next
	return &waited
}

// undo deletes what was created.
func (s *starter) undo(ctx context.Context) error {
	if s.job == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	if err := s.c.remove(ctx, jobs, s.namespace, s.job); err != nil {
		return fmt.Errorf("removing job %s of namespace %s, which the cluster will do by itself later: %w", s.job, s.namespace, err)
	}
	return nil
}

// ready waits for the announcement of an agent whose container runs.
func (s *starter) ready(ctx context.Context, pod *corev1.Pod) (*Agent, error) {
	s.tell(phaseRunning)
	a, err := s.c.awaitAnnouncement(ctx, s.namespace, pod.Name, s.container)
	if err != nil {
		return nil, s.withCapabilities(err)
	}
	port, err := portOf(a.Address)
	if err != nil {
		return nil, err
	}
	return &Agent{
		c: s.c, namespace: s.namespace, pod: pod.Name, container: s.container, job: s.job,
		node: pod.Spec.NodeName, key: *a.Key, version: a.Version, port: port,
	}, nil
}

// withCapabilities adds to the failure of an agent what it was not given: that is likely why.
func (s *starter) withCapabilities(err error) error {
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Reason != ReasonAgent || s.spec.Target == nil || s.spec.Config.Privileged {
		return err
	}
	given := jobCapabilities
	if s.spec.Config.Ephemeral {
		given = ephemeralCapabilities
	}
	without := *e
	for _, c := range given {
		if len(enabled([]capability{c}, s.spec.Config.DisabledCapabilities)) == 0 {
			without.Next += fmt.Sprintf("\n\"agent.disabled_capabilities\" takes %s away, with which the agent could %s.", c.name, c.why)
			if c.name == enterCapability {
				without.Next += " \"agent.ephemeral\": true does without."
			}
		}
	}
	return &without
}

// Key is the agent's public key, as its output announced it.
func (a *Agent) Key() tunnel.Fingerprint { return a.key }

// Version is the agent's build; empty when it did not say.
func (a *Agent) Version() string { return a.version }

// Describe says in a few words where the agent is and what becomes of it.
func (a *Agent) Describe() string {
	if a.job == "" {
		return fmt.Sprintf("ephemeral container %s of pod %s/%s on node %s (it ends with the session; the pod's specification lists it as long as the pod exists)",
			a.container, a.namespace, a.pod, a.node)
	}
	return fmt.Sprintf("job %s/%s on node %s", a.namespace, a.job, a.node)
}

// Close deletes the agent's Job, and with it the pod. An ephemeral container can't be
// deleted: it ends when its session does. It takes at most 10 seconds, also when ctx has
// ended already. Once it has succeeded, further calls do nothing.
func (a *Agent) Close(ctx context.Context) error {
	a.closing.Lock()
	defer a.closing.Unlock()
	if a.closed || a.job == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	if err := a.c.remove(ctx, jobs, a.namespace, a.job); err != nil {
		return a.c.explain(ctx, err, fmt.Sprintf("deleting job %s", a.job), jobs.rule("delete", a.namespace))
	}
	a.closed = true
	return nil
}

// RemoveAgent deletes the Job of an agent that another program has started. One that is gone is
// no error.
func (c *Cluster) RemoveAgent(ctx context.Context, namespace, job string) error {
	if err := c.remove(ctx, jobs, namespace, job); err != nil {
		return c.explain(ctx, err, "deleting job "+job, jobs.rule("delete", namespace))
	}
	return nil
}

// Fate says why an agent that no longer answers is gone, for the user; nil when it seems
// to be alive, or when nothing can be found out.
func (a *Agent) Fate(ctx context.Context) error {
	var pod corev1.Pod
	err := a.c.get(ctx, pods, a.namespace, a.pod, &pod)
	doing := "asking for the agent's pod " + a.pod
	switch {
	case apierrors.IsNotFound(err):
		return &Error{Reason: ReasonNotFound, Doing: doing, Why: "it was deleted", Err: err}
	case err != nil:
		return nil //nolint:nilerr // no answer tells nothing about the agent
	}
	s := statusOf(&pod, a.container)
	switch {
	case s != nil && s.State.Terminated != nil:
		t := s.State.Terminated
		return &Error{
			Reason: ReasonAgent, Doing: doing,
			Why: fmt.Sprintf("its container ended with code %d (%s)", t.ExitCode, cmp.Or(t.Reason, "no reason given")),
		}
	case pod.DeletionTimestamp != nil:
		return &Error{Reason: ReasonNotFound, Doing: doing, Why: "it is being deleted"}
	case pod.Status.Phase == corev1.PodFailed:
		return &Error{Reason: ReasonAgent, Doing: doing, Why: cmp.Or(pod.Status.Message, pod.Status.Reason, "it failed")}
	}
	return nil
}
