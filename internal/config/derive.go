package config

import (
	"fmt"
	"slices"

	"github.com/mirrord-go/mirrord/internal/config/origin"
)

// derive computes what follows from other values of the configuration.
func (c *Config) derive() {
	c.Feature.Env.Enabled = !slices.Contains(c.Feature.Env.Exclude, "*")
	c.Agent.LogLevel = plainLogLevel(c.Agent.LogLevel)
}

// deriveDNSFilter copies host names of the outgoing filter to the DNS filter, so that a
// name is resolved on the side that its connections leave from. It does so only with DNS
// on, and only on the same side: without a DNS filter, local names make one, and remote
// names need none. Names on opposite sides are the user's to decide; a name on both gets a
// warning.
//
// Names are copied without their port: the name is looked up before a port is known.
func deriveDNSFilter(c *Config, r *report) {
	const from, to = "feature.network.outgoing.filter", "feature.network.dns.filter"
	outgoing, dns := c.Feature.Network.Outgoing.Filter, &c.Feature.Network.DNS
	if outgoing == nil || !dns.Enabled {
		return
	}
	local, remote := filterNames(outgoing.Local), filterNames(outgoing.Remote)
	switch {
	case dns.Filter == nil:
		if len(local) > 0 {
			dns.Filter = &Filter{Local: local}
			c.SetOrigin(to, origin.Origin{Kind: origin.Derived, Name: from + ".local"})
		}
	case dns.Filter.Local != nil:
		dns.Filter = &Filter{Local: union(dns.Filter.Local, local), Remote: dns.Filter.Remote}
		warnOverlap(c, r, to+".local", dns.Filter.Local, remote)
	case dns.Filter.Remote != nil:
		dns.Filter = &Filter{Remote: union(dns.Filter.Remote, remote)}
		warnOverlap(c, r, to+".remote", dns.Filter.Remote, local)
	}
}

// filterNames returns the host names of an outgoing filter.
func filterNames(entries []string) []string {
	var names []string
	for _, entry := range entries {
		if e, err := ParseOutgoingEntry(entry); err == nil && e.Host != "" && !slices.Contains(names, e.Host) {
			names = append(names, e.Host)
		}
	}
	return names
}

// union returns the entries and those of more whose names they do not have yet.
func union(entries, more []string) []string {
	all := slices.Clone(entries)
	for _, name := range more {
		if !slices.Contains(all, name) {
			all = append(all, name)
		}
	}
	return all
}

func warnOverlap(c *Config, r *report, path string, entries, opposite []string) {
	for i, entry := range entries {
		e, err := ParseDNSEntry(entry)
		if err == nil && slices.Contains(opposite, e.Host) {
			element := fmt.Sprintf("%s[%d]", path, i)
			r.warning(Problem{
				Path: element, Origin: c.Origin(element),
				Message: fmt.Sprintf("%q is resolved on one side, and its connections leave from the other, by feature.network.outgoing.filter", e.Host),
			})
		}
	}
}
