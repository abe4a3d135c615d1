package jsonpath

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// evaluation is one run of a query.
type evaluation struct {
	root any
	left int // steps; below 0 it is given up
}

// nothing is the value of a query that selects none.
type nothing struct{}

// step counts what is looked at, and reports false when that was too much.
func (e *evaluation) step(n int) bool {
	e.left -= n
	return e.left >= 0
}

func (e *evaluation) query(q query, current any) []any {
	nodes := []any{e.root}
	if q.relative {
		nodes[0] = current
	}
	for _, s := range q.segments {
		var next []any
		for _, n := range nodes {
			if next = e.segment(next, s, n); e.left < 0 {
				return nil
			}
		}
		nodes = next
	}
	return nodes
}

func (e *evaluation) segment(out []any, s segment, v any) []any {
	for _, sel := range s.selectors {
		if out = e.selector(out, sel, v); e.left < 0 {
			return nil
		}
	}
	if s.descend {
		for _, child := range e.children(v) {
			out = e.segment(out, s, child)
		}
	}
	return out
}

// children are the values of an array or object.
func (e *evaluation) children(v any) []any {
	var out []any
	switch v := v.(type) {
	case []any:
		out = v
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(v)) {
			out = append(out, v[k])
		}
	}
	if !e.step(1 + len(out)) {
		return nil
	}
	return out
}

func (e *evaluation) selector(out []any, sel selector, v any) []any {
	if !e.step(1) {
		return nil
	}
	switch sel := sel.(type) {
	case name:
		if m, ok := v.(map[string]any); ok {
			if got, ok := m[string(sel)]; ok {
				out = append(out, got)
			}
		}
	case wildcard:
		out = append(out, e.children(v)...)
	case index:
		if a, ok := v.([]any); ok {
			i := int64(sel)
			if i < 0 {
				i += int64(len(a))
			}
			if i >= 0 && i < int64(len(a)) {
				out = append(out, a[i])
			}
		}
	case slice:
		if a, ok := v.([]any); ok {
			out = e.slice(out, sel, a)
		}
	case filter:
		for _, child := range e.children(v) {
			if e.left >= 0 && e.holds(sel.expr, child) {
				out = append(out, child)
			}
		}
	}
	return out
}

// slice follows RFC 9535, section 2.3.4.2.2.
func (e *evaluation) slice(out []any, s slice, a []any) []any {
	n, step := int64(len(a)), int64(1)
	if s.step != nil {
		step = *s.step
	}
	if step == 0 {
		return out
	}
	bound := func(given *int64, byDefault, low, high int64) int64 {
		if given == nil {
			return byDefault
		}
		i := *given
		if i < 0 {
			i += n
		}
		return min(max(i, low), high)
	}
	if step > 0 {
		for i, end := bound(s.start, 0, 0, n), bound(s.end, n, 0, n); i < end && e.step(1); i += step {
			out = append(out, a[i])
		}
		return out
	}
	for i, end := bound(s.start, n-1, -1, n-1), bound(s.end, -1, -1, n-1); i > end && e.step(1); i += step {
		out = append(out, a[i])
	}
	return out
}

func (e *evaluation) holds(expr logical, current any) bool {
	if !e.step(1) {
		return false
	}
	switch expr := expr.(type) {
	case or:
		return slices.ContainsFunc(expr, func(part logical) bool { return e.holds(part, current) })
	case and:
		return !slices.ContainsFunc(expr, func(part logical) bool { return !e.holds(part, current) })
	case not:
		return !e.holds(expr.of, current)
	case exists:
		return len(e.query(expr.query, current)) > 0
	case test:
		return e.call(expr.call, current) == true
	case comparison:
		return e.compare(expr.op, e.value(expr.left, current), e.value(expr.right, current))
	}
	return false
}

// value is what an operand stands for.
func (e *evaluation) value(o operand, current any) any {
	switch o := o.(type) {
	case literal:
		return o.value
	case query:
		return only(e.query(o, current))
	case call:
		return e.call(o, current)
	}
	return nothing{}
}

func only(nodes []any) any {
	if len(nodes) != 1 {
		return nothing{}
	}
	return nodes[0]
}

// call runs a function (RFC 9535, sections 2.4.4 to 2.4.8).
func (e *evaluation) call(c call, current any) any {
	switch c.function {
	case "count":
		return number(len(e.query(c.args[0].(query), current)))
	case "value":
		return only(e.query(c.args[0].(query), current))
	}
	v := e.value(c.args[0], current)
	switch c.function {
	case "length":
		return length(v)
	case "typeof":
		return typeOf(v)
	}
	text, ok := v.(string)
	if !ok {
		return false
	}
	pattern := c.pattern
	if pattern == nil {
		dynamic, ok := e.value(c.args[1], current).(string)
		if !ok {
			return false
		}
		if pattern, ok = e.compileFrom(c.function, dynamic); !ok {
			return false
		}
	}
	return e.step(1+pattern.size*len(text)/workPerStep) && pattern.MatchString(text)
}

func length(v any) any {
	switch v := v.(type) {
	case string:
		return number(utf8.RuneCountInString(v))
	case []any:
		return number(len(v))
	case map[string]any:
		return number(len(v))
	}
	return nothing{}
}

func typeOf(v any) any {
	switch v.(type) {
	case nil:
		return "null"
	case bool:
		return "boolean"
	case json.Number, number:
		return "number"
	case string:
		return "string"
	case []any:
		return "array"
	case map[string]any:
		return "object"
	}
	return nothing{}
}

// number is what functions count.
type number int

func float(v any) (float64, bool) {
	switch v := v.(type) {
	case number:
		return float64(v), true
	case json.Number:
		f, err := v.Float64()
		return f, err == nil
	}
	return 0, false
}

// compare follows RFC 9535, section 2.3.5.2.2.
func (e *evaluation) compare(op string, a, b any) bool {
	switch op {
	case "==":
		return e.equal(a, b)
	case "!=":
		return !e.equal(a, b)
	case "<=":
		return e.less(a, b) || e.equal(a, b)
	case ">=":
		return e.less(b, a) || e.equal(a, b)
	case "<":
		return e.less(a, b)
	}
	return e.less(b, a)
}

func (e *evaluation) equal(a, b any) bool {
	if !e.step(1) {
		return false
	}
	if x, ok := float(a); ok {
		y, ok := float(b)
		return ok && x == y
	}
	switch a := a.(type) {
	case []any:
		b, ok := b.([]any)
		return ok && slices.EqualFunc(a, b, e.equal)
	case map[string]any:
		b, ok := b.(map[string]any)
		return ok && maps.EqualFunc(a, b, e.equal)
	}
	switch b.(type) {
	case []any, map[string]any: // which are not comparable
		return false
	}
	return a == b
}

func (e *evaluation) less(a, b any) bool {
	if x, ok := float(a); ok {
		y, ok := float(b)
		return ok && x < y
	}
	x, ok := a.(string)
	y, also := b.(string)
	return ok && also && strings.Compare(x, y) < 0
}
