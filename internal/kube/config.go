package kube

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/client-go/util/homedir"
)

// loadedConfig is what a kubeconfig says about one context.
type loadedConfig struct {
	rest      *rest.Config
	context   string
	namespace string
	files     string // where it was read, for messages
	user      credentials
}

func (l loadedConfig) broken(err error) error {
	return &Error{
		Reason: ReasonKubeconfig,
		Doing:  fmt.Sprintf("using context %q of %s", l.context, l.files),
		Why:    err.Error(),
		Next:   "Does \"kubectl --context " + l.context + " version\" work? If not, the kubeconfig has to be repaired first.",
		Err:    err,
	}
}

func loadConfig(opts Options) (loadedConfig, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.WarnIfAllMissing = false
	rules.Warner = func(error) {}
	rules.ExplicitPath = expandHome(opts.Kubeconfig)
	client := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
		rules, &clientcmd.ConfigOverrides{CurrentContext: opts.Context})

	raw, err := client.RawConfig()
	if err != nil {
		return loadedConfig{}, unreadable(rules, err)
	}
	if len(raw.Contexts) == 0 && len(raw.Clusters) == 0 {
		return inCluster(rules, opts)
	}
	name := cmp.Or(opts.Context, raw.CurrentContext)
	kctx := raw.Contexts[name]
	if kctx == nil {
		return loadedConfig{}, noContext(rules, raw, name)
	}
	l := loadedConfig{context: name, namespace: cmp.Or(kctx.Namespace, "default"), files: describe(rules)}
	if raw.Clusters[kctx.Cluster] == nil {
		return loadedConfig{}, l.broken(fmt.Errorf("it names a cluster %q that is not there", kctx.Cluster))
	}
	if l.rest, err = client.ClientConfig(); err != nil {
		return loadedConfig{}, l.broken(err)
	}
	l.user = credentials{name: kctx.AuthInfo, config: l.rest}
	return l, nil
}

// inCluster is for a process in a pod, where no kubeconfig is expected.
func inCluster(rules *clientcmd.ClientConfigLoadingRules, opts Options) (loadedConfig, error) {
	cfg, err := rest.InClusterConfig()
	if errors.Is(err, rest.ErrNotInCluster) || opts.Kubeconfig != "" || opts.Context != "" {
		return loadedConfig{}, missing(rules)
	}
	if err != nil {
		return loadedConfig{}, &Error{
			Reason: ReasonKubeconfig,
			Doing:  "using the service account of this pod",
			Why:    err.Error(),
			Next:   "The pod needs automountServiceAccountToken: true, or a kubeconfig.",
			Err:    err,
		}
	}
	ns, err := os.ReadFile("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
	if err != nil {
		ns = nil // the pod's token may be mounted without it
	}
	return loadedConfig{
		rest:      cfg,
		context:   "in-cluster",
		namespace: cmp.Or(strings.TrimSpace(string(ns)), "default"),
		files:     "the service account of this pod",
		user:      credentials{name: "the pod's service account", config: cfg},
	}, nil
}

func unreadable(rules *clientcmd.ClientConfigLoadingRules, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return missing(rules)
	}
	return &Error{
		Reason: ReasonKubeconfig,
		Doing:  "reading " + describe(rules),
		Why:    err.Error(),
		Next:   "\"kubectl config view\" shows what is wrong with it. --kubeconfig takes another file.",
		Err:    err,
	}
}

func missing(rules *clientcmd.ClientConfigLoadingRules) error {
	e := &Error{Reason: ReasonKubeconfig, Doing: "looking for a kubeconfig", Err: fs.ErrNotExist}
	if rules.ExplicitPath != "" {
		e.Why = fmt.Sprintf("there is none at %s", rules.ExplicitPath)
		if _, err := os.Stat(rules.ExplicitPath); err == nil {
			e.Why = fmt.Sprintf("%s names no cluster", rules.ExplicitPath)
		}
		e.Next = "Correct the path (--kubeconfig, the field \"kubeconfig\", MIRRORD_KUBECONFIG), or leave it out to use $KUBECONFIG or ~/.kube/config."
		return e
	}
	e.Why = fmt.Sprintf("there is none, or none that names a cluster, at %s", strings.Join(rules.Precedence, " or "))
	if os.Getenv(clientcmd.RecommendedConfigPathEnvVar) == "" && homedir.HomeDir() == "" {
		e.Why += " of the current directory, as there is no home directory (HOME)"
	}
	e.Next = "Ask for a kubeconfig of the cluster, or make one with the tool that you log in with, and name it by --kubeconfig or $KUBECONFIG."
	return e
}

func noContext(rules *clientcmd.ClientConfigLoadingRules, raw clientcmdapi.Config, name string) error {
	names := slices.Sorted(maps.Keys(raw.Contexts))
	e := &Error{
		Reason: ReasonKubeconfig,
		Doing:  "choosing a context of " + describe(rules),
		Why:    fmt.Sprintf("it has no context %q", name),
	}
	if name == "" {
		e.Why = "it has no current context"
	}
	var b strings.Builder
	if near := nearest(name, names); len(near) > 0 {
		fmt.Fprintf(&b, "Did you mean %s?\n", strings.Join(near, " or "))
	}
	if len(names) == 0 {
		b.WriteString("It has no contexts at all. --kubeconfig takes another file.")
	} else {
		fmt.Fprintf(&b, "Its contexts are %s. --context or the field \"kube_context\" selects one.", enumerate(names, 20))
	}
	e.Next = b.String()
	return e
}

// describe names the files that the rules read.
func describe(rules *clientcmd.ClientConfigLoadingRules) string {
	if rules.ExplicitPath != "" {
		return "the kubeconfig " + rules.ExplicitPath
	}
	var there []string
	for _, path := range rules.Precedence {
		if _, err := os.Stat(path); err == nil {
			there = append(there, path)
		}
	}
	if len(there) == 0 {
		there = rules.Precedence
	}
	return "the kubeconfig " + strings.Join(there, string(filepath.ListSeparator))
}

// expandHome replaces a leading "~/", which no shell has expanded in a config file.
func expandHome(path string) string {
	rest, ok := strings.CutPrefix(path, "~/")
	if !ok {
		return path
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return path
	}
	return filepath.Join(home, rest)
}
