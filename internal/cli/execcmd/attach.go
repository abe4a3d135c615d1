package execcmd

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mirrord-go/mirrord/api/sessions/v1alpha"
	"github.com/mirrord-go/mirrord/internal/attach"
	"github.com/mirrord-go/mirrord/internal/cli/progress"
	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/config/origin"
	"github.com/mirrord-go/mirrord/internal/features"
	"github.com/mirrord-go/mirrord/internal/kube"
	"github.com/mirrord-go/mirrord/internal/resolve"
	"github.com/mirrord-go/mirrord/internal/session"
	"github.com/mirrord-go/mirrord/internal/version"
)

// attach finds the target and gets the session to its pods.
func (opts *Options) attach(ctx context.Context, r Request) (_ *Attachment, err error) {
	cluster, err := opts.Factory.Cluster(r.Config)
	if err != nil {
		return nil, err
	}
	at := &Attachment{Close: cluster.Close}
	defer func() {
		if err != nil {
			_ = cluster.Close()
		}
	}()
	// The target is looked for while the cluster says whether it has an operator.
	looking, stop := context.WithCancel(ctx)
	defer stop()
	found := make(chan workload, 1)
	if o := r.Config.Operator; o == nil || !*o {
		go func() { found <- find(looking, cluster, r.Config.Target) }()
	}
	use, err := attach.UseOperator(ctx, cluster, r.Config.Operator)
	switch {
	case err != nil:
	case use:
		stop()
		err = opts.operator(ctx, r, cluster, at)
	default:
		err = opts.direct(ctx, r, cluster, at, found)
	}
	if err != nil {
		return nil, err
	}
	return at, nil
}

// workload is the outcome of a search.
type workload struct {
	*kube.Workload
	err error
}

func find(ctx context.Context, cluster *kube.Cluster, t config.Target) workload {
	if t.Path.Kind == config.Targetless {
		return workload{}
	}
	w, err := cluster.FindWorkload(ctx, t.Path, t.Namespace)
	return workload{w, err}
}

// operator has the operator start a session.
func (opts *Options) operator(ctx context.Context, r Request, cluster *kube.Cluster, at *Attachment) error {
	opts.idle(r, "agent.", "the operator has agents of its own", "agent.communication_timeout")
	hostname, err := os.Hostname()
	if err != nil {
		hostname = ""
	}
	spec := v1alpha.SessionSpec{
		Target: r.Config.Target.Path.String(), Profile: r.Config.Profile,
		Features:          features.FromConfig(r.Config),
		OnConcurrentSteal: v1alpha.ConcurrentSteal(r.Config.Feature.Network.Incoming.OnConcurrentSteal),
		ClientKey:         r.ClientKey.String(),
		Client:            v1alpha.ClientInfo{Version: version.String(), Hostname: hostname, Program: filepath.Base(opts.Command[0])},
	}
	end := r.Progress.Phase("operator", "starting a session at the operator")
	s, err := cluster.CreateSession(ctx, r.Config.Target.Namespace, spec)
	end(err)
	if err != nil {
		return err
	}
	at.Namespace, at.Operator = s.Namespace, s.Name
	r.leave(leftover{Session: s.Name, Namespace: s.Namespace})
	at.Attachments = attach.Operator(ctx, opts.Factory.Logger, cluster, s)
	return nil
}

// idle warns of fields that were given in vain.
func (opts *Options) idle(r Request, prefix, why string, except ...string) {
	for _, f := range config.Fields() {
		from := r.Config.Origin(f.Path)
		if strings.HasPrefix(f.Path, prefix) && from.Kind != origin.Default && !slices.Contains(except, f.Path) {
			r.Progress.Warning(fmt.Sprintf("%s has no effect: %s (%s)", f.Path, why, from))
		}
	}
}

// direct starts agents with the user's own rights.
func (opts *Options) direct(ctx context.Context, r Request, cluster *kube.Cluster, at *Attachment, found <-chan workload) error {
	if r.Config.Feature.Network.Incoming.OnConcurrentSteal != config.ConcurrentStealAbort {
		opts.idle(r, "feature.network.incoming.on_concurrent_steal", "it needs the operator; a port that another session steals is refused")
	}
	spec := kube.AgentSpec{
		Namespace: r.Config.Target.Namespace, Config: r.Config.Agent, SessionID: r.SessionID, ClientKey: r.ClientKey,
		Creating: func(namespace, job string) { r.leave(leftover{Job: job, Namespace: namespace}) },
	}
	path := r.Config.Target.Path
	if path.Kind == config.Targetless {
		at.Namespace = r.Config.Target.Namespace
		return opts.single(ctx, r, cluster, at, spec)
	}
	end := r.Progress.Phase("target", "finding "+path.String())
	w := <-found
	end(w.err)
	if err := w.err; err != nil {
		return cluster.WithAgentRules(ctx, err, path, spec)
	}
	at.Namespace = w.Namespace()
	if err := opts.tls(ctx, r, cluster, at); err != nil {
		return err
	}
	if w.Fixed() {
		spec.Target = w.Targets()[0]
		return opts.single(ctx, r, cluster, at, spec)
	}
	text := "starting the agent"
	if n := len(w.Targets()); n > 1 {
		text = fmt.Sprintf("starting agents beside %d pods", n)
	}
	end = r.Progress.Phase("agent", text)
	var err error
	defer func() { end(err) }()
	at.Attachments, err = attach.Direct(ctx, attach.DirectOptions{
		Log: opts.Factory.Logger, Workload: w.Workload,
		Start: func(ctx context.Context, t *kube.Target, again bool) (session.Agent, error) {
			spec := spec
			spec.Target, spec.Again = t, again
			return started(cluster.StartAgent(ctx, spec))
		},
	})
	return err
}

// tls reads how TLS ends on the target's ports, if the session has a filter that looks into it.
func (opts *Options) tls(ctx context.Context, r Request, cluster *kube.Cluster, at *Attachment) error {
	in := r.Config.Feature.Network.Incoming
	if in.Mode != config.IncomingSteal || in.HTTPFilter.Spec() == nil {
		return nil
	}
	ports, problems, err := cluster.TLSPorts(ctx, r.Config.Target.Path, at.Namespace)
	if err != nil {
		return err
	}
	for _, problem := range problems {
		opts.Factory.Logger.Info("a TLS configuration is not used", "error", problem)
	}
	at.TLS = ports
	return nil
}

// single starts the one agent of a session that follows nothing.
func (opts *Options) single(ctx context.Context, r Request, cluster *kube.Cluster, at *Attachment, spec kube.AgentSpec) error {
	end := r.Progress.Phase("agent", "starting the agent")
	agent, err := started(cluster.StartAgent(ctx, spec))
	end(err)
	if err != nil {
		return err
	}
	a := session.Attachment{Name: "targetless", Agent: agent}
	if t := spec.Target; t != nil {
		a = attach.Attachment(t, agent)
	}
	at.Attachments = session.Single(a)
	return nil
}

// started keeps a nil agent from becoming an interface that is not.
func started(a *kube.Agent, err error) (session.Agent, error) {
	if err != nil {
		return nil, err
	}
	return a, nil
}

// observer shows a session.
type observer struct {
	*progress.Reporter // Phase, Started

	resolved   *resolve.Resolved
	attachment *Attachment
}

var _ session.Observer = (*observer)(nil)

// Attached shows what the session will do.
func (o *observer) Attached(list []session.Attachment) {
	cfg := o.resolved.Config
	s := progress.Summary{
		Target:    cfg.Target.Path.String(),
		Namespace: o.attachment.Namespace,
		Operator:  o.attachment.Operator,
		Settings:  progress.Settings(cfg),
	}
	for _, a := range list {
		s.Pods = append(s.Pods, progress.Pod{Pod: a.Pod, Container: a.Container, Node: a.Node, Agent: a.Agent.Describe()})
	}
	if p := o.resolved.Profile; p != nil {
		s.Profile, s.Changes = p.Ref.String(), p.Changes()
	}
	for _, text := range o.resolved.Warnings {
		o.Warning(text)
	}
	for _, a := range list {
		if a.HostNetwork && cfg.Feature.Network.Incoming.Mode == config.IncomingSteal {
			o.Warning(fmt.Sprintf("pod %s has its node's network (hostNetwork): a port that is stolen is stolen from the whole node", a.Pod))
		}
	}
	o.Summary(s)
}

// Event shows what happens while the process runs.
func (o *observer) Event(e session.Event) {
	o.Reporter.Event(e.Kind, e.Warning, e.Text, e.Port)
}
