package chart

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cert-manager/cert-manager/pkg/apis/certmanager"
	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"sigs.k8s.io/yaml"
)

// TestCertManagerTakesTheObjects holds the chart's objects against cert-manager's own resource types.
// TestOperatorCertManager of test/e2e gives them to an API server.
func TestCertManagerTakesTheObjects(t *testing.T) {
	schemas := map[string]*jsonschema.Schema{"Certificate": schemaOf(t, "certificates"), "Issuer": schemaOf(t, "issuers")}
	for name, want := range map[string][]string{
		"cert-manager": {
			"Certificate mirrord/mirrord-operator", "Certificate mirrord/mirrord-operator-authority",
			"Issuer mirrord/mirrord-operator", "Issuer mirrord/mirrord-operator-authority",
		},
		"cert-manager's own": {"Certificate mirrord/mirrord-operator"},
	} {
		t.Run(name, func(t *testing.T) {
			all := helm(t, settings[name], "v1")
			maps.DeleteFunc(all, func(_ string, object map[string]any) bool {
				return object["apiVersion"] != certmanager.GroupName+"/v1"
			})
			if diff := cmp.Diff(want, slices.Sorted(maps.Keys(all))); diff != "" {
				t.Errorf("objects (-want +got):\n%s", diff)
			}
			for name, object := range all {
				kind := schemas[object["kind"].(string)]
				if err := kind.Validate(asJSON(t, object)); err != nil {
					t.Errorf("%s: %v", name, err)
				}
				// A schema that takes everything shows nothing.
				object["spec"].(map[string]any)["secretname"] = "x"
				if kind.Validate(asJSON(t, object)) == nil {
					t.Errorf("%s is taken with a field that there is not", name)
				}
			}
		})
	}
}

// schemaOf is the schema of a resource in the module of cert-manager.
func schemaOf(t *testing.T, plural string) *jsonschema.Schema {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/cert-manager/cert-manager")
	cmd.Stderr = &stderr
	dir, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, stderr.Bytes())
	}
	text, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "deploy", "crds", certmanager.GroupName+"_"+plural+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var crd struct {
		Spec struct {
			Versions []struct {
				Name   string
				Schema struct {
					OpenAPIV3Schema map[string]any `json:"openAPIV3Schema"`
				}
			}
		}
	}
	if err := yaml.Unmarshal(text, &crd); err != nil {
		t.Fatal(err)
	}
	for _, v := range crd.Spec.Versions {
		if v.Name != "v1" {
			continue
		}
		strict(v.Schema.OpenAPIV3Schema)
		// Of these, API servers know more than a resource type says.
		delete(v.Schema.OpenAPIV3Schema["properties"].(map[string]any), "metadata")
		delete(v.Schema.OpenAPIV3Schema, "additionalProperties")
		c := jsonschema.NewCompiler()
		if err := c.AddResource(plural, asJSON(t, v.Schema.OpenAPIV3Schema)); err != nil {
			t.Fatal(err)
		}
		s, err := c.Compile(plural)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	t.Fatalf("%s have no version v1", plural)
	return nil
}

// strict has schemas refuse unknown fields, as API servers do when they are asked to.
func strict(schema map[string]any) {
	properties, _ := schema["properties"].(map[string]any)
	for _, p := range properties {
		if p, ok := p.(map[string]any); ok {
			strict(p)
		}
	}
	for _, key := range []string{"items", "additionalProperties"} {
		if s, ok := schema[key].(map[string]any); ok {
			strict(s)
		}
	}
	if preserved, _ := schema["x-kubernetes-preserve-unknown-fields"].(bool); properties != nil && schema["additionalProperties"] == nil && !preserved {
		schema["additionalProperties"] = false
	}
}

// asJSON is the value as a program that reads JSON has it.
func asJSON(t *testing.T, v any) any {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return value
}
