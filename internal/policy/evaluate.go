package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/mirrord-go/mirrord/api/policies/v1alpha"
	sessions "github.com/mirrord-go/mirrord/api/sessions/v1alpha"
	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/features"
	"github.com/mirrord-go/mirrord/internal/grant"
	"github.com/mirrord-go/mirrord/internal/profile"
)

// Evaluate decides about a session. Policies are all that there are; those that do not bind
// the session have no effect. It is safe for concurrent use.
//
// All that binds holds at once: a feature is blocked when one policy blocks it, a profile is
// required when one policy requires it, and has to be in every list of allowed profiles. A
// session that names a profile must follow it, whether a policy requires that or not.
func Evaluate(policies []Policy, req Request) Decision {
	binding := slices.DeleteFunc(slices.Clone(policies), func(p Policy) bool { return !p.Binds(req.Target) })
	slices.SortStableFunc(binding, func(a, b Policy) int { return compare(a.Ref, b.Ref) })

	d := Decision{Binding: []Ref{}, Reasons: []Reason{}}
	if err := features.Check(req.Features); err != nil {
		d.refuse(Reason{
			Code: CodeFeatures, Rule: "features are well-formed", Message: "the features of the session can't be read: " + oneLine(err),
			Next: "Use a client of the operator's version.",
		})
	}
	var valid []Policy
	for _, p := range binding {
		d.Binding = append(d.Binding, p.Ref)
		if problems := p.invalid(); len(problems) > 0 {
			d.refuse(unreadable(p.Ref, problems))
			continue
		}
		valid = append(valid, p)
	}
	d.Grant = grantOf(valid, req)
	d.incoming(req)
	d.profile(valid, req)
	return d
}

// compare orders policies: cluster-wide ones first, then by namespace and name.
func compare(a, b Ref) int {
	if c := strings.Compare(a.Namespace, b.Namespace); c != 0 {
		return c
	}
	return strings.Compare(a.Name, b.Name)
}

func (d *Decision) refuse(reasons ...Reason) { d.Reasons = append(d.Reasons, reasons...) }

// oneLine joins the lines of an error.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// unreadable refuses a session that an invalid policy binds. What the policy's author wanted
// to forbid is not known, so nothing is allowed.
func unreadable(ref Ref, problems []Problem) Reason {
	texts := make([]string, len(problems))
	for i, p := range problems {
		texts[i] = p.Path + ": " + p.Message
	}
	return Reason{
		Code: CodePolicyInvalid, Policy: &ref, Rule: problems[0].Path,
		Message: "the policy can't be read, so it allows nothing: " + strings.Join(texts, "; "),
		Next:    fmt.Sprintf("Who maintains the %s %q must repair it; \"mirrord policy lint\" finds such errors before they are in a cluster.", ref.Kind(), ref),
	}
}

// grantOf collects what the policies say. All of them are valid.
func grantOf(policies []Policy, req Request) grant.Grant {
	f := req.Features
	g := grant.Grant{Features: &grant.Features{
		Profile: req.Profile, Incoming: f.Incoming.Mode,
		TCP: f.Outgoing.TCP, UDP: f.Outgoing.UDP, Unix: len(f.Outgoing.UnixStreams) > 0, DNS: f.DNS.Enabled, Env: f.Env.Enabled,
		Files: filesOf(f.Files), FilesWritten: slices.Clone(f.Files.ReadWrite),
	}}
	for _, p := range policies {
		name, spec := p.Ref.String(), p.Spec
		g.Policies = append(g.Policies, name)
		for _, feature := range spec.Block {
			switch feature {
			case v1alpha.BlockSteal:
				g.Incoming.Steal = appendNew(g.Incoming.Steal, name)
			case v1alpha.BlockStealWithoutFilter:
				g.Incoming.StealWithoutFilter = appendNew(g.Incoming.StealWithoutFilter, name)
			case v1alpha.BlockMirror:
				g.Incoming.Mirror = appendNew(g.Incoming.Mirror, name)
			case v1alpha.BlockCopyTargetScaleDown: // there are no copies
			}
		}
		if text := headerFilter(spec); text != nil {
			g.Incoming.HeaderFilters = append(g.Incoming.HeaderFilters, grant.HeaderRule{Policy: name, Pattern: *text})
		}
		if out := outgoing(spec); len(out.Allow)+len(out.Block) > 0 {
			g.Outgoing = append(g.Outgoing, grant.OutgoingRules{Policy: name, Allow: rules(out.Allow), Block: rules(out.Block)})
		}
		if spec.Env != nil && len(spec.Env.Exclude) > 0 {
			g.Env = append(g.Env, grant.Exclusion{Policy: name, Patterns: slices.Clone(spec.Env.Exclude)})
		}
		if fs := spec.FS; fs != nil && len(fs.ReadOnly)+len(fs.Local)+len(fs.NotFound) > 0 {
			g.Files = append(g.Files, grant.FileRules{
				Policy: name, ReadOnly: slices.Clone(fs.ReadOnly), Local: slices.Clone(fs.Local), NotFound: slices.Clone(fs.NotFound),
			})
		}
	}
	return g
}

// filesOf is what the session does with files of the target.
func filesOf(f sessions.Files) string {
	switch config.FSMode(f.Mode) {
	case config.FSWrite:
		return grant.FilesWrite
	case config.FSRead, config.FSLocalWithOverrides:
		return grant.FilesRead
	case config.FSLocal:
	}
	return ""
}

func appendNew(names []string, name string) []string {
	if slices.Contains(names, name) {
		return names
	}
	return append(names, name)
}

// headerFilter is nil without one.
func headerFilter(spec v1alpha.PolicySpec) *string {
	if spec.Network == nil || spec.Network.Incoming == nil || spec.Network.Incoming.HTTPFilter == nil {
		return nil
	}
	return spec.Network.Incoming.HTTPFilter.HeaderFilter
}

func outgoing(spec v1alpha.PolicySpec) v1alpha.OutgoingPolicy {
	if spec.Network == nil || spec.Network.Outgoing == nil {
		return v1alpha.OutgoingPolicy{}
	}
	return *spec.Network.Outgoing
}

func rules(from []v1alpha.OutgoingRule) []grant.Rule {
	to := make([]grant.Rule, 0, len(from))
	for _, r := range from {
		rule := grant.Rule{Hostname: r.Hostname}
		if r.IPBlock != nil {
			rule.CIDR, rule.Except = r.IPBlock.CIDR, slices.Clone(r.IPBlock.Except)
		}
		for _, p := range r.Ports {
			port := grant.Port{Protocol: strings.ToLower(string(p.Protocol))}
			if p.Port != nil {
				port.Port = uint16(*p.Port)
			}
			rule.Ports = append(rule.Ports, port)
		}
		to = append(to, rule)
	}
	return to
}

// incoming asks the grant as the agent will ask it.
func (d *Decision) incoming(req Request) {
	in := req.Features.Incoming
	if in.Mode == grant.Off {
		return
	}
	enforcer, err := d.Grant.Compile()
	if err != nil {
		// Policies that do not compile were found before.
		d.refuse(Reason{Code: CodePolicyInvalid, Rule: "policies are valid", Message: oneLine(err)})
		return
	}
	refused := enforcer.Subscribe(in.Mode, httpFilter(in.Filter))
	if refused == nil && takesWhole(in) {
		refused = enforcer.Subscribe(in.Mode, nil)
	}
	refusal, ok := errors.AsType[*grant.Refusal](refused)
	if !ok {
		return
	}
	for _, cause := range refusal.Causes {
		ref := parseRef(cause.Policy)
		next := cause.Next
		if d.Grant.Incoming.Blocks(in.Mode) && setsIncoming(req.Loaded) {
			next = fmt.Sprintf("The profile %q sets the mode, whatever the configuration says: select another one, or ask who maintains it.", req.Profile)
		}
		d.refuse(Reason{Code: Code(cause.Code), Policy: &ref, Rule: cause.Rule, Message: refusal.Action + " is not allowed", Next: next})
	}
}

// setsIncoming reports whether a profile decides what is done with incoming traffic.
func setsIncoming(p *profile.Profile) bool {
	return p != nil && slices.ContainsFunc(p.Changes(), func(change string) bool { return strings.HasPrefix(change, "incoming-") })
}

// takesWhole reports whether the session names ports that its HTTP filter is not for. Without a
// list of ports to take, the agent finds out when one is taken.
func takesWhole(in sessions.Incoming) bool {
	if in.Filter == nil || len(in.Filter.Ports) == 0 {
		return false
	}
	return slices.ContainsFunc(in.Ports, func(port int32) bool { return !slices.Contains(in.Filter.Ports, port) })
}

func parseRef(name string) Ref {
	if namespace, rest, ok := strings.Cut(name, "/"); ok {
		return Ref{namespace, rest}
	}
	return Ref{Name: name}
}

// httpFilter is a filter as rules are about it.
func httpFilter(f *sessions.HTTPFilter) *grant.HTTPFilter {
	if f == nil {
		return nil
	}
	filter := httpRule(f.HTTPFilterRule)
	for _, r := range f.AllOf {
		filter.AllOf = append(filter.AllOf, httpRule(r))
	}
	for _, r := range f.AnyOf {
		filter.AnyOf = append(filter.AnyOf, httpRule(r))
	}
	return &filter
}

func httpRule(r sessions.HTTPFilterRule) grant.HTTPFilter {
	other := r
	other.Header = ""
	return grant.HTTPFilter{Header: r.Header, Other: other != (sessions.HTTPFilterRule{})}
}
