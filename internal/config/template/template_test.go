package template

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

func options() Options {
	values := map[string]string{"USER": "anna", "TARGET": "pod/a", "EMPTY": ""}
	variables := map[string]string{"key": "k1234", "git_branch": "feature/Login"}
	return Options{
		Lookup:   func(n string) (string, bool) { v, ok := values[n]; return v, ok },
		Variable: func(n string) (string, bool) { v, ok := variables[n]; return v, ok },
	}
}

func TestRender(t *testing.T) {
	tests := []struct{ name, source, want string }{
		{"no marks", `{"a": {"b": 1}}`, `{"a": {"b": 1}}`},
		{"environment", `{"t": "{{ get_env(name="TARGET") }}"}`, `{"t": "pod/a"}`},
		{"environment default", `{{ get_env(name="NO", default="x") }}`, `x`},
		{"escaped quotes", `"{{ get_env(name=\"TARGET\") }}"`, ""},
		{"single quotes", `"{{ get_env(name='NO', default='p') }}"`, `"p"`},
		{"empty is set", `[{{ get_env(name="EMPTY", default="x") }}]`, `[]`},
		{"key", `{{ key }}-{{key}}`, `k1234-k1234`},
		{"default unused", `{{ git_branch | default(value="none") }}`, `feature/Login`},
		{"default used", `{{ nothing | default(value="none") | upper }}`, `NONE`},
		{"filters", `{{ git_branch | replace(from="/", to="-") | lower | truncate(length=9, end="") }}`, `feature-l`},
		{"slugify", `{{ " Über/Größe 1 " | slugify }}`, `ber-gr-e-1`},
		{"comment", `a{# {{ no }} #}b`, `ab`},
		{"trim", "a \n {{- key -}} \n b", `ak1234b`},
		{"trim comment", "a  {#- x -#}  b", `ab`},
		{"raw", `{% raw %}{{ key }}{% endraw %}!`, `{{ key }}!`},
		{"if", `{% if key is starting_with("k") %}yes{% else %}no{% endif %}`, `yes`},
		{"elif", `{% if nothing %}1{% elif key == "k1234" and not nothing %}2{% else %}3{% endif %}`, `2`},
		{"defined", `{% if git_branch is not defined %}a{% endif %}{% if x is undefined %}b{% endif %}`, `b`},
		{"for", `{% for p in [80, 8080] %}{{ loop.index }}:{{ p }}{% if not loop.last %},{% endif %}{% endfor %}`, `1:80,2:8080`},
		{"for else", `{% for p in [] %}x{% else %}none{% endfor %}`, `none`},
		{"for key", `{% for i, p in ["a", "b"] %}{{ i }}{{ p }}{% endfor %}`, `0a1b`},
		{"for range", `{% for i in range(end=3) %}{{ i }}{% endfor %}`, `012`},
		{"set", `{% set x = key ~ "-" ~ 2 + 3 * 2 %}{{ x }}`, `k1234-8`},
		{"set in loop stays inside", `{% set x = 1 %}{% for i in [1] %}{% set x = 2 %}{% endfor %}{{ x }}`, `1`},
		{"set_global", `{% set x = 1 %}{% for i in [1] %}{% set_global x = 2 %}{% endfor %}{{ x }}`, `2`},
		{"filter block", `{% filter upper %}a{{ key }}{% endfilter %}`, `AK1234`},
		{"in", `{{ "a" in "cat" }} {{ 3 not in [1, 2] }} {{ not true }}`, `true true false`},
		{"split", `{{ git_branch | split(pat="/") | last | lower }}`, `login`},
		{"nested index", `{{ ["a", "b"].1 }}{{ ["a", "b"][0] }}`, `ba`},
		{"numbers", `{{ 7 / 2 }} {{ 6 / 2 }} {{ 7 % 4 }} {{ 1.5 + 1 }} {{ -2 }}`, `3.5 3 3 2.5 -2`},
		{"int", `{{ "80" | int + 1 }} {{ "x" | int(default=5) }}`, `81 5`},
		{"precedence", `{{ 1 + 2 * 3 == 7 or false }}`, `true`},
		{"join", `{{ ["a", "b"] | concat(with="c") | join(sep=";") }}`, `a;b;c`},
		{"json", `{{ ["a", 1, true] | json_encode }}`, `["a",1,true]`},
		{"matching", `{{ key is matching("^k[0-9]+$") }}`, `true`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := Render(t.Context(), []byte(test.source), options())
			if test.want == "" {
				if err == nil {
					t.Fatalf("no error, but %q", got.Text)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if string(got.Text) != test.want {
				t.Errorf("got  %q\nwant %q", got.Text, test.want)
			}
		})
	}
}

func TestRenderErrors(t *testing.T) {
	tests := []struct {
		source string
		offset int
		want   string
	}{
		{`ab{{ nothing }}`, 5, "nothing has no value"},
		{`{{ get_env(name="SECRET_X") }}`, 3, "no SECRET_X"},
		{`{{ get_env("X") }}`, 11, "arguments of get_env are named"},
		{`{{ key | nope }}`, 9, "there is no filter nope"},
		{`{{ now() }}`, 3, "there is no function now"},
		{`{% include "x" %}`, 0, "not available"},
		{`{% import "x" as y %}`, 0, "not available"},
		{`x{% if key %}y`, 1, "no {% endif %}"},
		{`{% endif %}`, 0, "nothing to end"},
		{`{% for x in key.y %}{% endfor %}`, 15, "no value"},
		{`{% for x in 3 %}{% endfor %}`, 0, "goes over a list"},
		{`{{ key `, 0, "never closed"},
		{`{{ "abc }}`, 3, "never closed"},
		{`{# abc`, 0, "never closed"},
		{`{{ }}`, 3, "ends where a value"},
		{`{{ key key }}`, 7, "does not belong here"},
		{`{{ 1 + "a" }}`, 5, "joined with ~"},
		{`{{ 1 / 0 }}`, 5, "division by zero"},
		{`{{ throw(message="set TEAM first") }}`, 3, "set TEAM first"},
		{`{{ key | replace(from="a") }}`, 9, "needs the argument to"},
		{`{{ key | default(val="a") }}`, 9, "has no argument val"},
		{`{% macro x() %}{% endmacro %}`, 0, "not available"},
		{`{{ range(end=100000) }}`, 3, "more than"},
		{`{{ ` + strings.Repeat("(", 500) + `1`, 103, "never closed"},
		{strings.Repeat("{% if 1 %}", 200) + strings.Repeat("{% endif %}", 200), 990, "nested"},
	}
	for _, test := range tests {
		_, err := Render(t.Context(), []byte(test.source), options())
		var e *Error
		if !errors.As(err, &e) {
			t.Errorf("%.40s: got %v", test.source, err)
			continue
		}
		if !strings.Contains(e.Message, test.want) {
			t.Errorf("%.40s: got %q, want %q in it", test.source, e.Message, test.want)
		}
		if e.Offset != test.offset && len(test.source) < 60 {
			t.Errorf("%.40s: offset %d, want %d (%s)", test.source, e.Offset, test.offset, e.Message)
		}
	}
}

// A template cannot use up the machine, whatever it says.
func TestRenderIsBounded(t *testing.T) {
	sources := map[string]string{
		"nested loops": strings.Repeat(`{% for a in range(end=10000) %}`, 5) + "x" + strings.Repeat(`{% endfor %}`, 5),
		"doubling":     `{% set x = "xxxxxxxx" %}{% for i in range(end=100) %}{% set_global x = x ~ x %}{% endfor %}{{ x }}`,
		"replace":      `{% set x = "xxxxxxxx" %}{% for i in range(end=100) %}{% set_global x = x | replace(from="x", to="xxxxxxxxxx") %}{% endfor %}`,
		"lists":        `{% set x = [1,2,3,4] %}{% for i in range(end=100) %}{% set_global x = x | concat(with=x) %}{% endfor %}`,
		"json":         `{% set x = [1,2] %}{% for i in range(end=100) %}{% set_global x = [x, x] %}{% endfor %}{{ x | json_encode }}`,
		"text of list": `{% set x = [1,2] %}{% for i in range(end=100) %}{% set_global x = [x, x] %}{% endfor %}{{ x }}`,
		"equality":     `{% set x = [1,2] %}{% set y = [1,2] %}{% for i in range(end=100) %}{% set_global x = [x, x] %}{% set_global y = [y, y] %}{% endfor %}{{ x == y }}`,
	}
	for name, source := range sources {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			if _, err := Render(t.Context(), []byte(source), options()); err == nil {
				t.Error("no error")
			}
			if took := time.Since(start); took > 20*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
}

func TestRenderStopsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	source := strings.Repeat(`{% for a in range(end=10000) %}`, 3) + strings.Repeat(`{% endfor %}`, 3)
	if _, err := Render(ctx, []byte(source), options()); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestSource(t *testing.T) {
	source := []byte("one {{ key }} two\n{# c #}three {% if key %}four{% endif %}")
	r, err := Render(t.Context(), source, options())
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"one", "two", "three", "four"} {
		at := r.Source(bytes.Index(r.Text, []byte(word)))
		if !bytes.HasPrefix(source[at:], []byte(word)) {
			t.Errorf("%s maps to %d", word, at)
		}
	}
	if at := r.Source(bytes.Index(r.Text, []byte("1234"))); at != 4 {
		t.Errorf("the expression maps to %d", at)
	}
}

func FuzzRender(f *testing.F) {
	for _, seed := range []string{
		`{{ key }}`, `{% if a %}{% else %}{% endif %}`, `{% for a in [1,2] %}{{ a }}{% endfor %}`,
		`{# #}{% raw %}{{ x }}{% endraw %}`, `{{ "a" ~ 1 + 2.5 | int(default=1) is defined }}`,
		`{% set a = [[1], "x"] %}{{ a[0].0 }}`, `{%- filter upper -%} a {%- endfilter -%}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, source []byte) {
		r, err := Render(t.Context(), source, options())
		if err != nil {
			var e *Error
			if errors.As(err, &e) && (e.Offset < 0 || e.Offset > len(source)) {
				t.Errorf("offset %d of %d", e.Offset, len(source))
			}
			return
		}
		for i := range r.Text {
			if at := r.Source(i); at < 0 || at >= len(source) {
				t.Fatalf("byte %d maps to %d of %d", i, at, len(source))
			}
		}
	})
}
