package grant

import (
	"errors"
	"fmt"
	"slices"

	"github.com/mirrord-go/mirrord/internal/pattern"
)

// Names of the lists in a policy's spec, for messages.
const (
	fieldFSLocal    = "fs.local"
	fieldFSNotFound = "fs.notFound"
	fieldFSReadOnly = "fs.readOnly"
)

// fileRules are the compiled rules of one policy.
type fileRules struct {
	policy string
	lists  []fileList // in the order in which they count
}

type fileList struct {
	field    string
	hides    bool
	patterns []*pattern.Pattern
}

func (e *Enforcer) compileFiles(g Grant) []error {
	var problems []error
	compile := func(owner, field string, texts []string) (all []*pattern.Pattern) {
		for i, text := range texts {
			p, err := pattern.Compile(text, pattern.IgnoreCase)
			if err != nil {
				problems = append(problems, fmt.Errorf("%s: %s[%d]: %w", owner, field, i, err))
			}
			all = append(all, p)
		}
		return all
	}
	for _, f := range g.Files {
		ready := fileRules{policy: f.Policy}
		for _, l := range []struct {
			field string
			hides bool
			texts []string
		}{{fieldFSLocal, true, f.Local}, {fieldFSNotFound, true, f.NotFound}, {fieldFSReadOnly, false, f.ReadOnly}} {
			if len(l.texts) > 0 {
				ready.lists = append(ready.lists, fileList{l.field, l.hides, compile(fmt.Sprintf("policy %q", f.Policy), l.field, l.texts)})
			}
		}
		if len(ready.lists) > 0 {
			e.files = append(e.files, ready)
		}
	}
	if g.Features != nil {
		e.written = compile("features", "filesWritten", g.Features.FilesWritten)
	}
	return problems
}

// Files says whether the session may have files of the target at all. The error is a [*Refusal].
func (e *Enforcer) Files() error {
	if e.features == nil || e.features.Files != "" {
		return nil
	}
	return &Refusal{Action: "using files of the target", Causes: []Cause{e.features.lacks("feature.fs.mode", "local")}}
}

// FilesByName says that some rule is about names of files.
func (e *Enforcer) FilesByName() bool {
	return len(e.files) > 0 || e.features != nil && e.features.Files == FilesRead && len(e.written) > 0
}

// File says whether the session may read, or change, a file of the target: name is an absolute path without "." and "..". The error is a
// [*Refusal]; [Refusal.Hides] says whether the file is as good as not there. A name whose match takes too long matches.
func (e *Enforcer) File(name string, write bool) error {
	if err := e.Files(); err != nil {
		return err
	}
	r := &Refusal{Action: "reading the target's file " + name}
	if write {
		r.Action = "changing the target's file " + name
	}
	if write && e.features != nil && e.features.Files != FilesWrite && !matchesFile(e.written, name, false) {
		r.Causes = append(r.Causes, e.features.lacks("feature.fs.mode", e.features.Files))
	}
	for _, f := range e.files {
		if c, ok := f.judge(name, write); ok {
			r.Causes = append(r.Causes, c)
		}
	}
	if len(r.Causes) == 0 {
		return nil
	}
	return r
}

func (f *fileRules) judge(name string, write bool) (Cause, bool) {
	for _, l := range f.lists {
		if !matchesFile(l.patterns, name, true) {
			continue
		}
		switch {
		case l.hides:
			return Cause{
				Code: CodeFileHidden, Policy: f.policy, Rule: l.field,
				Next: `Use a file of your own, with "feature.fs.local" or "feature.fs.mapping".`,
			}, true
		case write:
			return Cause{
				Code: CodeFileReadOnly, Policy: f.policy, Rule: l.field,
				Next: `Let the file stay local, with "feature.fs.local" or "feature.fs.mapping".`,
			}, true
		}
		return Cause{}, false
	}
	return Cause{}, false
}

// matchesFile says whether a pattern matches the name; late is for matches that take too long.
func matchesFile(patterns []*pattern.Pattern, name string, late bool) bool {
	return slices.ContainsFunc(patterns, func(p *pattern.Pattern) bool {
		matched, err := p.Match(name)
		return matched || late && errors.Is(err, pattern.ErrTimeout)
	})
}

// Hides says that a cause is that the target has no such file, as far as the session is concerned.
func (r *Refusal) Hides() bool {
	return slices.ContainsFunc(r.Causes, func(c Cause) bool { return c.Code == CodeFileHidden })
}
