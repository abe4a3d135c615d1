// Package docs checks the documentation against the program: that its messages are explained,
// its commands exist, and its links lead somewhere.
package docs

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const root = "../../"

// pages are all Markdown files of the repository.
func pages(t *testing.T) []string {
	t.Helper()
	found := []string{root + "README.md", root + "CHANGELOG.md", root + "internal/tunnel/SPEC.md"}
	for _, pattern := range []string{"docs/*.md", "docs/*/*.md"} {
		more, err := filepath.Glob(root + pattern)
		if err != nil || len(more) == 0 {
			t.Fatalf("%s: %v, %v", pattern, more, err)
		}
		found = append(found, more...)
	}
	return found
}

// commandLine finds commands of ours in examples and in running text.
var commandLine = regexp.MustCompile("(?m)(?:^\\s*\\$ |`|\\| )(?:bin/)?(mirrord [a-z][^`\n|]*)")

// build makes the program.
func build(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "mirrord")
	cmd := exec.Command("go", "build", "-o", program, root+"cmd/mirrord")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return program
}

// TestExplainOutput compares the output that docs/profiles.md shows.
func TestExplainOutput(t *testing.T) {
	page, err := os.ReadFile(root + "docs/profiles.md")
	if err != nil {
		t.Fatal(err)
	}
	const line = "$ mirrord profile explain -f mirrord.json -n shop --no-outgoing\n"
	_, shown, found := strings.Cut(string(page), line)
	shown, _, ends := strings.Cut(shown, "…\n")
	if !found || !ends {
		t.Fatalf("the example %q is gone", line)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "mirrord.json"), []byte(`{ "profile": "team-base", "target": "deployment/shop" }`), 0o600); err != nil {
		t.Fatal(err)
	}
	profiles, err := filepath.Abs(root + "examples/profiles")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(build(t), append(strings.Fields(line)[2:], "--profiles-dir", profiles)...)
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	key := regexp.MustCompile(`key "[0-9a-f]{5}"`)
	plain := func(text string) string {
		return key.ReplaceAllString(strings.Join(strings.Fields(text), " "), "key")
	}
	if !strings.HasPrefix(plain(string(out)), plain(shown)) {
		t.Errorf("docs/profiles.md shows\n%s\nand the output is\n%s", shown, out)
	}
}

// TestCommands asks for the help of each command that a page shows, with the flags that it shows.
func TestCommands(t *testing.T) {
	program := build(t)
	total := 0
	for _, page := range pages(t) {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range commandLine.FindAllSubmatch(text, -1) {
			line, _, _ := strings.Cut(string(match[1]), " #")
			line, _, _ = strings.Cut(line, " --- ")
			words := slices.DeleteFunc(strings.Fields(line)[1:], func(w string) bool { return strings.Contains(w, "…") || strings.HasPrefix(w, "[") })
			if len(words) == 0 || strings.ToUpper(words[0]) == words[0] {
				continue
			}
			if i := slices.Index(words, "--"); i >= 0 {
				words = words[:i]
			}
			total++
			cmd := exec.Command(program, append(words, "--help")...)
			cmd.Env = append(os.Environ(), "KUBECONFIG=/does/not/exist")
			if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("Usage:")) {
				t.Errorf("%s shows %q: %v\n%s", page, match[1], err, out)
			}
		}
	}
	if total < 20 {
		t.Errorf("only %d commands were found", total)
	}
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.*)$`)
	unsaid  = regexp.MustCompile("[^a-z0-9 _-]")
)

// TestLinks follows each link inside the repository, to its heading.
func TestLinks(t *testing.T) {
	for _, page := range pages(t) {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range link.FindAllSubmatch(text, -1) {
			target, anchor, _ := strings.Cut(string(match[1]), "#")
			if strings.Contains(target, "://") {
				continue
			}
			path := filepath.Join(filepath.Dir(page), target)
			if target == "" {
				path = page
			}
			there, err := os.Stat(path)
			if err != nil {
				t.Errorf("%s: %v", page, err)
				continue
			}
			if anchor == "" || there.IsDir() {
				continue
			}
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			found := false
			for _, h := range heading.FindAllSubmatch(b, -1) {
				slug := strings.ReplaceAll(unsaid.ReplaceAllString(strings.ToLower(string(h[1])), ""), " ", "-")
				found = found || slug == anchor
			}
			if !found {
				t.Errorf("%s: %s has no heading #%s", page, path, anchor)
			}
		}
	}
}
