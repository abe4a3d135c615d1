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

	policies "github.com/mirrord-go/mirrord/api/policies/v1alpha"
	"github.com/mirrord-go/mirrord/api/profiles/v1alpha"
	tlssteal "github.com/mirrord-go/mirrord/api/tlssteal/v1alpha"
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
	const clusterScoped, namespaced = apiextensionsv1.ClusterScoped, apiextensionsv1.NamespaceScoped
	wants := map[string]struct {
		group, plural string
		scope         apiextensionsv1.ResourceScope
	}{
		"MirrordClusterPolicy":  {policies.GroupName, "mirrordclusterpolicies", clusterScoped},
		"MirrordPolicy":         {policies.GroupName, "mirrordpolicies", namespaced},
		"MirrordClusterProfile": {v1alpha.GroupName, "mirrordclusterprofiles", clusterScoped},
		"MirrordProfile":        {v1alpha.GroupName, "mirrordprofiles", namespaced},

		"MirrordClusterTlsStealConfig": {tlssteal.GroupName, "mirrordclustertlsstealconfigs", clusterScoped},
		"MirrordTlsStealConfig":        {tlssteal.GroupName, "mirrordtlsstealconfigs", namespaced},
	}
	all := definitions(t)
	if len(all) != len(wants) {
		t.Errorf("%d definitions, want %d", len(all), len(wants))
	}
	for kind, want := range wants {
		crd := all[kind]
		if crd == nil {
			t.Errorf("no definition of %s", kind)
			continue
		}
		if crd.Spec.Scope != want.scope || crd.Spec.Group != want.group || crd.Spec.Names.Plural != want.plural {
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
		if crd.Spec.Group != v1alpha.GroupName {
			continue
		}
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
		if crd.Spec.Group != v1alpha.GroupName {
			continue
		}
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

// TestColumnsOfPolicies holds that kubectl get shows what a person looks for.
func TestColumnsOfPolicies(t *testing.T) {
	for kind, crd := range definitions(t) {
		if crd.Spec.Group != policies.GroupName {
			continue
		}
		columns := crd.Spec.Versions[0].AdditionalPrinterColumns
		convertor, err := tableconvertor.New(columns)
		if err != nil {
			t.Fatal(err)
		}
		policy := &unstructured.Unstructured{Object: map[string]any{
			"metadata": map[string]any{"name": "base"},
			"spec": map[string]any{
				"targetPath": "deploy/*", "block": []any{"steal", "mirror"}, "requireProfile": true,
				"profileAllowlist": []any{"one", "two"},
			},
			"status": map[string]any{"conditions": []any{
				map[string]any{"type": "Enforced", "status": "Unknown"}, map[string]any{"type": "Valid", "status": "False"},
			}},
		}}
		table, err := convertor.ConvertToTable(t.Context(), policy, nil)
		if err != nil {
			t.Fatal(err)
		}
		row := fmt.Sprint(table.Rows[0].Cells...)
		for _, want := range []string{"deploy/*", "steal", "mirror", "true", "False", "one", "two"} {
			if !strings.Contains(row, want) {
				t.Errorf("%s: the row has no %s: %s", kind, want, row)
			}
		}
		if crd.Spec.Versions[0].Subresources == nil || crd.Spec.Versions[0].Subresources.Status == nil {
			t.Errorf("%s: whoever may change the spec may change the status", kind)
		}
	}
}

// TestDescriptionsFitKubectl holds that "kubectl explain" shows comments in
// whole lines.
func TestDescriptionsFitKubectl(t *testing.T) {
	for kind, crd := range definitions(t) {
		if crd.Spec.Group != policies.GroupName && crd.Spec.Group != tlssteal.GroupName {
			continue
		}
		spec := crd.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"]
		var check func(path string, schema apiextensionsv1.JSONSchemaProps)
		check = func(path string, schema apiextensionsv1.JSONSchemaProps) {
			if crd.Spec.Group == tlssteal.GroupName && strings.HasPrefix(path, "spec.selector.") {
				return // the words of Kubernetes
			}
			for name, property := range schema.Properties {
				check(path+"."+name, property)
			}
			if schema.Items != nil && schema.Items.Schema != nil {
				check(path+"[]", *schema.Items.Schema)
			}
			for line := range strings.SplitSeq(schema.Description, "\n") {
				if len(line) > 76 {
					t.Errorf("%s: %s has a line of %d columns: %s", kind, path, len(line), line)
				}
			}
			if schema.Description == "" && !strings.HasSuffix(path, "[]") {
				t.Errorf("%s: %s has no description", kind, path)
			}
		}
		check("spec", spec)
	}
}
