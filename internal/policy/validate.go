package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mirrord-go/mirrord/api/policies/v1alpha"
	"github.com/mirrord-go/mirrord/internal/grant"
	"github.com/mirrord-go/mirrord/internal/pattern"
	"github.com/mirrord-go/mirrord/internal/profile"
)

// Severity says what a [Problem] means.
type Severity string

// The severities of a [Problem].
const (
	// Invalid: the policy can't be read, and refuses every session that it would bind.
	Invalid Severity = "invalid"
	// NotEnforced: this version does not enforce the part.
	NotEnforced Severity = "not enforced"
	// Advice: the policy may not do what its author thinks.
	Advice Severity = "advice"
)

// Problem is something about a policy that its author should know.
type Problem struct {
	Severity Severity `json:"severity"`
	// Path is the field's path in the manifest, such as "spec.network.outgoing.allow[0].ipBlock.cidr".
	Path    string `json:"path"`
	Message string `json:"message"`
}

// Validate returns all problems of a policy, in the order of its fields.
func Validate(spec v1alpha.PolicySpec) []Problem {
	var v validator
	v.targets(spec)
	v.block(spec.Block)
	v.files(spec.FS)
	v.network(spec)
	v.profiles(spec)
	if spec.AppliesToCopyTargets {
		v.add(NotEnforced, "spec.appliesToCopyTargets", "this version has no sessions on copies of their target")
	}
	if forbidsNothing(spec) {
		v.add(Advice, "spec", "the policy forbids nothing")
	}
	return v.problems
}

// invalid returns the problems for which a policy can't be enforced.
func (p Policy) invalid() []Problem {
	return slices.DeleteFunc(p.Problems(), func(p Problem) bool { return p.Severity != Invalid })
}

// Conditions are those of the policy's status, [v1alpha.ConditionValid] and
// [v1alpha.ConditionEnforced]. To keep the time of the last transition of one that has not
// changed is left to meta.SetStatusCondition.
func (p Policy) Conditions(generation int64, now time.Time) []metav1.Condition {
	problems := p.Problems()
	condition := func(kind string, severity Severity, good, bad, message string) metav1.Condition {
		c := metav1.Condition{
			Type: kind, Status: metav1.ConditionTrue, Reason: good, Message: message,
			ObservedGeneration: generation, LastTransitionTime: metav1.NewTime(now),
		}
		var texts []string
		for _, p := range problems {
			if p.Severity == severity {
				texts = append(texts, p.Path+": "+p.Message)
			}
		}
		if len(texts) > 0 {
			c.Status, c.Reason, c.Message = metav1.ConditionFalse, bad, bounded(strings.Join(texts, "\n"))
		}
		return c
	}
	return []metav1.Condition{
		condition(v1alpha.ConditionValid, Invalid, v1alpha.ReasonValid, v1alpha.ReasonInvalid, "every part of the policy can be read"),
		condition(v1alpha.ConditionEnforced, NotEnforced, v1alpha.ReasonEnforced, v1alpha.ReasonNotEnforced, "every part of the policy is enforced"),
	}
}

// bounded cuts a message at the length that the API allows.
func bounded(message string) string {
	const most = 32768 - len("…")
	if len(message) <= most {
		return message
	}
	return strings.ToValidUTF8(message[:most], "") + "…"
}

type validator struct{ problems []Problem }

func (v *validator) add(severity Severity, path, format string, args ...any) {
	v.problems = append(v.problems, Problem{severity, path, fmt.Sprintf(format, args...)})
}

// regex checks a regular expression and reports whether it can be read.
func (v *validator) regex(path, text string) bool {
	if _, err := pattern.Compile(text, pattern.IgnoreCase); err != nil { // as a grant is compiled
		v.add(Invalid, path, "%v", err)
		return false
	}
	return true
}

// kinds are the first parts of target paths.
var kinds = []string{
	"deploy", "deployment", "statefulset", "daemonset", "replicaset", "rollout",
	"job", "cronjob", "pod", "service", "label", "targetless",
}

func (v *validator) targets(spec v1alpha.PolicySpec) {
	if glob := spec.TargetPath; glob != nil {
		const path = "spec.targetPath"
		kind, rest, _ := strings.Cut(*glob, "/")
		known := func(k string) bool { return pattern.Glob(kind, k) }
		switch {
		case !slices.ContainsFunc(kinds, known) && !strings.Contains(kind, "*"):
			v.add(Advice, path, "no target is of the kind %q: the kinds are %s", kind, strings.Join(kinds, ", "))
		case strings.Contains(rest, "/container/"):
			v.add(Advice, path, "containers of a pod share its network, and sessions on the other containers are not bound; without /container/ the policy binds sessions on all of them")
		}
	}
	if spec.Selector != nil {
		if _, err := SelectorOf(spec.Selector); err != nil {
			v.add(Invalid, "spec.selector", "%v", err)
		}
	}
}

func (v *validator) block(block []v1alpha.Feature) {
	if block == nil {
		v.add(Advice, "spec.block", "the public mirrord refuses a policy without this field; [] blocks nothing")
	}
	for i, feature := range block {
		path := fmt.Sprintf("spec.block[%d]", i)
		switch feature {
		case v1alpha.BlockSteal, v1alpha.BlockStealWithoutFilter, v1alpha.BlockMirror:
		case v1alpha.BlockCopyTargetScaleDown:
			v.add(NotEnforced, path, "this version has no sessions on copies of their target")
		default:
			v.add(Invalid, path, "there is no feature %q to block in this version", feature)
		}
	}
}

func (v *validator) files(fs *v1alpha.FSPolicy) {
	if fs == nil {
		return
	}
	for _, list := range []struct {
		path  string
		texts []string
	}{{"spec.fs.readOnly", fs.ReadOnly}, {"spec.fs.local", fs.Local}, {"spec.fs.notFound", fs.NotFound}} {
		for i, text := range list.texts {
			v.regex(fmt.Sprintf("%s[%d]", list.path, i), text)
		}
	}
}

func (v *validator) network(spec v1alpha.PolicySpec) {
	if text := headerFilter(spec); text != nil {
		const path = "spec.network.incoming.httpFilter.headerFilter"
		if v.regex(path, *text) && !strings.HasSuffix(*text, "$") {
			v.add(Advice, path, "without $ at its end it accepts a text that goes on as the user likes, such as with %q", "|.*")
		}
	}
	out := outgoing(spec)
	for i, rule := range out.Allow {
		path := fmt.Sprintf("spec.network.outgoing.allow[%d]", i)
		readable := v.rule(path, rule)
		if name := rule.Hostname; name != nil && readable && (!strings.HasPrefix(*name, "^") || !strings.HasSuffix(*name, "$")) {
			v.add(Advice, path+".hostname", "without ^ and $ it also allows names that only contain what it matches")
		}
	}
	var four, six bool
	for i, rule := range out.Block {
		v.rule(fmt.Sprintf("spec.network.outgoing.block[%d]", i), rule)
		if rule.IPBlock != nil {
			four = four || rule.IPBlock.CIDR == "0.0.0.0/0"
			six = six || rule.IPBlock.CIDR == "::/0"
		}
	}
	if four && !six {
		v.add(Advice, "spec.network.outgoing.block", "0.0.0.0/0 does not have the addresses of IPv6; ::/0 has them")
	}
}

// rule checks a rule and reports whether its host name can be read.
func (v *validator) rule(path string, rule v1alpha.OutgoingRule) bool {
	readable := true
	if block := rule.IPBlock; block != nil {
		v.ipBlock(path+".ipBlock", *block)
	}
	if rule.Hostname != nil {
		readable = v.regex(path+".hostname", *rule.Hostname)
	}
	for i, port := range rule.Ports {
		at := fmt.Sprintf("%s.ports[%d]", path, i)
		if p := port.Protocol; p != "" && p != v1alpha.TCP && p != v1alpha.UDP {
			v.add(Invalid, at+".protocol", "%q is neither TCP nor UDP", p)
		}
		if p := port.Port; p != nil && (*p < 0 || *p > 65535) {
			v.add(Invalid, at+".port", "%d is no port", *p)
		}
	}
	if rule.IPBlock == nil && rule.Hostname == nil && len(rule.Ports) == 0 {
		v.add(Advice, path, "a rule without fields matches every destination")
	}
	return readable
}

func (v *validator) ipBlock(path string, block v1alpha.IPBlock) {
	whole, err := grant.ParseCIDR(block.CIDR)
	if err != nil {
		v.add(Invalid, path+".cidr", "%v", err)
	}
	for i, text := range block.Except {
		at := fmt.Sprintf("%s.except[%d]", path, i)
		part, exceptErr := grant.ParseCIDR(text)
		switch {
		case exceptErr != nil:
			v.add(Invalid, at, "%v", exceptErr)
		case err == nil && !whole.Overlaps(part):
			v.add(Advice, at, "%s has nothing of %s", text, block.CIDR)
		}
	}
}

func (v *validator) profiles(spec v1alpha.PolicySpec) {
	if spec.ProfileAllowlist == nil {
		return
	}
	const path = "spec.profileAllowlist"
	for i, name := range spec.ProfileAllowlist {
		if _, err := profile.ParseRef(name); err != nil {
			v.add(Advice, fmt.Sprintf("%s[%d]", path, i), "%v", err)
		}
	}
	if !spec.RequireProfile {
		v.add(Advice, path, "sessions without a profile are allowed; requireProfile: true refuses them")
	}
}

// forbidsNothing reports whether sessions are the same without the policy.
func forbidsNothing(spec v1alpha.PolicySpec) bool {
	out := outgoing(spec)
	return len(spec.Block) == 0 && (spec.Env == nil || len(spec.Env.Exclude) == 0) && spec.FS == nil &&
		headerFilter(spec) == nil && len(out.Allow)+len(out.Block) == 0 && !spec.RequireProfile && spec.ProfileAllowlist == nil
}
