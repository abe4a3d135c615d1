package version

import "testing"

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"":                       "dev",
		"(devel)":                "dev",
		"v1.2.3":                 "1.2.3",
		"1.2.3":                  "1.2.3",
		"v0.0.0-20260101+dirty":  "0.0.0-20260101-dirty",
		"v1.0.0-3-gabcdef-dirty": "1.0.0-3-gabcdef-dirty",
		"vnext":                  "vnext",
	} {
		if got := clean(in); got != want {
			t.Errorf("clean(%q) = %q, want %q", in, got, want)
		}
	}
	if String() == "" {
		t.Error("no version")
	}
}
