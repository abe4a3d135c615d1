package tree

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// The same document in each format gives the same values, and each key and value is found
// where it stands.
func TestParseFormats(t *testing.T) {
	want := map[string]any{
		"target": "pod/a",
		"agent":  map[string]any{"ttl": int64(30), "ephemeral": false, "ratio": 1.5},
		"list":   []any{int64(1), "two", []any{int64(3)}},
		"maps":   []any{map[string]any{"name": "x"}},
	}
	documents := map[Format]string{
		JSON: `// a comment
{
  "target": "pod/a", /* another */
  "agent": {"ttl": 30, "ephemeral": false, "ratio": 1.5,},
  "list": [1, "two", [3],],
  "maps": [{"name": "x"}],
}`,
		YAML: `# a comment
target: pod/a
agent: &a
  ttl: 30
  ephemeral: false
  ratio: 1.5
list: [1, "two", [3]]
maps:
  - name: x
`,
		TOML: `# a comment
target = "pod/a"
list = [1, "two", [3]]
[agent]
ttl = 30
ephemeral = false
ratio = 1.5
[[maps]]
name = "x"
`,
	}
	for format, text := range documents {
		t.Run(format.String(), func(t *testing.T) {
			root, err := Parse(format, []byte(text))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, root.Value()); diff != "" {
				t.Error(diff)
			}
			checkPlaces(t, text, root)
		})
	}
}

// checkPlaces looks each key up in the text at its position.
func checkPlaces(t *testing.T, text string, n *Node) {
	for _, m := range n.Members {
		at := strings.TrimLeft(text[m.Offset:], `"`)
		if !strings.HasPrefix(at, m.Key) {
			t.Errorf("the key %s is said to be at %q", m.Key, text[m.Offset:min(m.Offset+10, len(text))])
		}
		if m.Value.Kind == Number || m.Value.Kind == Bool {
			if want := fmt.Sprint(m.Value.Value()); !strings.HasPrefix(text[m.Value.Offset:], want) {
				t.Errorf("%s = %s is said to be at %q", m.Key, want, text[m.Value.Offset:min(m.Value.Offset+10, len(text))])
			}
		}
		checkPlaces(t, text, m.Value)
	}
	for _, item := range n.Items {
		if item.Kind == Number && !strings.HasPrefix(text[item.Offset:], item.Text) {
			t.Errorf("%s is said to be at %q", item.Text, text[item.Offset:])
		}
		checkPlaces(t, text, item)
	}
}

func TestParseMistakes(t *testing.T) {
	deep := strings.Repeat("[", 5000)
	tests := []struct {
		name         string
		format       Format
		text         string
		line, column int
		want         string
	}{
		{"empty", JSON, " \n", 1, 1, "the file is empty"},
		{"json quotes", JSON, "{\n  'a': 1}", 2, 3, "double quotes"},
		{"json bare key", JSON, "{\n  a: 1}", 2, 3, "double quotes"},
		{"json comma", JSON, "{\"a\": 1\n \"b\": 2}", 2, 2, "comma missing"},
		{"json end", JSON, "{\"a\": 1", 1, 8, "ends too early"},
		{"json twice", JSON, "{\"a\": 1,\n \"a\": 2}", 2, 2, `"a" stands twice`},
		{"json rest", JSON, "{} x", 1, 4, "after top-level value"},
		{"json deep", JSON, deep, 1, 201, "nested too deep"},
		{"not text", JSON, "{\xff}", 1, 2, "UTF-8"},
		{"yaml", YAML, "a: [1, 2\nb: 3", 2, 1, "not YAML"},
		{"yaml tab", YAML, "a:\n\tb: 1", 2, 1, "not YAML"},
		{"yaml twice", YAML, "a: 1\nb: 2\na: 3", 3, 1, `"a" stands twice`},
		{"yaml alias", YAML, "a: *nope", 1, 4, "no anchor"},
		{"yaml documents", YAML, "a: 1\n---\nb: 2", 3, 1, "second YAML document"},
		{"yaml empty", YAML, "# nothing\n", 1, 1, "the file is empty"},
		{"yaml dashes", YAML, strings.Repeat("- ", 4000), 1, 1, "indented too far"},
		{"toml", TOML, "a = 1\nb = \n", 2, 5, "not TOML"},
		{"toml twice", TOML, "a = 1\na = 2\n", 2, 1, "not TOML"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := Parse(test.format, []byte(test.text))
			all := Errors(err)
			if len(all) == 0 {
				t.Fatal("no error")
			}
			if !strings.Contains(all[0].Message, test.want) {
				t.Errorf("got %q, want %q in it", all[0].Message, test.want)
			}
			if line, column := Position([]byte(test.text), all[0].Offset); line != test.line || column != test.column {
				t.Errorf("at %d:%d, want %d:%d (%s)", line, column, test.line, test.column, all[0].Message)
			}
		})
	}
}

func TestYAMLReferences(t *testing.T) {
	root, err := Parse(YAML, []byte("base: &b {x: 1, y: 2}\nmine:\n  <<: *b\n  y: 3\nsame: *b\ntag: !!str 12\ntext: |\n  two\n  lines\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"base": map[string]any{"x": int64(1), "y": int64(2)},
		"mine": map[string]any{"x": int64(1), "y": int64(3)},
		"same": map[string]any{"x": int64(1), "y": int64(2)},
		"tag":  "12",
		"text": "two\nlines\n",
	}
	if diff := cmp.Diff(want, root.Value()); diff != "" {
		t.Error(diff)
	}
}

// Aliases of aliases do not expand without bound.
func TestYAMLAliasesAreBounded(t *testing.T) {
	var b strings.Builder
	b.WriteString("a0: &a0 [x, x, x, x, x, x, x, x]\n")
	for i := 1; i < 30; i++ {
		fmt.Fprintf(&b, "a%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i-1), 8), ", "))
	}
	if _, err := Parse(YAML, []byte(b.String())); err == nil {
		t.Error("no error")
	}
}

// A large file is no reason to wait.
func TestParseLarge(t *testing.T) {
	for format, document := range map[Format]func(i int) string{
		JSON: func(i int) string { return fmt.Sprintf("\"key%d\": [1, 2, {\"a\": \"text\"}],\n", i) },
		YAML: func(i int) string { return fmt.Sprintf("key%d: [1, 2, {a: text}]\n", i) },
		TOML: func(i int) string { return fmt.Sprintf("key%d = [1, 2, {a = \"text\"}]\n", i) },
	} {
		var b bytes.Buffer
		if format == JSON {
			b.WriteString("{")
		}
		for i := range 5000 {
			b.WriteString(document(i))
		}
		if format == JSON {
			b.WriteString("}")
		}
		start := time.Now()
		if _, err := Parse(format, b.Bytes()); err != nil {
			t.Errorf("%s: %v", format, err)
		}
		took := time.Since(start)
		t.Logf("%s: %d KiB in %v", format, b.Len()>>10, took)
		if took > 20*time.Second {
			t.Errorf("%s: %d KiB took %v", format, b.Len()>>10, took)
		}
	}
}

func FuzzParse(f *testing.F) {
	for format := range 3 {
		for _, seed := range []string{
			`{"a": [1, true, null, "x"]}`, "a: &x [1]\nb: *x\n<<: {c: 1}\n", "a.b = 1\n[[c]]\nd = {e = 1}\n[c.f]\n", "{", "- -", "? a\n: b", "!!x y",
		} {
			f.Add(format, []byte(seed))
		}
	}
	f.Fuzz(func(t *testing.T, format int, text []byte) {
		if format < 0 || format > 2 {
			return
		}
		root, err := Parse(Format(format), text)
		for _, e := range Errors(err) {
			if e.Offset < 0 || e.Offset > len(text) {
				t.Errorf("%s: offset %d of %d: %s", Format(format), e.Offset, len(text), e.Message)
			}
		}
		if root != nil {
			checkOffsets(t, root, len(text))
		} else if err == nil {
			t.Error("neither a tree nor an error")
		}
	})
}

func checkOffsets(t *testing.T, n *Node, size int) {
	if n.Offset < 0 || n.Offset > size {
		t.Errorf("offset %d of %d", n.Offset, size)
	}
	for _, m := range n.Members {
		if m.Offset < 0 || m.Offset > size {
			t.Errorf("key at %d of %d", m.Offset, size)
		}
		checkOffsets(t, m.Value, size)
	}
	for _, item := range n.Items {
		checkOffsets(t, item, size)
	}
}
