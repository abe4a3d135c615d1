package config

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A default that the documentation spells out is a value of the configuration, with which
// "mirrord profile explain" shows it.
func TestLeavesHaveTheDefaults(t *testing.T) {
	c, _, err := Load(t.Context(), testOptions(""))
	if err != nil {
		t.Fatal(err)
	}
	leaves := map[string]any{}
	for _, leaf := range c.Leaves() {
		var value any
		if err := json.Unmarshal(leaf.Value, &value); err != nil {
			t.Fatal(leaf.Path, err)
		}
		leaves[leaf.Path] = value
	}
	compared := 0
	for _, f := range Fields() {
		if f.Status != Supported {
			continue
		}
		got, listed := leaves[f.Path]
		if !listed {
			t.Errorf("%s is supported, and not in the list", f.Path)
			continue
		}
		want, spelled := spelledDefault(t, f)
		// Without a delivery in the file there is none, and nothing that it could be done with.
		if !spelled || strings.HasPrefix(f.Path, "feature.network.incoming.tls_delivery.") || strings.HasPrefix(f.Path, "feature.network.incoming.https_delivery.") {
			continue
		}
		compared++
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: the documented default is another (-documented +value):\n%s", f.Path, diff)
		}
	}
	if compared < 20 {
		t.Error("too few defaults:", compared)
	}
}

// spelledDefault is a default that is one value, as JSON has it.
func spelledDefault(t *testing.T, f *Field) (any, bool) {
	t.Helper()
	text := []byte(strings.Trim(f.DefaultText, "`"))
	if f.Default != nil {
		var err error
		if text, err = json.Marshal(f.Default); err != nil {
			t.Fatal(f.Path, err)
		}
	}
	var value any
	return value, json.Unmarshal(text, &value) == nil
}
