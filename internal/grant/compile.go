package grant

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/mirrord-go/mirrord/internal/pattern"
)

// Enforcer answers what a session may do. It is safe for concurrent use, and costs little to
// ask: without rules nothing, with them a comparison for each rule. Make one with
// [Grant.Compile].
type Enforcer struct {
	features *Features // nil means all
	incoming Incoming
	headers  []*pattern.Pattern // of incoming.HeaderFilters
	outgoing []outgoingRules
	env      []Exclusion
	files    []fileRules
	written  []*pattern.Pattern // of features.FilesWritten
}

// outgoingRules are the compiled rules of one policy.
type outgoingRules struct {
	policy       string
	allow, block []rule
}

// rule is a compiled [Rule].
type rule struct {
	text     string // as refusals show it
	cidr     netip.Prefix
	except   []netip.Prefix
	hostname *pattern.Pattern // nil when names do not matter
	ports    []Port
}

// Compile makes the grant ready to enforce. The error has all problems, joined.
func (g Grant) Compile() (*Enforcer, error) {
	e := &Enforcer{features: g.Features, incoming: g.Incoming, env: g.Env}
	var problems []error
	fail := func(policy, field string, err error) {
		problems = append(problems, fmt.Errorf("policy %q: %s: %w", policy, field, err))
	}
	for _, h := range g.Incoming.HeaderFilters {
		p, err := pattern.Compile(h.Pattern, pattern.IgnoreCase)
		if err != nil {
			fail(h.Policy, fieldHeaderFilter, err)
		}
		e.headers = append(e.headers, p)
	}
	for _, o := range g.Outgoing {
		compiled := outgoingRules{policy: o.Policy}
		for _, list := range []struct {
			field string
			from  []Rule
			to    *[]rule
		}{{fieldAllow, o.Allow, &compiled.allow}, {fieldBlock, o.Block, &compiled.block}} {
			for i, r := range list.from {
				field := fmt.Sprintf("%s[%d]", list.field, i)
				ready, err := r.compile(field)
				for _, problem := range err {
					fail(o.Policy, field, problem)
				}
				*list.to = append(*list.to, ready)
			}
		}
		e.outgoing = append(e.outgoing, compiled)
	}
	problems = append(problems, e.compileFiles(g)...)
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	return e, nil
}

// compile returns the rule and everything that is wrong with it.
func (r Rule) compile(field string) (rule, []error) {
	ready := rule{text: field, ports: r.Ports}
	var problems []error
	prefix := func(text string) netip.Prefix {
		p, err := ParseCIDR(text)
		if err != nil {
			problems = append(problems, err)
		}
		return p
	}
	if r.CIDR != "" {
		ready.cidr = prefix(r.CIDR)
	} else if len(r.Except) > 0 {
		problems = append(problems, errors.New("there is no range of addresses that the exceptions are from"))
	}
	for _, text := range r.Except {
		ready.except = append(ready.except, prefix(text))
	}
	if r.Hostname != nil {
		var err error
		if ready.hostname, err = pattern.Compile(*r.Hostname, pattern.IgnoreCase); err != nil {
			problems = append(problems, err)
		}
	}
	for _, p := range r.Ports {
		if p.Protocol != "" && p.Protocol != TCP && p.Protocol != UDP {
			problems = append(problems, fmt.Errorf("the protocol is %q, and can be %q or %q", p.Protocol, TCP, UDP))
		}
	}
	return ready, problems
}

// ParseCIDR reads a range of addresses, such as "10.0.0.0/16". A range of IPv4 addresses that
// is written as one of IPv6 becomes one of IPv4, as destinations do.
func ParseCIDR(text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	if err != nil {
		reason := err.Error()
		if i := strings.LastIndex(reason, ": "); i >= 0 {
			reason = reason[i+2:]
		}
		return netip.Prefix{}, fmt.Errorf("%q is no range of addresses such as 10.0.0.0/16 or 2001:db8::/32: %s", text, reason)
	}
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked(), nil
}
