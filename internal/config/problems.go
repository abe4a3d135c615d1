package config

import (
	"cmp"
	"slices"
	"strings"

	"github.com/mirrord-go/mirrord/internal/config/origin"
)

// Problem is one thing that is wrong with a configuration, or, as a warning, that its user
// should know.
type Problem struct {
	// Path is the field, such as "feature.network.incoming.mode"; empty for the whole file.
	Path string
	// Origin is where the value stands. The zero value is a problem of no single place.
	Origin origin.Origin
	// Message says what is wrong, and Suggestion, which may be empty, what to do.
	Message    string
	Suggestion string
}

// String is one line: "mirrord.json:4:9: feature.fs.mode: MESSAGE; SUGGESTION".
func (p Problem) String() string {
	var b strings.Builder
	if p.Origin.Kind != origin.Default {
		b.WriteString(p.Origin.String())
		b.WriteString(": ")
	}
	if p.Path != "" {
		b.WriteString(p.Path)
		b.WriteString(": ")
	}
	b.WriteString(p.Message)
	if p.Suggestion != "" {
		b.WriteString("; ")
		b.WriteString(p.Suggestion)
	}
	return b.String()
}

// Warnings are what a user should know about a configuration that works.
type Warnings []Problem

// Strings returns one line for each.
func (w Warnings) Strings() []string {
	lines := make([]string, len(w))
	for i, p := range w {
		lines[i] = p.String()
	}
	return lines
}

// Problems is the error of a configuration that cannot be used: everything that is wrong
// with it, at once.
type Problems struct{ List []Problem } //nolint:errname // a list, of which each is what the name says

// Error has one line for each problem.
func (p *Problems) Error() string {
	return strings.Join(Warnings(p.List).Strings(), "\n")
}

// MissingFileError says that there is no file at the path that the user gave.
type MissingFileError struct {
	Path string
	Err  error
}

func (e *MissingFileError) Error() string { return "there is no configuration file " + e.Path }

// Unwrap returns the system's error.
func (e *MissingFileError) Unwrap() error { return e.Err }

// Hint says where paths come from.
func (e *MissingFileError) Hint() string {
	return "Correct the path. Without -f and $MIRRORD_CONFIG_FILE, a session runs with the defaults."
}

// report collects problems and warnings.
type report struct {
	problems []Problem
	warnings []Problem
}

func (r *report) problem(p Problem) { r.problems = append(r.problems, p) }
func (r *report) warning(p Problem) { r.warnings = append(r.warnings, p) }

// result returns the warnings and the error, in the order of the file.
func (r *report) result() (Warnings, error) {
	warnings := ordered(r.warnings)
	if len(r.problems) == 0 {
		return warnings, nil
	}
	return warnings, &Problems{List: ordered(r.problems)}
}

// ordered sorts by place and drops what is said twice.
func ordered(list []Problem) []Problem {
	slices.SortStableFunc(list, func(a, b Problem) int {
		return cmp.Or(
			cmp.Compare(a.Origin.Kind, b.Origin.Kind),
			cmp.Compare(a.Origin.Line, b.Origin.Line),
			cmp.Compare(a.Origin.Column, b.Origin.Column),
		)
	})
	return slices.Compact(list)
}
