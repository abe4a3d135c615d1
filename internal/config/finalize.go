package config

import (
	"fmt"

	"github.com/mirrord-go/mirrord/internal/config/origin"
)

// docsPage is where a user reads about fields and their support.
const docsPage = "docs/config.md"

// FinalizeOptions says what is known beside the configuration.
type FinalizeOptions struct {
	// TargetUndecided says that a target which nobody named will still be chosen, as an
	// editor does; then nothing is said about sessions without one.
	TargetUndecided bool
}

// Finalize makes a configuration complete once a profile was applied, or when there is
// none: it derives what follows from the final values and verifies them. It returns a
// [*Problems] with all that is wrong. What a profile chose is never refused as unsupported.
// To call it again changes nothing more.
func Finalize(c *Config, opts FinalizeOptions) (Warnings, error) {
	v := &verifier{report: &report{}, c: c, undecided: opts.TargetUndecided && !c.HasTarget()}
	deriveDNSFilter(c, v.report)
	v.all()
	return v.result()
}

// verifier looks at the values of a configuration together.
type verifier struct {
	*report
	c *Config
	// undecided: the target is still to be chosen.
	undecided bool
	// beforeProfile leaves out what a profile may still change.
	beforeProfile bool
}

// all runs every rule.
func (v *verifier) all() {
	v.target()
	v.incoming()
	v.httpFilter()
	v.tlsDelivery()
	v.outgoing()
	v.dns()
	v.env()
	v.files()
	v.startupRetry()
	v.support()
}

func (v *verifier) fail(path, message, suggestion string) {
	v.problem(Problem{Path: path, Origin: v.c.Origin(path), Message: message, Suggestion: suggestion})
}

func (v *verifier) warn(path, message, suggestion string) {
	v.warning(Problem{Path: path, Origin: v.c.Origin(path), Message: message, Suggestion: suggestion})
}

// support reports fields that ask for what this version cannot do.
func (v *verifier) support() {
	for _, f := range schema().fields {
		if f.Status != Refused && f.Status != Ignored || v.beforeProfile && f.byProfile {
			continue
		}
		value, from := v.value(f), v.c.Origin(f.Path)
		if value == nil || from.Kind == origin.Default || from.Kind == origin.Profile || from.Kind == origin.Derived {
			continue
		}
		if f.asksNothing(value) || f.moot != nil && f.moot(v.c) {
			continue
		}
		if f.Status == Refused {
			v.fail(f.Path, "is not supported yet: "+f.Note, "see "+docsPage)
		} else {
			v.warn(f.Path, "has no effect in this version: "+f.Note, "")
		}
	}
}

// value returns the value of a field, or nil without one.
func (v *verifier) value(f *Field) any {
	if f.bind.get != nil {
		return f.bind.get(v.c)
	}
	return v.c.extra[f.Path]
}

// asksNothing says that a value is what this version does anyway.
func (f *Field) asksNothing(value any) bool {
	if f.harmless != nil {
		return f.harmless(value)
	}
	switch f.kind {
	case kindBool, kindText, kindUint:
		if f.Default != nil && value == f.Default {
			return true
		}
	}
	return isEmpty(value)
}

func (v *verifier) target() {
	path := v.c.Target.Path
	switch path.Kind {
	case Rollout:
		v.fail("target.path", fmt.Sprintf("targets of the kind %s are not supported yet", path.Kind),
			"name its pods, with label/KEY=VALUE")
	case Targetless:
		if v.undecided {
			return
		}
		if v.c.Agent.Ephemeral {
			v.fail("agent.ephemeral", "an ephemeral container needs a target, and the session has none", "name one with target")
		}
		if v.c.Agent.Namespace != "" {
			v.warn("agent.namespace", "has no effect without a target: the agent runs in the target's namespace", "")
		}
	}
	if v.c.Agent.Ephemeral && v.c.Agent.Namespace != "" && path.Kind != Targetless {
		v.warn("agent.namespace", "has no effect with agent.ephemeral: the agent is part of the target's pod", "")
	}
}

func (v *verifier) incoming() {
	const path = "feature.network.incoming"
	incoming := &v.c.Feature.Network.Incoming
	if incoming.Ports != nil && len(incoming.IgnorePorts) > 0 {
		v.fail(path+".ignore_ports", "cannot be given together with ports", "keep ports, which says all that is taken")
	}
	if incoming.Probes == ProbesToLocal && incoming.Mode == IncomingMirror && !v.beforeProfile {
		v.warn(path+".probes", "has no effect: during a mirror the target answers everything", "")
	}
	if incoming.Mode == IncomingSteal && v.c.Target.Path.Kind == Targetless && !v.undecided && !v.beforeProfile {
		v.fail(path+".mode", "traffic can only be stolen from a target, and the session has none", `name one with target, or set the mode to "off"`)
	}
}

func (v *verifier) outgoing() {
	const path = "feature.network.outgoing.filter"
	outgoing := &v.c.Feature.Network.Outgoing
	v.bothSides(path, outgoing.Filter)
	if f := outgoing.Filter; f != nil && f.Remote != nil && !v.c.Feature.Network.DNS.Enabled && !v.beforeProfile {
		v.warn(path+".remote", "its names are resolved on the laptop, since DNS is off, and may be other addresses in the cluster", "")
	}
}

func (v *verifier) dns() {
	const path = "feature.network.dns.filter"
	dns := &v.c.Feature.Network.DNS
	v.bothSides(path, dns.Filter)
	if dns.Filter != nil && !dns.Enabled && !v.beforeProfile {
		side := path + ".local"
		if dns.Filter.Local == nil {
			side = path + ".remote"
		}
		v.warn(side, "has no effect: DNS is off, and all names are resolved on the laptop", "")
		return
	}
	if dns.Filter != nil && !v.beforeProfile {
		v.nameless(path+".local", dns.Filter.Local)
		v.nameless(path+".remote", dns.Filter.Remote)
	}
}

// nameless warns about entries of a DNS filter that no name can match.
func (v *verifier) nameless(path string, entries []string) {
	for i, entry := range entries {
		if e, err := ParseDNSEntry(entry); err == nil && e.Host == "" && e != (FilterEntry{}) {
			v.warn(fmt.Sprintf("%s[%d]", path, i), fmt.Sprintf("%q has no effect: a name that is looked up has no address and no port yet", entry), "")
		}
	}
}

func (v *verifier) bothSides(path string, f *Filter) {
	if f != nil && f.Local != nil && f.Remote != nil {
		v.fail(path+".remote", "a filter is local or remote, and this one is both", "keep one of them; the rest goes to the other side")
	}
}

func (v *verifier) env() {
	const path = "feature.env"
	env := &v.c.Feature.Env
	if len(env.Include) > 0 && len(env.Exclude) > 0 {
		v.fail(path+".include", "cannot be given together with exclude", "keep one of them")
	}
}

func (v *verifier) files() {
	fs := &v.c.Feature.FS
	if fs.Mode == FSLocal && len(fs.ReadWrite)+len(fs.ReadOnly)+len(fs.NotFound)+len(fs.Mapping) > 0 {
		v.warn("feature.fs.mode", "all files are the laptop's, so that the lists and the mapping have no effect", `set it to "localwithoverrides"`)
	}
}

func (v *verifier) startupRetry() {
	number := func(name string) uint64 {
		if n, ok := v.c.extra["startup_retry."+name].(uint64); ok {
			return n
		}
		n, _ := schema().byPath["startup_retry."+name].Default.(uint64)
		return n
	}
	if number("min_ms") > number("max_ms") {
		v.fail("startup_retry.min_ms", "is more than max_ms", "")
	}
	if number("max_retries") == 0 || number("max_ms") == 0 {
		v.fail("startup_retry", "max_ms and max_retries must be more than 0", "")
	}
}
