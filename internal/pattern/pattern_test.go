package pattern

import (
	"errors"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/dlclark/regexp2"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	// The slow engine's clock stops by itself, but later than the tests do.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/dlclark/regexp2.runClock"))
}

func TestMatch(t *testing.T) {
	for _, test := range []struct {
		pattern string
		opts    []Option
		yes, no []string
	}{
		{`^a+$`, nil, []string{"a", "aaa"}, []string{"", "b", "A", "aab"}},
		{`b`, nil, []string{"abc"}, []string{"ac"}},
		{`^a|B`, []Option{IgnoreCase}, []string{"A", "xb"}, []string{"xa"}},
		{`^(?!internal\.).+\.corp$`, nil, []string{"shop.corp"}, []string{"internal.corp", "shop.corp.evil"}},
		{`^(?!INTERNAL\.).+\.corp$`, []Option{IgnoreCase}, []string{"Shop.Corp"}, []string{"internal.corp"}},
		{`^(a|b)\1$`, nil, []string{"aa", "bb"}, []string{"ab"}},
		{``, nil, []string{"", "x"}, nil},
	} {
		p, err := Compile(test.pattern, test.opts...)
		if err != nil {
			t.Errorf("%q: %v", test.pattern, err)
			continue
		}
		if p.String() != test.pattern {
			t.Errorf("%q is shown as %q", test.pattern, p)
		}
		for want, texts := range map[bool][]string{true: test.yes, false: test.no} {
			for _, text := range texts {
				if got, err := p.Match(text); got != want || err != nil {
					t.Errorf("%q matches %q: %t, %v", test.pattern, text, got, err)
				}
			}
		}
	}
}

// TestIgnoreCaseKeepsGroups: a text that closes a group it has not opened is no pattern,
// whatever is put around it to ignore case.
func TestIgnoreCaseKeepsGroups(t *testing.T) {
	if _, err := Compile("a)(b", IgnoreCase); err == nil {
		t.Error("a stray parenthesis compiles")
	}
}

func TestSyntaxErrors(t *testing.T) {
	for text, words := range map[string]string{
		"(":                                "missing closing )",
		"(?=":                              "missing closing )",
		"[z-a]":                            "invalid character class range",
		"*":                                "missing argument to repetition operator",
		`(?!a)(`:                           "missing closing )",
		`(?!a)[z-a]`:                       "[z-a] range in reverse order",
		strings.Repeat("x", MaxLength+1):   "longer than 4096 bytes",
		strings.Repeat("(?=", MaxLength/3): "",
	} {
		_, err := Compile(text)
		var bad *SyntaxError
		if !errors.As(err, &bad) || bad.Pattern != text || !strings.Contains(err.Error(), words) || bad.Reason == "" {
			t.Errorf("%.20q: %v", text, err)
		}
		if err != nil && len(err.Error()) > 400 {
			t.Errorf("the message has %d bytes", len(err.Error()))
		}
	}
}

// TestTimeout: a pattern that would take years is given up.
// TestRepetitionsAreBounded: a short text may be a large program.
func TestRepetitionsAreBounded(t *testing.T) {
	for text, bad := range map[string]bool{
		`x{1000}`: false, `(ab){1000}`: false, `.{2,1000}y{0,1000}`: false, `x{0}`: false, `x{7,}`: false,
		strings.Repeat("a", MaxLength):         false,
		strings.Repeat(`x{1000}`, 6):           true,
		`(?:abcdefghijkl){500}`:                true,
		strings.Repeat(`x{1000}`, MaxLength/7): true,
	} {
		_, err := Compile(text, IgnoreCase)
		if (err != nil) != bad || bad && !strings.Contains(err.Error(), "steps") {
			t.Errorf("%s: %v", shorten(text), err)
		}
	}
}

func TestTimeout(t *testing.T) {
	p, err := Compile(`^(?=a)(a+)+\1$`)
	if err != nil {
		t.Fatal(err)
	}
	defer regexp2.StopTimeoutClock()
	done := make(chan error, 1)
	go func() {
		_, err := p.Match(strings.Repeat("a", 60) + "!")
		done <- err
	}()
	select {
	case err := <-done:
		if !errors.Is(err, ErrTimeout) {
			t.Errorf("the match ends with %v", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("the match is not given up")
	}
}

func TestGlob(t *testing.T) {
	for _, test := range []struct {
		glob, text string
		want       bool
	}{
		{"", "", true},
		{"", "a", false},
		{"*", "", true},
		{"*", "pod/x", true},
		{"deploy/shop", "deploy/shop", true},
		{"deploy/shop", "deploy/shop-1", false},
		{"deploy/shop", "Deploy/shop", false},
		{"deploy/shop*", "deploy/shop-1", true},
		{"deploy/?hop", "deploy/shop", true},
		{"deploy/?hop", "deploy/hop", false},
		{"*shop*", "pod/my-shop-1", true},
		{"a*b*c", "aXbYc", true},
		{"a*b*c", "aXbY", false},
		{"*.?", "a.b.c", true},
		{"?", "é", true},
		{"DB_*", "DB_", true},
		{"**", "x", true},
		{"[a]", "a", false},
		{"[a]", "[a]", true},
		{"a.c", "abc", false},
	} {
		if got := Glob(test.glob, test.text); got != test.want {
			t.Errorf("%q matches %q: %t", test.glob, test.text, got)
		}
	}
}

// FuzzGlob compares with the regular expression that the glob means.
func FuzzGlob(f *testing.F) {
	f.Add("a*b?c", "axxbyc")
	f.Add("**?", "")
	f.Add("", "é")
	f.Fuzz(func(t *testing.T, glob, text string) {
		var expr strings.Builder
		for _, r := range glob {
			switch r {
			case '*':
				expr.WriteString(".*")
			case '?':
				expr.WriteString(".")
			default:
				expr.WriteString(regexp.QuoteMeta(string(r)))
			}
		}
		if len(expr.String()) > 900 || !utf8.ValidString(glob) || !utf8.ValidString(text) {
			return
		}
		want := regexp.MustCompile(`\A(?s:` + expr.String() + `)\z`).MatchString(text)
		if got := Glob(glob, text); got != want {
			t.Errorf("%q matches %q: %t, and the regular expression says %t", glob, text, got, want)
		}
	})
}

// FuzzCompile looks for texts that make an engine panic or hang.
func FuzzCompile(f *testing.F) {
	for _, seed := range []string{"^a+$", "(?!x)y", `(a)\1`, "(?<n>a)\\k<n>", "[[:alpha:]]", "(?i", `\p{Greek}`, "a{1000}", "(?(1)a|b)"} {
		f.Add(seed, "some text: aaa")
	}
	f.Fuzz(func(_ *testing.T, text, input string) {
		if len(text) > 200 || len(input) > 200 {
			return
		}
		if p, err := Compile(text, IgnoreCase); err == nil {
			_, _ = p.Match(input)
		}
	})
}

// TestTooManyLoops: the engine that backtracks remembers each round of a loop, also where there is nothing to match.
func TestTooManyLoops(t *testing.T) {
	for text, refused := range map[string]bool{
		`(?=x)(?:|a){1000000000}`:                   true,
		`(?=x)(?:|a){1000000000,}?`:                 true,
		`(?=x)(?:(?:(?:|a){100}){100}){100}`:        true,
		`(?=x)(?:(?:|a){3000}b)(?:|c){3000}`:        true,
		`(?=x)(?:(?:|a){1000}b)(?:|c){1000}`:        false,
		`(?=x)[0-9a-f]{8}(-[0-9a-f]{4}){3}-x{99}`:   false,
		`(?=x)(?:a{9999}|.{9999}){2}`:               false,
		`(?=x)(?:ab|c){0,1000000000}`:               false, // only as often as there is text
		`(?=x)(a|b)(?(1)c|d)(?<n>e)\k<n>(?>f)(?!g)`: false,
	} {
		_, err := Compile(text, IgnoreCase)
		if (err != nil) != refused || refused && !strings.Contains(err.Error(), "5000 steps") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// TestMatchAny: what all texts together may take is bounded.
func TestMatchAny(t *testing.T) {
	const line = "x-user: anna"
	for name, tt := range map[string]struct {
		pattern string
		texts   []string
		want    bool
		err     error
	}{
		"none":      {"a", nil, false, nil},
		"one":       {"^b", []string{"a", "b", "c"}, true, nil},
		"no":        {"^d", []string{"a", "b", "c"}, false, nil},
		"slow one":  {"^(?=x)x-user", []string{"a", line}, true, nil},
		"slow no":   {"^(?=y)x-user", []string{"a", line}, false, nil},
		"too much":  {"(?:x?){900}y", []string{"y", strings.Repeat("x", 1<<20)}, true, nil},
		"too much2": {"(?:x?){900}z", slices.Repeat([]string{strings.Repeat("a", 1<<16)}, 100), false, ErrTimeout},
		"much":      {"anna", slices.Repeat([]string{strings.Repeat("a", 1<<16)}, 100), false, nil},
	} {
		p, err := Compile(tt.pattern)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := p.MatchAny(slices.Values(tt.texts)); got != tt.want || !errors.Is(err, tt.err) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}
