package e2e

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/tools/clientcmd"

	sessions "github.com/mirrord-go/mirrord/api/sessions/v1alpha"
)

// matrixRow is one rule of policies, with sessions that it allows and that it refuses. Its target is a
// deployment of the row's name, without pods: the decision is made before any agent is asked.
type matrixRow struct {
	name     string
	policies []matrixPolicy // the first has the row's name, the second NAME-2, and so on
	tries    []matrixTry
}

type matrixPolicy struct {
	cluster bool // for all namespaces
	spec    string
}

// matrixTry is a session that somebody tries to start.
type matrixTry struct {
	what string
	// target is another than the row's.
	target string
	do     func(*sessions.SessionSpec)
	// causes are why it is refused, as CODE {N}: RULE, where {N} stands for the row's Nth policy; none
	// when it is allowed.
	causes []string
	// here means that the session makes no sense in the other namespace.
	here bool
}

func allowed(what string, do ...func(*sessions.SessionSpec)) matrixTry {
	return matrixTry{what: what, do: all(do)}
}

func refused(what string, causes []string, do ...func(*sessions.SessionSpec)) matrixTry {
	return matrixTry{what: what, do: all(do), causes: causes}
}

// at is the same session on another target.
func (m matrixTry) at(target string) matrixTry {
	m.target = target
	m.what += " of " + target
	return m
}

func (m matrixTry) onlyHere() matrixTry {
	m.here = true
	return m
}

func all(do []func(*sessions.SessionSpec)) func(*sessions.SessionSpec) {
	return func(s *sessions.SessionSpec) {
		for _, f := range do {
			f(s)
		}
	}
}

// What sessions of the matrix do.
func incoming(mode string) func(*sessions.SessionSpec) {
	return func(s *sessions.SessionSpec) { s.Features.Incoming.Mode = mode }
}

func filtered(f sessions.HTTPFilter) func(*sessions.SessionSpec) {
	return func(s *sessions.SessionSpec) { s.Features.Incoming.Mode, s.Features.Incoming.Filter = "steal", &f }
}

func header(text string) sessions.HTTPFilter {
	return sessions.HTTPFilter{HTTPFilterRule: sessions.HTTPFilterRule{Header: text}}
}

func profiled(name string) func(*sessions.SessionSpec) {
	return func(s *sessions.SessionSpec) { s.Profile = name }
}

// matrixRows are what policies can say that is decided when a session starts. Profiles "observe" and "other" are the
// cluster's, HERE/base is of the namespace.
func matrixRows(here, observe, other string) []matrixRow {
	steal, mirror, off := incoming("steal"), incoming("mirror"), incoming("off")
	anns := header("^x-user: ann$")
	one := func(spec string) []matrixPolicy { return []matrixPolicy{{spec: spec}} }
	because := func(causes ...string) []string { return causes }
	noSteal, noMirror := because("Blocked {1}: block: steal"), because("Blocked {1}: block: mirror")
	const rule = "^x-user: [a-z]+$"
	wrongHeader := because("HeaderFilter {1}: network.incoming.httpFilter.headerFilter: " + rule)
	list := func(policy int, names ...string) string {
		return fmt.Sprintf("ProfileNotAllowed {%d}: profileAllowlist: %q", policy, names)
	}
	return []matrixRow{
		{"target-path", one(`{targetPath: deploy/target-path, block: [mirror]}`), []matrixTry{
			refused("mirror", noMirror, mirror), allowed("steal", steal),
			refused("mirror", noMirror, mirror).at("deployment/target-path/container/any"),
			allowed("mirror", mirror).at("deployment/target-path-1"),
		}},
		{"wildcards", one(`{targetPath: "*/wild?ards*", block: [steal]}`), []matrixTry{
			refused("steal", noSteal, steal), refused("steal", noSteal, steal).at("deployment/wildcards-1"), allowed("mirror", mirror),
		}},
		{"selector", one(`{selector: {matchLabels: {row: selector}, matchExpressions: [{key: row, operator: In, values: [selector, x]},
			{key: row, operator: NotIn, values: [x]}, {key: matrix, operator: Exists}, {key: more, operator: DoesNotExist}]}, block: [mirror]}`), []matrixTry{
			refused("mirror", noMirror, mirror), allowed("mirror", mirror).at("deployment/selector-1"), allowed("steal", steal),
		}},
		{"path-and-selector", one(`{targetPath: deploy/path-and-selector, selector: {matchLabels: {row: path-and-selector}}, block: [mirror]}`), []matrixTry{
			refused("mirror", noMirror, mirror), allowed("mirror", mirror).at("deployment/path-and-selector-1"),
		}},
		{"whole-cluster", []matrixPolicy{{true, `{block: [mirror]}`}}, []matrixTry{
			refused("mirror", noMirror, mirror), allowed("steal", steal),
		}},
		{"block-nothing", one(`{targetPath: deploy/block-nothing, block: []}`), []matrixTry{
			allowed("steal", steal), allowed("mirror", mirror), allowed("nothing", off),
		}},
		{"block-steal", one(`{targetPath: deploy/block-steal, block: [steal]}`), []matrixTry{
			refused("steal", noSteal, steal), refused("steal with a filter", noSteal, filtered(anns)),
			allowed("mirror", mirror), allowed("nothing", off),
		}},
		{"block-steal-without-filter", one(`{targetPath: deploy/block-steal-without-filter, block: [steal-without-filter]}`), []matrixTry{
			refused("steal", because("Blocked {1}: block: steal-without-filter"), steal),
			refused("steal a port that the filter is not for", because("Blocked {1}: block: steal-without-filter"), filtered(anns), func(s *sessions.SessionSpec) {
				s.Features.Incoming.Ports, s.Features.Incoming.Filter.Ports = []int32{80, 81}, []int32{80}
			}),
			allowed("steal with a filter", filtered(anns)), allowed("mirror", mirror),
		}},
		{"block-mirror", one(`{targetPath: deploy/block-mirror, block: [mirror]}`), []matrixTry{
			refused("mirror", noMirror, mirror), allowed("steal", steal),
		}},
		{"header-filter", one(`{targetPath: deploy/header-filter, block: [], network: {incoming: {httpFilter: {headerFilter: "` + rule + `"}}}}`), []matrixTry{
			allowed("steal with it", filtered(anns)), allowed("mirror", mirror),
			allowed("steal with it and a path", filtered(sessions.HTTPFilter{AllOf: []sessions.HTTPFilterRule{{Path: "/a"}, {Header: "x-user: ann"}}})),
			allowed("steal with either of two", filtered(sessions.HTTPFilter{AnyOf: []sessions.HTTPFilterRule{{Header: "x-user: ben"}, {Header: "x-user: ann"}}})),
			refused("steal", wrongHeader, steal), refused("steal with another", wrongHeader, filtered(header("x-team: a"))),
			refused("steal with more than it", wrongHeader, filtered(header("x-user: ann|.*"))),
			refused("steal with a path", wrongHeader, filtered(sessions.HTTPFilter{HTTPFilterRule: sessions.HTTPFilterRule{Path: "/a"}})),
			refused("steal with it or a path", wrongHeader, filtered(sessions.HTTPFilter{AnyOf: []sessions.HTTPFilterRule{{Path: "/a"}, {Header: "x-user: ann"}}})),
		}},
		{"require-profile", []matrixPolicy{{true, `{block: [], requireProfile: true}`}}, []matrixTry{
			refused("no profile", because("ProfileRequired {1}: requireProfile: true"), mirror),
			allowed("a profile", mirror, profiled(observe)), allowed("another one", mirror, profiled(other)),
		}},
		{"profile-allowlist", one(fmt.Sprintf(`{targetPath: deploy/profile-allowlist, block: [], requireProfile: true, profileAllowlist: [%s, %s/base]}`, observe, here)), []matrixTry{
			allowed("one of the list", mirror, profiled(observe)), allowed("the namespace's", steal, profiled(here+"/base")).onlyHere(),
			refused("no profile", because("ProfileRequired {1}: requireProfile: true"), mirror),
			refused("another one", because(list(1, observe, here+"/base")), mirror, profiled(other)),
		}},
		{"list-alone", one(fmt.Sprintf(`{targetPath: deploy/list-alone, block: [], profileAllowlist: [%s]}`, observe)), []matrixTry{
			allowed("no profile", mirror), allowed("one of the list", mirror, profiled(observe)),
			refused("another one", because(list(1, observe)), mirror, profiled(other)),
		}},
		{"empty-list", one(`{targetPath: deploy/empty-list, block: [], profileAllowlist: []}`), []matrixTry{
			allowed("no profile", mirror), refused("any profile", because(list(1)), mirror, profiled(observe)),
		}},
		{"two-lists", []matrixPolicy{
			{true, fmt.Sprintf(`{block: [], profileAllowlist: [%s, %s]}`, observe, other)},
			{false, fmt.Sprintf(`{targetPath: deploy/two-lists, block: [], profileAllowlist: [%s]}`, other)},
		}, []matrixTry{
			allowed("one of both lists", mirror, profiled(other)),
			refused("one of the first", because(list(2, other)), mirror, profiled(observe)),
		}},
		{"two-policies", []matrixPolicy{{true, `{block: [steal]}`}, {false, `{targetPath: deploy/two-policies, block: [mirror, steal]}`}}, []matrixTry{
			allowed("nothing", off), refused("mirror", because("Blocked {2}: block: mirror"), mirror),
			refused("steal", because("Blocked {1}: block: steal", "Blocked {2}: block: steal"), steal),
		}},
		{"copies", one(`{targetPath: deploy/copies, block: [copy-target-scale-down], appliesToCopyTargets: true}`), []matrixTry{
			allowed("steal", steal), allowed("mirror", mirror),
		}},
		{"unreadable", one(`{targetPath: deploy/unreadable, block: [], network: {incoming: {httpFilter: {headerFilter: "("}}}}`), []matrixTry{
			refused("nothing", because("PolicyInvalid {1}: spec.network.incoming.httpFilter.headerFilter"), off),
			allowed("nothing", off).at("deployment/copies"),
		}},
	}
}

// TestPolicyMatrix tries every rule of policies, allowed and refused, as two users: ann may run sessions in one namespace, ben in
// another one, too.
//
// What belongs to it and needs more than a decision is shown elsewhere: a pod of a bound deployment and a policy that comes while a
// session runs by TestOperatorSessions (policies), a session that claims a profile and does otherwise, and a profile that
// changes, there (profiles); rights to single targets there (rights); HTTP filters at a port by TestFilters; the message of exec
// by TestOperatorExec; a client that was changed by the tests of internal/agent.
func TestPolicyMatrix(t *testing.T) {
	i := withoutOperator(t)
	here, there := i.env.Namespace(t), i.env.Namespace(t)
	m := &matrix{operatorStage: &operatorStage{i, here}, there: there}
	m.prepare(t)
	i.mustInstall("--replicas", "1")
	m.users(t)
	for _, row := range m.rows {
		t.Run(row.name, func(t *testing.T) {
			for _, try := range row.tries {
				t.Run(try.what, func(t *testing.T) { m.try(t, row, try) })
			}
		})
	}
	t.Run("conditions", m.testConditions)
	t.Run("while it runs", m.testRunning)
	t.Run("without path and selector", m.testEverything)
}

type matrix struct {
	*operatorStage
	there    string
	rows     []matrixRow
	ann, ben map[string]*sessionUser // by namespace
}

// prepare applies all policies and targets, so that nothing has to be waited for between rows.
func (m *matrix) prepare(t *testing.T) {
	t.Helper()
	observe, other := "observe-"+m.ns, "other-"+m.ns
	m.rows = matrixRows(m.ns, observe, other)
	var manifests strings.Builder
	add := func(format string, args ...any) { fmt.Fprintf(&manifests, "---\n"+format+"\n", args...) }
	for _, name := range []string{observe, other} {
		add(`{apiVersion: profiles.mirrord.metalbear.co/v1alpha, kind: MirrordClusterProfile, metadata: {name: %s}, spec: {featureAdjustments: [{change: incoming-mirror}]}}`, name)
	}
	add(`{apiVersion: profiles.mirrord.metalbear.co/v1alpha, kind: MirrordProfile, metadata: {name: base}, spec: {featureAdjustments: [{change: incoming-steal}]}}`)
	for _, row := range m.rows {
		for n, p := range row.policies {
			if !p.cluster {
				add(`{apiVersion: policies.mirrord.metalbear.co/v1alpha, kind: MirrordPolicy, metadata: {name: %s}, spec: %s}`, row.policy(n), p.spec)
				continue
			}
			// For targets of this test alone: others have deployments, too.
			spec := strings.Replace(p.spec, "{", fmt.Sprintf("{selector: {matchLabels: {row: %s, matrix: %s}}, ", row.name, m.ns), 1)
			add(`{apiVersion: policies.mirrord.metalbear.co/v1alpha, kind: MirrordClusterPolicy, metadata: {name: %s-%s}, spec: %s}`, row.policy(n), m.ns, spec)
		}
		for _, ns := range []string{m.ns, m.there} {
			for _, name := range row.deployments() {
				more := ""
				if name != row.name {
					more = `, more: "true"`
				}
				add(`{apiVersion: apps/v1, kind: Deployment, metadata: {name: %s, namespace: %s, labels: {row: %s, matrix: %s%s}},
  spec: {replicas: 0, selector: {matchLabels: {app: %[1]s}}, template: {metadata: {labels: {app: %[1]s}}, spec: {containers: [{name: any, image: none}]}}}}`,
					name, ns, row.name, m.ns, more)
			}
		}
	}
	m.env.Apply(t, m.ns, manifests.String())
}

// deployments are the row's targets.
func (r *matrixRow) deployments() []string {
	names := []string{r.name}
	for _, try := range r.tries {
		if name := strings.TrimPrefix(try.target, "deployment/"); strings.HasPrefix(name, r.name) && !strings.Contains(name, "/") && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// policy is the name of the row's policy n, from 0, in its manifest.
func (r *matrixRow) policy(n int) string {
	if n == 0 {
		return r.name
	}
	return fmt.Sprintf("%s-%d", r.name, n+1)
}

// causes are a try's, as the operator says them; those of the first namespace's own policies hold only there.
func (m *matrix) causes(row matrixRow, try matrixTry, ns string) []string {
	var causes []string
	for _, cause := range try.causes {
		for n, p := range row.policies {
			slot := fmt.Sprintf("{%d}", n+1)
			switch {
			case !strings.Contains(cause, slot):
			case p.cluster:
				causes = append(causes, strings.Replace(cause, slot, row.policy(n)+"-"+m.ns, 1))
			case ns == m.ns:
				causes = append(causes, strings.Replace(cause, slot, m.ns+"/"+row.policy(n), 1))
			}
		}
	}
	return causes
}

// users makes ann, who has the installation's role for users in the first namespace, and ben, who has it in both.
func (m *matrix) users(t *testing.T) {
	t.Helper()
	user := func(name string, namespaces ...string) map[string]*sessionUser {
		name += "-" + m.ns
		kubeconfig := m.env.User(t, name)
		config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
		if err != nil {
			t.Fatal(err)
		}
		config.QPS, config.Burst = 200, 400
		client, err := discovery.NewDiscoveryClientForConfig(config)
		if err != nil {
			t.Fatal(err)
		}
		for _, ns := range namespaces {
			m.env.Apply(t, ns, fmt.Sprintf(`{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: %s},
  roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: mirrord-operator-user}, subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: %[1]s}]}`, name))
		}
		as := map[string]*sessionUser{}
		for _, ns := range []string{m.ns, m.there} {
			as[ns] = &sessionUser{t: t, name: name, ns: ns, kubeconfig: kubeconfig, config: config, client: client.RESTClient()}
		}
		return as
	}
	m.ann, m.ben = user("ann", m.ns), user("ben", m.ns, m.there)
}

// try is one session, by both users in both namespaces.
func (m *matrix) try(t *testing.T, row matrixRow, try matrixTry) {
	session := func() sessions.SessionSpec {
		target := try.target
		if target == "" {
			target = "deployment/" + row.name
		}
		s := spec(t, target)
		try.do(&s)
		return s
	}
	m.decided(t, m.ann[m.ns].as(t), session, m.causes(row, try, m.ns))
	m.decided(t, m.ben[m.ns].as(t), session, m.causes(row, try, m.ns))
	if _, err := m.ann[m.there].as(t).create(session()); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), `cannot create resource "sessions"`) {
		t.Errorf("without rights in the namespace: %v", err)
	}
	if !try.here {
		m.decided(t, m.ben[m.there].as(t), session, m.causes(row, try, m.there))
	}
}

// decided holds that a session is refused for the causes, and no others, or allowed when there are none.
func (m *matrix) decided(t *testing.T, u *sessionUser, session func() sessions.SessionSpec, want []string) {
	t.Helper()
	eventually(t, func() error { // until the operator has read all that there is
		made, err := u.create(session())
		if err == nil {
			u.mustEnd(made.Name)
			if len(want) > 0 {
				return fmt.Errorf("%s in %s: allowed, want %q", u.name, u.ns, want)
			}
			if made.Status.Phase != sessions.SessionWaiting || made.Status.User != u.name {
				t.Errorf("%s in %s: the session is %+v", u.name, u.ns, made.Status)
			}
			return nil
		}
		var status apierrors.APIStatus
		if !errors.As(err, &status) || status.Status().Code != 403 || status.Status().Details == nil {
			return fmt.Errorf("%s in %s: %w, want %q", u.name, u.ns, err, want)
		}
		var got []string
		for _, c := range status.Status().Details.Causes {
			got = append(got, string(c.Type)+" "+c.Field)
			does, next, _ := strings.Cut(c.Message, "\n")
			if does == "" || next == "" || !strings.Contains(err.Error(), does) || !strings.Contains(err.Error(), next) {
				t.Errorf("%s in %s: what it does, and what to change, is not said:\n%v", u.name, u.ns, err)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			return fmt.Errorf("%s in %s (-want +got):\n%s", u.name, u.ns, diff)
		}
		return nil
	})
}

// testConditions: what the operator says of policies that it can't read, or does not enforce.
func (m *matrix) testConditions(t *testing.T) {
	for name, want := range map[string]string{
		"block-steal": "Valid=True: every part of the policy can be read; Enforced=True: every part of the policy is enforced; ",
		"copies": "Valid=True: every part of the policy can be read; " +
			"Enforced=False: spec.block[0]: this version has no sessions on copies of their target\nspec.appliesToCopyTargets: this version has no sessions on copies of their target; ",
		"unreadable": `Valid=False: spec.network.incoming.httpFilter.headerFilter: "(" is no regular expression: missing closing ): "("; ` +
			"Enforced=True: every part of the policy is enforced; ",
	} {
		eventually(t, func() error {
			out, err := m.env.Kubectl(t, m.env.Kubeconfig, nil, "get", "mirrordpolicy", name, "-n", m.ns,
				"-o", `jsonpath={range .status.conditions[*]}{.type}={.status}: {.message}; {end}`)
			if err != nil || out != want {
				return fmt.Errorf("%s: %s, %w, want %s", name, out, err, want)
			}
			return nil
		})
	}
}

// testEverything: a policy that chooses no target binds all of its namespace, and sessions without one.
func (m *matrix) testEverything(t *testing.T) {
	m.env.Apply(t, m.ns, `{apiVersion: policies.mirrord.metalbear.co/v1alpha, kind: MirrordPolicy, metadata: {name: everything}, spec: {block: [mirror]}}`)
	for _, target := range []string{"deployment/block-nothing", "label/app=nobody", "targetless"} {
		session := func() sessions.SessionSpec {
			s := spec(t, target)
			s.Features.Incoming.Mode = "mirror"
			return s
		}
		m.decided(t, m.ann[m.ns].as(t), session, []string{"Blocked " + m.ns + "/everything: block: mirror"})
	}
	opts := metav1.DeleteOptions{}
	if err := m.env.Dynamic.Resource(mirrordPolicies).Namespace(m.ns).Delete(t.Context(), "everything", opts); err != nil {
		t.Fatal(err)
	}
	m.decided(t, m.ann[m.ns].as(t), func() sessions.SessionSpec {
		s := spec(t, "deployment/block-nothing")
		s.Features.Incoming.Mode = "mirror"
		return s
	}, nil)
}
