package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mirrord-go/mirrord/api/profiles/v1alpha"
)

// verified is the output of verify-config.
type verified struct {
	Type   string `json:"type"`
	Config struct {
		Path, Namespace *string
	} `json:"config"`
	Warnings []string        `json:"warnings"`
	Kinds    []string        `json:"compatible_target_types"`
	Resolved json.RawMessage `json:"resolved_config"`
	Errors   []string        `json:"errors"`
}

func (s *stage) verify(t *testing.T, code int, args ...string) verified {
	t.Helper()
	o := s.mirrord(t, call{args: append([]string{"verify-config"}, args...)})
	var v verified
	d := json.NewDecoder(strings.NewReader(o.stdout))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil || o.code != code {
		t.Fatalf("verify-config %s: exit code %d, want %d, %v\n%s%s", args, o.code, code, err, o.stdout, o.stderr)
	}
	return v
}

// TestVerifyConfig checks files with profiles of the cluster.
func TestVerifyConfig(t *testing.T) {
	s := newStage(t)
	s.Apply(t, s.ns, profileOf(s.ns, "all", "incoming-steal", "outgoing-remote", "dns-remote"))
	ref := s.ns + "/all"
	full := fmt.Sprintf(`{"profile": %q, "target": {"path": "deployment/shop/container/shop"}, "key": "mine",
		"feature": {"env": {"exclude": ["SECRET_*"], "override": {"A": "b"}}, "network": {"incoming": {"port_mapping": [[8080, 80]]}}},
		"agent": {"ephemeral": true, "labels": {"a": "b"}}}`, ref)
	v := s.verify(t, 0, file(t, "c.json", full))
	if v.Type != "Success" || *v.Config.Path != "deployment/shop/container/shop" || *v.Config.Namespace != s.ns || v.Resolved != nil {
		t.Errorf("%+v", v)
	}
	if slices.Contains(v.Kinds, "targetless") || !slices.Contains(v.Kinds, "deployment") {
		t.Errorf("a profile that steals is compatible with %s", v.Kinds)
	}
	// What --resolved prints is a file that means the same.
	for name, text := range map[string]string{
		"full.json": full, "empty.json": `{"key": "k"}`, "defaults.json": editors,
		"off.yaml":  "key: k\nfeature: {env: false, network: false}\ntarget: pod/a\n",
		"toml.toml": "key = \"k\"\ntarget = \"targetless\"\n[feature.network.outgoing]\nudp = false\n",
	} {
		t.Run("resolved "+name, func(t *testing.T) {
			once := s.verify(t, 0, "--resolved", file(t, name, text))
			again := s.verify(t, 0, "--resolved", file(t, "again.json", string(once.Resolved)))
			var a, b any
			if err := json.Unmarshal(once.Resolved, &a); err != nil || a == nil {
				t.Fatalf("%v: %s", err, once.Resolved)
			}
			if err := json.Unmarshal(again.Resolved, &b); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(a, b); diff != "" {
				t.Errorf("the second time (-first +second):\n%s", diff)
			}
		})
	}
	wrong := file(t, "wrong.json", "{\"targt\": 1,\n\"profile\": \"a/b/c\"}")
	for code, flags := range map[int][]string{1: nil, 0: {"--ide"}} {
		v := s.verify(t, code, append(flags, wrong)...)
		if v.Type != "Fail" || len(v.Errors) == 0 || !strings.Contains(v.Errors[0], "wrong.json:1:2: ") {
			t.Errorf("%s: %+v", flags, v)
		}
	}
	// For an editor, a file without a target is not finished; for all others it is targetless.
	steal := file(t, "steal.json", `{"feature": {"network": {"incoming": "steal"}}}`)
	if v := s.verify(t, 0, "--ide", steal); v.Type != "Success" || v.Config.Path != nil {
		t.Errorf("for an editor: %+v", v)
	}
	if v := s.verify(t, 1, steal); v.Type != "Fail" {
		t.Errorf("for others: %+v", v)
	}
}

// editors is the file that editors make for a new project.
const editors = `{
    "feature": {
        "network": {
            "incoming": "mirror",
            "outgoing": true
        },
        "fs": "read",
        "env": true
    }
}`

// TestFileOfEditors runs with that file.
func TestFileOfEditors(t *testing.T) {
	s := newStage(t)
	s.deploy(t, shop, "deployment/shop")
	s.may(t, "", "", "-f", file(t, "mirrord.json", editors))
}

// TestProfileWithoutAdjustments is valid, and says what it does not do.
func TestProfileWithoutAdjustments(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.deploy(t, shop, "deployment/shop")
	s.Apply(t, s.ns, profileOf(s.ns, "empty"))
	ref := s.ns + "/empty"
	for _, args := range [][]string{
		{"exec", "--profile", ref, "-t", "deployment/shop", "--", "true"},
		{"profile", "show", ref},
		{"profile", "explain", ref, "-n", s.ns},
	} {
		if o := s.mirrord(t, call{args: args}); o.code != 0 || !strings.Contains(o.stdout+o.stderr, "changes nothing") {
			t.Errorf("%s: exit code %d\n%s%s", args, o.code, o.stdout, o.stderr)
		}
	}
	s.may(t, "", ref)
}

// TestProfileCommands shows profiles of the cluster.
func TestProfileCommands(t *testing.T) {
	s := newStage(t)
	wide := "wide-" + s.ns
	s.Apply(t, s.ns, profileOf("", wide, "incoming-steal", "incoming-off"))
	s.Apply(t, s.ns, profileOf(s.ns, "own", "dns-off"))
	run := func(args ...string) string {
		t.Helper()
		o := s.mirrord(t, call{args: append([]string{"profile"}, args...)})
		if o.code != 0 {
			t.Fatalf("profile %s: exit code %d\n%s%s", args, o.code, o.stdout, o.stderr)
		}
		return o.stdout
	}
	names := strings.Fields(run("list", "-o", "name"))
	if !slices.Contains(names, wide) || !slices.Contains(names, s.ns+"/own") {
		t.Errorf("list: %s", names)
	}
	if names := strings.Fields(run("list", "-n", "default", "-o", "name")); !slices.Contains(names, wide) || slices.Contains(names, s.ns+"/own") {
		t.Errorf("list -n default: %s", names)
	}
	if names := strings.Fields(run("list", "-A", "-o", "name")); !slices.Contains(names, s.ns+"/own") {
		t.Errorf("list -A: %s", names)
	}
	for text, args := range map[string][]string{
		`feature.network.incoming.mode = "steal" (until adjustment 2)`: {"show", wide},
		"for targets of namespace":                                     {"show", s.ns + "/own"},
		fmt.Sprintf("profile %q, adjustment 2", wide):                  {"explain", wide},
		"--target-namespace":                                           {"explain", s.ns + "/own", "-n", s.ns},
	} {
		if out := run(args...); !strings.Contains(out, text) {
			t.Errorf("profile %s does not show %q:\n%s", args, text, out)
		}
	}
	var explained struct {
		Profile struct{ Profile string }
		Values  []struct {
			Path   string
			Origin struct {
				Kind, Name string
				Adjustment int
			}
		}
	}
	if err := json.Unmarshal([]byte(run("explain", wide, "-o", "json")), &explained); err != nil || explained.Profile.Profile != wide {
		t.Fatalf("%v, %+v", err, explained)
	}
	for _, v := range explained.Values {
		if o := v.Origin; v.Path == "feature.network.incoming.mode" && (o.Kind != "profile" || o.Name != wide || o.Adjustment != 2) {
			t.Errorf("the mode comes from %+v", o)
		}
	}
}

// TestListTargets lists what sessions could have.
func TestListTargets(t *testing.T) {
	s := newStage(t)
	s.deploy(t, shop+"---"+pair, "deployment/shop", "pod/pair")
	pod, _ := s.shopPod(t)
	o := s.mirrord(t, call{args: []string{"ls"}})
	var paths []string
	if err := json.Unmarshal([]byte(o.stdout), &paths); err != nil || o.code != 0 {
		t.Fatalf("exit code %d, %v\n%s%s", o.code, err, o.stdout, o.stderr)
	}
	want := []string{"deployment/shop", "service/shop", "replicaset/" + pod[:strings.LastIndex(pod, "-")], "pod/pair/container/app", "pod/pair/container/side", "pod/" + pod}
	if diff := cmp.Diff(want, paths); diff != "" {
		t.Errorf("targets (-want +got):\n%s", diff)
	}
	o = s.mirrord(t, call{args: []string{"ls", "-n", s.ns, "-t", "pod", "-o", "text"}})
	if o.stdout != strings.Join(want[3:], "\n")+"\n" {
		t.Errorf("pods: %s%s", o.stdout, o.stderr)
	}
	o = s.mirrord(t, call{args: []string{"ls", "-n", "no-such-" + s.ns}})
	if o.code != 0 || o.stdout != "[]\n" {
		t.Errorf("exit code %d\n%s%s", o.code, o.stdout, o.stderr)
	}
}

// TestProfileSchema asks the API server what it takes, and kubectl what it shows.
func TestProfileSchema(t *testing.T) {
	s := newStage(t)
	for _, kind := range []string{"MirrordClusterProfile", "MirrordProfile"} {
		manifest := func(name, spec string) string {
			return fmt.Sprintf("apiVersion: %s/v1alpha\nkind: %s\nmetadata: {name: %s-%s}\n%s", group, kind, name, s.ns, spec)
		}
		for what, test := range map[string]struct{ spec, says string }{
			"unknown value":         {"spec: {featureAdjustments: [{change: incoming-borrow}]}", `Unsupported value: "incoming-borrow"`},
			"no change":             {"spec: {featureAdjustments: [{}]}", "change: Required value"},
			"no list":               {"spec: {}", "featureAdjustments: Required value"},
			"no spec":               {"", "spec: Required value"},
			"a list of strings":     {"spec: {featureAdjustments: [dns-off]}", "expected map"},
			"an object, not a list": {"spec: {featureAdjustments: {change: dns-off}}", "expected list"},
		} {
			if err := s.TryApply(t, s.ns, manifest("wrong", test.spec)); err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("%s, %s: %v", kind, what, err)
			}
		}
		if err := s.TryApply(t, s.ns, manifest("empty", "spec: {featureAdjustments: []}")); err != nil {
			t.Errorf("%s, empty list: %v", kind, err)
		}
		var all []string
		for _, c := range v1alpha.Changes() {
			all = append(all, "{change: "+string(c)+"}")
		}
		if err := s.TryApply(t, s.ns, manifest("all", "spec: {featureAdjustments: ["+strings.Join(all, ", ")+"]}")); err != nil {
			t.Errorf("%s, all values: %v", kind, err)
		}
		kubectl := func(args ...string) string {
			t.Helper()
			out, err := s.Kubectl(t, s.Kubeconfig, nil, args...)
			if err != nil {
				t.Fatalf("kubectl %s: %v\n%s", args, err, out)
			}
			return out
		}
		resource := strings.ToLower(kind)
		explained := kubectl("explain", resource+".spec.featureAdjustments.change")
		for _, c := range v1alpha.Changes() {
			if !strings.Contains(explained, string(c)+": ") {
				t.Errorf("kubectl explain does not say what %s does:\n%s", c, explained)
			}
		}
		if !strings.Contains(explained, "process gets a copy of the target's incoming traffic, and the target\n    answers.") {
			t.Errorf("kubectl explain breaks lines of comments that are too long:\n%s", explained)
		}
		if out := kubectl("explain", resource); !strings.Contains(out, "no security feature") {
			t.Errorf("kubectl explain %s:\n%s", resource, out)
		}
		out := kubectl("get", resource, "all-"+s.ns, "-n", s.ns)
		if !strings.Contains(out, "CHANGES") || !strings.Contains(out, "AGE") || strings.Index(out, "incoming-mirror") > strings.Index(out, "outgoing-off") {
			t.Errorf("kubectl get %s:\n%s", resource, out)
		}
	}
}

// TestExampleProfiles applies the profiles of the documentation as they are.
func TestExampleProfiles(t *testing.T) {
	s := newStage(t)
	for _, name := range []string{"observe", "only-outgoing", "team-base", "shop-watch-only"} {
		text, err := os.ReadFile("../../examples/profiles/" + name + ".yaml")
		if err != nil {
			t.Fatal(err)
		}
		if out, err := s.Kubectl(t, s.Kubeconfig, text, "apply", "--dry-run=server", "--validate=strict", "-f", "-"); err != nil && !strings.Contains(out+err.Error(), `namespaces "shop" not found`) {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}
