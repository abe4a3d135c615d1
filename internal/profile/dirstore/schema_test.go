package dirstore

import (
	"slices"
	"testing"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/mirrord-go/mirrord/config/crd"
	"github.com/mirrord-go/mirrord/internal/profile"
)

// apiServer checks objects with the code of the API server, set up as a CRD's handler does.
type apiServer struct {
	validator  validation.SchemaValidator
	structural *structuralschema.Structural
}

func newAPIServer(t *testing.T, file string) apiServer {
	t.Helper()
	data, err := crd.File(file)
	if err != nil {
		t.Fatal(err)
	}
	var definition apiextensionsv1.CustomResourceDefinition
	if err := yaml.UnmarshalStrict(data, &definition); err != nil {
		t.Fatal(err)
	}
	var schema apiextensions.CustomResourceValidation
	if err := apiextensionsv1.Convert_v1_CustomResourceValidation_To_apiextensions_CustomResourceValidation(
		definition.Spec.Versions[0].Schema, &schema, nil); err != nil {
		t.Fatal(err)
	}
	validator, _, err := validation.NewSchemaValidator(schema.OpenAPIV3Schema)
	if err != nil {
		t.Fatal(err)
	}
	structural, err := structuralschema.NewStructural(schema.OpenAPIV3Schema)
	if err != nil {
		t.Fatal(err)
	}
	return apiServer{validator, structural}
}

// refuses returns the paths that the API server would refuse.
func (s apiServer) refuses(object map[string]any) []string {
	var paths []string
	for _, err := range validation.ValidateCustomResource(nil, object, s.validator) {
		paths = append(paths, err.Field)
	}
	unknown := pruning.PruneWithOptions(runtime.DeepCopyJSON(object), s.structural, true,
		structuralschema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true})
	paths = append(paths, unknown...)
	slices.Sort(paths)
	return slices.Compact(paths)
}

// TestSchemaAgreesWithTheAPIServer holds that the folder's check refuses what the API
// server refuses, at the same paths, and nothing else.
func TestSchemaAgreesWithTheAPIServer(t *testing.T) {
	server := newAPIServer(t, crd.ClusterProfiles)
	schemas, err := loadSchemas()
	if err != nil {
		t.Fatal(err)
	}
	const head = "{apiVersion: profiles.mirrord.metalbear.co/v1alpha, kind: MirrordClusterProfile, metadata: {name: x}"
	for body, refused := range map[string]bool{
		`, spec: {featureAdjustments: []}}`:                                     false,
		`, spec: {featureAdjustments: [{change: incoming-mirror}]}}`:            false,
		`, spec: {featureAdjustments: [{change: dns-off}, {change: dns-off}]}}`: false,
		`}`:                                 true,
		`, spec: }`:                         true,
		`, spec: {}}`:                       true,
		`, spec: {featureAdjustments: }}`:   true,
		`, spec: {featureAdjustments: {}}}`: true,
		`, spec: {featureAdjustments: incoming-steal}}`:                            true,
		`, spec: {featureAdjustments: [incoming-steal]}}`:                          true,
		`, spec: {featureAdjustments: [{}]}}`:                                      true,
		`, spec: {featureAdjustments: [{change: }]}}`:                              true,
		`, spec: {featureAdjustments: [{change: ""}]}}`:                            true,
		`, spec: {featureAdjustments: [{change: off}]}}`:                           true,
		`, spec: {featureAdjustments: [{change: Incoming-Steal}]}}`:                true,
		`, spec: {featureAdjustments: [{change: dns-off, when: x}]}}`:              true,
		`, spec: {featureAdjustments: [], priority: 1}}`:                           true,
		`, spec: {featureAdjustments: []}, status: {}}`:                            true,
		`, spec: {featureAdjustments: [{change: a}, {chance: b}, {change: [c]}]}}`: true,
	} {
		var object map[string]any
		if err := yaml.Unmarshal([]byte(head+body), &object); err != nil {
			t.Fatal(err)
		}
		want := server.refuses(object)
		if refused != (len(want) > 0) {
			t.Errorf("%s: the API server refuses %q", body, want)
		}
		var got []string
		for _, f := range schemas[profile.KindCluster].check(object) {
			got = append(got, f.path)
		}
		slices.Sort(got)
		if got = slices.Compact(got); !slices.Equal(got, want) {
			t.Errorf("%s:\n  refused here           %q\n  by the API server's code %q", body, got, want)
		}
	}
}
