package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	profiles "github.com/mirrord-go/mirrord/api/profiles/v1alpha"
	sessions "github.com/mirrord-go/mirrord/api/sessions/v1alpha"
	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/grant"
	"github.com/mirrord-go/mirrord/internal/profile"
)

// policy is "NAME" or "NAMESPACE/NAME" with a spec as YAML.
func policy(t testing.TB, ref, spec string) Policy {
	t.Helper()
	p := Policy{Ref: parseRef(ref)}
	if err := yaml.UnmarshalStrict([]byte(spec), &p.Spec); err != nil {
		t.Fatalf("%s: %v", spec, err)
	}
	return p
}

// shop is a deployment with a pod, as the caller of Evaluate gives them for any of them.
func shop(t testing.TB, path string) Target {
	t.Helper()
	parsed, err := config.ParseTargetPath(path)
	if err != nil {
		t.Fatal(err)
	}
	return Target{Path: parsed, Namespace: "shop", Objects: []Object{
		{Kind: config.Pod, Name: "web-1-x", Labels: map[string]string{"app": "web", "pod-template-hash": "1"}},
		{Kind: config.ReplicaSet, Name: "web-1", Labels: map[string]string{"app": "web"}},
		{Kind: config.Deployment, Name: "web", Labels: map[string]string{"tier": "front"}},
	}}
}

// plain is a session that mirrors and sends everything through the target.
func plain() sessions.Features {
	return sessions.Features{
		Incoming: sessions.Incoming{Mode: "mirror"},
		Outgoing: sessions.Outgoing{TCP: true, UDP: true},
		DNS:      sessions.DNS{Enabled: true},
		Env:      sessions.Env{Enabled: true},
		Files:    sessions.Files{Mode: "local"},
	}
}

// onPorts is a session that takes ports, with a filter for one of them.
func onPorts(filter *sessions.HTTPFilter, filtered int32, taken ...int32) sessions.Features {
	filter.Ports = []int32{filtered}
	f := stealing(filter)
	f.Incoming.Ports = taken
	return f
}

func stealing(filter *sessions.HTTPFilter) sessions.Features {
	f := plain()
	f.Incoming.Mode, f.Incoming.Filter = "steal", filter
	return f
}

func TestBinds(t *testing.T) {
	for _, test := range []struct {
		ref, spec string
		// binds says for which of the targets the policy is.
		binds string
	}{
		// The chain of a pod: whichever is named, a policy on any of it binds.
		{"p", `{}`, "deployment replicaset pod container other targetless label"},
		{"p", `{targetPath: deploy/web}`, "deployment replicaset pod container label"},
		{"p", `{targetPath: deployment/web}`, "deployment replicaset pod container label"},
		{"p", `{targetPath: replicaset/web-1}`, "deployment replicaset pod container label"},
		{"p", `{targetPath: pod/web-1-x}`, "deployment replicaset pod container label"},
		{"p", `{targetPath: "pod/web-?-x"}`, "deployment replicaset pod container label"},
		{"p", `{targetPath: "deploy*"}`, "deployment replicaset pod container label other"},
		{"p", `{targetPath: "*"}`, "deployment replicaset pod container other targetless label"},
		{"p", `{targetPath: "*web*"}`, "deployment replicaset pod container label"},
		{"p", `{targetPath: deploy/we}`, ""},
		{"p", `{targetPath: Deploy/web}`, ""},
		{"p", `{targetPath: web}`, ""},
		{"p", `{targetPath: targetless}`, "targetless"},
		{"p", `{targetPath: label}`, "label"},
		{"p", `{targetPath: "label/app=web"}`, "label"},
		// A container that is named escapes nothing, and a policy on one binds it alone.
		{"p", `{targetPath: deploy/web/container/main}`, "container"},
		{"p", `{targetPath: pod/web-1-x/container/main}`, "container"},
		{"p", `{targetPath: "*/container/*"}`, "container"},
		{"p", `{targetPath: "*/container/other"}`, ""},
		// Labels of any of the chain.
		{"p", `{selector: {}}`, "deployment replicaset pod container other targetless label"},
		{"p", `{selector: {matchLabels: {app: web}}}`, "deployment replicaset pod container label"},
		{"p", `{selector: {matchLabels: {tier: front}}}`, "deployment replicaset pod container label"},
		{"p", `{selector: {matchLabels: {app: web, tier: front}}}`, ""}, // no single object has both
		{"p", `{selector: {matchExpressions: [{key: app, operator: In, values: [web, x]}]}}`, "deployment replicaset pod container label"},
		{"p", `{selector: {matchExpressions: [{key: app, operator: DoesNotExist}]}}`, "deployment replicaset pod container other targetless label"},
		{"p", `{selector: {matchLabels: {app: web}}, targetPath: "deploy/*"}`, "deployment replicaset pod container label"},
		{"p", `{selector: {matchLabels: {app: web}}, targetPath: "job/*"}`, ""},
		// What can't be read binds all that it could.
		{"p", `{selector: {matchExpressions: [{key: app, operator: Like}]}, targetPath: deploy/web}`, "deployment replicaset pod container label"},
		// Namespaces.
		{"shop/p", `{}`, "deployment replicaset pod container other targetless label"},
		{"else/p", `{}`, ""},
	} {
		p := policy(t, test.ref, test.spec)
		var binds []string
		for _, target := range []struct{ name, path string }{
			{"deployment", "deployment/web"},
			{"replicaset", "replicaset/web-1"},
			{"pod", "pod/web-1-x"},
			{"container", "pod/web-1-x/container/main"},
			{"other", ""},
			{"targetless", "targetless"},
			{"label", "label/app=web"},
		} {
			at := Target{Namespace: "shop", Path: config.TargetPath{Kind: config.Deployment, Name: "other"}} // its objects are not known
			if target.path != "" {
				at = shop(t, target.path)
			}
			if at.Path.Kind == config.Targetless {
				at.Objects = nil
			}
			if p.Binds(at) {
				binds = append(binds, target.name)
			}
		}
		slicesEqual(t, test.ref+" "+test.spec, strings.Fields(test.binds), binds)
	}
}

// slicesEqual compares without regard to order.
func slicesEqual(t *testing.T, what string, want, got []string) {
	t.Helper()
	set := func(list []string) map[string]int {
		m := map[string]int{}
		for _, s := range list {
			m[s]++
		}
		return m
	}
	if diff := cmp.Diff(set(want), set(got)); diff != "" {
		t.Errorf("%s: %s", what, diff)
	}
}

// codes are "CODE POLICY" of the reasons.
func codes(t *testing.T, d Decision) []string {
	t.Helper()
	var all []string
	for _, r := range d.Reasons {
		if r.Rule == "" || r.Message == "" || r.Next == "" {
			t.Errorf("a reason that says too little: %+v", r)
		}
		text := string(r.Code)
		if r.Policy != nil {
			text += " " + r.Policy.String()
		}
		all = append(all, text)
	}
	if d.Allowed() != (len(all) == 0) || (d.Err() == nil) != d.Allowed() {
		t.Errorf("allowed %t, err %v, reasons %q", d.Allowed(), d.Err(), all)
	}
	return all
}

func TestEvaluate(t *testing.T) {
	header := func(text string) *sessions.HTTPFilter {
		return &sessions.HTTPFilter{HTTPFilterRule: sessions.HTTPFilterRule{Header: text}}
	}
	off := plain()
	off.Incoming.Mode = "off"
	base := &profile.Profile{Ref: profile.Ref{Name: "base"}, Adjustments: []profiles.FeatureAdjustment{{Change: profiles.IncomingMirror}}}
	for _, test := range []struct {
		name     string
		policies map[string]string
		features sessions.Features
		profile  string
		want     []string
	}{
		{"nothing", nil, stealing(nil), "", nil},
		{"another target", map[string]string{"p": `{targetPath: job/x, block: [steal]}`}, stealing(nil), "", nil},
		{"steal", map[string]string{"p": `{block: [steal]}`}, stealing(nil), "", []string{"Blocked p"}},
		{"steal, off", map[string]string{"p": `{block: [steal, mirror]}`}, off, "", nil},
		{"steal with a filter", map[string]string{"p": `{block: [steal-without-filter]}`}, stealing(header("a: b")), "", nil},
		{"steal without", map[string]string{"p": `{block: [steal-without-filter]}`}, stealing(nil), "", []string{"Blocked p"}},
		{"mirror", map[string]string{"p": `{block: [mirror]}`}, plain(), "", []string{"Blocked p"}},
		{"union", map[string]string{"a": `{block: [steal]}`, "shop/b": `{block: [steal, mirror]}`, "shop/c": `{block: []}`}, stealing(nil), "", []string{"Blocked a", "Blocked shop/b"}},
		{"scale-down", map[string]string{"p": `{block: [copy-target-scale-down], appliesToCopyTargets: true}`}, stealing(nil), "", nil},

		{"header", map[string]string{"p": `{network: {incoming: {httpFilter: {headerFilter: "^u: .+"}}}}`}, stealing(header("^u: ann$")), "", nil},
		{"other header", map[string]string{"p": `{network: {incoming: {httpFilter: {headerFilter: "^u: .+"}}}}`}, stealing(header("v: ann")), "", []string{"HeaderFilter p"}},
		{"no header", map[string]string{"p": `{network: {incoming: {httpFilter: {headerFilter: "^u: .+"}}}}`}, stealing(nil), "", []string{"HeaderFilter p"}},
		{"ports of the filter", map[string]string{"p": `{block: [steal-without-filter]}`}, onPorts(header("v: ann"), 80, 80), "", nil},
		{"ports besides those of the filter", map[string]string{"p": `{block: [steal-without-filter]}`}, onPorts(header("v: ann"), 80, 80, 81), "", []string{"Blocked p"}},
		{"all ports, and a filter for one", map[string]string{"p": `{block: [steal-without-filter]}`}, onPorts(header("v: ann"), 80), "", nil},
		{"header null", map[string]string{"p": `{network: {incoming: {httpFilter: {headerFilter: null}}}}`}, stealing(nil), "", nil},
		{
			"any_of is strict",
			map[string]string{"p": `{network: {incoming: {httpFilter: {headerFilter: "^u: .+"}}}}`},
			stealing(&sessions.HTTPFilter{AnyOf: []sessions.HTTPFilterRule{{Header: "u: ann"}, {Path: "/"}}}),
			"",
			[]string{"HeaderFilter p"},
		},
		{
			"all_of with a path",
			map[string]string{"p": `{network: {incoming: {httpFilter: {headerFilter: "^u: .+"}}}}`},
			stealing(&sessions.HTTPFilter{AllOf: []sessions.HTTPFilterRule{{Header: "u: ann"}, {Path: "/"}}}),
			"", nil,
		},

		{"profile required", map[string]string{"p": `{requireProfile: true}`, "q": `{requireProfile: false}`}, plain(), "", []string{"ProfileRequired p"}},
		{"profile there", map[string]string{"p": `{requireProfile: true}`}, plain(), "base", nil},
		{"profile not followed", map[string]string{"p": `{requireProfile: true}`}, stealing(nil), "base", []string{"ProfileNotFollowed"}},
		{"not followed, not required", nil, stealing(nil), "base", []string{"ProfileNotFollowed"}},
		{"in all lists", map[string]string{"p": `{profileAllowlist: [base, x]}`, "q": `{profileAllowlist: [y, base]}`}, plain(), "base", nil},
		{"in one list", map[string]string{"p": `{profileAllowlist: [base, x]}`, "q": `{profileAllowlist: [x]}`}, plain(), "base", []string{"ProfileNotAllowed q"}},
		{"as written", map[string]string{"p": `{profileAllowlist: [shop/base]}`}, plain(), "base", []string{"ProfileNotAllowed p"}},
		{"an empty list", map[string]string{"p": `{profileAllowlist: []}`}, plain(), "base", []string{"ProfileNotAllowed p"}},
		{"null is no list", map[string]string{"p": `{profileAllowlist: null}`}, plain(), "base", nil},
		{"a list requires none", map[string]string{"p": `{profileAllowlist: [x]}`}, plain(), "", nil},
		{"a list and required", map[string]string{"p": `{profileAllowlist: [x], requireProfile: true}`}, plain(), "", []string{"ProfileRequired p"}},
		{"a malformed name", nil, plain(), "a/b/c", []string{"ProfileUnusable"}},
		{"a profile that is not there", nil, plain(), "gone", []string{"ProfileUnusable"}},
		{"everything at once", map[string]string{
			"p": `{block: [steal], requireProfile: true, profileAllowlist: []}`, "q": `{network: {incoming: {httpFilter: {headerFilter: "("}}}}`,
		}, stealing(nil), "base", []string{"PolicyInvalid q", "Blocked p", "ProfileNotAllowed p", "ProfileNotFollowed"}},

		{"an invalid policy", map[string]string{"p": `{network: {outgoing: {block: [{ipBlock: {cidr: x}}]}}}`}, plain(), "", []string{"PolicyInvalid p"}},
		{"an invalid policy elsewhere", map[string]string{"p": `{targetPath: pod/y, env: {}, fs: {local: ["("]}}`}, plain(), "", nil},
		{"an unknown feature of a newer version", map[string]string{"p": `{block: [teleport]}`}, plain(), "", []string{"PolicyInvalid p"}},
		{"features that make no sense", nil, sessions.Features{Incoming: sessions.Incoming{Mode: "STEAL"}}, "", []string{"Features"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			req := Request{Target: shop(t, "pod/web-1-x/container/main"), Features: test.features, Profile: test.profile}
			switch test.profile {
			case "base":
				req.Loaded = base
			case "gone":
				req.ProfileErr = &profile.NotFoundError{Ref: profile.Ref{Name: "gone"}}
			}
			var all []Policy
			for ref, spec := range test.policies {
				all = append(all, policy(t, ref, spec))
			}
			d := Evaluate(all, req)
			if diff := cmp.Diff(test.want, codes(t, d)); diff != "" {
				t.Errorf("%v\n%s", d.Err(), diff)
			}
		})
	}
}

func TestMessages(t *testing.T) {
	d := Evaluate([]Policy{
		policy(t, "shop/no-steal", `{block: [steal]}`),
		policy(t, "base", `{requireProfile: true, profileAllowlist: [a, b]}`),
		policy(t, "own", `{profileAllowlist: [b, shop/c]}`),
	}, Request{Target: shop(t, "deployment/web"), Features: stealing(nil)})
	err := d.Err()
	var refused *RefusedError
	if !errors.As(err, &refused) {
		t.Fatal(err)
	}
	want := `policy "shop/no-steal" (block: steal): stealing incoming traffic is not allowed
policy "base" (requireProfile: true): the session names no profile`
	if err.Error() != want {
		t.Errorf("the message is\n%s\nnot\n%s", err, want)
	}
	want = `Set "feature.network.incoming.mode" to "mirror" or "off".
Select a profile that all policies allow with "profile": "NAME" in the configuration: "b".`
	if got := refused.Hint(); got != want {
		t.Errorf("the hint is\n%s\nnot\n%s", got, want)
	}
	if diff := cmp.Diff([]Ref{{Name: "base"}, {Name: "own"}, {"shop", "no-steal"}}, d.Binding); diff != "" {
		t.Error(diff)
	}
}

// What a profile sets is not for the user to set otherwise.
func TestAdviceWithAProfile(t *testing.T) {
	const another = `The profile "base" sets the mode`
	steals, others := []profiles.FeatureAdjustment{{Change: profiles.IncomingSteal}}, []profiles.FeatureAdjustment{{Change: profiles.DNSRemote}}
	for name, tt := range map[string]struct {
		block       string
		adjustments []profiles.FeatureAdjustment
		want        string
	}{
		"the profile steals":                   {"steal", steals, another},
		"the profile is about something else":  {"steal", others, `Set "feature.network.incoming.mode"`},
		"the profile steals, without a filter": {"steal-without-filter", steals, "Add an HTTP filter"},
	} {
		d := Evaluate([]Policy{policy(t, "base", "{block: ["+tt.block+"]}")}, Request{
			Target: shop(t, "deployment/web"), Features: stealing(nil),
			Profile: "base", Loaded: &profile.Profile{Ref: profile.Ref{Name: "base"}, Adjustments: tt.adjustments},
		})
		refused, ok := errors.AsType[*RefusedError](d.Err())
		if !ok || !strings.HasPrefix(refused.Hint(), tt.want) || strings.Contains(refused.Hint(), "\n") {
			t.Errorf("%s: %v, hint %q", name, d.Err(), refused.Hint())
		}
	}
}

func TestGrant(t *testing.T) {
	d := Evaluate([]Policy{
		policy(t, "shop/all", `
block: [mirror, steal-without-filter, mirror]
env: {exclude: ["AWS_*"]}
fs: {readOnly: [a], local: [b], notFound: [c]}
network:
  incoming: {httpFilter: {headerFilter: "^u: [a-z]+$"}}
  outgoing:
    allow:
    - ipBlock: {cidr: 10.0.0.0/16, except: [10.0.5.0/24]}
      ports: [{protocol: TCP, port: 80}, {protocol: UDP}, {port: 9}]
    block: [{hostname: "^x$"}]`),
		policy(t, "nothing", `{block: []}`),
		policy(t, "elsewhere/other", `{block: [steal]}`),
	}, Request{Target: shop(t, "deployment/web"), Profile: "", Features: stealing(&sessions.HTTPFilter{HTTPFilterRule: sessions.HTTPFilterRule{Header: "u: ann"}})})
	if err := d.Err(); err != nil {
		t.Fatal(err)
	}
	host := "^x$"
	want := grant.Grant{
		Policies: []string{"nothing", "shop/all"},
		Features: &grant.Features{Incoming: "steal", TCP: true, UDP: true, DNS: true, Env: true},
		Incoming: grant.Incoming{
			StealWithoutFilter: []string{"shop/all"}, Mirror: []string{"shop/all"},
			HeaderFilters: []grant.HeaderRule{{Policy: "shop/all", Pattern: "^u: [a-z]+$"}},
		},
		Outgoing: []grant.OutgoingRules{{
			Policy: "shop/all",
			Allow: []grant.Rule{{
				CIDR: "10.0.0.0/16", Except: []string{"10.0.5.0/24"},
				Ports: []grant.Port{{Protocol: "tcp", Port: 80}, {Protocol: "udp"}, {Port: 9}},
			}},
			Block: []grant.Rule{{Hostname: &host}},
		}},
		Env:   []grant.Exclusion{{Policy: "shop/all", Patterns: []string{"AWS_*"}}},
		Files: []grant.FileRules{{Policy: "shop/all", ReadOnly: []string{"a"}, Local: []string{"b"}, NotFound: []string{"c"}}},
	}
	if diff := cmp.Diff(want, d.Grant); diff != "" {
		t.Error(diff)
	}
	e, err := d.Grant.Compile()
	if err != nil {
		t.Fatal(err)
	}
	if e.Subscribe(grant.Steal, nil) == nil || e.Dial(grant.TCP, netip.MustParseAddrPort("10.1.0.1:80"), nil) == nil {
		t.Error("the agent would let through what the policies forbid")
	}
}

// TestFollows holds what it means that a session follows its profile, for each change.
func TestFollows(t *testing.T) {
	set := func(change func(*sessions.Features)) sessions.Features {
		f := plain()
		change(&f)
		return f
	}
	filter := &sessions.Filter{Side: "local", Entries: []string{"db:5432"}}
	for _, test := range []struct {
		changes  string
		features sessions.Features
		want     []string // paths that differ
	}{
		{"", stealing(nil), nil},
		{"incoming-steal", stealing(&sessions.HTTPFilter{HTTPFilterRule: sessions.HTTPFilterRule{Path: "/x"}}), nil},
		{"incoming-steal", plain(), []string{"feature.network.incoming.mode"}},
		{"incoming-mirror incoming-steal", stealing(nil), nil}, // the later one wins
		{"incoming-off", plain(), []string{"feature.network.incoming.mode"}},
		{"dns-remote", plain(), nil},
		{"dns-off", plain(), []string{"feature.network.dns.enabled"}},
		{"dns-remote", set(func(f *sessions.Features) { f.DNS.Filter = filter }), []string{"feature.network.dns.filter.local"}},
		{"dns-off", set(func(f *sessions.Features) { f.DNS.Enabled = false }), nil},
		{"outgoing-remote", plain(), []string{"feature.network.outgoing.unix_streams"}},
		{"outgoing-remote", set(func(f *sessions.Features) { f.Outgoing.UnixStreams = []string{".*"} }), nil},
		{"outgoing-remote", set(func(f *sessions.Features) {
			f.Outgoing.UnixStreams, f.Outgoing.IgnoreLocalhost = []string{".*"}, true
		}), nil},
		{"outgoing-off", set(func(f *sessions.Features) { f.Outgoing.TCP = false }), []string{"feature.network.outgoing.udp"}},
		{"outgoing-off", set(func(f *sessions.Features) { f.Outgoing.TCP, f.Outgoing.UDP = false, false }), nil},
		{"outgoing-off", set(func(f *sessions.Features) { f.Outgoing = sessions.Outgoing{Filter: filter} }), []string{"feature.network.outgoing.filter.local"}},
		// The client derives names of the DNS filter from the outgoing one after the profile.
		{"dns-remote", set(func(f *sessions.Features) {
			f.Outgoing.Filter, f.DNS.Filter = filter, &sessions.Filter{Side: "local", Entries: []string{"db"}}
		}), nil},
	} {
		p := &profile.Profile{Ref: profile.Ref{Namespace: "shop", Name: "base"}}
		for change := range strings.FieldsSeq(test.changes) {
			p.Adjustments = append(p.Adjustments, profiles.FeatureAdjustment{Change: profiles.Change(change)})
		}
		d := Evaluate(nil, Request{Target: shop(t, "deployment/web"), Features: test.features, Profile: "shop/base", Loaded: p})
		var paths []string
		for _, r := range d.Reasons {
			if r.Code != CodeProfileNotFollowed {
				t.Errorf("%s: %s", test.changes, r)
			}
			for _, diff := range r.Differences {
				paths = append(paths, diff.Path)
				if diff.Session == diff.Profile {
					t.Errorf("%s: %+v is no difference", test.changes, diff)
				}
			}
		}
		if diff := cmp.Diff(test.want, paths); diff != "" {
			t.Errorf("%s: %v\n%s", test.changes, d.Err(), diff)
		}
	}
}

func TestUnusableProfiles(t *testing.T) {
	for name, req := range map[string]Request{
		"serves only targets of namespace \"else\", and the target's namespace is \"shop\"": {Profile: "else/base", Loaded: &profile.Profile{Ref: profile.Ref{Namespace: "else", Name: "base"}}},
		"does not know the field":           {Profile: "base", Loaded: &profile.Profile{Ref: profile.Ref{Name: "base"}, UnknownFields: []string{"spec.x"}}},
		"it was not loaded":                 {Profile: "base", Loaded: &profile.Profile{Ref: profile.Ref{Name: "other"}}},
		"there is no MirrordClusterProfile": {Profile: "base", ProfileErr: &profile.NotFoundError{Ref: profile.Ref{Name: "base"}}},
	} {
		req.Target, req.Features = shop(t, "deployment/web"), plain()
		d := Evaluate(nil, req)
		if len(d.Reasons) != 1 || d.Reasons[0].Code != CodeProfileUnusable || !strings.Contains(d.Err().Error(), fmt.Sprintf("%q", req.Profile)) || !strings.Contains(d.Err().Error(), name) {
			t.Errorf("%s: %v", name, d.Err())
		}
	}
}

func TestEvaluateChangesNothing(t *testing.T) {
	all := []Policy{policy(t, "b", `{block: [steal]}`), policy(t, "a", `{}`)}
	_ = Evaluate(all, Request{Target: shop(t, "deployment/web"), Features: plain()})
	if all[0].Ref.Name != "b" || all[1].Ref.Name != "a" {
		t.Error("the caller's policies are in another order")
	}
}

func TestFeatureConstants(t *testing.T) {
	if Code(grant.CodeBlocked) != CodeBlocked || Code(grant.CodeHeaderFilter) != CodeHeaderFilter {
		t.Error("the codes of grants and decisions differ")
	}
}
