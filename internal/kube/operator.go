package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	sessions "github.com/mirrord-go/mirrord/api/sessions/v1alpha"
)

// Names of an installation.
const (
	operatorName     = "mirrord-operator"
	operatorSelector = labelName + "=" + operatorName + "," + labelPartOf + "=" + partOf
	operatorAgents   = AgentSelector + "," + labelManager + "=" + operatorName
	apiServiceName   = "v1alpha.sessions.mirrord.metalbear.co"
	labelVersion     = "app.kubernetes.io/version"
	annotationNumber = "deployment.kubernetes.io/revision"
)

// OperatorStatus is how an installation is.
type OperatorStatus struct {
	Namespace string `json:"namespace"`
	// InstalledBy is mirrord or Helm.
	InstalledBy string `json:"installedBy,omitempty"`
	Version     string `json:"version,omitempty"`
	Image       string `json:"image,omitempty"`
	// Replicas that are wanted, are of the installed version, and serve.
	Replicas int32 `json:"replicas"`
	Updated  int32 `json:"updated"`
	Ready    int32 `json:"ready"`
	// API says whether the API server reaches the operator, and why not.
	API APIStatus `json:"api"`
	// Agents are sorted by node.
	Agents   []AgentStatus      `json:"agents"`
	Sessions []sessions.Session `json:"sessions"`
	// Problems are all that is wrong, or could not be found out.
	Problems []string `json:"problems,omitempty"`
}

// APIStatus is the API server's view of the operator's API.
type APIStatus struct {
	Available bool   `json:"available"`
	Reason    string `json:"reason,omitempty"`
	Message   string `json:"message,omitempty"`
}

// AgentStatus is one agent of the operator.
type AgentStatus struct {
	Node  string `json:"node"`
	Pod   string `json:"pod"`
	Image string `json:"image"`
	State string `json:"state"`
	Ready bool   `json:"ready"`
}

// Healthy says that all is as it should be.
func (s *OperatorStatus) Healthy() bool { return len(s.Problems) == 0 }

// OperatorStatus looks at the installation. It fails with [ReasonNotFound] when there is none. What
// the user may not see is a problem in the status, not an error.
func (c *Cluster) OperatorStatus(ctx context.Context) (*OperatorStatus, error) {
	s := &OperatorStatus{Namespace: "mirrord"}
	problem := func(err error) {
		if err != nil {
			s.Problems = append(s.Problems, strings.ReplaceAll(err.Error(), "\n", "; "))
		}
	}
	var err error
	switch s.API, s.Namespace, err = c.apiStatus(ctx); {
	case reasonOf(err) == ReasonNotFound, reasonOf(err) == ReasonUnreachable, ctx.Err() != nil:
		return nil, err
	case err != nil:
		problem(err)
	case !s.API.Available:
		s.Problems = append(s.Problems, "the API server does not reach the operator: "+s.API.words())
	}
	s.Namespace = cmp.Or(s.Namespace, "mirrord")
	problem(c.deploymentStatus(ctx, s))
	problem(c.agentStatus(ctx, s))
	problem(c.sessionStatus(ctx, s))
	return s, nil
}

func (s APIStatus) words() string {
	return cmp.Or(strings.Trim(s.Reason+": "+s.Message, ": "), "it gives no reason")
}

// apiStatus reads the APIService, which also names the operator's namespace.
func (c *Cluster) apiStatus(ctx context.Context) (status APIStatus, namespace string, err error) {
	found, err := c.getObject(ctx, apiService())
	if err != nil {
		return status, "", err
	}
	if found == nil {
		return status, "", &Error{
			Reason: ReasonNotFound, Doing: "looking for the operator", Why: "it is not installed in this cluster",
			Next: "\"mirrord operator install\" installs it. Sessions need no operator.",
		}
	}
	namespace, _, _ = unstructured.NestedString(found.Object, "spec", "service", "namespace")
	conditions, _, _ := unstructured.NestedSlice(found.Object, "status", "conditions")
	for _, condition := range conditions {
		if m, ok := condition.(map[string]any); ok && m["type"] == "Available" {
			status.Available = m["status"] == "True"
			status.Reason, _ = m["reason"].(string)
			status.Message, _ = m["message"].(string)
		}
	}
	if status.Reason == "" {
		status.Reason = "the API server has not looked yet"
	}
	return status, namespace, nil
}

func apiService() *unstructured.Unstructured {
	o := &unstructured.Unstructured{}
	o.SetAPIVersion("apiregistration.k8s.io/v1")
	o.SetKind("APIService")
	o.SetName(apiServiceName)
	return o
}

func (c *Cluster) deploymentStatus(ctx context.Context, s *OperatorStatus) error {
	var d appsv1.Deployment
	if err := c.get(ctx, deployments, s.Namespace, operatorName, &d); err != nil {
		return c.explain(ctx, err, "reading the operator's deployment", deployments.rule("get", s.Namespace))
	}
	s.InstalledBy, s.Version = d.Labels[labelManager], d.Labels[labelVersion]
	s.Image = d.Spec.Template.Spec.Containers[0].Image
	s.Replicas, s.Updated, s.Ready = *d.Spec.Replicas, d.Status.UpdatedReplicas, d.Status.ReadyReplicas
	if s.Ready >= s.Replicas && s.Updated >= s.Replicas {
		return nil
	}
	why, err := c.rolloutTrouble(ctx, &d)
	if err != nil {
		return err
	}
	return fmt.Errorf("%d of %d replicas are ready: %s", s.Ready, s.Replicas, why)
}

func (c *Cluster) agentStatus(ctx context.Context, s *OperatorStatus) error {
	var list corev1.PodList
	opts := metav1.ListOptions{LabelSelector: operatorAgents}
	if err := c.list(ctx, pods, s.Namespace, opts, &list); err != nil {
		return c.explain(ctx, err, "listing the agents", pods.rule("list", s.Namespace))
	}
	s.Agents = []AgentStatus{}
	for i := range list.Items {
		pod := &list.Items[i]
		agent := AgentStatus{Node: pod.Spec.NodeName, Pod: pod.Name, State: string(pod.Status.Phase), Ready: podReady(pod)}
		for _, container := range pod.Spec.Containers {
			agent.Image = container.Image
		}
		if trouble := waitingFor(pod); trouble != "" {
			agent.State = trouble
		}
		if pod.DeletionTimestamp != nil {
			agent.State = "Terminating"
		}
		s.Agents = append(s.Agents, agent)
	}
	slices.SortFunc(s.Agents, func(a, b AgentStatus) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.Pod, b.Pod))
	})
	return nil
}

func podReady(pod *corev1.Pod) bool {
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}

// waitingFor is why a container of the pod does not run; empty when they do.
func waitingFor(pod *corev1.Pod) string {
	for _, status := range pod.Status.ContainerStatuses {
		if w := status.State.Waiting; w != nil && w.Reason != "ContainerCreating" && w.Reason != "PodInitializing" {
			return w.Reason
		}
	}
	return ""
}

// sessionsPath is that of all sessions.
var sessionsPath = []string{"/apis", sessions.GroupName, sessions.GroupVersion.Version, "sessions"}

func (c *Cluster) sessionStatus(ctx context.Context, s *OperatorStatus) error {
	s.Sessions = []sessions.Session{}
	if !s.API.Available {
		return nil // said already
	}
	var list sessions.SessionList
	if err := c.readJSON(ctx, sessionsPath, nil, &list); err != nil {
		rule := Rule{Verb: "list", Group: sessions.GroupName, Resource: "sessions"}
		return c.explain(ctx, err, "listing the sessions", rule)
	}
	s.Sessions = append(s.Sessions, list.Items...)
	slices.SortFunc(s.Sessions, func(a, b sessions.Session) int {
		return a.CreationTimestamp.Compare(b.CreationTimestamp.Time)
	})
	return nil
}

// operatorPoll is how often an installation is looked at while waiting for it.
const operatorPoll = 500 * time.Millisecond

// WaitOperator waits until the operator's replicas are ready and the API server reaches them. It
// tells progress what it waits for whenever that changes. It gives up at once when the reason does not pass
// by waiting (an image that can't be pulled, a program that ends, a refused pod), and with the last
// reason when ctx ends.
func (c *Cluster) WaitOperator(ctx context.Context, namespace string, progress func(string)) error {
	last := ""
	for {
		waiting, err := c.operatorReady(ctx, namespace)
		if err == nil && waiting == "" {
			return nil
		}
		if err != nil && (reasonOf(err) == ReasonAgent || ctx.Err() == nil && reasonOf(err) != ReasonUnreachable && reasonOf(err) != ReasonTimeout) {
			return err
		}
		if waiting != "" && waiting != last {
			progress(waiting)
			last = waiting
		}
		if sleep(ctx, operatorPoll) != nil {
			if errors.Is(ctx.Err(), context.Canceled) {
				return fmt.Errorf("waiting for the operator: %w", ctx.Err())
			}
			return &Error{
				Reason: ReasonTimeout, Doing: "waiting for the operator", Why: "it is not available in time: " + cmp.Or(last, "no answer"),
				Next: "The installation stays as it is, and may still come up: see \"mirrord operator status\". Repeating the command does no harm.\n" + c.reachHint(last),
				Err:  ctx.Err(),
			}
		}
	}
}

// reachHint is what to look at when the API server does not reach the operator.
func (c *Cluster) reachHint(waiting string) string {
	if !strings.Contains(waiting, "does not reach") {
		return ""
	}
	return "The API server connects to the operator's pods on operator.port (8443): a firewall in front of the nodes, or a network policy, has to let it."
}

// operatorReady says what has to be waited for, or why waiting is no use; neither when it is ready.
func (c *Cluster) operatorReady(ctx context.Context, namespace string) (waiting string, err error) {
	var d appsv1.Deployment
	if err := c.get(ctx, deployments, namespace, operatorName, &d); err != nil {
		return "", c.explain(ctx, err, "waiting for the operator", deployments.rule("get", namespace))
	}
	s := &d.Status
	want := *d.Spec.Replicas
	if s.ObservedGeneration < d.Generation {
		return "for the cluster to see the new deployment", nil
	}
	if s.UpdatedReplicas < want || s.AvailableReplicas < want || s.Replicas > want {
		why, err := c.rolloutTrouble(ctx, &d)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("for replicas: %d of %d are ready; %s", min(s.UpdatedReplicas, s.AvailableReplicas), want, why), nil
	}
	status, _, err := c.apiStatus(ctx)
	if err != nil {
		return "", err
	}
	if !status.Available {
		return "the API server does not reach the operator: " + status.words(), nil
	}
	return "", nil
}

// rolloutTrouble says why the deployment's present pods are not ready, or fails when they never
// will be.
func (c *Cluster) rolloutTrouble(ctx context.Context, d *appsv1.Deployment) (string, error) {
	for _, condition := range d.Status.Conditions {
		if condition.Type == appsv1.DeploymentReplicaFailure && condition.Status == corev1.ConditionTrue {
			return "", &Error{
				Reason: ReasonAgent, Doing: "starting the operator's pods", Why: "the cluster refuses them: " + condition.Message,
				Next: "Quotas, Pod Security and admission webhooks of the namespace can be the cause.",
			}
		}
	}
	opts := metav1.ListOptions{LabelSelector: operatorSelector}
	var sets appsv1.ReplicaSetList
	if err := c.list(ctx, replicaSets, d.Namespace, opts, &sets); err != nil {
		return "", c.explain(ctx, err, "looking at the operator's pods", replicaSets.rule("list", d.Namespace))
	}
	hash := ""
	for i := range sets.Items {
		if sets.Items[i].Annotations[annotationNumber] == d.Annotations[annotationNumber] {
			hash = sets.Items[i].Labels[appsv1.DefaultDeploymentUniqueLabelKey]
		}
	}
	var list corev1.PodList
	if err := c.list(ctx, pods, d.Namespace, opts, &list); err != nil {
		return "", c.explain(ctx, err, "looking at the operator's pods", pods.rule("list", d.Namespace))
	}
	why := "the pods start"
	for i := range list.Items {
		pod := &list.Items[i]
		if pod.Labels[appsv1.DefaultDeploymentUniqueLabelKey] != hash || pod.DeletionTimestamp != nil || podReady(pod) {
			continue
		}
		text, err := podTrouble(pod)
		if err != nil {
			return "", err
		}
		why = cmp.Or(text, why)
	}
	return why, nil
}

// podTrouble says what a pod of the operator waits for, or fails when waiting is no use.
func podTrouble(pod *corev1.Pod) (string, error) {
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodScheduled && condition.Status == corev1.ConditionFalse {
			return "no node takes the pod: " + condition.Message, nil
		}
	}
	for i := range pod.Status.ContainerStatuses {
		status := &pod.Status.ContainerStatuses[i]
		w := status.State.Waiting
		if w == nil {
			continue
		}
		switch w.Reason {
		case "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "ImageInspectError":
			return "", &Error{
				Reason: ReasonAgent, Doing: "starting the operator",
				Why:  fmt.Sprintf("node %s can't pull the image %s: %s", pod.Spec.NodeName, status.Image, cmp.Or(w.Message, w.Reason)),
				Next: "Is the image there under this name, and may the nodes pull it? --registry and --tag name the images; image.pullSecrets names secrets to pull with.",
			}
		case "CrashLoopBackOff":
			said := "it said nothing"
			if t := status.LastTerminationState.Terminated; t != nil {
				said = fmt.Sprintf("exit code %d: %s", t.ExitCode, cmp.Or(strings.TrimSpace(t.Message), t.Reason, "no output"))
			}
			return "", &Error{
				Reason: ReasonAgent, Doing: "starting the operator",
				Why:  fmt.Sprintf("the program ends again and again in pod %s: %s", pod.Name, said),
				Next: fmt.Sprintf("\"kubectl logs %s -n %s --previous\" has all it said.", pod.Name, pod.Namespace),
			}
		case "CreateContainerConfigError", "CreateContainerError", "RunContainerError":
			return "", &Error{
				Reason: ReasonAgent, Doing: "starting the operator",
				Why:  fmt.Sprintf("node %s can't start the container: %s", pod.Spec.NodeName, cmp.Or(w.Message, w.Reason)),
				Next: fmt.Sprintf("\"kubectl describe pod %s -n %s\" tells more.", pod.Name, pod.Namespace),
			}
		case "ErrImagePull":
			return "pulling the image failed once: " + w.Message, nil
		}
	}
	return "", nil
}

// installedOperator finds the operator's deployment; nil when there is none.
func (c *Cluster) installedOperator(ctx context.Context) (*appsv1.Deployment, error) {
	var list appsv1.DeploymentList
	err := c.list(ctx, deployments, metav1.NamespaceAll, metav1.ListOptions{LabelSelector: operatorSelector}, &list)
	if err != nil {
		return nil, c.explain(ctx, err, "looking for the operator", deployments.rule("list", ""))
	}
	if len(list.Items) == 0 {
		return nil, nil
	}
	return &list.Items[0], nil
}
