package execcmd

import (
	"context"
	"fmt"

	"github.com/mirrord-go/mirrord/internal/cli/progress"
	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/kube"
	"github.com/mirrord-go/mirrord/internal/resolve"
	"github.com/mirrord-go/mirrord/internal/session"
)

// attach finds the target and starts an agent beside it.
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
	spec := kube.AgentSpec{
		Namespace: r.Config.Target.Namespace, Config: r.Config.Agent, SessionID: r.SessionID, ClientKey: r.ClientKey,
	}
	if path := r.Config.Target.Path; path.Kind != config.Targetless {
		end := r.Progress.Phase("target", "finding "+path.String())
		at.Target, err = cluster.ResolveTarget(ctx, path, r.Config.Target.Namespace)
		end(err)
		if err != nil {
			return nil, cluster.WithAgentRules(ctx, err, path, spec)
		}
		spec.Target = at.Target
	}
	end := r.Progress.Phase("agent", "starting the agent")
	agent, err := cluster.StartAgent(ctx, spec)
	end(err)
	if err != nil {
		return nil, err
	}
	at.Agent = agent
	return at, nil
}

func (at *Attachment) attachments() session.Attachments {
	a := session.Attachment{Name: "agent", Title: "the agent", Agent: at.Agent}
	if t := at.Target; t != nil {
		a.Name, a.Title = t.PodUID, "pod "+t.Pod
		a.Probes, a.ProbeSources = t.Probes, t.HostIPs
	}
	return session.Single(a)
}

// observer shows a session.
type observer struct {
	*progress.Reporter // Phase, Started

	resolved   *resolve.Resolved
	attachment *Attachment
}

var _ session.Observer = (*observer)(nil)

// Attached shows what the session will do.
func (o *observer) Attached([]session.Attachment) {
	cfg := o.resolved.Config
	s := progress.Summary{
		Target:    cfg.Target.Path.String(),
		Namespace: cfg.Target.Namespace,
		Agent:     o.attachment.Agent.Describe(),
		Settings:  progress.Settings(cfg),
	}
	if t := o.attachment.Target; t != nil {
		s.Namespace, s.Pod, s.Container, s.Node = t.Namespace, t.Pod, t.Container, t.Node
	}
	if p := o.resolved.Profile; p != nil {
		s.Profile, s.Changes = p.Ref.String(), p.Changes()
	}
	for _, text := range o.resolved.Warnings {
		o.Warning(text)
	}
	if t := o.attachment.Target; t != nil && t.HostNetwork && cfg.Feature.Network.Incoming.Mode == config.IncomingSteal {
		o.Warning(fmt.Sprintf("pod %s has its node's network (hostNetwork): a port that is stolen is stolen from the whole node", t.Pod))
	}
	o.Summary(s)
}

// Event shows what happens while the process runs.
func (o *observer) Event(e session.Event) {
	o.Reporter.Event(e.Kind, e.Warning, e.Text, e.Port)
}
