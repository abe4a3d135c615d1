package config

import (
	"github.com/mirrord-go/mirrord/internal/config/origin"
)

// Config is a user's complete configuration: every field has its final value, and
// [Config.Origin] tells where that value came from. The JSON names are those of the file.
type Config struct {
	// AcceptInvalidCertificates turns off verification of the API server's certificate;
	// nil leaves it to the kubeconfig.
	AcceptInvalidCertificates *bool `json:"accept_invalid_certificates"`
	// SkipProcesses are names of programs that run without interception.
	SkipProcesses []string `json:"skip_processes"`
	// SkipBuildTools adds those of the usual build tools, and of SkipExtraBuildTools.
	SkipBuildTools      bool     `json:"skip_build_tools"`
	SkipExtraBuildTools []string `json:"skip_extra_build_tools,omitempty"`
	// Operator: true must use one, false never does, nil uses one that is there.
	Operator *bool `json:"operator"`
	// Profile is a reference as the user wrote it: "name", "namespace/name", or empty.
	Profile string `json:"profile,omitempty"`
	// Kubeconfig is a path; empty means $KUBECONFIG, ~/.kube/config, or in-cluster.
	Kubeconfig string `json:"kubeconfig,omitempty"`
	// KubeContext is a context of the kubeconfig; empty means its current one.
	KubeContext string `json:"kube_context,omitempty"`
	// Key is the session's key, which templates have as {{ key }}; Load never leaves it empty.
	Key string `json:"key"`
	// Target is what the session attaches to.
	Target Target `json:"target"`
	// Feature is what the session does.
	Feature Feature `json:"feature"`
	// Agent is how the agent is started.
	Agent Agent `json:"agent"`

	origins origin.Map
	// extra are the values that a user gave to fields which this version does not have a
	// use for, by their path.
	extra map[string]any
}

// Target is a workload and its namespace.
type Target struct {
	// Path names the workload; the zero value is "targetless".
	Path TargetPath `json:"path"`
	// Namespace is empty when nobody named one: then the kube context's is used.
	Namespace string `json:"namespace,omitempty"`
}

// TargetKind is a kind of workload, spelled as in a target path.
type TargetKind string

// The kinds of workloads that a target path can name. Targetless is the zero value.
const (
	Targetless  TargetKind = ""
	Pod         TargetKind = "pod"
	Deployment  TargetKind = "deployment"
	StatefulSet TargetKind = "statefulset"
	DaemonSet   TargetKind = "daemonset"
	ReplicaSet  TargetKind = "replicaset"
	Job         TargetKind = "job"
	CronJob     TargetKind = "cronjob"
	Service     TargetKind = "service"
	Rollout     TargetKind = "rollout"
	Label       TargetKind = "label"
)

// TargetPath names a workload: KIND/NAME[/container/CONTAINER], label/K=V[,K=V]…, or
// "targetless".
type TargetPath struct {
	Kind      TargetKind
	Name      string            // empty for Targetless and Label
	Labels    map[string]string // only for Label
	Container string            // empty chooses the pod's first container that is no mesh sidecar
}

// Feature groups what a session does.
type Feature struct {
	Network  Network `json:"network"`
	Env      Env     `json:"env"`
	FS       FS      `json:"fs"`
	Hostname bool    `json:"hostname"`
	Magic    Magic   `json:"magic"`
}

// Magic groups what is done for users without being asked.
type Magic struct {
	// AWS hides the laptop's AWS identity, so that the target's is found.
	AWS bool `json:"aws"`
}

// Network groups the directions of traffic.
type Network struct {
	Incoming Incoming `json:"incoming"`
	Outgoing Outgoing `json:"outgoing"`
	DNS      DNS      `json:"dns"`
	IPv6     bool     `json:"ipv6"`
}

// IncomingMode says what happens to the target's incoming connections.
type IncomingMode string

// The modes of incoming traffic.
const (
	IncomingMirror IncomingMode = "mirror" // default
	IncomingSteal  IncomingMode = "steal"
	IncomingOff    IncomingMode = "off"
)

// Incoming configures the target's incoming traffic.
type Incoming struct {
	Mode IncomingMode `json:"mode"`
	// PortMapping pairs a local port with the target's port, [local, remote].
	PortMapping [][2]uint16 `json:"port_mapping,omitempty"`
	// ListenPorts pairs a port that the process asks for with the one that it gets on the laptop.
	ListenPorts [][2]uint16 `json:"listen_ports,omitempty"`
	// IgnorePorts are local ports that are never subscribed.
	IgnorePorts []uint16 `json:"ignore_ports,omitempty"`
	// Ports, when not nil, are the only remote ports that are subscribed.
	Ports []uint16 `json:"ports,omitempty"`
	// HTTPFilter, when not nil, takes only the requests that it chooses.
	HTTPFilter *HTTPFilter `json:"http_filter,omitempty"`
	// IgnoreLocalhost leaves listeners on loopback addresses alone.
	IgnoreLocalhost bool `json:"ignore_localhost"`
	// OnConcurrentSteal says what happens when another session steals the same port.
	OnConcurrentSteal ConcurrentSteal `json:"on_concurrent_steal,omitempty"`
	// Probes says who answers the kubelet's probes of a port that is stolen.
	Probes ProbesTo `json:"probes,omitempty"`
	// TLSDelivery is about requests that the agent took out of TLS; HTTPSDelivery is the same under
	// its old name. See [Incoming.Delivery].
	TLSDelivery   TLSDelivery `json:"tls_delivery,omitzero"`
	HTTPSDelivery TLSDelivery `json:"https_delivery,omitzero"`
}

// ConcurrentSteal says what happens to a steal of a port that another session has.
type ConcurrentSteal string

// Values of [ConcurrentSteal].
const (
	ConcurrentStealAbort    ConcurrentSteal = "abort" // default
	ConcurrentStealOverride ConcurrentSteal = "override"
	ConcurrentStealContinue ConcurrentSteal = "continue"
)

// ProbesTo says who answers the kubelet's probes during a steal.
type ProbesTo string

// Values of [ProbesTo].
const (
	ProbesToTarget ProbesTo = "target" // default
	ProbesToLocal  ProbesTo = "local"  // they are connections like all others
)

// Outgoing configures connections that the local process makes.
type Outgoing struct {
	TCP bool `json:"tcp"`
	UDP bool `json:"udp"`
	// IgnoreLocalhost keeps connections to loopback addresses on the laptop.
	IgnoreLocalhost bool `json:"ignore_localhost"`
	// Filter is nil without one.
	Filter *Filter `json:"filter,omitempty"`
	// UnixStreams are patterns of Unix socket paths that are connected in the target.
	UnixStreams []string `json:"unix_streams,omitempty"`
}

// Filter lists destinations; exactly one of the lists is set. [ParseOutgoingEntry] and
// [ParseDNSEntry] read the entries.
type Filter struct {
	// Local: what matches stays on the laptop, the rest goes to the target.
	Local []string `json:"local,omitempty"`
	// Remote: what matches goes to the target, the rest stays on the laptop.
	Remote []string `json:"remote,omitempty"`
}

// DNS configures name resolution.
type DNS struct {
	Enabled bool    `json:"enabled"`
	Filter  *Filter `json:"filter,omitempty"`
}

// Env configures which of the target's environment variables the local process gets.
type Env struct {
	// Enabled is false when nothing is taken from the target: when Exclude has "*". The other
	// fields have their effect all the same.
	Enabled bool `json:"-"`
	// Include and Exclude are patterns with * and ?; at most one of them is set.
	Include []string `json:"include,omitempty"`
	Exclude []string `json:"exclude,omitempty"`
	// Override sets variables, whatever the target has.
	Override map[string]string `json:"override,omitempty"`
	// Unset removes variables, compared without regard to case.
	Unset []string `json:"unset,omitempty"`
	// EnvFile is a file of NAME=value lines; it wins over the target, Override over it.
	EnvFile string `json:"env_file,omitempty"`
	// Mapping replaces values: pattern (a regular expression) to replacement.
	Mapping map[string]string `json:"mapping,omitempty"`
}

// FSMode says where files are read and written.
type FSMode string

// The modes of file access.
const (
	FSRead               FSMode = "read" // default
	FSWrite              FSMode = "write"
	FSLocal              FSMode = "local"
	FSLocalWithOverrides FSMode = "localwithoverrides"
)

// FS configures file access. The lists are regular expressions without regard to case.
type FS struct {
	Mode FSMode `json:"mode"`
	// ReadWrite and ReadOnly match files of the target, Local those of the laptop, NotFound those that are nowhere.
	ReadWrite []string `json:"read_write,omitempty"`
	ReadOnly  []string `json:"read_only,omitempty"`
	Local     []string `json:"local,omitempty"`
	NotFound  []string `json:"not_found,omitempty"`
	// Mapping replaces paths before all else: pattern to replacement.
	Mapping map[string]string `json:"mapping,omitempty"`
}

// Agent configures the agent that the session starts, when there is no operator.
type Agent struct {
	// Namespace of the agent's pod; empty means the target's.
	Namespace string `json:"namespace,omitempty"`
	// Image of the agent.
	Image string `json:"image"`
	// ImagePullPolicy and ImagePullSecrets are as in a pod's spec.
	ImagePullPolicy  string   `json:"image_pull_policy"`
	ImagePullSecrets []string `json:"image_pull_secrets,omitempty"`
	// TTL is how long a finished agent stays, in seconds.
	TTL uint16 `json:"ttl"`
	// Ephemeral runs the agent as an ephemeral container of the target pod.
	Ephemeral bool `json:"ephemeral"`
	// CommunicationTimeout is how long an agent waits for a client, and the client for a connection
	// that broke, in seconds.
	CommunicationTimeout uint16 `json:"communication_timeout"`
	// StartupTimeout is how long the client waits for an agent, in seconds.
	StartupTimeout uint64 `json:"startup_timeout"`
	// FlushConnections ends connections that are open when a steal or mirror starts, so
	// that their clients come back to the session.
	FlushConnections bool `json:"flush_connections"`
	// DisabledCapabilities are Linux capabilities that the agent is not given.
	DisabledCapabilities []string `json:"disabled_capabilities,omitempty"`
	// Privileged runs the agent's container privileged.
	Privileged bool `json:"privileged"`
	// LogLevel is one of trace, debug, info, warn, error, off.
	LogLevel string `json:"log_level"`
	// Labels and Annotations are added to the agent's objects.
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
	// NodeSelector chooses the node of a targetless agent.
	NodeSelector map[string]string `json:"node_selector,omitempty"`
	// ServiceAccount and PriorityClass are as in a pod's spec.
	ServiceAccount string `json:"service_account,omitempty"`
	PriorityClass  string `json:"priority_class,omitempty"`
	// Tolerations and Resources are as in a pod's spec; Tolerations nil tolerates all.
	Tolerations []map[string]any `json:"tolerations,omitempty"`
	Resources   map[string]any   `json:"resources,omitempty"`
	// InjectHeaders marks responses on ports with a filter.
	InjectHeaders bool `json:"inject_headers"`
	// MaxBodyBufferSize, in bytes, and MaxBodyBufferTimeout, in milliseconds, bound the bodies
	// that a filter looks at.
	MaxBodyBufferSize    uint64 `json:"max_body_buffer_size"`
	MaxBodyBufferTimeout uint64 `json:"max_body_buffer_timeout"`
	// HTTPDetectionTimeout is how long a connection may be silent before it counts as one
	// that is not HTTP, in seconds.
	HTTPDetectionTimeout uint64 `json:"http_detection_timeout"`
	// JQTimeLimit is how long a jq program may run for a request, in milliseconds.
	JQTimeLimit uint64 `json:"jaq_time_limit"`
}
