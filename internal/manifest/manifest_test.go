package manifest

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func reader(t testing.TB, g Group) *Reader {
	t.Helper()
	r, err := NewReader(g)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

const policyText = `# two of them
apiVersion: policies.mirrord.metalbear.co/v1alpha
kind: MirrordPolicy
metadata: {name: a, namespace: shop}
spec:
  block:
  - steal
  - mirror
---
apiVersion: policies.mirrord.metalbear.co/v1alpha
kind: MirrordPolicyList
items:
- apiVersion: policies.mirrord.metalbear.co/v1alpha
  kind: MirrordPolicy
  metadata: {name: b, namespace: shop}
  spec: {block: []}
---
apiVersion: profiles.mirrord.metalbear.co/v1alpha
kind: MirrordProfile
not: ours
`

func TestRead(t *testing.T) {
	dir := t.TempDir()
	deep := filepath.Join(dir, "deep")
	hidden := filepath.Join(dir, ".git")
	for _, d := range []string{deep, hidden} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{
		filepath.Join(dir, "a.yaml"):    policyText,
		filepath.Join(deep, "b.yaml"):   strings.Replace(policyText, "name: a", "name: c", 1),
		filepath.Join(hidden, "x.yaml"): "]",
		filepath.Join(dir, "notes.txt"): "]",
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	names := func(r *Reader) (all []string) {
		for _, o := range r.Objects() {
			all = append(all, o.Namespace+"/"+o.Name+" "+strings.TrimPrefix(o.Source(), dir))
		}
		return all
	}

	r := reader(t, Policies())
	if err := r.Path(t.Context(), dir, false); err != nil || len(r.Problems()) > 0 {
		t.Fatal(err, r.Problems())
	}
	if diff := cmp.Diff([]string{"shop/a /a.yaml:2", "shop/b /a.yaml:13"}, names(r)); diff != "" {
		t.Error(diff)
	}
	if got := r.Objects()[0].Problem("spec.block[1]", "no").String(); got != filepath.Join(dir, "a.yaml")+":8: no" {
		t.Error(got)
	}

	r = reader(t, Policies())
	if err := r.Path(t.Context(), dir, true); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"shop/a /a.yaml:2", "shop/b /a.yaml:13", "shop/c /deep/b.yaml:2"}, names(r)); diff != "" {
		t.Error(diff)
	}
	if p := r.Problems(); len(p) != 1 || !strings.Contains(p[0].String(), `deep/b.yaml:15: MirrordPolicy "shop/b" is defined a second time; the first is at `) {
		t.Error(p)
	}

	// A file that is named is read, whatever it is called.
	r = reader(t, Policies())
	if err := r.Path(t.Context(), filepath.Join(dir, "notes.txt"), false); err != nil || len(r.Problems()) != 1 {
		t.Error(err, r.Problems())
	}
	if err := r.Path(t.Context(), filepath.Join(dir, "missing"), false); err == nil {
		t.Error("a missing file is no error")
	}
}

// FuzzParse holds that no text makes the parser or the checks fail in another way than by
// a problem, and that problems point into the text.
func FuzzParse(f *testing.F) {
	f.Add(policyText)
	f.Add("#.\r!")
	f.Add("\n\n?\n\n?")
	f.Add("a: &a [*a]\n---\n--- x\n")
	f.Add(`{"apiVersion":"profiles.mirrord.metalbear.co/v1alpha","kind":"MirrordProfile","metadata":[],"spec":{"featureAdjustments":[null]}}`)
	f.Add(`{"apiVersion":"policies.mirrord.metalbear.co/v1alpha","kind":"MirrordPolicy","metadata":{"name":"a","namespace":"b"},"spec":{"selector":{"matchLabels":null}}}`)
	both := map[string]schemas{}
	for _, g := range []Group{Profiles(), Policies()} {
		s, err := loadSchemas(g)
		if err != nil {
			f.Fatal(err)
		}
		both[g.noun] = s
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, s := range both {
			r := &Reader{schemas: s, first: map[string]string{}}
			r.text("file", []byte(text))
			for _, o := range r.Objects() {
				if _, err := json.Marshal(o.Value); err != nil {
					t.Errorf("a document is no JSON: %v", err)
				}
			}
			for _, p := range r.Problems() {
				// YAML ends lines at more characters than editors do.
				lines := 1 + strings.Count(text, "\n") + strings.Count(text, "\r") +
					strings.Count(text, "\u0085") + strings.Count(text, "\u2028") + strings.Count(text, "\u2029")
				if p.Line < 1 || p.Line > lines {
					t.Errorf("%v, but the text has %d lines", p, lines)
				}
			}
		}
	})
}
