package envvars

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	in := "\ufeff# a comment\r\n" +
		"PLAIN=value\r\n" +
		"  SPACED = a b  # comment\n" +
		"HASH=a#b\n" +
		"EMPTY=\n" +
		"COMMENT=#nothing\n" +
		"export EXPORTED=1\n" +
		"export\tTABBED=2\n" +
		"exported=3\n" +
		"SINGLE='a \"b\" \\n $c' # comment\n" +
		"DOUBLE=\"a\\tb\\n\\\"c\\\" \\\\ \\$d \\q\"\n" +
		"LINES=\"one\ntwo\"\n" +
		"TWICE=1\nTWICE=2\n" +
		"dotted.name-x=ok\n" +
		"LAST=no newline"
	want := map[string]string{
		"PLAIN": "value", "SPACED": "a b", "HASH": "a#b", "EMPTY": "", "COMMENT": "", "EXPORTED": "1", "TABBED": "2",
		"exported": "3", "SINGLE": `a "b" \n $c`, "DOUBLE": "a\tb\n\"c\" \\ $d \\q", "LINES": "one\ntwo", "TWICE": "2",
		"dotted.name-x": "ok", "LAST": "no newline",
	}
	got, err := Parse([]byte(in))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("variables (-want +got):\n%s", diff)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, tt := range []struct {
		in   string
		line int
	}{
		{"A=1\nsecret\n", 2},
		{"=secret", 1},
		{"1A=secret", 1},
		{"A B=secret", 1},
		{"A='x\ny'\nB='secret", 3},
		{"\n\nA=\"secret\nmore", 3},
		{"A=\"x\ny\" secret", 2},
		{"A=x\x00secret", 1},
	} {
		_, err := Parse([]byte(tt.in))
		var se *SyntaxError
		if !errors.As(err, &se) || se.Line != tt.line || strings.Contains(err.Error(), "secret") {
			t.Errorf("Parse(%q): %v, want a syntax error in line %d without the text", tt.in, err, tt.line)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"A=1", "export B='x' # c", "C=\"a\\\"\nb\"", "D", "=", "\"", "E='", "\ufeffF=1\r\n", "G=\"\\"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		vars, err := Parse(in)
		if err != nil {
			var se *SyntaxError
			if !errors.As(err, &se) || se.Line < 1 || se.Line > 1+strings.Count(string(in), "\n") {
				t.Fatalf("error %v for %q", err, in)
			}
			return
		}
		for n, v := range vars {
			if !validName(n) || strings.ContainsRune(v, 0) {
				t.Fatalf("variable %q=%q cannot be given to a process", n, v)
			}
		}
	})
}
