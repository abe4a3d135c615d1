package kube

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// installing is what errors about an installation are about.
const installing = "installing the operator"

// need is a right to an object of an installation.
type need struct {
	rule Rule
	// name is the object's: a right to it alone is enough.
	name string
}

// alone is the right to the one object. A namespace is one of its own in the eyes of the API server.
func (n need) alone() Rule {
	r := n.rule
	if n.name != "" {
		r.Name = n.name
		if r.Group == "" && r.Resource == "namespaces" {
			r.Namespace = n.name
		}
	}
	return r
}

// installer asks what the user may do of an installation.
type installer struct {
	c *Cluster
	// all is the answer for who may do everything.
	all bool
}

func (c *Cluster) newInstaller(ctx context.Context) *installer {
	may, err := c.allowed(ctx, Rule{Verb: "*", Group: "*", Resource: "*"})
	return &installer{c, err == nil && may}
}

// mayRead returns a [*MissingRulesError] with all that an installation lacks when a part of it is the right to see
// what is there already; nobody can then tell what of the rest is needed, and all of it is named.
func (i *installer) mayRead(ctx context.Context, objects []*unstructured.Unstructured) error {
	var reads []need
	for _, k := range objectKinds {
		reads = append(reads, need{rule: k.rule("list", "")})
	}
	for _, object := range objects {
		k, err := objectKindOf(object)
		if err != nil {
			return err
		}
		reads = append(reads, need{k.rule("get", object.GetNamespace()), object.GetName()})
	}
	missing := i.missing(ctx, reads)
	if len(missing) == 0 {
		return nil
	}
	unknown := make([]*unstructured.Unstructured, len(objects))
	more, err := i.missingWrites(ctx, objects, unknown, nil)
	if err != nil {
		return err
	}
	return i.refusal(ctx, append(missing, more...), objects, unknown)
}

// mayWrite returns a [*MissingRulesError] with all that is needed to make the objects of those that are present, and to
// remove others.
func (i *installer) mayWrite(ctx context.Context, objects, present []*unstructured.Unstructured, stale []unstructured.Unstructured) error {
	missing, err := i.missingWrites(ctx, objects, present, stale)
	if err != nil || len(missing) == 0 {
		return err
	}
	return i.refusal(ctx, missing, objects, present)
}

func (i *installer) refusal(ctx context.Context, missing []Rule, objects, present []*unstructured.Unstructured) error {
	slices.SortFunc(missing, Rule.compare)
	instead := "The ClusterRole cluster-admin has all these rights; whoever has it can install the operator for everybody. Nothing was changed."
	for n, object := range objects {
		name := object.GetName()
		if object.GetKind() == "Namespace" && present[n] == nil && slices.ContainsFunc(missing, func(r Rule) bool { return r.Namespace == name }) {
			instead += fmt.Sprintf("\nWhat follows is in part for the namespace %s. If that is not there: kubectl create namespace %s", name, name)
		}
	}
	return &MissingRulesError{Doing: installing, Rules: slices.Compact(missing), User: i.c.whoami(ctx), Instead: instead}
}

func (i *installer) missingWrites(ctx context.Context, objects, present []*unstructured.Unstructured, stale []unstructured.Unstructured) ([]Rule, error) {
	var writes []need
	for n, object := range objects {
		k, err := objectKindOf(object)
		if err != nil {
			return nil, err
		}
		if present[n] != nil && k.Kind == "Namespace" && !isOurs(present[n]) {
			continue // it is used as it is
		}
		verbs := []string{"patch"}
		if present[n] == nil {
			verbs = []string{"create", "patch"}
		}
		for _, verb := range verbs {
			writes = append(writes, need{k.rule(verb, object.GetNamespace()), object.GetName()})
		}
	}
	for n := range stale {
		k, err := objectKindOf(&stale[n])
		if err != nil {
			return nil, err
		}
		writes = append(writes, need{k.rule("delete", stale[n].GetNamespace()), stale[n].GetName()})
	}
	given, err := i.given(ctx, objects, present)
	if err != nil {
		return nil, err
	}
	return i.missing(ctx, append(writes, given...)), nil
}

// missing are the rules of those needs that the user lacks for certain, each once. A right to objects of a kind is asked
// for before that to a single one.
func (i *installer) missing(ctx context.Context, needs []need) []Rule {
	if i.all {
		return nil
	}
	var rules []Rule
	for _, n := range needs {
		if !slices.Contains(rules, n.rule) {
			rules = append(rules, n.rule)
		}
	}
	lacked := i.c.missing(ctx, rules)
	single := make([]Rule, len(needs))
	for n, need := range needs {
		single[n] = need.alone()
	}
	var asked []Rule
	for n, need := range needs {
		if slices.Contains(lacked, need.rule) && single[n] != need.rule && !slices.Contains(asked, single[n]) {
			asked = append(asked, single[n])
		}
	}
	also := i.c.missing(ctx, asked)
	return slices.DeleteFunc(lacked, func(rule Rule) bool {
		for n, need := range needs {
			if need.rule == rule && (single[n] == rule || slices.Contains(also, single[n])) {
				return false
			}
		}
		return true
	})
}

// given are the rights that the objects give to others: who gives a right must have it, unless they may "escalate" a role
// and "bind" it. Roles and bindings that are there already, and stay as they are, give nothing new.
func (i *installer) given(ctx context.Context, objects, present []*unstructured.Unstructured) ([]need, error) {
	if i.all {
		return nil, nil
	}
	var (
		mu    sync.Mutex
		needs []need
		wg    sync.WaitGroup
		errs  = make([]error, len(objects))
	)
	for n, object := range objects {
		if present[n] != nil && sameRights(object, present[n]) {
			continue
		}
		wg.Go(func() {
			rules, err := i.givenBy(ctx, object, objects)
			errs[n] = err
			mu.Lock()
			defer mu.Unlock()
			needs = append(needs, rules...)
		})
	}
	wg.Wait()
	slices.SortFunc(needs, func(a, b need) int { return a.rule.compare(b.rule) })
	return needs, errors.Join(errs...)
}

// sameRights says that applying an object changes neither rights nor anything else about it.
func sameRights(object, present *unstructured.Unstructured) bool {
	for _, field := range []string{"rules", "roleRef", "subjects"} {
		if !equality.Semantic.DeepEqual(object.Object[field], present.Object[field]) {
			return false
		}
	}
	return equality.Semantic.DeepEqual(object.GetLabels(), present.GetLabels())
}

// givenBy are the rights of a role that the user may not "escalate", or those of a binding that they may not "bind".
func (i *installer) givenBy(ctx context.Context, object *unstructured.Unstructured, objects []*unstructured.Unstructured) ([]need, error) {
	role, verb, scope := object, "escalate", object.GetNamespace()
	switch object.GetKind() {
	case "Role", "ClusterRole":
	case "RoleBinding", "ClusterRoleBinding":
		verb = "bind"
		if role = referred(object, objects); role == nil {
			return nil, nil
		}
	default:
		return nil, nil
	}
	k, err := objectKindOf(role)
	if err != nil {
		return nil, err
	}
	rule := k.rule(verb, role.GetNamespace())
	rule.Name = role.GetName()
	if len(i.c.missing(ctx, []Rule{rule})) == 0 {
		return nil, nil
	}
	rules, err := i.rulesOf(ctx, role)
	return rightsOf(rules, scope), err
}

// rulesOf are the rules of a role; none when they can't be read.
func (i *installer) rulesOf(ctx context.Context, role *unstructured.Unstructured) ([]rbacv1.PolicyRule, error) {
	if _, known := role.Object["rules"]; !known {
		found, err := i.c.getObject(ctx, role)
		if err != nil || found == nil {
			i.c.log.DebugContext(ctx, "a role could not be read", "role", Describe(role), "error", err)
			return ofEveryCluster(role), nil
		}
		role = found
	}
	var rules struct {
		Rules []rbacv1.PolicyRule `json:"rules"`
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(role.Object, &rules); err != nil {
		return nil, fmt.Errorf("reading the rules of %s: %w", Describe(role), err)
	}
	return rules.Rules, nil
}

// ofEveryCluster are the rules of the roles that Kubernetes itself makes for API servers behind its own, for who may not read
// them (https://kubernetes.io/docs/reference/access-authn-authz/rbac/, other component roles).
func ofEveryCluster(role *unstructured.Unstructured) []rbacv1.PolicyRule {
	switch role.GetName() {
	case "system:auth-delegator":
		return []rbacv1.PolicyRule{
			{APIGroups: []string{"authentication.k8s.io"}, Resources: []string{"tokenreviews"}, Verbs: []string{"create"}},
			{APIGroups: []string{"authorization.k8s.io"}, Resources: []string{"subjectaccessreviews"}, Verbs: []string{"create"}},
		}
	case "extension-apiserver-authentication-reader":
		return []rbacv1.PolicyRule{{
			APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{"extension-apiserver-authentication"},
			Verbs: []string{"get", "list", "watch"},
		}}
	}
	return nil // the API server says what is missing of it
}

// referred is the role of a binding: one of the objects, or else only its kind and name.
func referred(binding *unstructured.Unstructured, objects []*unstructured.Unstructured) *unstructured.Unstructured {
	kind, _, _ := unstructured.NestedString(binding.Object, "roleRef", "kind")
	name, _, _ := unstructured.NestedString(binding.Object, "roleRef", "name")
	role := new(unstructured.Unstructured)
	role.SetAPIVersion(rbacv1.SchemeGroupVersion.String())
	role.SetKind(kind)
	role.SetName(name)
	if kind == "Role" {
		role.SetNamespace(binding.GetNamespace())
	}
	for _, object := range objects {
		if Describe(object) == Describe(role) {
			return object
		}
	}
	return role
}

// rightsOf are the rights of a role's rules in a namespace; an empty one means the whole cluster.
func rightsOf(rules []rbacv1.PolicyRule, namespace string) []need {
	var needs []need
	for _, r := range rules {
		names := r.ResourceNames
		if len(names) == 0 {
			names = []string{""}
		}
		for _, group := range r.APIGroups {
			for _, resource := range r.Resources {
				for _, name := range names {
					for _, verb := range r.Verbs {
						needs = append(needs, need{rule: Rule{Verb: verb, Group: group, Resource: resource, Namespace: namespace, Name: name}})
					}
				}
			}
		}
	}
	return needs
}
