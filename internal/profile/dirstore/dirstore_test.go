package dirstore

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"github.com/mirrord-go/mirrord/api/profiles/v1alpha"
	"github.com/mirrord-go/mirrord/internal/manifest"
	"github.com/mirrord-go/mirrord/internal/profile"
)

// folder writes the files of a txtar archive and returns a store of them.
func folder(t *testing.T, archive string) *Store {
	t.Helper()
	dir := t.TempDir()
	for _, file := range txtar.Parse([]byte(archive)).Files {
		name := filepath.Join(dir, file.Name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, file.Data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return New(dir)
}

const good = `
-- mixed.yaml --
# A comment before the first document.
---
apiVersion: profiles.mirrord.metalbear.co/v1alpha
kind: MirrordClusterProfile
metadata:
  name: base
  labels: {team: shop}
spec:
  featureAdjustments:
  - change: incoming-steal
  - change: dns-remote
--- # the next one
apiVersion: v1
kind: ConfigMap
metadata: {name: other}
surprise: true
---
---
apiVersion: profiles.mirrord.metalbear.co/v1alpha
kind: MirrordProfile
metadata: {name: base, namespace: team}
spec: {featureAdjustments: []}
-- export.yml --
apiVersion: v1
kind: List
items:
- apiVersion: profiles.mirrord.metalbear.co/v1alpha
  kind: MirrordClusterProfile
  metadata: {name: exported, uid: x, creationTimestamp: "2026-01-01T00:00:00Z", managedFields: [{manager: kubectl}]}
  spec: {featureAdjustments: [{change: outgoing-off}]}
-- one.json --
{
	"apiVersion": "profiles.mirrord.metalbear.co/v1alpha",
	"kind": "MirrordProfile",
	"metadata": {"name": "json", "namespace": "other"},
	"spec": {"featureAdjustments": [{"change": "dns-off"}]}
}
{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x"}}
-- README.md --
Not a manifest.
-- deeper/ignored.yaml --
kind: [
`

func TestStore(t *testing.T) {
	store := folder(t, good)
	list := func(namespace string) string {
		profiles, err := store.List(t.Context(), namespace)
		if err != nil {
			t.Fatal(err)
		}
		var refs []string
		for _, p := range profiles {
			refs = append(refs, p.Ref.String())
		}
		return strings.Join(refs, " ")
	}
	if got, want := list(""), "base exported other/json team/base"; got != want {
		t.Errorf("all profiles: %s, want %s", got, want)
	}
	if got, want := list("team"), "base exported team/base"; got != want {
		t.Errorf("profiles for namespace team: %s, want %s", got, want)
	}
	p, err := store.Get(t.Context(), profile.Ref{Name: "base"})
	if err != nil {
		t.Fatal(err)
	}
	want := &profile.Profile{
		Ref:         profile.Ref{Name: "base"},
		Adjustments: []v1alpha.FeatureAdjustment{{Change: v1alpha.IncomingSteal}, {Change: v1alpha.DNSRemote}},
		Source:      filepath.Join(store.dir, "mixed.yaml") + ":3",
	}
	if diff := cmp.Diff(want, p); diff != "" {
		t.Errorf("profile (-want +got):\n%s", diff)
	}
	_, err = store.Get(t.Context(), profile.Ref{Namespace: "team", Name: "bas"})
	notFound, ok := errors.AsType[*profile.NotFoundError](err)
	if !ok || len(notFound.Near) == 0 || notFound.Near[0].String() != "team/base" || notFound.Folder != store.dir {
		t.Errorf("a missing profile: %#v", err)
	}
}

func TestStoreReportsAllProblemsTogether(t *testing.T) {
	store := folder(t, `
-- a.yaml --
apiVersion: profiles.mirrord.metalbear.co/v1alpha
kind: MirrordClusterProfile
metadata:
  name: Base
  namespace: team
  owner: me
spec:
  featureAdjustments:
  - change: incoming-steal
    when: never
  - change: incoming-teleport
  - {}
  - change: 1
  priority: 1
status: {}
---
apiVersion: profiles.mirrord.metalbear.co/v1alpha
kind: MirrordProfile
metadata: {name: base}
spec: {}
---
apiVersion: profiles.mirrord.metalbear.co/v1
kind: MirrordProfile
---
apiVersion: profiles.mirrord.metalbear.co/v1alpha
kind: MirrordProfiles
---
just: a map
---
- a list
-- b.yaml --
apiVersion: profiles.mirrord.metalbear.co/v1alpha
kind: MirrordClusterProfile
metadata: {name: twice}
spec: {featureAdjustments: []}
---
apiVersion: profiles.mirrord.metalbear.co/v1alpha
kind: MirrordClusterProfile
metadata:
  name: twice
spec: {featureAdjustments: []}
---
apiVersion: profiles.mirrord.metalbear.co/v1alpha
kind: MirrordClusterProfile
metadata: {name: null-list}
spec:
  featureAdjustments:
-- c.yaml --
kind: x
kind: y
---
a: 1
  b: 2
-- d.json --
{"kind": "x",
 "kind": "y"}
-- e.json --
{
  "kind":
}
-- f.yaml --
inline: document
--- {another: document}
`)
	_, err := store.List(t.Context(), "")
	invalid, ok := errors.AsType[*InvalidError](err)
	if !ok {
		t.Fatalf("List: %v", err)
	}
	got := strings.ReplaceAll(err.Error(), store.dir+string(filepath.Separator), "")
	want := strings.TrimSpace(`
a.yaml:4: metadata.name: "Base" is no valid name: a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character
a.yaml:5: metadata.namespace: a MirrordClusterProfile has no namespace; a MirrordProfile has one
a.yaml:6: metadata.owner: unknown field
a.yaml:10: spec.featureAdjustments[0].when: unknown field
a.yaml:11: spec.featureAdjustments[1].change: unknown value "incoming-teleport"; this version of mirrord knows incoming-mirror, incoming-steal, incoming-off, dns-remote, dns-off, outgoing-remote, outgoing-off
a.yaml:12: spec.featureAdjustments[2].change: the field is missing
a.yaml:13: spec.featureAdjustments[3].change: must be of type string: "integer"
a.yaml:14: spec.priority: unknown field
a.yaml:15: status: unknown field
a.yaml:19: metadata.namespace: a MirrordProfile needs its namespace here, because a folder has no default one
a.yaml:20: spec.featureAdjustments: the field is missing
a.yaml:22: apiVersion: "profiles.mirrord.metalbear.co/v1" is not known; this version of mirrord knows "profiles.mirrord.metalbear.co/v1alpha"
a.yaml:25: kind: "MirrordProfiles" is not known; this version of mirrord knows MirrordClusterProfile and MirrordProfile
a.yaml:28: the document is no Kubernetes object: it needs an apiVersion and a kind
a.yaml:30: the document is no Kubernetes object
b.yaml:9: MirrordClusterProfile "twice" is defined a second time; the first is at b.yaml:1
b.yaml:16: spec.featureAdjustments: must be of type array: "null"
c.yaml:2: no valid YAML: key "kind" already set in map
c.yaml:5: no valid YAML: mapping values are not allowed in this context
d.json:1: no valid JSON: duplicate field "kind"
e.json:3: no valid JSON: invalid character '}' looking for beginning of value
f.yaml:1: no valid YAML: a "---" between documents must stand alone on its line
`)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
	if len(invalid.Problems) != len(strings.Split(got, "\n")) {
		t.Errorf("%d problems", len(invalid.Problems))
	}
}

func TestFolderErrors(t *testing.T) {
	missing := New(filepath.Join(t.TempDir(), "missing"))
	if _, err := missing.List(t.Context(), ""); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "does not exist") {
		t.Errorf("a missing folder: %v", err)
	}
	file := filepath.Join(t.TempDir(), "file.yaml")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := New(file).List(t.Context(), "")
	if e, ok := errors.AsType[*FolderError](err); !ok || e.Dir != file {
		t.Errorf("a file: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := folder(t, good).List(ctx, ""); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled call: %v", err)
	}
	large := folder(t, "-- large.yaml --\n#"+strings.Repeat("x", manifest.MaxFileSize))
	if _, err := large.List(t.Context(), ""); err == nil || !strings.Contains(err.Error(), "larger than 4 MiB") {
		t.Errorf("a large file: %v", err)
	}
	if profiles, err := folder(t, "").List(t.Context(), ""); err != nil || len(profiles) != 0 {
		t.Errorf("an empty folder: %v, %v", profiles, err)
	}
}

func TestExamples(t *testing.T) {
	profiles, err := New("../../../examples/profiles").List(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[v1alpha.Change]bool{}
	for _, p := range profiles {
		for _, adjustment := range p.Adjustments {
			seen[adjustment.Change] = true
		}
	}
	for _, change := range v1alpha.Changes() {
		if !seen[change] {
			t.Errorf("no example uses %s", change)
		}
	}
}
