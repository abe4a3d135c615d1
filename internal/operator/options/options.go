// Package options holds the operator's command line: what an installation sets, and the
// bounds of each value.
package options

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/api/validation"
)

// Options are the operator's flags. [New] returns the defaults.
type Options struct {
	// Namespace is the operator's own: its Service, its secrets, its leases, and the agents.
	Namespace string
	// Service is the name of the Service in front of the operator, for certificates.
	Service string
	// APIService is the name of the APIService object that the operator keeps the CA of.
	APIService string
	// Kubeconfig is a file to reach the API server with; empty inside the cluster.
	Kubeconfig string
	// ListenAddress is where the API is served, MetricsAddress where metrics and health
	// are, without TLS. An empty MetricsAddress turns these off.
	ListenAddress, MetricsAddress string
	// TLSCertFile and TLSPrivateKeyFile are a serving certificate from elsewhere, such as
	// cert-manager. Without them the operator makes its own.
	TLSCertFile, TLSPrivateKeyFile string
	// Agent is what agents' pods look like.
	Agent Agent
	// GracePeriod is how long a session may be without its client.
	GracePeriod time.Duration
	// MaxSessionTime ends sessions that are older; zero is no limit.
	MaxSessionTime time.Duration
	// MaxSessionsPerUser is how many sessions a user may have at a time; zero is no limit.
	MaxSessionsPerUser int
	// LogLevel is debug, info, warn or error; LogFormat json or text.
	LogLevel, LogFormat string
}

// Agent is what the pods of agents look like.
type Agent struct {
	// Image and PullPolicy are the agent's image and how it is pulled; an empty policy is
	// Kubernetes' default.
	Image, PullPolicy string
	// PullSecrets are names of secrets in the operator's namespace.
	PullSecrets []string
	// PriorityClass and ServiceAccount of the pods; empty means Kubernetes' defaults.
	PriorityClass, ServiceAccount string
	// IdleTimeout is how long an agent stays without a session.
	IdleTimeout time.Duration
	// StartTimeout is how long an agent may take until it serves.
	StartTimeout time.Duration
	// LogLevel of agents.
	LogLevel string
	// CPURequest and the rest are quantities as in a pod; empty means the default.
	CPURequest, MemoryRequest, CPULimit, MemoryLimit string
	// Labels and Annotations are added to the pods, KEY=VALUE.
	Labels, Annotations map[string]string
	// DisabledCapabilities are left out of the agents' container.
	DisabledCapabilities []string
	// Privileged makes the container privileged instead.
	Privileged bool
}

// New returns the defaults. The namespace is that of $POD_NAMESPACE, or else "mirrord".
func New() *Options {
	return &Options{
		Namespace:          cmp.Or(os.Getenv("POD_NAMESPACE"), "mirrord"),
		Service:            "mirrord-operator",
		APIService:         "v1alpha.sessions.mirrord.metalbear.co",
		ListenAddress:      ":8443",
		MetricsAddress:     ":8080",
		GracePeriod:        5 * time.Minute,
		MaxSessionsPerUser: 50,
		LogLevel:           "info",
		LogFormat:          "json",
		Agent: Agent{
			IdleTimeout:  10 * time.Minute,
			StartTimeout: time.Minute,
			LogLevel:     "info",
		},
	}
}

// AddFlags adds the flags, with the present values as their defaults.
func (o *Options) AddFlags(fs *pflag.FlagSet) {
	fs.StringVar(&o.Namespace, "namespace", o.Namespace, "the operator's own namespace, where agents run too")
	fs.StringVar(&o.Service, "service", o.Service, "the Service in front of the operator")
	fs.StringVar(&o.APIService, "api-service", o.APIService, "the APIService whose CA bundle the operator keeps current; empty leaves it alone")
	fs.StringVar(&o.Kubeconfig, "kubeconfig", o.Kubeconfig, "file to reach the API server with, outside of a cluster")
	fs.StringVar(&o.ListenAddress, "listen-address", o.ListenAddress, "where the API is served, with TLS")
	fs.StringVar(&o.MetricsAddress, "metrics-address", o.MetricsAddress, "where /metrics, /healthz and /readyz are served, without TLS; empty turns them off")
	fs.StringVar(&o.TLSCertFile, "tls-cert-file", o.TLSCertFile, "serving certificate; the operator makes its own when there is none")
	fs.StringVar(&o.TLSPrivateKeyFile, "tls-private-key-file", o.TLSPrivateKeyFile, "key of the serving certificate")
	fs.DurationVar(&o.GracePeriod, "grace-period", o.GracePeriod, "how long a session may be without its client")
	fs.DurationVar(&o.MaxSessionTime, "max-session-time", o.MaxSessionTime, "ends sessions that are older; 0 is no limit")
	fs.IntVar(&o.MaxSessionsPerUser, "max-sessions-per-user", o.MaxSessionsPerUser, "how many sessions a user may have at a time; 0 is no limit")
	fs.StringVar(&o.LogLevel, "log-level", o.LogLevel, "debug, info, warn or error")
	fs.StringVar(&o.LogFormat, "log-format", o.LogFormat, "json or text")
	o.Agent.addFlags(fs)
}

func (a *Agent) addFlags(fs *pflag.FlagSet) {
	fs.StringVar(&a.Image, "agent-image", a.Image, "image of mirrord-agent (required)")
	fs.StringVar(&a.PullPolicy, "agent-image-pull-policy", a.PullPolicy, "Always, IfNotPresent or Never")
	fs.StringSliceVar(&a.PullSecrets, "agent-image-pull-secrets", a.PullSecrets, "secrets of the operator's namespace to pull the image with")
	fs.StringVar(&a.PriorityClass, "agent-priority-class", a.PriorityClass, "PriorityClass of agents")
	fs.StringVar(&a.ServiceAccount, "agent-service-account", a.ServiceAccount, "ServiceAccount of agents, which get no token of it")
	fs.DurationVar(&a.IdleTimeout, "agent-idle-timeout", a.IdleTimeout, "how long an agent stays without a session")
	fs.DurationVar(&a.StartTimeout, "agent-start-timeout", a.StartTimeout, "how long an agent may take until it serves")
	fs.StringVar(&a.LogLevel, "agent-log-level", a.LogLevel, "log level of agents")
	fs.StringVar(&a.CPURequest, "agent-cpu-request", a.CPURequest, "CPU that an agent requests")
	fs.StringVar(&a.MemoryRequest, "agent-memory-request", a.MemoryRequest, "memory that an agent requests")
	fs.StringVar(&a.CPULimit, "agent-cpu-limit", a.CPULimit, "CPU that an agent may use")
	fs.StringVar(&a.MemoryLimit, "agent-memory-limit", a.MemoryLimit, "memory that an agent may use")
	fs.StringToStringVar(&a.Labels, "agent-labels", a.Labels, "labels to add to agents, KEY=VALUE,...")
	fs.StringToStringVar(&a.Annotations, "agent-annotations", a.Annotations, "annotations to add to agents, KEY=VALUE,...")
	fs.StringSliceVar(&a.DisabledCapabilities, "agent-disabled-capabilities", a.DisabledCapabilities, "capabilities that agents do without")
	fs.BoolVar(&a.Privileged, "agent-privileged", a.Privileged, "run agents as privileged containers")
}

// Validate returns all that is wrong with the values, in one error.
func (o *Options) Validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	for _, why := range validation.ValidateNamespaceName(o.Namespace, false) {
		errs = append(errs, fmt.Errorf("--namespace %q: %s", o.Namespace, why))
	}
	check(o.Agent.Image != "", "--agent-image is missing: name an image of mirrord-agent")
	check(o.ListenAddress != "", "--listen-address is missing")
	check((o.TLSCertFile == "") == (o.TLSPrivateKeyFile == ""), "--tls-cert-file and --tls-private-key-file go together")
	check(o.GracePeriod >= time.Second && o.GracePeriod <= time.Hour, "--grace-period %s is not between 1s and 1h", o.GracePeriod)
	check(o.MaxSessionTime >= 0, "--max-session-time %s is negative", o.MaxSessionTime)
	check(o.MaxSessionsPerUser >= 0, "--max-sessions-per-user %d is negative", o.MaxSessionsPerUser)
	check(o.Agent.IdleTimeout >= time.Second, "--agent-idle-timeout %s is less than 1s", o.Agent.IdleTimeout)
	check(o.Agent.StartTimeout >= time.Second && o.Agent.StartTimeout <= 10*time.Minute, "--agent-start-timeout %s is not between 1s and 10m", o.Agent.StartTimeout)
	check(slices.Contains([]string{"json", "text"}, o.LogFormat), "--log-format %q is neither json nor text", o.LogFormat)
	if _, err := o.Level(); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Level is the log level.
func (o *Options) Level() (slog.Level, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(strings.ToUpper(o.LogLevel))); err != nil {
		return 0, fmt.Errorf("--log-level %q is none of debug, info, warn and error", o.LogLevel)
	}
	return l, nil
}
