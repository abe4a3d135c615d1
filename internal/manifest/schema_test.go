package manifest

import (
	"slices"
	"testing"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/mirrord-go/mirrord/config/crd"
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
	object = runtime.DeepCopyJSON(object)
	defaulting.PruneNonNullableNullsWithoutDefaults(object, s.structural)
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

// TestSchemaAgreesWithTheAPIServer holds that the check here refuses what the API server
// refuses, at the same paths, and nothing else.
func TestSchemaAgreesWithTheAPIServer(t *testing.T) {
	for _, test := range []struct {
		group      Group
		kind, file string
		bodies     map[string]bool // and whether they are refused
	}{
		{Profiles(), "MirrordClusterProfile", crd.ClusterProfiles, map[string]bool{
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
		}},
		{Policies(), "MirrordClusterPolicy", crd.ClusterPolicies, map[string]bool{
			`, spec: {}}`:          false,
			`, spec: {block: []}}`: false,
			`, spec: {block: [steal, steal-without-filter, mirror, copy-target-scale-down]}}`:                                                                              false,
			`, spec: {targetPath: null, selector: null, profileAllowlist: null}}`:                                                                                          false,
			`, spec: {selector: {matchLabels: null, matchExpressions: null}}}`:                                                                                             false,
			`, spec: {selector: {matchLabels: {a: b}, matchExpressions: [{key: a, operator: In, values: [b]}, {key: c, operator: Exists, values: null}]}}}`:                false,
			`, spec: {env: null, fs: null, network: {incoming: null, outgoing: {allow: null}}}}`:                                                                           false,
			`, spec: {network: {incoming: {httpFilter: {headerFilter: null}}}}}`:                                                                                           false,
			`, spec: {network: {outgoing: {allow: [{ipBlock: {cidr: 10.0.0.0/8, except: null}, hostname: null, ports: null}], block: [{ports: [{protocol: TCP}, {}]}]}}}}`: false,
			`, spec: {block: []}, status: {conditions: []}}`:                                                                                                               false,
			`}`:                                                        true,
			`, spec: null}`:                                            true,
			`, spec: {block: steal}}`:                                  true,
			`, spec: {block: [Steal]}}`:                                true,
			`, spec: {block: [null]}}`:                                 true,
			`, spec: {requireProfile: "yes"}}`:                         true,
			`, spec: {targetPath: 1}}`:                                 true,
			`, spec: {blok: []}}`:                                      true,
			`, spec: {profileAllowlist: [1]}}`:                         true,
			`, spec: {selector: {matchLabels: {a: 1}}}}`:               true,
			`, spec: {selector: {matchLabel: {a: b}}}}`:                true,
			`, spec: {selector: {matchExpressions: [{key: a}]}}}`:      true,
			`, spec: {network: {outgoing: {allow: [{ipBlock: {}}]}}}}`: true,
			`, spec: {network: {outgoing: {allow: [{ports: [{protocol: tcp}]}]}}}}`:             true,
			`, spec: {network: {outgoing: {allow: [{ports: [{port: 65536}, {port: "80"}]}]}}}}`: true,
			`, spec: {network: {outgoing: {allow: [{host: x}]}}}}`:                              true,
			`, spec: {env: {exclude: A}, fs: {readonly: []}}}`:                                  true,
		}},
	} {
		server := newAPIServer(t, test.file)
		schemas, err := loadSchemas(test.group)
		if err != nil {
			t.Fatal(err)
		}
		head := "{apiVersion: " + test.group.name + "/v1alpha, kind: " + test.kind + ", metadata: {name: x}"
		for body, refused := range test.bodies {
			var object map[string]any
			if err := yaml.Unmarshal([]byte(head+body), &object); err != nil {
				t.Fatal(err)
			}
			want := server.refuses(object)
			if refused != (len(want) > 0) {
				t.Errorf("%s: the API server refuses %q", body, want)
			}
			var got []string
			for _, f := range schemas.byKind[test.kind].check(object) {
				got = append(got, f.path)
			}
			slices.Sort(got)
			if got = slices.Compact(got); !slices.Equal(got, want) {
				t.Errorf("%s:\n  refused here           %q\n  by the API server's code %q", body, got, want)
			}
		}
	}
}
