package httpfilter

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func request(target string, header ...string) *Request {
	return &Request{Method: "GET", Target: target, Header: header}
}

func TestMatch(t *testing.T) {
	api := request("/api/orders?user=anna", "Host: shop", "X-User: anna", "baggage: team=a,user=anna")
	for _, tt := range []struct {
		name string
		spec Spec
		want bool
	}{
		{"header", Spec{Rule: Rule{Header: "^x-user: anna$"}}, true},
		{"header of another", Spec{Rule: Rule{Header: "^x-user: bob$"}}, false},
		{"header across lines", Spec{Rule: Rule{Header: "shop.*anna"}}, false},
		{"header with look-ahead", Spec{Rule: Rule{Header: `^baggage: (?=.*user=anna)(?!.*team=b)`}}, true},
		{"header with negative look-ahead", Spec{Rule: Rule{Header: `^baggage: (?!.*team=a)`}}, false},
		{"path", Spec{Rule: Rule{Path: "^/API/"}}, true},
		{"whole path without the query", Spec{Rule: Rule{Path: "^/api/orders$"}}, true},
		{"path with the query", Spec{Rule: Rule{Path: `orders\?user=anna$`}}, true},
		{"another path", Spec{Rule: Rule{Path: "^/health"}}, false},
		{"method", Spec{Rule: Rule{Method: "get"}}, true},
		{"another method", Spec{Rule: Rule{Method: "POST"}}, false},
		{"jq", Spec{Rule: Rule{JQ: `startswith("X-User: ") and endswith("anna")`}}, true},
		{"jq that yields a string", Spec{Rule: Rule{JQ: `"true"`}}, false},
		{"jq that fails for some", Spec{Rule: Rule{JQ: `if test("^Host") then error("no") else test("anna") end`}}, true},
		{"jq without the environment", Spec{Rule: Rule{JQ: `env | length > 0`}}, false},
		{"all", Spec{AllOf: []Rule{{Path: "^/api"}, {Header: "anna"}}}, true},
		{"not all", Spec{AllOf: []Rule{{Path: "^/api"}, {Header: "bob"}}}, false},
		{"any", Spec{AnyOf: []Rule{{Path: "^/none"}, {Header: "anna"}}}, true},
		{"not any", Spec{AnyOf: []Rule{{Path: "^/none"}, {Header: "bob"}}}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, err := Compile(tt.spec)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := f.Match(api); got != tt.want || err != nil {
				t.Errorf("%v, %v, want %v", got, err, tt.want)
			}
		})
	}
}

func TestCompileRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		spec Spec
		want string
	}{
		"nothing":       {Spec{}, "this one has 0"},
		"two":           {Spec{Rule: Rule{Path: "a"}, AnyOf: []Rule{{Path: "a"}}}, "this one has 2"},
		"rule of two":   {Spec{Rule: Rule{Path: "a", Method: "GET"}}, "exactly one of"},
		"empty list":    {Spec{AllOf: []Rule{}}, "1 to 64 rules, not 0"},
		"too many":      {Spec{AnyOf: make([]Rule, MaxRules+1)}, "not 65"},
		"both problems": {Spec{AllOf: []Rule{{Header: "("}, {Method: "GET"}, {JQ: "("}}}, "all_of[2]: jq: "},
		"bad path":      {Spec{Rule: Rule{Path: "["}}, "path: "},
		"unknown jq":    {Spec{Rule: Rule{JQ: "nosuch(1)"}}, "jq: "},
		"bad query":     {Spec{Rule: Rule{Body: &Body{"user", "a"}}}, "body query: no JSONPath at offset 0"},
		"bad matches":   {Spec{Rule: Rule{Body: &Body{"$.a", "("}}}, "body matches: "},
		"body and path": {Spec{Rule: Rule{Path: "a", Body: &Body{"$", "a"}}}, "this one has 2"},
		"long jq":       {Spec{Rule: Rule{JQ: strings.Repeat(" ", 5000)}}, "4096 are the most"},
	} {
		if _, err := Compile(tt.spec); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

// TestBody: a body that comes, is small enough and is JSON.
func TestBody(t *testing.T) {
	const doc = `{"user":{"name":"Anna","id":12345678901234567890,"ok":null},"tags":["a&b","c"],"o":{"k":"<v>"}}`
	for _, tt := range []struct {
		query, matches string
		want           bool
	}{
		{"$.user.name", "^anna$", true},
		{"$.user.name", "bob", false},
		{"$.user.id", "^12345678901234567890$", true},
		{"$.user.ok", "^null$", true},
		{"$.user.nothing", ".*", false},
		{"$.tags[*]", "^c$", true},
		{"$.tags", `^\["a&b","c"\]$`, true},
		{"$.o", `^{"k":"<v>"}$`, true},
		{"$.user[?typeof(@) == 'number']", "5", true},
		{"$.tags[*]", `^(?!a).`, true},
	} {
		f, err := Compile(Spec{AllOf: []Rule{{Body: &Body{tt.query, tt.matches}}, {Method: "GET"}}})
		if err != nil {
			t.Fatal(err)
		}
		r := request("/")
		r.Body = func(limit int, timeout time.Duration) ([]byte, bool) {
			if limit != DefaultBodyLimit || timeout != DefaultBodyTimeout {
				t.Errorf("limits %d and %v", limit, timeout)
			}
			return []byte(doc), true
		}
		if got, err := f.Match(r); got != tt.want || err != nil {
			t.Errorf("%s, %s: %v, %v", tt.query, tt.matches, got, err)
		}
		for name, body := range map[string]BodyFunc{
			"none":     nil,
			"too long": func(int, time.Duration) ([]byte, bool) { return []byte(doc), false },
			"empty":    func(int, time.Duration) ([]byte, bool) { return nil, true },
			"no JSON":  func(int, time.Duration) ([]byte, bool) { return []byte(doc[1:]), true },
		} {
			if r.Body = body; tt.want {
				if got, err := f.Match(r); got || err != nil {
					t.Errorf("%s: %v, %v", name, got, err)
				}
			}
		}
		// Nobody waits for a body that decides nothing.
		r.Method = "PUT"
		r.Body = func(int, time.Duration) ([]byte, bool) {
			t.Error("the body was asked for")
			return nil, false
		}
		if got, _ := f.Match(r); got {
			t.Error("another method matches")
		}
	}
}

// TestSlow: neither a pattern that backtracks nor a program that loops holds a request up.
func TestSlow(t *testing.T) {
	for name, spec := range map[string]Spec{
		"pattern": {Rule: Rule{Header: `^(?=x)(x+x+)+y$`}},
		"jq":      {Rule: Rule{JQ: `def f: f; f`}},
		"memory":  {Rule: Rule{JQ: `"x" * 1e9 | length > 0`}},
		"any of":  {AnyOf: []Rule{{JQ: `[range(1e12)] | length > 0`}, {Method: "POST"}}},
	} {
		f, err := Compile(spec)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		ok, err := f.Match(request("/", strings.Repeat("x", 40)))
		if took := time.Since(start); ok || !errors.Is(err, ErrSlow) || took > 20*time.Second {
			t.Errorf("%s: %v, %v after %v", name, ok, err, took)
		}
	}
	f, err := Compile(Spec{AnyOf: []Rule{{JQ: `def f: f; f`}, {Method: "GET"}}})
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := f.Match(request("/", "a: b")); !ok || !errors.Is(err, ErrSlow) {
		t.Errorf("beside one that matches: %v, %v", ok, err)
	}
}

// TestSelectedAgain: a query that selects all of a body many times is given up.
func TestSelectedAgain(t *testing.T) {
	all := "[" + strings.Repeat("0,", 999) + "0]"
	f, err := Compile(Spec{Rule: Rule{Body: &Body{"$" + all + all, "y"}}})
	if err != nil {
		t.Fatal(err)
	}
	r := request("/")
	r.Body = func(int, time.Duration) ([]byte, bool) {
		return []byte(`[[["` + strings.Repeat("x", 60000) + `"]]]`), true
	}
	if ok, err := f.Match(r); ok || !errors.Is(err, ErrSlow) {
		t.Errorf("%v, %v", ok, err)
	}
}

func FuzzCompile(f *testing.F) {
	f.Add("^x-user: (?=a)", "/a", "GET", `test("a")`, "$.a", `{"a":1}`)
	f.Fuzz(func(t *testing.T, header, path, method, jq, query, body string) {
		for _, r := range []Rule{{Header: header}, {Path: path}, {Method: method}, {JQ: jq}, {Body: &Body{query, header}}} {
			if c, err := Compile(Spec{Rule: r}); err == nil {
				q := request("/a?b=c", "x-user: a")
				q.Body = func(int, time.Duration) ([]byte, bool) { return []byte(body), true }
				_, _ = c.Match(q)
			}
		}
	})
}
