package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/mirrord-go/mirrord/internal/config"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Rule is one right: a verb on a resource.
type Rule struct {
	Verb string
	// Group is the API group; empty for the core group.
	Group string
	// Resource is a plural, with a subresource after a slash, as in "pods/log".
	Resource string
	// Namespace is empty for resources of the whole cluster, or for all namespaces.
	Namespace string
	// Name is that of the one object that the right is to; empty for all of them.
	Name string
}

// String reads like "create jobs.batch in namespace shop".
func (r Rule) String() string {
	s := r.Verb + " " + r.Resource
	if r.Group != "" {
		s += "." + r.Group
	}
	if r.Name != "" {
		s += " " + r.Name
	}
	if r.Namespace != "" {
		s += " in namespace " + r.Namespace
	}
	return s
}

// compare orders rules so that those of a Role stand together, and its rules by what they are about.
func (r Rule) compare(o Rule) int {
	return cmp.Or(cmp.Compare(r.Namespace, o.Namespace), cmp.Compare(r.Group, o.Group), cmp.Compare(r.Resource, o.Resource),
		cmp.Compare(r.Name, o.Name), cmp.Compare(r.Verb, o.Verb))
}

// MissingRulesError says that the user lacks rights. All that are known to be missing are
// in one error.
type MissingRulesError struct {
	// Doing is what was refused.
	Doing string
	Rules []Rule
	// User is as whom the cluster sees the caller; empty when it does not tell.
	User string
	// Instead is what one can do without being granted the rights; may be empty.
	Instead string
	// Err is the API server's answer; nil when it was asked before anything was tried.
	Err error
}

// mostNamed is how many rights an error's own line names; the manifest has all of them.
const mostNamed = 10

// Error names the rights, or the first of very many.
func (e *MissingRulesError) Error() string {
	var names []string
	for _, r := range e.Rules[:min(len(e.Rules), mostNamed)] {
		names = append(names, r.String())
	}
	if more := len(e.Rules) - len(names); more > 0 {
		names = append(names, fmt.Sprintf("and %d rights more", more))
	}
	return fmt.Sprintf("%s: the cluster does not let you %s", e.Doing, strings.Join(names, ", "))
}

// Unwrap returns the API server's answer.
func (e *MissingRulesError) Unwrap() error { return e.Err }

// Hint is the manifest that grants the rights.
func (e *MissingRulesError) Hint() string {
	user, yours := e.User, ""
	if user == "" {
		user, yours = "YOU", ", with your name instead of YOU"
	}
	instead := e.Instead
	if instead != "" {
		instead += "\n"
	}
	return instead + "Someone who administers the cluster can grant this" + yours + " (docs/rbac.md has all that mirrord needs):\n" +
		strings.TrimSpace(roleYAML("mirrord-missing", user, e.Rules))
}

// roleYAML renders a Role and its binding for each namespace of the rules, and a
// ClusterRole for those without one.
func roleYAML(name, user string, rules []Rule) string {
	byNamespace := map[string][]Rule{}
	var namespaces []string
	for _, r := range rules {
		if _, ok := byNamespace[r.Namespace]; !ok {
			namespaces = append(namespaces, r.Namespace)
		}
		byNamespace[r.Namespace] = append(byNamespace[r.Namespace], r)
	}
	var b strings.Builder
	for i, ns := range namespaces {
		if i > 0 {
			b.WriteString("---\n")
		}
		kind, metadata := "Role", fmt.Sprintf("{name: %s, namespace: %s}", name, ns)
		if ns == "" {
			kind, metadata = "ClusterRole", fmt.Sprintf("{name: %s}", name)
		}
		fmt.Fprintf(&b, "apiVersion: rbac.authorization.k8s.io/v1\nkind: %s\nmetadata: %s\nrules:\n", kind, metadata)
		for _, g := range merge(byNamespace[ns]) {
			names := ""
			if g.Name != "" {
				names = fmt.Sprintf("resourceNames: [%q], ", g.Name)
			}
			fmt.Fprintf(&b, "- {apiGroups: [%q], resources: [%q], %sverbs: [%s]}\n", g.Group, g.Resource, names, g.Verb)
		}
		fmt.Fprintf(&b, "---\napiVersion: rbac.authorization.k8s.io/v1\nkind: %sBinding\nmetadata: %s\n", kind, metadata)
		fmt.Fprintf(&b, "roleRef: {apiGroup: rbac.authorization.k8s.io, kind: %s, name: %s}\n", kind, name)
		fmt.Fprintf(&b, "subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: %q}]\n", user)
	}
	return b.String()
}

// merge joins the rules of one resource; their verbs become a quoted list.
func merge(rules []Rule) []Rule {
	var merged []Rule
	for _, r := range rules {
		r.Verb = fmt.Sprintf("%q", r.Verb)
		i := slices.IndexFunc(merged, func(m Rule) bool { return m.Group == r.Group && m.Resource == r.Resource && m.Name == r.Name })
		switch {
		case i < 0:
			merged = append(merged, r)
		case !strings.Contains(merged[i].Verb, r.Verb):
			merged[i].Verb += ", " + r.Verb
		}
	}
	return merged
}

// check asks for all the rules at once and returns a [*MissingRulesError] with those that
// the user lacks. A cluster that does not answer the question is taken to allow: it will
// say so itself later.
func (c *Cluster) check(ctx context.Context, doing string, rules []Rule) error {
	missing := c.missing(ctx, rules)
	if len(missing) == 0 {
		return nil
	}
	return &MissingRulesError{Doing: doing, Rules: missing, User: c.whoami(ctx)}
}

// missing returns those of the rules that the user lacks for certain.
func (c *Cluster) missing(ctx context.Context, rules []Rule) []Rule {
	denied := make([]bool, len(rules))
	var all sync.WaitGroup
	for i, r := range rules {
		all.Go(func() {
			allowed, err := c.allowed(ctx, r)
			denied[i] = err == nil && !allowed
		})
	}
	all.Wait()
	var missing []Rule
	for i, r := range rules {
		if denied[i] {
			missing = append(missing, r)
		}
	}
	return missing
}

// WithAgentRules adds to an error about the rights to find a target those that starting the
// agent beside it would lack too, so that a user asks for all of them at once. Other errors
// stay as they are. Spec needs no target.
func (c *Cluster) WithAgentRules(ctx context.Context, err error, path config.TargetPath, spec AgentSpec) error {
	e, ok := errors.AsType[*MissingRulesError](err)
	if !ok {
		return err
	}
	namespace := cmp.Or(spec.Namespace, c.namespace)
	rules := ephemeralRules(namespace)
	if !spec.Config.Ephemeral {
		rules = jobRules(cmp.Or(spec.Config.Namespace, namespace))
	}
	all := *e
	all.Rules = slices.Clone(e.Rules)
	for _, r := range c.missing(ctx, append(targetRules(path.Kind, namespace), rules...)) {
		if !slices.Contains(all.Rules, r) {
			all.Rules = append(all.Rules, r)
		}
	}
	return &all
}

// explainAll is [Cluster.explain] for a step of something that needs several rights: when
// one is missing, all that are missing are reported. The first of the rules is that of the
// call which failed, if the cluster can't tell.
func (c *Cluster) explainAll(ctx context.Context, err error, doing string, rules []Rule) error {
	if apierrors.IsForbidden(err) {
		if missing, ok := errors.AsType[*MissingRulesError](c.check(ctx, doing, rules)); ok {
			missing.Err = err
			return missing
		}
	}
	return c.explain(ctx, err, doing, rules[0])
}

// allowed asks the API server whether the user has a right.
func (c *Cluster) allowed(ctx context.Context, r Rule) (bool, error) {
	name, sub, _ := strings.Cut(r.Resource, "/")
	review := &authorizationv1.SelfSubjectAccessReview{
		Spec: authorizationv1.SelfSubjectAccessReviewSpec{
			ResourceAttributes: &authorizationv1.ResourceAttributes{
				Namespace: r.Namespace, Verb: r.Verb, Group: r.Group, Resource: name, Subresource: sub, Name: r.Name,
			},
		},
	}
	var answer authorizationv1.SelfSubjectAccessReview
	if err := c.create(ctx, selfAccess, "", review, &answer); err != nil {
		c.log.DebugContext(ctx, "asking for a right failed", "rule", r.String(), "error", err)
		return false, err
	}
	return answer.Status.Allowed, nil
}

// refused explains a 403 for a right that may well be there: the API server answers so
// both when the user lacks it and when admission refuses the object.
func (c *Cluster) refused(ctx context.Context, err error, doing, next string, rule Rule) error {
	if allowed, askErr := c.allowed(ctx, rule); askErr != nil || !allowed {
		return &MissingRulesError{Doing: doing, Rules: []Rule{rule}, User: c.whoami(ctx), Err: err}
	}
	return &Error{Reason: ReasonRefused, Doing: doing, Why: cmp.Or(bare(err), "refused"), Next: next, Err: err}
}

// whoami is the name under which the API server knows the user (Kubernetes 1.28); empty when
// it does not tell. It asks once.
func (c *Cluster) whoami(ctx context.Context) string {
	if name := c.userName.Load(); name != nil {
		return *name
	}
	var review authenticationv1.SelfSubjectReview
	if err := c.create(ctx, selfSubject, "", &authenticationv1.SelfSubjectReview{}, &review); err != nil {
		c.log.DebugContext(ctx, "asking for the user's name failed", "error", err)
		return ""
	}
	c.userName.Store(&review.Status.UserInfo.Username)
	return review.Status.UserInfo.Username
}
