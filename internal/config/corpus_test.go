package config

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mirrord-go/mirrord/internal/config/origin"
)

var update = flag.Bool("update", false, "write the golden files")

// environ makes a lookup of pairs.
func environ(pairs ...string) func(string) (string, bool) {
	values := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		values[pairs[i]] = pairs[i+1]
	}
	return func(name string) (string, bool) { v, ok := values[name]; return v, ok }
}

// testOptions are options that give the same result on every machine.
func testOptions(path string) LoadOptions {
	return LoadOptions{
		Path: path, Version: "1.2.3",
		Environ:   environ("TARGET", "deployment/shop"),
		GitBranch: func(context.Context) (string, bool) { return "feature/Login", true },
		NewKey:    func() string { return "k1" },
	}
}

// outcome loads a file, and says all that a user would be told, and each value that is not a
// default.
func outcome(t *testing.T, path string) (kind, text string) {
	t.Helper()
	c, warnings, err := Load(t.Context(), testOptions(path))
	if err == nil {
		var more Warnings
		more, err = Finalize(c, FinalizeOptions{})
		warnings = append(warnings, more...)
	}
	var b strings.Builder
	for _, line := range warnings.Strings() {
		b.WriteString("warning: " + line + "\n")
	}
	if err != nil {
		var problems *Problems
		if !errors.As(err, &problems) {
			t.Fatalf("%s: not a list of problems: %v", path, err)
		}
		b.WriteString(problems.Error() + "\n")
		return "error", b.String()
	}
	kind = "ok"
	if len(warnings) > 0 {
		kind = "warn"
	}
	for _, leaf := range c.Leaves() {
		if from := c.Origin(leaf.Path); from.Kind != origin.Default {
			fmt.Fprintf(&b, "%s = %s (%s)\n", leaf.Path, leaf.Value, from)
		}
	}
	return kind, b.String()
}

// Each file of the corpus is named for what comes of it, and its golden file has the words.
func TestCorpus(t *testing.T) {
	t.Chdir("testdata/corpus")
	files, err := filepath.Glob("*.*")
	files = slices.DeleteFunc(files, func(name string) bool { return strings.HasSuffix(name, ".golden") })
	if err != nil || len(files) < 70 {
		t.Fatal(len(files), err)
	}
	for _, file := range files {
		t.Run(file, func(t *testing.T) {
			kind, text := outcome(t, file)
			if want, _, _ := strings.Cut(file, "-"); kind != want {
				t.Errorf("the outcome is %q:\n%s", kind, text)
			}
			golden := file + ".golden"
			if *update {
				if err := os.WriteFile(golden, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), text); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// What Resolved writes gives the same configuration when it is loaded, and the same bytes
// when it is written again.
func TestResolvedRoundTrip(t *testing.T) {
	files, err := filepath.Glob("testdata/corpus/[ow]*.*")
	if err != nil {
		t.Fatal(err)
	}
	tested := 0
	for _, file := range files {
		if strings.HasSuffix(file, ".golden") {
			continue
		}
		tested++
		c, _, err := Load(t.Context(), testOptions(file))
		if err != nil {
			t.Fatal(err)
		}
		resolved, err := c.Resolved()
		if err != nil {
			t.Fatal(err)
		}
		opts := LoadOptions{Path: "-", Stdin: bytes.NewReader(resolved)}
		again, _, err := Load(t.Context(), opts)
		if err != nil {
			t.Fatalf("%s: %v\n%s", file, err, resolved)
		}
		first, second := *c, *again
		first.origins, second.origins = nil, nil
		if diff := cmp.Diff(first, second, cmp.AllowUnexported(Config{})); diff != "" {
			t.Errorf("%s: %s", file, diff)
		}
		if second, err := again.Resolved(); err != nil || !bytes.Equal(resolved, second) {
			t.Errorf("%s: %v\n%s", file, err, cmp.Diff(string(resolved), string(second)))
		}
	}
	if tested < 10 {
		t.Error("too few files:", tested)
	}
}
