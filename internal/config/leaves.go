package config

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/mirrord-go/mirrord/internal/config/origin"
	"github.com/mirrord-go/mirrord/internal/config/template"
)

// Leaf is one value of a configuration, for a person who wants to know where it came from.
type Leaf struct {
	// Path is the field, such as "feature.network.incoming.mode".
	Path string `json:"path"`
	// Value is in the shape of the file; null without one.
	Value json.RawMessage `json:"value"`
	// Origin is where it came from.
	Origin origin.Origin `json:"origin"`
}

// Leaves returns the values of all fields that this version has a use for, and those that
// the user gave to others, in the order of the documentation.
func (c *Config) Leaves() []Leaf {
	var list []Leaf
	for _, f := range schema().fields {
		value, known := c.shaped(f)
		if !known {
			continue
		}
		encoded, err := json.Marshal(value)
		if err != nil {
			// Values are texts, numbers and what JSON was read from; only a number that JSON
			// has not, such as .inf of YAML, ends here.
			encoded = []byte(strconv.Quote(fmt.Sprint(value)))
		}
		list = append(list, Leaf{Path: f.Path, Value: encoded, Origin: c.Origin(f.Path)})
	}
	return list
}

// shaped returns the value of a field in the shape of the file, nil when it has none, and
// false for a field that nobody set and nothing uses.
func (c *Config) shaped(f *Field) (any, bool) {
	if f.bind.get == nil {
		value, ok := c.extra[f.Path]
		return value, ok
	}
	value := f.bind.get(c)
	if names, ok := value.([]string); ok && f.kind == kindSecrets {
		objects := make([]map[string]string, len(names))
		for i, name := range names {
			objects[i] = map[string]string{"name": name}
		}
		return objects, true
	}
	return value, true
}

// Resolved returns the whole configuration as an indented JSON file: to load it gives the
// same values again. A target that nobody chose is null.
func (c *Config) Resolved() ([]byte, error) {
	root := map[string]any{}
	for _, leaf := range c.Leaves() {
		if string(leaf.Value) == "null" {
			continue
		}
		if leaf.Path == "target.path" && !c.HasTarget() {
			leaf.Value = json.RawMessage("null")
		}
		at := root
		keys := strings.Split(leaf.Path, ".")
		for _, key := range keys[:len(keys)-1] {
			next, ok := at[key].(map[string]any)
			if !ok {
				next = map[string]any{}
				at[key] = next
			}
			at = next
		}
		at[keys[len(keys)-1]] = leaf.Value
	}
	resolved, err := json.MarshalIndent(root, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("cannot write the configuration as JSON: %w", err)
	}
	return append(escapeMarks(resolved), '\n'), nil
}

// escapeMarks spells the braces of what would be a template's mark, inside strings, in
// another way. Outside of strings, indented JSON has no two such characters in a row.
func escapeMarks(text []byte) []byte {
	if !template.HasMarks(text) {
		return text
	}
	var escaped []byte
	for i, c := range text {
		if c == '{' && i+1 < len(text) && strings.IndexByte("{%#", text[i+1]) >= 0 {
			escaped = append(escaped, `\u007b`...)
			continue
		}
		escaped = append(escaped, c)
	}
	return escaped
}
