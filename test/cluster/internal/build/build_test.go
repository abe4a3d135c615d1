package build

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mirrord-go/mirrord/test/cluster/internal/progress"
)

// module writes a module of one program that prints text.
func module(t *testing.T, dir, text string) {
	t.Helper()
	main := "package main\n\nfunc main() { println(" + text + ") }\n"
	if err := errors.Join(
		os.WriteFile(filepath.Join(dir, "go.mod"), []byte("module example.com/p\n\ngo 1.25.0\n"), 0o600),
		os.WriteFile(filepath.Join(dir, "main.go"), []byte(main), 0o600),
	); err != nil {
		t.Fatal(err)
	}
}

func TestEnsureBuildsOnceForEachState(t *testing.T) {
	source, into := t.TempDir(), t.TempDir()
	module(t, source, `"a"`)
	var lines bytes.Buffer
	out := progress.New(&lines)
	p := program{name: "p", what: "building p", links: []string{"q"}}
	ensure := func(wantBuild bool) string {
		t.Helper()
		lines.Reset()
		dir, err := p.ensure(t.Context(), source, into, "go", out)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(lines.String(), "building p"); got != wantBuild {
			t.Errorf("built: %v, want %v", got, wantBuild)
		}
		for _, n := range []string{"p", "q"} {
			if _, err := os.Stat(filepath.Join(dir, n)); err != nil {
				t.Error(err)
			}
		}
		return dir
	}
	first := ensure(true)
	if again := ensure(false); again != first {
		t.Errorf("the same sources are in %s and %s", first, again)
	}
	module(t, source, `"b"`)
	if second := ensure(true); second == first {
		t.Error("changed sources are in the same folder")
	}
	module(t, source, `"a"`)
	if back := ensure(false); back != first {
		t.Errorf("the first sources are now in %s, before in %s", back, first)
	}
}

func TestFailedBuildLeavesNothing(t *testing.T) {
	source, into := t.TempDir(), t.TempDir()
	module(t, source, `undefinedName`)
	p := program{name: "p", what: "building p"}
	_, err := p.ensure(t.Context(), source, into, "go", progress.New(&bytes.Buffer{}))
	if err == nil || !strings.Contains(err.Error(), "undefinedName") {
		t.Errorf("error %v does not show the compiler's", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.ensure(ctx, source, into, "go", progress.New(&bytes.Buffer{})); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	left, err := os.ReadDir(into)
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestVersionAgreesWithModule(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("..", "..", "hyperkube", "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	if want := "k8s.io/kubernetes " + Version + "\n"; !strings.Contains(string(b), want) {
		t.Errorf("hyperkube/go.mod does not require %q", want)
	}
}
