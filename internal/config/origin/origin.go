// Package origin remembers where each value of a configuration came from, so that a user
// who wonders about a value can be shown the line, variable, flag or profile that set it.
package origin

import (
	"fmt"
	"slices"
)

// Kind is a source of values. Later kinds win over earlier ones.
type Kind int

// The sources, in rising precedence. Derived values follow from others after all of them.
const (
	Default Kind = iota
	File
	Environment
	Flag
	Profile
	Derived
)

// Origin is where one value came from. The zero value is the default.
type Origin struct {
	Kind Kind `json:"kind"`
	// Name is the file's path, the variable, the flag with its dashes, or the profile's
	// reference; for Derived, the path of the field that it follows from.
	Name string `json:"name,omitempty"`
	// Line and Column are positions in the file, from 1.
	Line   int `json:"line,omitempty"`
	Column int `json:"column,omitempty"`
	// Adjustment is the number of the profile's adjustment, from 1.
	Adjustment int `json:"adjustment,omitempty"`
}

// String describes the origin to the user: "mirrord.json:4:9", "$MIRRORD_REMOTE_DNS",
// "--steal", `profile "base", adjustment 2`, "default", "follows from feature.network.outgoing.filter".
func (o Origin) String() string {
	switch o.Kind {
	case File:
		if o.Line == 0 {
			return o.Name
		}
		return fmt.Sprintf("%s:%d:%d", o.Name, o.Line, o.Column)
	case Environment:
		return "$" + o.Name
	case Flag:
		return o.Name
	case Profile:
		if o.Adjustment == 0 {
			return fmt.Sprintf("profile %q", o.Name)
		}
		return fmt.Sprintf("profile %q, adjustment %d", o.Name, o.Adjustment)
	case Derived:
		return "follows from " + o.Name
	}
	return "default"
}

// kinds are the spellings of the kinds.
var kinds = [...]string{"default", "file", "environment", "flag", "profile", "derived"}

// MarshalText spells the kind in lower case.
func (k Kind) MarshalText() ([]byte, error) {
	if k < 0 || int(k) >= len(kinds) {
		return nil, fmt.Errorf("unknown origin %d", k)
	}
	return []byte(kinds[k]), nil
}

// UnmarshalText reads what MarshalText wrote, for programs that read a session's summary.
func (k *Kind) UnmarshalText(text []byte) error {
	i := slices.Index(kinds[:], string(text))
	if i < 0 {
		return fmt.Errorf("unknown origin %q", text)
	}
	*k = Kind(i)
	return nil
}

// Map holds the origins of a configuration's leaves by their dotted path in the file, such
// as "feature.network.incoming.mode". A missing path is a default.
type Map map[string]Origin
