package config

import (
	"slices"
	"strings"
	"sync"
)

// Status says what this version does with a field.
type Status int

// The statuses.
const (
	// Supported fields do what they say.
	Supported Status = iota
	// Ignored fields have no effect; a warning says so when their user would notice.
	Ignored
	// Refused fields are errors when they ask for what this version cannot do, since to
	// ignore them would send traffic or data elsewhere than the user asked.
	Refused
	// Inert fields belong to something that this program does not have; they are accepted
	// and need no warning.
	Inert
)

// String is the status in a table.
func (s Status) String() string {
	return [...]string{"supported", "ignored", "not supported yet", "no effect"}[s]
}

// valueKind is what a field's value looks like in Go once it is read:
type valueKind int

const (
	kindBool      valueKind = iota // bool
	kindText                       // string
	kindUint                       // uint64
	kindTexts                      // []string; one string in the file means a list of it
	kindTextMap                    // map[string]string
	kindPort                       // []uint16; one number in the file means a list of it
	kindPortPairs                  // [][2]uint16
	kindSecrets                    // []string; in the file [{"name": STRING}]
	kindObjects                    // []map[string]any
	kindObject                     // map[string]any
	kindHTTPRules                  // []HTTPRule
	kindHTTPBody                   // HTTPRule
	kindAny                        // any
	kindTarget                     // TargetPath
)

// Field is one setting of the configuration file.
type Field struct {
	// Path is the dotted path, such as "feature.network.incoming.mode".
	Path string
	// Env are the environment variables that set it, the strongest first.
	Env []string
	// Flag is the flag of mirrord exec that sets it, as in "--steal"; empty without one.
	Flag string
	// Default is the value without one from the user; nil is none.
	Default any
	// DefaultText describes a default that depends on something.
	DefaultText string
	// Enum are the values of a text that has only some.
	Enum []string
	// Status and Note say what this version does with the field, and why.
	Status Status
	Note   string
	// Doc is what the field means, in a sentence.
	Doc string
	// Proof names what shows the effect of a field that shapes a session: an end-to-end test,
	// or a section of docs/limits.md that says what happens instead. See proofs.
	Proof string

	kind valueKind
	// form is advice for who gives a value of another kind; may be empty.
	form  string
	max   uint64
	bind  binding
	check func(*checker)
	// parse reads an environment variable or flag whose notation is not that of the kind.
	parse func(variable, value string) (any, error)
	// harmless says that a value asks for nothing but what this version does anyway; without
	// it, the default, false, and empty values are.
	harmless func(v any) bool
	// moot says that other values of the configuration leave the field without effect.
	moot func(c *Config) bool
	// byProfile: a profile can change the field, or what makes it moot.
	byProfile bool
}

// Type describes the values that the file may have.
func (f *Field) Type() string {
	switch f.kind {
	case kindBool:
		return "true or false"
	case kindText:
		if len(f.Enum) > 0 {
			return "one of " + quotedList(f.Enum)
		}
		return "a string"
	case kindUint:
		return "a whole number"
	case kindTexts:
		return "a string, or a list of strings"
	case kindTextMap:
		return "an object of strings"
	case kindPort:
		return "a port, or a list of ports"
	case kindPortPairs:
		return "a list of pairs of ports"
	case kindSecrets:
		return `a list of {"name": NAME}`
	case kindObjects:
		return "a list of objects"
	case kindObject, kindHTTPBody:
		return "an object"
	case kindHTTPRules:
		return "a list of filters"
	case kindTarget:
		return "a string or an object"
	}
	return "anything"
}

// binding connects a field to its place in a [Config]; the zero value has none.
type binding struct {
	get func(*Config) any // nil when the field has no value
	set func(*Config, any)
}

// table is the schema: all fields in the order of the documentation, and what the paths
// above them may have.
type table struct {
	fields []*Field
	byPath map[string]*Field
	// keys are the keys that an object may have, by its path.
	keys map[string][]string
}

// schema returns the table, which nobody changes.
var schema = sync.OnceValue(func() *table {
	t, proofs := &table{byPath: map[string]*Field{}, keys: map[string][]string{}}, proofs()
	for _, part := range [][]Field{rootFields(), networkFields(), featureFields(), agentFields(), otherFields()} {
		for i := range part {
			part[i].Proof = proofOf(part[i].Path, proofs)
			t.add(&part[i])
		}
	}
	return t
})

func (t *table) add(f *Field) {
	t.fields = append(t.fields, f)
	t.byPath[f.Path] = f
	for path := f.Path; path != ""; {
		parent, key := splitPath(path)
		if !slices.Contains(t.keys[parent], key) {
			t.keys[parent] = append(t.keys[parent], key)
		}
		path = parent
	}
}

// splitPath cuts the last key off a path.
func splitPath(path string) (parent, key string) {
	if i := strings.LastIndexByte(path, '.'); i >= 0 {
		return path[:i], path[i+1:]
	}
	return "", path
}

func joinPath(parent, key string) string {
	if parent == "" {
		return key
	}
	return parent + "." + key
}

// elsewhere finds a key that the file has in the wrong place: the path where it belongs, or
// "" when there is none or more than one.
func (t *table) elsewhere(key string) string {
	found := ""
	for parent, keys := range t.keys {
		if slices.Contains(keys, key) {
			if found != "" {
				return ""
			}
			found = joinPath(parent, key)
		}
	}
	return found
}

// Fields returns all fields that a configuration file may have, in the order of the
// documentation.
func Fields() []*Field { return slices.Clone(schema().fields) }

// Sections returns the paths of objects that have a notation shorter than an object, and
// what it is.
func Sections() map[string]string {
	return map[string]string{
		"target":                               `a target path such as "deployment/shop"`,
		"feature.network":                      "true, or false to switch incoming, outgoing and dns off",
		"feature.network.incoming":             `"mirror", "steal", "off", true for mirror, or false for off`,
		"feature.network.incoming.http_filter": "true or false for no filter",
		"feature.network.outgoing":             "true or false for both tcp and udp",
		"feature.network.dns":                  "true or false for enabled",
		"feature.env":                          `true, or false for exclude: "*"`,
		"feature.fs":                           "a mode, true for read, or false for local",
		"feature.copy_target":                  "true or false for enabled; an object without it means enabled",
	}
}

// removedKeys are fields that earlier versions of the format had.
func removedKeys() map[string]string {
	return map[string]string{
		"connect_tcp":                 "this field was removed from the format; remove it, a session always finds its agent by itself",
		"pause":                       "this field was removed from the format; remove it, a target is never paused",
		"agent.pause":                 "this field was removed from the format; remove it, a target is never paused",
		"agent.network_interface":     "this field was removed from the format; remove it, traffic of all interfaces is seen",
		"feature.capture_error_trace": "this field was removed from the format; remove it",
	}
}
