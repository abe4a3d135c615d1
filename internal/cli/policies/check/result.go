package check

import (
	"bytes"
	"fmt"
	"io"
	"strings"

	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/grant"
	"github.com/mirrord-go/mirrord/internal/policy"
)

// result is the output as JSON.
type result struct {
	Allowed   bool   `json:"allowed"`
	Target    string `json:"target"`
	Namespace string `json:"namespace"`
	Profile   string `json:"profile,omitempty"`
	// Binding are the policies that bind the session.
	Binding []policy.Ref `json:"binding"`
	// Reasons are why it is refused.
	Reasons []policy.Reason `json:"reasons"`
	// Grant is what the agent lets the session do when it is allowed.
	Grant *grant.Grant `json:"grant,omitempty"`

	sources map[policy.Ref]string
}

func newResult(d policy.Decision, policies []policy.Policy, target policy.Target, cfg *config.Config) result {
	r := result{
		Allowed: d.Allowed(), Target: target.Path.String(), Namespace: target.Namespace, Profile: cfg.Profile,
		Binding: d.Binding, Reasons: d.Reasons, sources: map[policy.Ref]string{},
	}
	if r.Allowed {
		r.Grant = &d.Grant
	}
	for _, p := range policies {
		r.sources[p.Ref] = p.Source
	}
	return r
}

func (r result) print(w io.Writer) error {
	var text bytes.Buffer
	word := "allowed"
	if !r.Allowed {
		word = "refused"
	}
	fmt.Fprintf(&text, "%s: a session on %s in namespace %q", word, r.Target, r.Namespace)
	if r.Profile != "" {
		fmt.Fprintf(&text, " with profile %q", r.Profile)
	}
	fmt.Fprintln(&text)
	for _, reason := range r.Reasons {
		fmt.Fprintf(&text, "  %s\n", reason)
		for line := range strings.SplitSeq(reason.Next, "\n") {
			fmt.Fprintf(&text, "    %s\n", line)
		}
	}
	if len(r.Binding) == 0 {
		fmt.Fprintln(&text, "no policy binds it")
	} else {
		fmt.Fprintln(&text, "policies that bind it:")
	}
	for _, ref := range r.Binding {
		fmt.Fprintf(&text, "  %s %q", ref.Kind(), ref)
		if source := r.sources[ref]; source != "" {
			fmt.Fprintf(&text, " (%s)", source)
		}
		fmt.Fprintln(&text)
	}
	if r.Grant != nil {
		printGrant(&text, *r.Grant)
	}
	_, err := w.Write(text.Bytes())
	return err
}

// printGrant says what is forbidden while the session runs.
func printGrant(text *bytes.Buffer, g grant.Grant) {
	var lines []string
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	if g.Features.Incoming == grant.Steal && len(g.Incoming.StealWithoutFilter)+len(g.Incoming.HeaderFilters) > 0 {
		add("ports that the HTTP filter is not for are not stolen")
	}
	for _, o := range g.Outgoing {
		add("policy %q has rules about connections (allow: %d, block: %d)", o.Policy, len(o.Allow), len(o.Block))
	}
	for _, e := range g.Env {
		add("policy %q keeps variables: %s", e.Policy, strings.Join(e.Patterns, ", "))
	}
	if len(lines) == 0 {
		return
	}
	fmt.Fprintln(text, "while it runs:")
	for _, line := range lines {
		fmt.Fprintf(text, "  %s\n", line)
	}
}
