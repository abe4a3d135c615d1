// Package arch holds the rules of the project's structure as tests, each with its reason.
package arch

import (
	"encoding/json"
	"errors"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/mirrord-go/mirrord"

// pkg is what `go list` says of a package.
type pkg struct {
	ImportPath, Dir   string
	GoFiles, CgoFiles []string
	Imports, Deps     []string
}

func list(t *testing.T, args ...string) []pkg {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Dir,GoFiles,CgoFiles,Imports,Deps"}, args...)...)
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var pkgs []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		switch err := d.Decode(&p); {
		case errors.Is(err, io.EOF):
			return pkgs
		case err != nil:
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
}

// TestEveryPackageTellsItsStory: a newcomer reads the package comment first, so there is one,
// and only one, that begins with the name of the package or program. That holds for all Go
// files of the repository, those of its other modules and of test programs among them.
func TestEveryPackageTellsItsStory(t *testing.T) {
	packages := sources(t, "../..")
	for _, dir := range []string{"internal/cli", "test/bench/loader", "test/cluster/cmd/cluster", "test/cluster/hyperkube", "test/e2e/programs/gonet", "internal/agent/node/testdata/app"} {
		if packages[dir] == nil {
			t.Errorf("%s was not looked at", dir)
		}
	}
	for dir, files := range packages {
		var stories []string
		for _, f := range files {
			file, err := parser.ParseFile(token.NewFileSet(), filepath.Join("../..", dir, f), nil, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			if file.Doc == nil || strings.TrimSpace(file.Doc.Text()) == "" {
				continue
			}
			stories = append(stories, f)
			want, story := []string{"Package " + file.Name.Name}, file.Doc.Text()
			if file.Name.Name == "main" {
				program := filepath.Base(dir)
				want = []string{program, "Command " + program}
			}
			if !slices.ContainsFunc(want, func(begin string) bool {
				return len(story) > len(begin) && strings.EqualFold(story[:len(begin)], begin) && strings.ContainsAny(story[len(begin):len(begin)+1], " ,.\n")
			}) {
				t.Errorf("the comment of %s/%s begins with %.30q, want %q", dir, f, story, want)
			}
		}
		if len(stories) != 1 {
			t.Errorf("%s has %d package comments: %v", dir, len(stories), stories)
		}
	}
}

// sources are the Go files below root by folder, but for tests.
func sources(t *testing.T, root string) map[string][]string {
	t.Helper()
	found := map[string][]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "bin"):
			return filepath.SkipDir
		case !d.IsDir() && strings.HasSuffix(d.Name(), ".go") && !strings.HasSuffix(d.Name(), "_test.go"):
			dir, err := filepath.Rel(root, filepath.Dir(path))
			if err != nil {
				return err
			}
			dir = filepath.ToSlash(dir)
			found[dir] = append(found[dir], d.Name())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestImports keeps apart what would otherwise grow together.
func TestImports(t *testing.T) {
	for _, rule := range []struct {
		pkgs   string
		forbid []string
		reason string
	}{
		{"./api/...", []string{module + "/internal/...", "k8s.io/client-go/..."}, "others import the types; they bring apimachinery and nothing else"},
		{"./internal/config/...", []string{"k8s.io/...", module + "/internal/kube/..."}, "a configuration is read without a cluster"},
		{"./internal/profile/...", []string{"k8s.io/client-go/...", module + "/internal/kube/..."}, "profiles are applied without a client; the cluster is one store of several"},
		{"./internal/policy/...", []string{"k8s.io/client-go/...", module + "/internal/kube/..."}, "policies are evaluated without a client; the operator and the CLI decide alike"},
		{"./internal/grant/...", []string{"k8s.io/...", module + "/internal/config/..."}, "the agent links it"},
		{"./internal/pattern/...", []string{"k8s.io/..."}, "the agent links it"},
		{"./internal/tunnel/...", []string{"k8s.io/...", module + "/internal/session/...", module + "/internal/agent/..."}, "the tunnel knows neither of its ends"},
		{"./internal/intercept/...", []string{"k8s.io/...", module + "/internal/tunnel/...", module + "/internal/config/..."}, "interception knows its Network and nothing of where it comes from"},
		{"./internal/agent/...", []string{"k8s.io/...", module + "/internal/kube/...", module + "/internal/config/...", "github.com/spf13/cobra"}, "the agent's image stays small, and it asks no API server"},
		{"./internal/session/...", []string{"k8s.io/client-go/...", module + "/internal/kube/...", module + "/internal/cli/..."}, "a session runs against any agent; the demo's has no cluster"},
		{"./cmd/mirrord", []string{"github.com/cilium/ebpf/...", "github.com/google/nftables/...", "github.com/gopacket/gopacket/...", "k8s.io/apiserver/...", module + "/internal/operator/..."}, "what works in the cluster is not part of the CLI"},
		{"./internal/operator/...", []string{module + "/internal/cli/...", module + "/internal/session/...", module + "/internal/intercept/..."}, "the operator is no client"},
	} {
		for _, p := range list(t, rule.pkgs) {
			for _, dep := range p.Deps {
				for _, f := range rule.forbid {
					if matches(f, dep) && !strings.HasPrefix(p.ImportPath, strings.TrimSuffix(f, "/...")) {
						t.Errorf("%s depends on %s: %s", p.ImportPath, dep, rule.reason)
					}
				}
			}
		}
	}
}

func matches(pattern, path string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "/..."); ok {
		return path == prefix || strings.HasPrefix(path, prefix+"/")
	}
	return path == pattern
}

// TestMainsAreShort: what a program does can be tested only where main is not.
func TestMainsAreShort(t *testing.T) {
	for _, p := range list(t, "./cmd/...") {
		for _, f := range p.GoFiles {
			fset := token.NewFileSet()
			ast, err := parser.ParseFile(fset, filepath.Join(p.Dir, f), nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range ast.Decls {
				if lines := fset.Position(d.End()).Line - fset.Position(d.Pos()).Line; lines > 12 {
					t.Errorf("%s/%s has a declaration of %d lines", p.ImportPath, f, lines)
				}
			}
		}
	}
}
