package dirstore

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mirrord-go/mirrord/internal/manifest"
)

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	write := func(text string) {
		if err := os.WriteFile(filepath.Join(dir, "a.yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(`
apiVersion: policies.mirrord.metalbear.co/v1alpha
kind: MirrordClusterPolicy
metadata: {name: base}
spec: {profileAllowlist: []}
---
apiVersion: policies.mirrord.metalbear.co/v1alpha
kind: MirrordPolicy
metadata: {name: own, namespace: shop}
spec: {network: {outgoing: {block: [{hostname: "("}]}}}
`)
	policies, err := Load(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range policies {
		got = append(got, p.Ref.String()+" "+filepath.Base(p.Source))
	}
	if diff := cmp.Diff([]string{"base a.yaml:2", "shop/own a.yaml:7"}, got); diff != "" {
		t.Error(diff)
	}
	if policies[0].Spec.ProfileAllowlist == nil || len(policies[1].Problems()) == 0 {
		t.Errorf("%+v", policies)
	}

	write("apiVersion: policies.mirrord.metalbear.co/v1alpha\nkind: MirrordPolicy\nmetadata: {name: own}\nspec: {block: [x]}\n")
	_, err = Load(t.Context(), dir)
	if invalid, ok := errors.AsType[*manifest.InvalidError](err); !ok || len(invalid.Problems) != 2 || invalid.Plural != "policies" {
		t.Errorf("%v", err)
	}
	_, err = Load(t.Context(), filepath.Join(dir, "missing"))
	if _, ok := errors.AsType[*manifest.FolderError](err); !ok || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}
