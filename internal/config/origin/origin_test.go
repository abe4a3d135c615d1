package origin

import (
	"encoding/json"
	"testing"
)

func TestOrigin(t *testing.T) {
	for _, test := range []struct {
		origin     Origin
		text, kind string
	}{
		{Origin{}, "default", "default"},
		{Origin{Kind: File, Name: "a.json"}, "a.json", "file"},
		{Origin{Kind: File, Name: "a.json", Line: 3, Column: 7}, "a.json:3:7", "file"},
		{Origin{Kind: Environment, Name: "MIRRORD_KEY"}, "$MIRRORD_KEY", "environment"},
		{Origin{Kind: Flag, Name: "--steal"}, "--steal", "flag"},
		{Origin{Kind: Profile, Name: "ns/base"}, `profile "ns/base"`, "profile"},
		{Origin{Kind: Profile, Name: "base", Adjustment: 2}, `profile "base", adjustment 2`, "profile"},
		{Origin{Kind: Derived, Name: "a.b"}, "follows from a.b", "derived"},
	} {
		if got := test.origin.String(); got != test.text {
			t.Errorf("got %q, want %q", got, test.text)
		}
		encoded, err := json.Marshal(test.origin)
		var kind struct{ Kind string }
		if err != nil || json.Unmarshal(encoded, &kind) != nil || kind.Kind != test.kind {
			t.Errorf("%s: %v, want %s", encoded, err, test.kind)
		}
		var decoded Origin
		if err := json.Unmarshal(encoded, &decoded); err != nil || decoded != test.origin {
			t.Errorf("%s was read as %+v, %v", encoded, decoded, err)
		}
	}
	if err := new(Kind).UnmarshalText([]byte("guess")); err == nil {
		t.Error("there is no such kind")
	}
	if _, err := Kind(99).MarshalText(); err == nil {
		t.Error("there is no such kind")
	}
}
