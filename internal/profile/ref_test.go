package profile

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseRef(t *testing.T) {
	valid := map[string]Ref{
		"base":             {Name: "base"},
		"base.v2":          {Name: "base.v2"},
		"team/base":        {Namespace: "team", Name: "base"},
		"team-1/base.v2-x": {Namespace: "team-1", Name: "base.v2-x"},
	}
	for input, want := range valid {
		got, err := ParseRef(input)
		if err != nil || got != want {
			t.Errorf("ParseRef(%q) = %+v, %v", input, got, err)
		}
		if got.String() != input {
			t.Errorf("ParseRef(%q).String() = %q", input, got)
		}
	}
	malformed := []string{
		"", "/", "/base", "team/", "a/b/c", "team//base", "Base", "base ", " base", "team /base",
		"base_2", "-base", "base-", "base..v2", "team.x/base", "TEAM/base", "b\x00", "bäse",
		strings.Repeat("a", 254), strings.Repeat("n", 64) + "/base",
	}
	for _, input := range malformed {
		_, err := ParseRef(input)
		e, ok := errors.AsType[*MalformedRefError](err)
		if !ok {
			t.Errorf("ParseRef(%q): %v", input, err)
			continue
		}
		if !strings.Contains(e.Hint(), `"name"`) || !strings.Contains(e.Hint(), `"namespace/name"`) {
			t.Errorf("ParseRef(%q) does not show the two forms: %s", input, e.Hint())
		}
	}
}

func FuzzParseRef(f *testing.F) {
	for _, seed := range []string{"base", "team/base", "/", "a/b/c", "", "team/", "Ä/b"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, input string) {
		ref, err := ParseRef(input)
		if err != nil {
			return
		}
		if ref.String() != input || ref.Name == "" || strings.Contains(ref.Name, "/") {
			t.Errorf("ParseRef(%q) = %+v", input, ref)
		}
	})
}

func TestNear(t *testing.T) {
	have := []Ref{{"", "team-base"}, {"", "minimal"}, {"team", "bases"}, {"", "base"}, {"team", "base"}, {"", "other"}}
	tests := []struct {
		want Ref
		near []Ref
	}{
		{Ref{"", "bse"}, []Ref{{"", "base"}, {"team", "base"}}},
		{Ref{"team", "base"}, []Ref{{"team", "base"}, {"", "base"}, {"team", "bases"}}},
		{Ref{"", "minimum"}, []Ref{{"", "minimal"}}},
		{Ref{"", "nothing-like-it"}, []Ref{}},
		{Ref{"x", "other"}, []Ref{{"", "other"}}},
		{Ref{"", "bsae"}, []Ref{{"", "base"}, {"team", "base"}}}, // two letters changed places
		{Ref{"", "aebs"}, []Ref{}},
		{Ref{"", ""}, []Ref{}},
	}
	for _, test := range tests {
		if diff := cmp.Diff(test.near, Near(test.want, have)); diff != "" {
			t.Errorf("Near(%v) (-want +got):\n%s", test.want, diff)
		}
	}
}
