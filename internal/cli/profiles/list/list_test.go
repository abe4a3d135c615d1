package list

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mirrord-go/mirrord/api/profiles/v1alpha"
	"github.com/mirrord-go/mirrord/internal/profile"
)

var profiles = []profile.Profile{
	{Ref: profile.Ref{Name: "empty"}},
	{
		Ref: profile.Ref{Name: "newer"}, UnknownFields: []string{"spec.priority"},
		Adjustments: []v1alpha.FeatureAdjustment{{Change: v1alpha.DNSOff}, {Change: "incoming-teleport"}},
	},
	{Ref: profile.Ref{Namespace: "team", Name: "base"}, Adjustments: []v1alpha.FeatureAdjustment{{Change: v1alpha.IncomingSteal}}},
}

func TestTable(t *testing.T) {
	var out strings.Builder
	if err := printTable(&out, profiles); err != nil {
		t.Fatal(err)
	}
	want := `PROFILE    SERVES          CHANGES
empty      all targets     none
newer      all targets     dns-off, incoming-teleport (needs a newer mirrord)
team/base  namespace team  incoming-steal
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
}

func TestJSON(t *testing.T) {
	var out strings.Builder
	if err := printJSON(&out, profiles[1:]); err != nil {
		t.Fatal(err)
	}
	want := `[
  {
    "profile": "newer",
    "kind": "MirrordClusterProfile",
    "name": "newer",
    "changes": [
      "dns-off",
      "incoming-teleport"
    ],
    "unknown_fields": [
      "spec.priority"
    ]
  },
  {
    "profile": "team/base",
    "kind": "MirrordProfile",
    "namespace": "team",
    "name": "base",
    "changes": [
      "incoming-steal"
    ]
  }
]
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("JSON (-want +got):\n%s", diff)
	}
	out.Reset()
	if err := printJSON(&out, nil); err != nil || out.String() != "[]\n" {
		t.Errorf("no profiles: %q, %v", out.String(), err)
	}
}
