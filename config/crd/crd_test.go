package crd

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	"k8s.io/apiextensions-apiserver/pkg/registry/customresource/tableconvertor"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/mirrord-go/mirrord/api/profiles/v1alpha"
)

// definitions reads what a user pipes into kubectl.
func definitions(t *testing.T) map[string]*apiextensionsv1.CustomResourceDefinition {
	t.Helper()
	all, err := All()
	if err != nil {
		t.Fatal(err)
	}
	byKind := map[string]*apiextensionsv1.CustomResourceDefinition{}
	for document := range bytes.SplitSeq(all, []byte("---\n")) {
		if len(bytes.TrimSpace(document)) == 0 {
			continue
		}
		crd := new(apiextensionsv1.CustomResourceDefinition)
		if err := yaml.UnmarshalStrict(document, crd); err != nil {
			t.Fatal(err)
		}
		byKind[crd.Spec.Names.Kind] = crd
	}
	return byKind
}

func TestDefinitionsAreValid(t *testing.T) {
	scopes := map[string]apiextensionsv1.ResourceScope{
		"MirrordClusterProfile": apiextensionsv1.ClusterScoped,
		"MirrordProfile":        apiextensionsv1.NamespaceScoped,
	}
	all := definitions(t)
	if len(all) != len(scopes) {
		t.Errorf("%d definitions, want %d", len(all), len(scopes))
	}
	for kind, scope := range scopes {
		crd := all[kind]
		if crd == nil {
			t.Errorf("no definition of %s", kind)
			continue
		}
		if crd.Spec.Scope != scope || crd.Spec.Group != v1alpha.GroupName || crd.Spec.Names.Plural != strings.ToLower(kind)+"s" {
			t.Errorf("%s: scope %s, group %s, plural %s", kind, crd.Spec.Scope, crd.Spec.Group, crd.Spec.Names.Plural)
		}
		apiextensionsv1.SetDefaults_CustomResourceDefinition(crd)
		apiextensionsv1.SetDefaults_CustomResourceDefinitionSpec(&crd.Spec)
		var internal apiextensions.CustomResourceDefinition
		if err := apiextensionsv1.Convert_v1_CustomResourceDefinition_To_apiextensions_CustomResourceDefinition(crd, &internal, nil); err != nil {
			t.Fatal(err)
		}
		internal.Status.StoredVersions = []string{v1alpha.GroupVersion.Version}
		if problems := validation.ValidateCustomResourceDefinition(t.Context(), &internal); len(problems) > 0 {
			t.Errorf("%s: %v", kind, problems.ToAggregate())
		}
	}
}

// TestColumnShowsEveryChange holds that kubectl get shows all changes, in order. A path such
// as .spec.featureAdjustments[*].change looks better and shows only the first.
func TestColumnShowsEveryChange(t *testing.T) {
	for kind, crd := range definitions(t) {
		convertor, err := tableconvertor.New(crd.Spec.Versions[0].AdditionalPrinterColumns)
		if err != nil {
			t.Fatal(err)
		}
		profile := &unstructured.Unstructured{Object: map[string]any{
			"metadata": map[string]any{"name": "base"},
			"spec": map[string]any{"featureAdjustments": []any{
				map[string]any{"change": "incoming-steal"}, map[string]any{"change": "dns-off"},
			}},
		}}
		table, err := convertor.ConvertToTable(t.Context(), profile, nil)
		if err != nil {
			t.Fatal(err)
		}
		row := fmt.Sprint(table.Rows[0].Cells...)
		first, second := strings.Index(row, "incoming-steal"), strings.Index(row, "dns-off")
		if first < 0 || second < first {
			t.Errorf("%s: the row is %s", kind, row)
		}
	}
}

// TestEnumIsChanges holds that the schema and the Go constants know the same changes.
func TestEnumIsChanges(t *testing.T) {
	for kind, crd := range definitions(t) {
		schema := crd.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"].Properties["featureAdjustments"]
		var enum []string
		for _, value := range schema.Items.Schema.Properties["change"].Enum {
			enum = append(enum, strings.Trim(string(value.Raw), `"`))
		}
		var known []string
		for _, change := range v1alpha.Changes() {
			known = append(known, string(change))
		}
		if got, want := strings.Join(enum, " "), strings.Join(known, " "); got != want {
			t.Errorf("%s: the schema has %s, the constants are %s", kind, got, want)
		}
	}
}
