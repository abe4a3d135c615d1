package execcmd

import (
	"context"
	"fmt"

	"github.com/mirrord-go/mirrord/internal/attach"
	"github.com/mirrord-go/mirrord/internal/cli/progress"
	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/kube"
	"github.com/mirrord-go/mirrord/internal/resolve"
	"github.com/mirrord-go/mirrord/internal/session"
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
	if err := opts.direct(ctx, r, cluster, at); err != nil {
		return nil, err
	}
	return at, nil
}

// direct starts agents with the user's own rights.
func (opts *Options) direct(ctx context.Context, r Request, cluster *kube.Cluster, at *Attachment) error {
	spec := kube.AgentSpec{
		Namespace: r.Config.Target.Namespace, Config: r.Config.Agent, SessionID: r.SessionID, ClientKey: r.ClientKey,
	}
	path := r.Config.Target.Path
	if path.Kind == config.Targetless {
		at.Namespace = r.Config.Target.Namespace
		return opts.single(ctx, r, cluster, at, spec)
	}
	end := r.Progress.Phase("target", "finding "+path.String())
	w, err := cluster.FindWorkload(ctx, path, r.Config.Target.Namespace)
	end(err)
	if err != nil {
		return cluster.WithAgentRules(ctx, err, path, spec)
	}
	at.Namespace = w.Namespace()
	if w.Fixed() {
		spec.Target = w.Targets()[0]
		return opts.single(ctx, r, cluster, at, spec)
	}
	text := "starting the agent"
	if n := len(w.Targets()); n > 1 {
		text = fmt.Sprintf("starting agents beside %d pods", n)
	}
	end = r.Progress.Phase("agent", text)
	defer func() { end(err) }()
	at.Attachments, err = attach.Direct(ctx, attach.DirectOptions{
		Log: opts.Factory.Logger, Workload: w,
		Start: func(ctx context.Context, t *kube.Target, again bool) (session.Agent, error) {
			spec := spec
			spec.Target, spec.Again = t, again
			return started(cluster.StartAgent(ctx, spec))
		},
	})
	return err
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
