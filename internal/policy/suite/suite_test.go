package suite

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
)

const example = "../../../examples/policies/test/suite.yaml"

// TestExample runs the suite that the documentation shows.
func TestExample(t *testing.T) {
	s, err := Load(example)
	if err != nil {
		t.Fatal(err)
	}
	results, err := s.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		if !r.Passed() {
			t.Errorf("%s: %q", r.Name, r.Failures)
		}
	}
	if len(results) != len(s.Cases) || len(results) < 5 {
		t.Errorf("%d results of %d cases", len(results), len(s.Cases))
	}
}

// folder writes the files of a txtar archive.
func folder(t *testing.T, archive string) string {
	t.Helper()
	dir := t.TempDir()
	for _, file := range txtar.Parse([]byte(archive)).Files {
		name := filepath.Join(dir, file.Name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, file.Data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestEnvironmentHasNoPart: a case comes out the same on every machine.
func TestEnvironmentHasNoPart(t *testing.T) {
	t.Setenv("MIRRORD_AGENT_TCP_STEAL_TRAFFIC", "true")
	t.Setenv("MIRRORD_TARGET_NAMESPACE", "elsewhere")
	dir := folder(t, `
-- p/p.yaml --
apiVersion: policies.mirrord.metalbear.co/v1alpha
kind: MirrordPolicy
metadata: {name: no-steal, namespace: shop}
spec: {block: [steal]}
-- suite.yaml --
policies: p
cases:
- {name: inline, target: pod/x, namespace: shop, config: {}, expect: allowed}
- {name: features, target: pod/x, namespace: shop, expect: allowed}
- {name: absolute, target: pod/x, namespace: shop, config: DIR/c.json, expect: refused}
-- c.json --
{"feature": {"network": {"incoming": "steal"}}}
`)
	path := filepath.Join(dir, "suite.yaml")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(string(text), "DIR", dir)), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	results, err := s.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		if !r.Passed() {
			t.Errorf("%s: %q", r.Name, r.Failures)
		}
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Run(ctx); err == nil {
		t.Error("a cancelled run ends well")
	}
}

func TestParseProblems(t *testing.T) {
	for text, want := range map[string][]string{
		``:                    {"s.yaml: the file is empty"},
		`[]`:                  {"s.yaml:1: a suite is an object with policies and cases"},
		"a: 1\n---\nb: 2":     {"s.yaml:3: the file has a second document; it is to have one"},
		"a: [":                nil,
		"policies: p":         {"s.yaml:1: cases: a suite has a list of cases"},
		"policies: 1\ncases:": {"s.yaml:1: policies: a suite names the folder of its policies", "s.yaml:1: policies: this can't be a number", "s.yaml:2: cases: a suite has a list of cases"},
		"policies: p\ncases:\n- 7\n- name: x\n  target: targetless\n  namespace: shop\n  labels: {a: b}\n  expect: allowed\n  config: {}\n  features: {}": {
			"s.yaml:3: cases[0]: this can't be a number",
			"s.yaml:4: cases[1]: a case has either config or features",
			"s.yaml:7: cases[1].labels: a session without a target has no labels",
		},
	} {
		_, problems := Parse("s.yaml", []byte(text))
		if len(problems) == 0 {
			t.Errorf("%q has no problems", text)
		}
		if want == nil {
			continue
		}
		got := map[string]bool{}
		for _, p := range problems {
			got[p.String()] = true
		}
		wanted := map[string]bool{}
		for _, w := range want {
			wanted[w] = true
		}
		if diff := cmp.Diff(wanted, got); diff != "" {
			t.Errorf("%q: %s", text, diff)
		}
	}
}

// FuzzParse: every text is a suite or has problems, each in a line of the text.
func FuzzParse(f *testing.F) {
	text, err := os.ReadFile(example)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(text))
	f.Add("policies: p\ncases: [{name: a, config: 1, owners: [{object: label/a=b}], connections: [{to: x}], variables: {A: b}}]")
	f.Add("cases: [{labels: {a: {}}}]")
	f.Fuzz(func(t *testing.T, text string) {
		s, problems := Parse("s.yaml", []byte(text))
		if (s == nil) != (len(problems) > 0) {
			t.Errorf("a suite %v, problems %v", s != nil, problems)
		}
		lines := 1 + strings.Count(text, "\n") + strings.Count(text, "\r") +
			strings.Count(text, "\u0085") + strings.Count(text, "\u2028") + strings.Count(text, "\u2029")
		for _, p := range problems {
			if p.Line < 0 || p.Line > lines {
				t.Errorf("%v, but the text has %d lines", p, lines)
			}
		}
	})
}
