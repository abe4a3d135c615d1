package jq

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/itchyny/gojq"
)

func yields(t *testing.T, text string, inputs ...string) (bool, error) {
	t.Helper()
	p, err := Compile(text, nil)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return p.Yields(t.Context(), inputs)
}

// programs are for the input line, and yield true.
var programs = []string{
	`test("^x-user: an"; "i")`, `test("USER"; null) | not`, `startswith("X-User: ") and endswith("anna")`, `split(": ")[1] == "anna"`, `split(": "; null)[0] == "X-User"`,
	`. as $line | ["X-User: anna", "b"] | index($line) == 0`, `[.[0:3], .[7:]] == ["X-U", " anna"]`, `.[2:] | .[:4] == "User"`,
	`capture("^(?<name>[^:]+): (?<value>.*)$") | .name == "X-User" and .value == "anna"`, `[scan("[a-z]")] | length == 7`, `[match("n"; "g").offset] == [9, 10]`,
	`sub("anna"; "bob") == "X-User: bob"`, `gsub("(?<c>[an])"; "<\(.c)>") == "X-User: <a><n><n><a>"`, `[splits(": ")] == ["X-User", "anna"]`,
	`"\(.[0:1])-\(1 + 2)" == "X-3"`, `@base64 | @base64d | test("anna")`, `@base64 "a\(.)" | length > 10`, `(. / ": ")[1] == "anna"`, `(["a", "b"] | join("-")) == "a-b"`,
	`([1, null, true, "x"] | join(",")) == "1,,true,x"`, `"ab" * 3 == "ababab"`, `6 * 7 == 42`, `1.5 * 2 == 3`, `7 % 4 == 3 and 7 / 2 == 3.5 and 7 - 4 == 3 and -1 < 0`,
	`[range(5)] | map(. * .) | add == 30`, `[limit(3; repeat("x"))] | add == "xxx"`, `def f(g; $x): g + $x; f(1; 2) == 3`, `def fac: if . < 2 then 1 else . * (. - 1 | fac) end; 5 | fac == 120`,
	`reduce range(10) as $i (0; . + $i) | . == 45`, `[foreach range(4) as $i (0; . + $i; [$i, .])] | .[3] == [3, 6]`, `label $out | (1, 2) | if . == 2 then true, break $out else empty end`,
	`try error("x") catch . == "x"`, `(.a? // "none") == "none"`, `[.[]?] == []`, `{a: 1, "b\(1)": 2, (.[0:1]): 3} | keys == ["X", "a", "b1"]`, `. as $x | {$x, y: 1} | .x == $x`,
	`{"a": [1, {"b": 2}]} | . as {a: [$one, {b: $two}]} | $one + $two == 3`, `{"a": {"b": 7}} | [.. | numbers] == [7]`, `{"a": 1} | with_entries({key: "b", value}) == {"b": 1}`,
	`("{\"sub\": \"anna\"}" | @base64) | @base64d | fromjson | .sub == "anna"`, `[3, 1, 2] | sort == [1, 2, 3]`, `[{"a": 2}, {"a": 1}] | sort_by(.a) | .[0].a == 1`, `[[1], 2] | flatten == [1, 2]`,
	`explode | implode | startswith("X")`, `[1, 2] | any(. == 2) and all(. > 0)`, `"anna" | IN("bob", "anna")`, `env == {} and $ENV == {}`, `"a,b" | split(",") | .[1:] == ["b"]`,
	`[1, 2, 3] | .[1:][0] == 2 and .[-1] == 3`, `ascii_downcase | contains("user")`, `[recurse(if length > 3 then .[1:] else empty end)] | length > 5`, `"2015-03-05T23:51:47Z" | fromdate == 1425599507`,
	`first(range(10; 0; -3)) == 10`, `[.[4:] | ascii_upcase, ltrimstr("er")] | length == 2`, `{"a": 1} + {"b": 2} | tojson == "{\"a\":1,\"b\":2}"`, `if . == "" then false elif length > 3 then true else false end`,
	`. as [$a] ?// $a | $a | true`, `([1, 2, 3] - [2]) == [1, 3]`, `{"k": [0, 5]}.k[1] == 5`, `.["length"]? // true`, `"x" as $k | {"x": true}[$k]`, `[1, 2] | .[1:] as [$b] | $b == 2`,
}

// TestPrograms: programs mean what they mean in jq.
func TestPrograms(t *testing.T) {
	const line = "X-User: anna"
	for _, text := range programs {
		if ok, err := yields(t, text, line); !ok || err != nil {
			t.Errorf("%s: %v, %v", text, ok, err)
		}
		q, err := gojq.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		code, err := gojq.Compile(q)
		if err != nil {
			t.Fatal(err)
		}
		if !(&Program{code: code, meter: &meter{ctx: t.Context(), steps: maxSteps}}).yieldsTrue(line) {
			t.Errorf("%s: the interpreter alone says otherwise", text)
		}
	}
}

// TestRefused: what can't be bounded is not there.
func TestRefused(t *testing.T) {
	for text, want := range map[string]string{
		`nosuch(1)`:             "there is no function nosuch/1",
		`(`:                     "unexpected",
		`.[0] = 1`:              "= can't be used",
		`.a |= 1`:               "|= can't be used",
		`.a += 1`:               "+= can't be used",
		`setpath([1e8]; 1)`:     "no function setpath/2",
		`path(..)`:              "no function path/1",
		`del(.a)`:               "no function del/1",
		`input`:                 "no function input/0",
		`_match("x"; ""; true)`: "no function _match/3",
		`_weigh(0)`:             "no function _weigh/1",
		`test(.)`:               "has to be a text as it stands",
		`test("a\(.)")`:         "has to be a text as it stands",
		`test("a"; .)`:          "flags of test",
		`test("(")`:             "no regular expression",
		`test("(?=a)")`:         "no regular expression",
		`test("` + strings.Repeat(`x{999}`, 9) + `")`: "5000 steps",
		`def _weigh(f): .; . * 2`:                     "does not start with _",
		`def setpath(a; b): .; setpath(1)`:            "no function setpath/1",
		`(def del(f): f; del(.)) | del(.a)`:           "no function del/1",
		`import "a" as a; .`:                          "modules",
		`include "a"; .`:                              "modules",
		`$nosuch`:                                     "variable not defined",
		strings.Repeat(" ", 5000):                     "4096 are the most",
		`break $x`:                                    "label not defined",
	} {
		if _, err := Compile(text, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

// hostile programs try to take memory, each in a way of its own.
var hostile = map[string]string{
	"range":            `[range(1e12)] | length > 0`,
	"ranges":           `[range(1e5)] as $a | [$a[] | [$a[]]] | length > 0`,
	"repeat":           `"x" * 1e9 | length > 0`,
	"repeated":         `1e9 * "x" | length > 0`,
	"repeats":          `[limit(1e9; repeat("x"))] | add | length > 0`,
	"doubling":         `def f: . + . | f; f`,
	"doubling by text": `def f: "\(.)\(.)" | f; f`,
	"doubling by list": `def f: [., .] | f; f`,
	"list as text":     `def f(n): if n == 0 then tojson else [., .] | f(n - 1) end; f(60)`,
	"list compared":    `reduce range(60) as $i (1; [., .]) | . == .`,
	"list flat":        `reduce range(60) as $i (1; [., .]) | flatten`,
	"list spread":      `reduce range(60) as $i (1; [., .]) | [..]`,
	"list in try":      `def f: try (. + .) catch "x" | f; f`,
	"reduce":           `reduce range(1e9) as $i ("xxxxxxxx"; . + .)`,
	"foreach":          `[foreach range(1e9) as $i ("xxxxxxxx"; . + .)]`,
	"join":             `[range(9999) | "x"] | join("x" * 99999)`,
	"split":            `("x" * 99999 | split("")) as $a | [range(9999) | $a + [.]]`,
	"division":         `def f: [., ("x" * 50000 / "")] | f; f`,
	"explode":          `def f: [., ("x" * 50000 | explode)] | f; f`,
	"spread and kept":  `[range(9999)] as $a | def f: $a[] as $x | f; f`,
	"slices":           `[range(9999)] as $a | def f: ($a[1:] + [1]) as $x | f, $x; f`,
	"text slices":      `("ä" * 99999) as $a | def f: $a[1:] as $x | f, $x; f`,
	"recursion":        `def f: 1 + f; f`,
	"deep recursion":   `def f(g): f(g | g); f(.)`,
	"variables":        `def f: . as $a1 | . as $a2 | . as $a3 | . as $a4 | . as $a5 | . as $a6 | . as $a7 | . as $a8 | f, 1; f`,
	"objects":          `def f: {a: ., b: 1, c: 2, d: 3, e: 4, f: 5, g: 6, h: 7} | f; f`,
	"objects kept":     `[range(1e9) | {a: ., b: ., c: .}]`,
	"alternatives":     `def f: (f // f) // f; f`,
	"forks":            `def f: (., .) | f; f`,
	"errors":           `def f: try error({a: ., b: "x"}) catch f; f`,
	"labels":           `def f: label $x | f, 1; f`,
	"big numbers":      `def f: . * . | f; 99999999999 | f`,
	"big sums":         `def f: . + . | f; 99999999999999999999999 | f`,
	"digits":           `("9" * 1e6 | tonumber) | tostring`,
	"deep":             `reduce range(1e6) as $i (1; [.]) | tojson`,
	"deep text":        `("[" * 1e6) + ("]" * 1e6) | fromjson`,
	"empty matches":    `("x" * 50000) | [match(""; "g")]`,
	"replaced":         `("x" * 1000) | gsub("x"; "y" * 9999)`,
	"format":           `def f: @json | f; f`,
	"formats":          `def f: @uri "\(.)\(.)" | f; f`,
	"html":             `("<" * 1e6) | [range(99) as $i | @html]`,
	"documents":        `("[" + ("[]," * 99999) + "1]") as $d | [range(999) | $d | fromjson]`,
	"group":            `[range(9999)] | def f: group_by(.) | [f, .]; f`,
	"to_entries":       `{"a": ("x" * 99999)} | def f: to_entries | [., f]; f`,
	"search":           `("ab" * 50000) as $a | [range(999) | $a | indices("ab")]`,
	"search in lists":  `[range(9999)] as $a | [range(999) | $a | index($a)]`,
	"difference":       `[range(9999)] as $a | $a - ($a | map(. + 1))`,
	"contains":         `[range(5000) | tostring] as $a | $a | contains($a)`,
	"unique":           `[range(9999) | "x" * 99] | [range(99) as $i | unique]`,
	"keys":             `[range(9999)] | [range(999) as $i | keys]`,
	"index by list":    `[range(9999)] as $a | [range(999) | $a[$a]?]`,
	"while":            `[1 | while(true; . + 1)]`,
	"until":            `"x" | until(false; . + .)`,
	"limits":           `[limit(1e9; range(1e9))]`,
	"recurse":          `[recurse([., .])] | length`,
	"combined keys":    `{} | reduce range(1e9) as $i ({}; . + {"\($i)": $i})`,
	"last":             `last(range(1e12))`,
	"time to text":     `[range(1e6) | gmtime]`,
}

// TestHostile: whatever a program does, it takes little memory. What it has taken in all, garbage too, is more than it
// had at any time.
func TestHostile(t *testing.T) {
	const most = 64 << 20
	line := "Cookie: " + strings.Repeat("abcd", 256)
	for name, text := range hostile {
		p, err := Compile(text, nil)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		before, start := allocated(), time.Now()
		ok, err := p.Yields(t.Context(), []string{line})
		took, since := allocated()-before, time.Since(start)
		t.Logf("%s: %d KiB, %v", name, took>>10, since)
		if ok || !errors.Is(err, ErrTooMuch) || took > most {
			t.Errorf("%s: %v, %v, and %d MiB", name, ok, err, took>>20)
		}
	}
}

func allocated() uint64 {
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return s.TotalAlloc
}

// TestLate: a run ends with its context, also one that waits for its turn.
func TestLate(t *testing.T) {
	p, err := Compile(`true`, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p.turn <- struct{}{}
	if _, err := p.Yields(ctx, []string{""}); !errors.Is(err, context.Canceled) {
		t.Errorf("while it waits for its turn: %v", err)
	}
	<-p.turn
	slow, err := Compile(`[range(1000)] | length > 0`, NewGate(1))
	if err != nil {
		t.Fatal(err)
	}
	slow.meter.start(ctx)
	if slow.yieldsTrue("") || !errors.Is(slow.meter.err, context.Canceled) {
		t.Errorf("while it runs: %v", slow.meter.err)
	}
	// What is over does not stay so.
	if ok, err := slow.Yields(t.Context(), []string{"a"}); !ok || err != nil {
		t.Errorf("later: %v, %v", ok, err)
	}
	if ok, err := slow.Yields(t.Context(), nil); ok || err != nil {
		t.Errorf("without input: %v, %v", ok, err)
	}
}

// TestAllowance: it is for all inputs together, and anew for each call.
func TestAllowance(t *testing.T) {
	p, err := Compile(`test("x") and false`, nil)
	if err != nil {
		t.Fatal(err)
	}
	line := strings.Repeat("x", 4096)
	few, many := make([]string, 100), make([]string, 1<<20/256)
	for i := range many {
		many[i] = line
		few[i%100] = line
	}
	for range 3 {
		if _, err := p.Yields(t.Context(), few); err != nil {
			t.Errorf("100 lines of 4 KiB: %v", err)
		}
		if _, err := p.Yields(t.Context(), many); !errors.Is(err, ErrTooMuch) {
			t.Errorf("4096 of them: %v", err)
		}
	}
}

// FuzzCompile: no program takes much, whatever it says.
func FuzzCompile(f *testing.F) {
	for _, text := range programs {
		f.Add(text, "X-User: anna")
	}
	for _, text := range hostile {
		f.Add(text, "a: b")
	}
	f.Fuzz(func(t *testing.T, text, line string) {
		before := allocated()
		p, err := Compile(text, nil)
		if err == nil && len(line) < 4096 {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if _, err := p.Yields(ctx, []string{line}); err != nil && !errors.Is(err, ErrTooMuch) {
				t.Error(err)
			}
		}
		if took := allocated() - before; took > 256<<20 {
			t.Errorf("it took %d MiB", took>>20)
		}
	})
}
