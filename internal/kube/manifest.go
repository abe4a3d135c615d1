package kube

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/tunnel"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// AgentSpec is what [Cluster.StartAgent] starts.
type AgentSpec struct {
	// Target is what the agent stands beside; nil means targetless.
	Target *Target
	// Namespace is where a targetless agent runs; empty means the context's. It is
	// ignored with a target: then Config.Namespace or the target's is used.
	Namespace string
	// Config is the user's. Zero timeouts mean 60 seconds to start, and 30 to wait for
	// a client.
	Config config.Agent
	// SessionID names the session; it labels what is created. It must be a valid label
	// value of at most 40 characters.
	SessionID string
	// ClientKey is the key that the agent lets in.
	ClientKey tunnel.Fingerprint
	// Again says that the session has started an agent like this one, beside another pod: its
	// rights are not asked for again.
	Again bool
	// Progress, when not nil, is told in a few words what is being waited for. It is
	// called from one goroutine, before StartAgent returns.
	Progress func(string)
	// Creating, when not nil, is told of the Job before it is made, so that somebody else can
	// remove it ([Cluster.RemoveAgent]) should this program die.
	Creating func(namespace, job string)
}

// Names by which the agent's objects are found.
const (
	agentName    = "mirrord-agent"
	labelName    = "app.kubernetes.io/name"
	labelManager = "app.kubernetes.io/managed-by"
	labelSession = "mirrord-session"
)

// AgentSelector is the label selector of all that agents consist of in a cluster.
const AgentSelector = labelName + "=" + agentName

const (
	defaultStartup       = 60
	defaultCommunication = 300
	// graceSeconds is how long a stopped agent may take to undo what it did.
	graceSeconds = 2
	// abandonedAfter is how long after its time-out an agent that did not start is taken
	// away by the cluster, when the client could not.
	abandonedAfter = 30
)

// capability is a Linux capability and what the agent does with it.
type capability struct {
	name corev1.Capability
	why  string
}

// Capabilities of an agent that enters its target's namespaces from outside. One that is
// disabled costs what it is for.
var jobCapabilities = append([]capability{
	{enterCapability, "enter the target's network namespace"},
}, ephemeralCapabilities...)

const enterCapability corev1.Capability = "SYS_ADMIN"

// Capabilities of an agent that is in its target's pod already.
var ephemeralCapabilities = []capability{
	{"SYS_PTRACE", "read the environment, the root directory and the sockets of the target's process"},
	{"DAC_OVERRIDE", "read these, and connect to Unix sockets, when the target runs as another user than root"},
	{"SETUID", "use files with the rights of the target's user, and no more"},
	{"SETGID", "use files with the rights of the target's groups, and no more"},
	{"NET_ADMIN", "direct connections of the target's ports to the agent; end connections that are open when a session starts"},
	{"NET_RAW", "capture packets to mirror them"},
	{"BPF", "load the program that picks connections of a stolen port; without it nftables does"},
}

func capabilitiesOf(all []capability, disabled []string) *corev1.Capabilities {
	caps := &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}
	for _, c := range enabled(all, disabled) {
		caps.Add = append(caps.Add, c.name)
	}
	return caps
}

func enabled(all []capability, disabled []string) []capability {
	return slices.DeleteFunc(slices.Clone(all), func(c capability) bool {
		return slices.ContainsFunc(disabled, func(d string) bool {
			return strings.TrimPrefix(strings.ToUpper(d), "CAP_") == string(c.name)
		})
	})
}

// explainCapabilities is for whoever reads the pod: each capability and why.
func explainCapabilities(all []capability) string {
	var b strings.Builder
	for _, c := range all {
		fmt.Fprintf(&b, "%s: %s. ", c.name, c.why)
	}
	return strings.TrimSpace(b.String())
}

// withoutMesh keeps service meshes from adding a sidecar to the agent's pod. It is put
// both in labels and annotations, since meshes and their versions differ in where they look.
func withoutMesh() map[string]string {
	return map[string]string{
		"sidecar.istio.io/inject":   "false",
		"linkerd.io/inject":         "disabled",
		"kuma.io/sidecar-injection": "disabled",
	}
}

func (s *AgentSpec) check() error {
	id := s.SessionID
	if len(id) > 40 || id == "" || len(validation.IsDNS1123Label(id)) > 0 {
		return fmt.Errorf("starting the agent: %q is no session id: it must be 1 to 40 lower-case letters, digits and dashes", id)
	}
	if s.Config.Image == "" {
		return &Error{
			Reason: ReasonAgent, Doing: "starting the agent", Why: "no image is configured",
			Next: "Set the field \"agent.image\" or MIRRORD_AGENT_IMAGE.",
		}
	}
	return nil
}

// args are the agent's command line.
func (s *AgentSpec) args() []string {
	c := &s.Config
	args := []string{"serve", "--client-key", s.ClientKey.String(), "--session", s.SessionID}
	switch t := s.Target; {
	case t == nil:
		args = append(args, "--targetless")
	case c.Ephemeral:
		args = append(args, "--in-target", "--target-container-id", t.ContainerID)
	default:
		args = append(args, "--target-pod-uid", t.PodUID, "--target-container-id", t.ContainerID)
	}
	timeout := cmp.Or(int(c.CommunicationTimeout), defaultCommunication)
	args = append(args, "--listen", "127.0.0.1:0", "--communication-timeout", strconv.Itoa(timeout)+"s")
	if c.LogLevel != "" {
		args = append(args, "--log-level", c.LogLevel)
	}
	return args
}

func (s *AgentSpec) startupSeconds() int64 {
	seconds := cmp.Or(s.Config.StartupTimeout, defaultStartup)
	return int64(min(seconds, math.MaxInt32))
}

// namespace is where the agent's job runs.
func (s *AgentSpec) namespace(def string) string {
	if s.Target == nil {
		return cmp.Or(s.Namespace, def)
	}
	return cmp.Or(s.Config.Namespace, s.Target.Namespace)
}

// job is the agent as a Job. The cluster itself removes a Job: some time after it ended,
// whether or not the client is still there to do it.
func (s *AgentSpec) job(name, namespace string, deadline bool) (*batchv1.Job, error) {
	pod, err := s.podSpec()
	if err != nil {
		return nil, err
	}
	labels := maps.Clone(s.Config.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	maps.Copy(labels, map[string]string{
		labelName: agentName, labelManager: "mirrord", labelSession: s.SessionID,
	})
	podLabels := maps.Clone(labels)
	annotations := maps.Clone(s.Config.Annotations)
	podAnnotations := map[string]string{}
	maps.Copy(podAnnotations, annotations)
	for k, v := range withoutMesh() {
		podLabels[k], podAnnotations[k] = v, v
	}
	if s.Target != nil {
		podAnnotations["mirrord-agent/target"] = s.Target.Namespace + "/" + s.Target.Pod + "/" + s.Target.Container
		podAnnotations["mirrord-agent/capabilities"] = explainCapabilities(enabled(jobCapabilities, s.Config.DisabledCapabilities))
	}
	job := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace, Labels: labels, Annotations: annotations},
		Spec: batchv1.JobSpec{
			BackoffLimit:            new(int32(0)),
			TTLSecondsAfterFinished: new(int32(s.Config.TTL)),
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: podLabels, Annotations: podAnnotations},
				Spec:       *pod,
			},
		},
	}
	if deadline {
		job.Spec.ActiveDeadlineSeconds = new(s.startupSeconds() + abandonedAfter)
	}
	return job, nil
}

func (s *AgentSpec) podSpec() (*corev1.PodSpec, error) {
	c := &s.Config
	tolerations := []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
	if c.Tolerations != nil {
		tolerations = nil
		if err := strict("agent.tolerations", c.Tolerations, &tolerations); err != nil {
			return nil, err
		}
	}
	container, err := s.container()
	if err != nil {
		return nil, err
	}
	pod := &corev1.PodSpec{
		Containers:                    []corev1.Container{*container},
		RestartPolicy:                 corev1.RestartPolicyNever,
		TerminationGracePeriodSeconds: new(int64(graceSeconds)),
		AutomountServiceAccountToken:  new(false),
		EnableServiceLinks:            new(false),
		ServiceAccountName:            c.ServiceAccount,
		PriorityClassName:             c.PriorityClass,
		Tolerations:                   tolerations,
	}
	for _, name := range c.ImagePullSecrets {
		pod.ImagePullSecrets = append(pod.ImagePullSecrets, corev1.LocalObjectReference{Name: name})
	}
	if s.Target == nil {
		pod.NodeSelector = map[string]string{corev1.LabelOSStable: "linux"}
		maps.Copy(pod.NodeSelector, c.NodeSelector)
		return pod, nil
	}
	// The node is given, so there is nothing for the scheduler to decide, and a node
	// that takes no new pods (cordoned) is no obstacle.
	pod.NodeName = s.Target.Node
	// Of the node's namespaces only that of processes, to find the target's process and
	// through it the target's network. Nothing of the node's files is mounted.
	pod.HostPID = true
	return pod, nil
}

func (s *AgentSpec) container() (*corev1.Container, error) {
	resources, err := s.resources()
	if err != nil {
		return nil, err
	}
	c := &corev1.Container{
		Name:                     agentName,
		Image:                    s.Config.Image,
		ImagePullPolicy:          corev1.PullPolicy(s.Config.ImagePullPolicy),
		Args:                     s.args(),
		Resources:                resources,
		SecurityContext:          s.securityContext(),
		TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
	}
	if limit := resources.Limits.Memory().Value(); limit > 0 {
		// The collector works harder near the limit, instead of the kernel killing the agent.
		c.Env = []corev1.EnvVar{{Name: "GOMEMLIMIT", Value: strconv.FormatInt(limit/10*9, 10)}}
	}
	return c, nil
}

func (s *AgentSpec) securityContext() *corev1.SecurityContext {
	runtimeDefault := &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}
	if s.Target == nil {
		// A targetless agent needs nothing, and fits the strictest Pod Security level.
		return &corev1.SecurityContext{
			RunAsUser:                new(int64(65532)),
			RunAsGroup:               new(int64(65532)),
			RunAsNonRoot:             new(true),
			AllowPrivilegeEscalation: new(false),
			ReadOnlyRootFilesystem:   new(true),
			Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			SeccompProfile:           runtimeDefault,
		}
	}
	sc := &corev1.SecurityContext{
		RunAsUser:              new(int64(0)),
		RunAsGroup:             new(int64(0)),
		RunAsNonRoot:           new(false),
		ReadOnlyRootFilesystem: new(true),
		Capabilities:           capabilitiesOf(jobCapabilities, s.Config.DisabledCapabilities),
		SeccompProfile:         runtimeDefault,
	}
	if s.Config.Ephemeral {
		// The pod's own seccomp profile applies.
		sc.Capabilities = capabilitiesOf(ephemeralCapabilities, s.Config.DisabledCapabilities)
		sc.SeccompProfile = nil
	}
	if s.Config.Privileged {
		sc.Privileged, sc.Capabilities, sc.SeccompProfile = new(true), nil, nil
	}
	return sc
}

func (s *AgentSpec) resources() (corev1.ResourceRequirements, error) {
	var r corev1.ResourceRequirements
	if s.Config.Resources != nil {
		err := strict("agent.resources", s.Config.Resources, &r)
		return r, err
	}
	return defaultResources(), nil
}

// defaultResources are those of an agent. An idle one needs next to nothing; a busy one is
// mostly copying. The limits are there because many namespaces demand some.
func defaultResources() corev1.ResourceRequirements {
	return corev1.ResourceRequirements{
		Requests: corev1.ResourceList{
			corev1.ResourceCPU:    apiresource.MustParse("10m"),
			corev1.ResourceMemory: apiresource.MustParse("32Mi"),
		},
		Limits: corev1.ResourceList{
			corev1.ResourceCPU:    apiresource.MustParse("2"),
			corev1.ResourceMemory: apiresource.MustParse("512Mi"),
		},
	}
}

// strict reads a part of the config that has the form of a pod's spec, and refuses fields
// that a pod's spec does not have.
func strict(field string, from, into any) error {
	b, err := json.Marshal(from)
	if err == nil {
		d := json.NewDecoder(bytes.NewReader(b))
		d.DisallowUnknownFields()
		err = d.Decode(into)
	}
	if err != nil {
		return &Error{
			Reason: ReasonAgent, Doing: fmt.Sprintf("reading the field %q", field), Why: err.Error(),
			Next: "It has the form of the same field of a Kubernetes pod.", Err: err,
		}
	}
	return nil
}

// ephemeralContainer is the agent as a container of the target's own pod.
func (s *AgentSpec) ephemeralContainer(name string) corev1.EphemeralContainer {
	return corev1.EphemeralContainer{
		TargetContainerName: s.Target.Container,
		EphemeralContainerCommon: corev1.EphemeralContainerCommon{
			Name:                     name,
			Image:                    s.Config.Image,
			ImagePullPolicy:          corev1.PullPolicy(s.Config.ImagePullPolicy),
			Args:                     s.args(),
			SecurityContext:          s.securityContext(),
			TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
		},
	}
}
