package kube

import (
	"maps"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// NodeAgent is an agent of the operator, which serves the sessions of one node.
type NodeAgent struct {
	Name, Namespace string
	// Node is where it runs; empty for one of sessions without a target, which may run
	// anywhere and needs no rights.
	Node string
	// Image, PullPolicy, PullSecrets, PriorityClass and ServiceAccount are as in a pod.
	Image, PullPolicy             string
	PullSecrets                   []string
	PriorityClass, ServiceAccount string
	// Resources are the container's; nil means those of every agent.
	Resources *corev1.ResourceRequirements
	// Args are the command line.
	Args []string
	// Labels and Annotations are added to the agent's own.
	Labels, Annotations map[string]string
	// DisabledCapabilities are left out. Privileged replaces all of them.
	DisabledCapabilities []string
	Privileged           bool
}

// Pod is the agent's pod. It has the rights of an agent that a client starts as a Job, and for
// the same reasons, but goes through the scheduler: it stays, so it must fit.
func (a *NodeAgent) Pod() *corev1.Pod {
	labels, annotations := maps.Clone(a.Labels), maps.Clone(a.Annotations)
	if labels == nil {
		labels = map[string]string{}
	}
	if annotations == nil {
		annotations = map[string]string{}
	}
	for k, v := range withoutMesh() {
		labels[k], annotations[k] = v, v
	}
	labels[labelName] = agentName
	if a.Node != "" {
		annotations["mirrord-agent/node"] = a.Node
		annotations["mirrord-agent/capabilities"] = explainCapabilities(enabled(jobCapabilities, a.DisabledCapabilities))
	}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: a.Name, Namespace: a.Namespace, Labels: labels, Annotations: annotations},
		Spec: corev1.PodSpec{
			Containers:                    []corev1.Container{a.container()},
			RestartPolicy:                 corev1.RestartPolicyNever,
			TerminationGracePeriodSeconds: new(int64(graceSeconds)),
			AutomountServiceAccountToken:  new(false),
			EnableServiceLinks:            new(false),
			ServiceAccountName:            a.ServiceAccount,
			PriorityClassName:             a.PriorityClass,
			NodeSelector:                  map[string]string{corev1.LabelOSStable: "linux"},
		},
	}
	for _, name := range a.PullSecrets {
		pod.Spec.ImagePullSecrets = append(pod.Spec.ImagePullSecrets, corev1.LocalObjectReference{Name: name})
	}
	if a.Node == "" {
		return pod
	}
	// A target may run on a node that takes nothing else.
	pod.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
	pod.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
		RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchFields: []corev1.NodeSelectorRequirement{{Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{a.Node}}},
		}}},
	}}
	// Of the node's namespaces only that of processes, to find the targets' processes and
	// through them their networks. Nothing of the node's files is mounted.
	pod.Spec.HostPID = true
	return pod
}

func (a *NodeAgent) container() corev1.Container {
	resources := defaultResources()
	if a.Resources != nil {
		resources = *a.Resources
	}
	spec := AgentSpec{}
	spec.Config.DisabledCapabilities, spec.Config.Privileged = a.DisabledCapabilities, a.Privileged
	if a.Node != "" {
		spec.Target = new(Target)
	}
	c := corev1.Container{
		Name: agentName, Image: a.Image, ImagePullPolicy: corev1.PullPolicy(a.PullPolicy),
		Args: a.Args, Resources: resources, SecurityContext: spec.securityContext(),
		TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
	}
	// Most of its memory is that of connections, which live long and are many: less garbage beside them than Go keeps.
	c.Env = []corev1.EnvVar{{Name: "GOGC", Value: "50"}}
	if limit := resources.Limits.Memory().Value(); limit > 0 {
		c.Env = append(c.Env, corev1.EnvVar{Name: "GOMEMLIMIT", Value: strconv.FormatInt(limit/10*9, 10)})
	}
	return c
}
