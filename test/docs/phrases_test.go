package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// phrase is the longest fixed piece of a message.
type phrase struct {
	text string
	at   token.Position
}

// verb is what a format string has in the place of a value.
var verb = regexp.MustCompile(`%[-+#0-9.\[\]]*[a-zA-Z]`)

// shortest is the length below which a piece says nothing.
const shortest = 12

// phrasesOf finds the messages in a package's files: what Error methods are made of, what stands
// in fields called Why, and with all, what new errors say.
func phrasesOf(t *testing.T, pattern string, all bool) []phrase {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: no files, %v", pattern, err)
	}
	var found []phrase
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		set := token.NewFileSet()
		f, err := parser.ParseFile(set, name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		literals := func(n ast.Node) {
			ast.Inspect(n, func(n ast.Node) bool {
				l, ok := n.(*ast.BasicLit)
				if !ok || l.Kind != token.STRING {
					return true
				}
				text, err := strconv.Unquote(l.Value)
				if err != nil {
					t.Fatal(err)
				}
				pieces := verb.Split(text, -1)
				longest := slices.MaxFunc(pieces, func(a, b string) int { return len(a) - len(b) })
				if longest = strings.Trim(longest, " ,.:;"); len(longest) >= shortest {
					found = append(found, phrase{longest, set.Position(l.Pos())})
				}
				return true
			})
		}
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				if n.Recv != nil && n.Name.Name == "Error" {
					literals(n.Body)
				}
			case *ast.KeyValueExpr:
				if key, ok := n.Key.(*ast.Ident); ok && key.Name == "Why" {
					literals(n.Value)
				}
			case *ast.AssignStmt:
				if s, ok := n.Lhs[0].(*ast.SelectorExpr); ok && s.Sel.Name == "Why" {
					literals(n.Rhs[0])
				}
			case *ast.CallExpr:
				if s, ok := n.Fun.(*ast.SelectorExpr); all && ok && (s.Sel.Name == "Errorf" || s.Sel.Name == "New") && len(n.Args) > 0 {
					if x, ok := s.X.(*ast.Ident); ok && (x.Name == "fmt" || x.Name == "errors") {
						literals(n.Args[0])
					}
				}
			}
			return true
		})
	}
	return found
}

// TestTroubleshootingIsComplete looks for every message that a user may meet, by its longest
// fixed piece.
func TestTroubleshootingIsComplete(t *testing.T) {
	page := strings.ReplaceAll(words(t, "../../docs/troubleshooting.md"), `\|`, "|")
	sources := map[string]bool{ // and whether all their errors count
		"policy/*.go": false, "grant/*.go": false, "manifest/*.go": false, "pattern/*.go": false,
		"policy/suite/*.go": false, "cli/policies/check/*.go": false, "cli/lint/*.go": false,
		"kube/*.go": false, "profile/*.go": false, "profile/dirstore/*.go": false, "resolve/*.go": false, "session/*.go": false,
		"session/remote/*.go": false, "cli/execcmd/*.go": false, "agent/steal/*.go": false,
		"session/plan.go": true, "intercept/start_linux.go": true, "intercept/intercept.go": true, "intercept/seccomp/listener_linux.go": true,
		"cli/operator/*.go": true, "cli/democmd/*.go": true, "demo/world/world.go": true,
	}
	// What no user meets alone, or meets as part of another message.
	exempt := []string{"no reason given", "intercept: a path and a network are required", "the laptop's own socket is to be used", "prctl(PR_SET_NO_NEW_PRIVS)", "seccomp(SECCOMP_SET_MODE_FILTER)"}
	total := 0
	for pattern, all := range sources {
		for _, p := range phrasesOf(t, "../../internal/"+pattern, all) {
			total++
			if !slices.Contains(exempt, p.text) && !strings.Contains(page, p.text) {
				t.Errorf("docs/troubleshooting.md does not have %q (%s)", p.text, p.at)
			}
		}
	}
	if total < 50 {
		t.Errorf("only %d messages were found", total)
	}
}

// words is a page with single spaces.
func words(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(strings.Fields(string(b)), " ")
}
