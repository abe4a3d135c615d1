package template

import (
	"slices"
)

// undefined is the value of a name that has none. Only "is defined", the default filter and
// conditions accept it.
type undefined struct {
	off  int
	name string
}

type renderer struct {
	done   func() error // the error of a caller that no longer waits
	opts   Options
	source []byte
	fuel   int
	out    *Result
	// scopes are the variables of {% set %} and {% for %}, the innermost last.
	scopes []map[string]any
	// capture, when not nil, takes the output of a {% filter %} block.
	capture *[]byte
}

// spend uses up fuel, and asks now and then whether the caller still waits.
func (r *renderer) spend(off, n int) error {
	before := r.fuel
	if r.fuel -= 1 + n; r.fuel < 0 {
		return errorf(off, "this template takes too long")
	}
	if before>>12 != r.fuel>>12 {
		return r.done()
	}
	return nil
}

func (r *renderer) write(off int, text []byte, isLiteral bool) error {
	if err := r.spend(off, len(text)); err != nil {
		return err
	}
	if len(text) == 0 {
		return nil
	}
	to := &r.out.Text
	if r.capture != nil {
		to = r.capture
	} else {
		r.out.segments = append(r.out.segments, segment{out: len(*to), src: off, literal: isLiteral})
	}
	if len(*to)+len(text) > MaxOutput && len(*to)+len(text) > len(r.source) {
		return errorf(off, "this template produces more than %d MiB", MaxOutput>>20)
	}
	*to = append(*to, text...)
	return nil
}

func (r *renderer) nodes(nodes []node) error {
	for _, n := range nodes {
		if err := r.node(n); err != nil {
			return err
		}
	}
	return nil
}

func (r *renderer) node(n node) error {
	switch n := n.(type) {
	case textNode:
		return r.write(n.off, n.text, true)
	case outputNode:
		value, err := r.value(n.expr)
		if err != nil {
			return err
		}
		return r.write(n.off, []byte(text(value)), false)
	case ifNode:
		for _, b := range n.branches {
			yes := b.condition == nil
			if !yes {
				var err error
				if yes, err = r.condition(b.condition); err != nil {
					return err
				}
			}
			if yes {
				return r.nodes(b.body)
			}
		}
		return nil
	case forNode:
		return r.loop(n)
	case setNode:
		value, err := r.value(n.value)
		if err != nil {
			return err
		}
		r.set(n.name, value, n.global)
		return nil
	case filterNode:
		return r.filterBlock(n)
	}
	return nil
}

// set assigns in the innermost scope, or with global in the outermost.
func (r *renderer) set(name string, value any, global bool) {
	if len(r.scopes) == 0 {
		r.scopes = append(r.scopes, map[string]any{})
	}
	i := len(r.scopes) - 1
	if global {
		i = 0
	}
	r.scopes[i][name] = value
}

func (r *renderer) filterBlock(n filterNode) error {
	var inner []byte
	outer := r.capture
	r.capture = &inner
	err := r.nodes(n.body)
	r.capture = outer
	if err != nil {
		return err
	}
	value, err := r.filter(string(inner), n.call)
	if err != nil {
		return err
	}
	return r.write(n.off, []byte(text(value)), false)
}

func (r *renderer) loop(n forNode) error {
	over, err := r.value(n.over)
	if err != nil {
		return err
	}
	var keys, values []any
	switch over := over.(type) {
	case []any:
		values = over
		for i := range over {
			keys = append(keys, int64(i))
		}
	case string:
		for i, c := range over {
			keys, values = append(keys, int64(i)), append(values, string(c))
		}
	default:
		return errorf(n.off, "{%% for %%} goes over a list, and this is %s", kind(over))
	}
	if len(values) == 0 {
		return r.nodes(n.none)
	}
	if len(r.scopes) == 0 {
		r.scopes = append(r.scopes, map[string]any{})
	}
	defer func(depth int) { r.scopes = r.scopes[:depth] }(len(r.scopes))
	r.scopes = append(r.scopes, nil)
	for i, value := range values {
		if err := r.spend(n.off, 0); err != nil {
			return err
		}
		scope := map[string]any{n.value: value, "loop": map[string]any{
			"index": int64(i + 1), "index0": int64(i), "first": i == 0, "last": i == len(values)-1,
		}}
		if n.key != "" {
			scope[n.key] = keys[i]
		}
		r.scopes[len(r.scopes)-1] = scope
		if err := r.nodes(n.body); err != nil {
			return err
		}
	}
	return nil
}

// condition evaluates e as true or false; what is undefined or empty is false.
func (r *renderer) condition(e expr) (bool, error) {
	value, err := r.eval(e)
	return truthy(value), err
}

// value evaluates e, which must be defined.
func (r *renderer) value(e expr) (any, error) {
	value, err := r.eval(e)
	if err != nil {
		return nil, err
	}
	if u, ok := value.(undefined); ok {
		return nil, errorf(u.off, "%s has no value here; give one with %s | default(value=...)", u.name, u.name)
	}
	return value, nil
}

func (r *renderer) eval(e expr) (any, error) {
	switch e := e.(type) {
	case literal:
		return e.value, r.spend(0, 0)
	case listExpr:
		list := make([]any, 0, len(e.items))
		for _, item := range e.items {
			value, err := r.value(item)
			if err != nil {
				return nil, err
			}
			list = append(list, value)
		}
		return list, r.spend(0, weight(list))
	case variable:
		return r.variable(e)
	case index:
		return r.index(e)
	case call:
		return r.function(e)
	case filtered:
		return r.filtered(e)
	case tested:
		return r.test(e)
	case unary:
		return r.unary(e)
	case binary:
		return r.binary(e)
	}
	return nil, nil
}

func (r *renderer) variable(e variable) (any, error) {
	if err := r.spend(e.off, 0); err != nil {
		return nil, err
	}
	for _, scope := range slices.Backward(r.scopes) {
		if value, ok := scope[e.name]; ok {
			return value, nil
		}
	}
	if r.opts.Variable != nil {
		if value, ok := r.opts.Variable(e.name); ok {
			return value, nil
		}
	}
	return undefined(e), nil
}

func (r *renderer) index(e index) (any, error) {
	of, err := r.eval(e.of)
	if err != nil {
		return nil, err
	}
	with, err := r.value(e.with)
	if err != nil {
		return nil, err
	}
	name := text(with)
	if u, ok := of.(undefined); ok {
		return undefined{u.off, u.name + "." + name}, nil
	}
	switch of := of.(type) {
	case map[string]any:
		if value, ok := of[name]; ok {
			return value, nil
		}
	case []any:
		if i, ok := with.(int64); ok && i >= 0 && i < int64(len(of)) {
			return of[i], nil
		}
	}
	return undefined{e.off, name}, nil
}

func (r *renderer) filtered(e filtered) (any, error) {
	of, err := r.eval(e.of)
	if err != nil {
		return nil, err
	}
	if u, ok := of.(undefined); ok && e.by.name != "default" {
		return nil, errorf(u.off, "%s has no value here; give one with %s | default(value=...)", u.name, u.name)
	}
	return r.filter(of, e.by)
}

func (r *renderer) unary(e unary) (any, error) {
	if e.op == "not" {
		yes, err := r.condition(e.of)
		return !yes, err
	}
	value, err := r.value(e.of)
	if err != nil {
		return nil, err
	}
	switch value := value.(type) {
	case int64:
		return -value, nil
	case float64:
		return -value, nil
	}
	return nil, errorf(e.off, "%s has no negative", kind(value))
}
