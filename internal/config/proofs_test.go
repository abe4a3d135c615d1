package config

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	testFunction = regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	section      = regexp.MustCompile(`(?m)^## (.+)$`)
)

// shown has what a proof names: the source of end-to-end tests by the name of each, and the
// sections of the page of limits by their anchors.
func shown(t *testing.T) (tests, limits map[string]string) {
	t.Helper()
	tests, limits = map[string]string{}, map[string]string{}
	files, err := filepath.Glob("../../test/e2e/*_test.go")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range testFunction.FindAllSubmatch(source, -1) {
			tests[string(m[1])] = string(source)
		}
	}
	page, err := os.ReadFile("../../docs/" + limitsPage)
	if err != nil {
		t.Fatal(err)
	}
	starts := section.FindAllSubmatchIndex(page, -1)
	for i, at := range starts {
		end := len(page)
		if i+1 < len(starts) {
			end = starts[i+1][0]
		}
		anchor := strings.ReplaceAll(strings.ToLower(string(page[at[2]:at[3]])), " ", "-")
		limits[limitsPage+"#"+anchor] = string(page[at[1]:end])
	}
	return tests, limits
}

// TestProofs: each field that shapes a session has an end-to-end test that sets it, or a line
// in docs/limits.md that names it and says what happens instead.
func TestProofs(t *testing.T) {
	tests, limits := shown(t)
	known := proofs()
	for _, f := range Fields() {
		shapes := strings.HasPrefix(f.Path, "target.") || strings.HasPrefix(f.Path, "feature.")
		if shapes != (f.Proof != "") {
			t.Errorf("%s: its proof is %q", f.Path, f.Proof)
			continue
		}
		maps.DeleteFunc(known, func(path, _ string) bool { return path == f.Path || strings.HasPrefix(f.Path, path+".") })
		source, isTest := tests[f.Proof]
		text, isLimit := limits[f.Proof]
		switch {
		case !shapes:
		case isTest && f.Status != Supported:
			t.Errorf("%s is %s, and %s is said to show it", f.Path, f.Status, f.Proof)
		case isTest && !setIn(source, f):
			t.Errorf("%s: the file of %s does not set it", f.Path, f.Proof)
		case isLimit && !namedIn(text, f):
			t.Errorf("%s: docs/%s does not name it", f.Path, f.Proof)
		case !isTest && !isLimit:
			t.Errorf("%s: there is no %s", f.Path, f.Proof)
		}
	}
	if len(known) > 0 {
		t.Errorf("these are no fields: %v", slices.Sorted(maps.Keys(known)))
	}
}

// setIn reports whether a test mentions the field: by its key, a shorter notation, a variable,
// or a flag.
func setIn(source string, f *Field) bool {
	parent, key := splitPath(f.Path)
	names := append([]string{key}, f.Env...)
	if _, short := splitPath(parent); key == "path" || key == "enabled" {
		names = append(names, short) // "target": "pod/web", "dns": false
	}
	names = append(names, strings.Split(f.Flag, ", ")...)
	return slices.ContainsFunc(names, func(name string) bool {
		return name != "" && (strings.Contains(source, `"`+name+`"`) || strings.Contains(source, name+"=") || strings.Contains(source, "`"+name+"`"))
	})
}

// namedIn reports whether a section names the field, or what it is a part of.
func namedIn(text string, f *Field) bool {
	for path := f.Path; path != "feature" && path != "target" && path != "feature.network" && path != "feature.network.incoming"; {
		parent, key := splitPath(path)
		for _, name := range []string{key, path, strings.TrimPrefix(path, "feature.")} {
			if regexp.MustCompile("`" + regexp.QuoteMeta(name) + "[`: .]").MatchString(text) {
				return true
			}
		}
		path = parent
	}
	return false
}
