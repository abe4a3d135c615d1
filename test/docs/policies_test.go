package docs

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/mirrord-go/mirrord/internal/manifest"
	"github.com/mirrord-go/mirrord/internal/policy"
	"github.com/mirrord-go/mirrord/internal/policy/suite"
)

var yamlBlock = regexp.MustCompile("(?s)```yaml\n(.*?)```")

// TestPolicyExamples checks each manifest of docs/policies.md as lint does, and runs its suite
// against all of them.
func TestPolicyExamples(t *testing.T) {
	page, err := os.ReadFile(root + "docs/policies.md")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, folder := range []string{"policies", "profiles"} {
		if err := os.Mkdir(filepath.Join(dir, folder), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	reader, err := manifest.NewReader(manifest.Policies())
	if err != nil {
		t.Fatal(err)
	}
	suites := 0
	for i, block := range yamlBlock.FindAllSubmatch(page, -1) {
		name := filepath.Join(dir, "policies", string(rune('a'+i))+".yaml")
		if isSuite := !strings.HasPrefix(string(block[1]), "apiVersion:"); isSuite {
			name = filepath.Join(dir, "suite.yaml")
			suites++
		}
		if err := os.WriteFile(name, block[1], 0o600); err != nil {
			t.Fatal(err)
		}
		if filepath.Base(name) != "suite.yaml" {
			reader.File(name)
		}
	}
	for _, problem := range reader.Problems() {
		t.Error(problem)
	}
	for _, object := range reader.Objects() {
		for _, problem := range policy.FromObject(object.Value).Problems() {
			t.Errorf("%s: %s %s: %s", object.Source(), problem.Severity, problem.Path, problem.Message)
		}
	}
	if suites != 1 || len(reader.Objects()) < 5 {
		t.Fatalf("%d suites, %d policies", suites, len(reader.Objects()))
	}
	s, err := suite.Load(filepath.Join(dir, "suite.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	results, err := s.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		if !r.Passed() {
			t.Errorf("%s: %s", r.Name, strings.Join(r.Failures, "\n"))
		}
	}
}

// TestPolicyCheckOutput compares the output that docs/policies.md shows.
func TestPolicyCheckOutput(t *testing.T) {
	page, err := os.ReadFile(root + "docs/policies.md")
	if err != nil {
		t.Fatal(err)
	}
	_, shown, found := strings.Cut(string(page), "```console\n$ mirrord policy check ")
	line, shown, _ := strings.Cut(shown, "\n")
	shown, _, ends := strings.Cut(shown, "```")
	if !found || !ends {
		t.Fatal("the example is gone")
	}
	cmd := exec.Command(build(t), append([]string{"policy", "check"}, strings.Fields(line)...)...)
	cmd.Dir = root
	out, err := cmd.Output()
	if err == nil {
		t.Error("the session is allowed")
	}
	if string(out) != shown {
		t.Errorf("docs/policies.md shows\n%s\nand the output is\n%s", shown, out)
	}
}
