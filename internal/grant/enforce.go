package grant

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/mirrord-go/mirrord/internal/pattern"
)

// Where rules stand in a policy's spec, for messages.
const (
	fieldHeaderFilter = "network.incoming.httpFilter.headerFilter"
	fieldAllow        = "network.outgoing.allow"
	fieldBlock        = "network.outgoing.block"
)

// Names of the features in a policy's field "block".
const (
	blockSteal              = "block: steal"
	blockStealWithoutFilter = "block: steal-without-filter"
	blockMirror             = "block: mirror"
)

// Subscribe says whether the session may take traffic of a port: mode is [Steal] or [Mirror],
// f its HTTP filter, nil without one. The error is a [*Refusal], or an error of another type
// for a mode that nobody knows.
func (e *Enforcer) Subscribe(mode string, f *HTTPFilter) error {
	r := &Refusal{}
	switch mode {
	case Mirror:
		r.Action = "mirroring incoming traffic"
		r.add(CodeBlocked, e.incoming.Mirror, blockMirror, `Set "feature.network.incoming.mode" to "steal" or "off".`)
	case Steal:
		e.steal(r, f)
	default:
		return fmt.Errorf("there is no mode %q of incoming traffic", mode)
	}
	if e.features != nil && e.features.Incoming != mode {
		r.Causes = append(r.Causes, e.features.lacks("feature.network.incoming.mode", e.features.Incoming))
	}
	if len(r.Causes) == 0 {
		return nil
	}
	return r
}

// lacks is the cause for what a session was created without.
func (f *Features) lacks(field, value string) Cause {
	rule := fmt.Sprintf("%s is %s", field, value)
	if f.Profile != "" {
		rule += fmt.Sprintf(", with profile %q", f.Profile)
	}
	return Cause{Code: CodeNotRequested, Rule: rule, Next: "Start a session that asks for it; a client must not do more than its session was created for."}
}

// Resolve says whether the session may have names resolved in the target. The error is a
// [*Refusal].
func (e *Enforcer) Resolve() error {
	if e.features == nil || e.features.DNS {
		return nil
	}
	return &Refusal{
		Action: "resolving names in the target",
		Causes: []Cause{e.features.lacks("feature.network.dns.enabled", "false")},
	}
}

// Unix says whether the session may connect to Unix sockets of the target. Rules about outgoing
// traffic have no part in it: they are about networks. The error is a [*Refusal].
func (e *Enforcer) Unix(name string) error {
	if e.features == nil || e.features.Unix {
		return nil
	}
	return &Refusal{
		Action: "connecting to the target's socket " + name,
		Causes: []Cause{e.features.lacks("feature.network.outgoing.unix_streams", "empty")},
	}
}

func (e *Enforcer) steal(r *Refusal, f *HTTPFilter) {
	in := e.incoming
	r.Action = "stealing incoming traffic"
	r.add(CodeBlocked, in.Steal, blockSteal, `Set "feature.network.incoming.mode" to "mirror" or "off".`)
	if len(r.Causes) > 0 {
		return // no filter would help
	}
	if f == nil {
		r.Action = "stealing incoming traffic without an HTTP filter"
		r.add(CodeBlocked, in.StealWithoutFilter, blockStealWithoutFilter, `Add an HTTP filter, such as "feature.network.incoming.http_filter.header_filter"; its "ports" must have all ports that are stolen.`)
		for _, h := range in.HeaderFilters {
			r.add(CodeHeaderFilter, []string{h.Policy}, headerRule(h), headerNext(h))
		}
		return
	}
	r.Action = "stealing incoming traffic with this HTTP filter"
	for i, h := range in.HeaderFilters {
		if !f.obeys(e.headers[i]) {
			r.add(CodeHeaderFilter, []string{h.Policy}, headerRule(h), headerNext(h))
		}
	}
}

func headerRule(h HeaderRule) string { return fmt.Sprintf("%s: %s", fieldHeaderFilter, h.Pattern) }

func headerNext(h HeaderRule) string {
	return fmt.Sprintf(`Set "feature.network.incoming.http_filter.header_filter" to a text that %q matches. In "all_of" one header must match, in "any_of" every alternative must be a header that matches.`, h.Pattern)
}

func (r *Refusal) add(code Code, policies []string, rule, next string) {
	for _, p := range policies {
		r.Causes = append(r.Causes, Cause{Code: code, Policy: p, Rule: rule, Next: next})
	}
}

// obeys says whether all requests that the filter lets through have a header that the rule
// is about, as far as the filter's text tells: one of a conjunction is enough, and of
// alternatives every one is needed.
func (f *HTTPFilter) obeys(rule *pattern.Pattern) bool {
	if f.parts() != 1 {
		return false // nobody knows what such a filter lets through
	}
	switch {
	case f.Header != "":
		// The user's text is a pattern, too. Its anchors say nothing about what it is for.
		text := strings.TrimPrefix(f.Header, "^")
		if strings.HasSuffix(text, "$") && !strings.HasSuffix(text, `\$`) {
			text = strings.TrimSuffix(text, "$")
		}
		matched, err := rule.Match(text)
		return err == nil && matched
	case len(f.AllOf) > 0:
		for i := range f.AllOf {
			if f.AllOf[i].obeys(rule) {
				return true
			}
		}
		return false
	case len(f.AnyOf) > 0:
		for i := range f.AnyOf {
			if !f.AnyOf[i].obeys(rule) {
				return false
			}
		}
		return true
	}
	return false
}

// parts counts what is set in the filter.
func (f *HTTPFilter) parts() int {
	n := 0
	for _, set := range []bool{f.Header != "", f.Other, len(f.AllOf) > 0, len(f.AnyOf) > 0} {
		if set {
			n++
		}
	}
	return n
}

// Dial says whether the session may connect to dst, or send datagrams there: proto is [TCP]
// or [UDP]. Names are those that dst's address was resolved from in this session, as asked
// and as completed by search domains; there may be none. The error is a [*Refusal], or an
// error of another type for a protocol that nobody knows.
//
// A rule with a host name matches when one of the names does. So an address without names is
// not allowed by a rule with a host name, and not blocked by one either; an address that an
// allowed and a blocked name share is blocked. A name whose match takes too long is not
// allowed by that rule, and blocked by it.
func (e *Enforcer) Dial(proto string, dst netip.AddrPort, names []string) error {
	if proto != TCP && proto != UDP {
		return fmt.Errorf("there is no protocol %q of outgoing traffic", proto)
	}
	off := e.features != nil && (proto == TCP && !e.features.TCP || proto == UDP && !e.features.UDP)
	if len(e.outgoing) == 0 && !off {
		return nil
	}
	d := destination{proto: proto, addr: plain(dst.Addr()), port: dst.Port(), names: normal(names)}
	var causes []Cause
	if off {
		causes = append(causes, e.features.lacks("feature.network.outgoing."+proto, "false"))
	}
	for _, o := range e.outgoing {
		if i := firstMatch(o.block, d, true); i >= 0 {
			causes = append(causes, Cause{
				Code: CodeDestination, Policy: o.policy, Rule: o.block[i].text,
				Next: "Connect to another destination, or let this one stay local, with \"feature.network.outgoing.filter\".",
			})
		}
		if len(o.allow) > 0 && firstMatch(o.allow, d, false) < 0 {
			causes = append(causes, Cause{
				Code: CodeDestination, Policy: o.policy, Rule: fieldAllow + ": no rule matches",
				Next: "Connect to a destination that the policy allows, or let this one stay local, with \"feature.network.outgoing.filter\".",
			})
		}
	}
	if len(causes) == 0 {
		return nil
	}
	return &Refusal{Action: d.String(), Causes: causes}
}

// destination is what rules are compared with.
type destination struct {
	proto string
	addr  netip.Addr
	port  uint16
	names []string
}

// String reads like "a TCP connection to 10.0.0.7:443 (db.shop)".
func (d destination) String() string {
	what := "a TCP connection to "
	if d.proto == UDP {
		what = "a UDP datagram to "
	}
	what += netip.AddrPortFrom(d.addr, d.port).String()
	const most = 3
	if n := len(d.names); n > 0 {
		what += " (" + strings.Join(d.names[:min(n, most)], ", ")
		if n > most {
			what += fmt.Sprintf(" and %d more names", n-most)
		}
		what += ")"
	}
	return what
}

// plain is the address that a connection goes to: the system takes the unspecified address
// for the loopback one, and an IPv4 address in the form of IPv6 is one of IPv4.
func plain(a netip.Addr) netip.Addr {
	a = a.Unmap().WithZone("")
	switch {
	case !a.IsUnspecified():
		return a
	case a.Is4():
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return netip.IPv6Loopback()
}

// normal are names as rules are written for: without a dot at the end.
func normal(names []string) []string {
	var plain []string
	for _, n := range names {
		if n = strings.TrimSuffix(n, "."); n != "" {
			plain = append(plain, n)
		}
	}
	return plain
}

// firstMatch is the index of the first rule that matches d, or -1. A match that takes too
// long counts as late.
func firstMatch(rules []rule, d destination, late bool) int {
	for i := range rules {
		if rules[i].matches(d, late) {
			return i
		}
	}
	return -1
}

func (r *rule) matches(d destination, late bool) bool {
	if r.cidr.IsValid() && !r.cidr.Contains(d.addr) {
		return false
	}
	for _, except := range r.except {
		if except.Contains(d.addr) {
			return false
		}
	}
	return r.matchesPort(d) && r.matchesName(d, late)
}

func (r *rule) matchesPort(d destination) bool {
	for _, p := range r.ports {
		if (p.Protocol == "" || p.Protocol == d.proto) && (p.Port == 0 || p.Port == d.port) {
			return true
		}
	}
	return len(r.ports) == 0
}

func (r *rule) matchesName(d destination, late bool) bool {
	if r.hostname == nil {
		return true
	}
	for _, name := range d.names {
		matched, err := r.hostname.Match(name)
		if matched || errors.Is(err, pattern.ErrTimeout) && late {
			return true
		}
	}
	return false
}

// Variable says whether the session may get the target's environment variable of that name.
func (e *Enforcer) Variable(name string) bool {
	if e.features != nil && !e.features.Env {
		return false
	}
	for _, exclusion := range e.env {
		for _, glob := range exclusion.Patterns {
			if pattern.Glob(glob, name) {
				return false
			}
		}
	}
	return true
}
