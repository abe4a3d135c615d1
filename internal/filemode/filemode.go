// Package filemode decides by path where a program's files are: on the laptop, in the target, or nowhere ("feature.fs").
//
// It looks at names alone, before symbolic links are resolved, and asks nobody, so that every call of a program can be decided on the way. The order:
// the mapping replaces the path; then the user's lists (read_write, read_only, local, not_found); then the lists that are built in; then the
// mode. What a policy says comes first of all: it is enforced in the target too, see internal/grant.
package filemode

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
)

// Mode is what holds for files that no list names.
type Mode string

// The modes, as the configuration spells them. The zero value leaves all local, as Off does.
const (
	// Read reads files of the target, and writes those of the laptop.
	Read Mode = "read"
	// Write reads and writes files of the target.
	Write Mode = "write"
	// Off leaves all files local, and the lists aside.
	Off Mode = "local"
	// Overrides leaves files local but for those that the lists name.
	Overrides Mode = "localwithoverrides"
)

// Settings are the user's. The lists and the keys of Mapping are regular expressions without regard to case.
type Settings struct {
	Mode Mode
	// ReadWrite, ReadOnly, Local and NotFound say where the files are that they match; the first list that does counts.
	ReadWrite, ReadOnly, Local, NotFound []string
	// Mapping replaces paths before all else; $1 in a value is what a group of its key matched.
	Mapping map[string]string
}

// Place is where a file is.
type Place uint8

// The places. The zero value is invalid, so that a forgotten decision fails.
const (
	// Local is the laptop: the call goes on untouched.
	Local Place = iota + 1
	// ReadOnly is the target, for reading.
	ReadOnly
	// ReadWrite is the target, for reading and writing.
	ReadWrite
	// NotFound is nowhere: ENOENT.
	NotFound
)

// String names the place.
func (p Place) String() string {
	return [...]string{"invalid", "local", "read-only", "read-write", "not found"}[p]
}

// Remote says that the file is the target's.
func (p Place) Remote() bool { return p == ReadOnly || p == ReadWrite }

// Policy are the rules for files that a policy has, as regular expressions without regard to case: see internal/grant. Of several that match,
// Local comes first, then NotFound, then ReadOnly.
type Policy struct{ ReadOnly, Local, NotFound []string }

// Laptop is what the built-in lists depend on.
type Laptop struct {
	// Home is the user's home directory, Dir the working directory, Program the directory of the program; empty when there is none. They are
	// local, with all that is below them; so are the directories above them, but not what else is in those.
	Home, Dir, Program string
	// Local are further directories of this kind.
	Local []string
}

// Rules decide. They are immutable and may be used from many goroutines. The zero value leaves all local.
type Rules struct {
	mode     Mode
	mapping  []mapping
	lists    []list // in their order
	policies []policy
	laptop   Laptop
	local    []string        // what the program brings along
	above    map[string]bool // the directories above those
}

type mapping struct {
	pattern     *regexp.Regexp
	replacement string
}

type list struct {
	place    Place
	patterns []*regexp.Regexp
}

type policy struct{ readOnly, local, notFound []*regexp.Regexp }

// Compile makes rules of a configuration.
func Compile(fs Settings, policies []Policy, laptop Laptop) (*Rules, error) {
	if laptop.Home != "" {
		laptop.Home = path.Clean(laptop.Home) // names that are compared with it are clean
	}
	r := &Rules{mode: fs.Mode, laptop: laptop}
	r.local, r.above = laptop.brought()
	for _, l := range []struct {
		field    string
		place    Place
		patterns []string
	}{{"read_write", ReadWrite, fs.ReadWrite}, {"read_only", ReadOnly, fs.ReadOnly}, {"local", Local, fs.Local}, {"not_found", NotFound, fs.NotFound}} {
		compiled, err := compile(l.patterns)
		if err != nil {
			return nil, fmt.Errorf("feature.fs.%s: %w", l.field, err)
		}
		r.lists = append(r.lists, list{l.place, compiled})
	}
	for _, key := range slices.Sorted(keys(fs.Mapping)) {
		p, err := compile([]string{key})
		if err != nil {
			return nil, fmt.Errorf("feature.fs.mapping: %w", err)
		}
		r.mapping = append(r.mapping, mapping{p[0], fs.Mapping[key]})
	}
	return r.With(policies)
}

// With returns the rules with further policies.
func (r *Rules) With(policies []Policy) (*Rules, error) {
	with := *r
	with.policies = slices.Clone(r.policies)
	for _, p := range policies {
		var c policy
		for _, l := range []struct {
			to   *[]*regexp.Regexp
			from []string
		}{{&c.readOnly, p.ReadOnly}, {&c.local, p.Local}, {&c.notFound, p.NotFound}} {
			compiled, err := compile(l.from)
			if err != nil {
				return nil, fmt.Errorf("a policy's rule for files: %w", err)
			}
			*l.to = compiled
		}
		with.policies = append(with.policies, c)
	}
	return &with, nil
}

func keys(m map[string]string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

func compile(patterns []string) ([]*regexp.Regexp, error) {
	var out []*regexp.Regexp
	for _, p := range patterns {
		re, err := regexp.Compile("(?i)" + p)
		if err != nil {
			return nil, fmt.Errorf("%q is no regular expression: %w", p, err)
		}
		out = append(out, re)
	}
	return out, nil
}

// Active says whether any file can be the target's: otherwise no call needs to be looked at.
func (r *Rules) Active() bool { return r != nil && r.mode != "" && r.mode != Off }

// Decide says where the file at an absolute path is, and the path that it has there: the given one, made clean, unless the mapping says otherwise. Write says that
// the file is to be created, changed or opened for writing; a place is then never ReadOnly.
func (r *Rules) Decide(name string, write bool) (Place, string) {
	if !r.Active() || name == "" || name[0] != '/' {
		return Local, name
	}
	clean := path.Clean(name)
	mapped := r.mapped(clean)
	place := r.judge(mapped)
	if place == ReadOnly && write {
		// As the public mirrord has it: what can't be written in the target is written on the laptop.
		place = Local
	}
	return place, mapped
}

// mapped applies the first entry of the mapping that matches.
func (r *Rules) mapped(name string) string {
	for _, m := range r.mapping {
		if !m.pattern.MatchString(name) {
			continue
		}
		if out := m.pattern.ReplaceAllString(name, m.replacement); strings.HasPrefix(out, "/") {
			return path.Clean(out)
		}
		return name
	}
	return name
}

// judge finds the place, before it is known whether it is for writing.
func (r *Rules) judge(name string) Place {
	readOnly := false
	for _, p := range r.policies {
		switch {
		case matches(p.local, name):
			return Local
		case matches(p.notFound, name):
			return NotFound
		case matches(p.readOnly, name):
			readOnly = true
		}
	}
	place := r.listed(name)
	if place == 0 {
		place = r.builtIn(name)
	}
	if place == 0 {
		place = map[Mode]Place{
			Read: ReadOnly, Write: ReadWrite, Overrides: Local,
		}[r.mode]
	}
	if place == ReadWrite && readOnly {
		place = ReadOnly
	}
	return place
}

func (r *Rules) listed(name string) Place {
	for _, l := range r.lists {
		if matches(l.patterns, name) {
			return l.place
		}
	}
	return 0
}

func matches(patterns []*regexp.Regexp, name string) bool {
	return slices.ContainsFunc(patterns, func(re *regexp.Regexp) bool { return re.MatchString(name) })
}
