package template

import (
	"regexp"
	"strings"
)

// maxRange bounds the list that range() makes.
const maxRange = 10000

// arguments are the evaluated arguments of a call.
type arguments struct {
	r      *renderer
	call   call
	values map[string]any
}

// args evaluates the arguments of c, whose names must be among known.
func (r *renderer) args(c call, known ...string) (*arguments, error) {
	a := &arguments{r: r, call: c, values: map[string]any{}}
	for name, e := range c.args {
		found := false
		for _, k := range known {
			found = found || k == name
		}
		if !found {
			return nil, errorf(c.off, "%s has no argument %s; it takes %s", c.name, name, strings.Join(known, ", "))
		}
		value, err := r.value(e)
		if err != nil {
			return nil, err
		}
		a.values[name] = value
	}
	return a, nil
}

// text returns a text argument; without a fallback it is required.
func (a *arguments) text(name string, fallback ...string) (string, error) {
	value, ok := a.values[name]
	if !ok {
		if len(fallback) > 0 {
			return fallback[0], nil
		}
		return "", errorf(a.call.off, "%s needs the argument %s", a.call.name, name)
	}
	s, ok := value.(string)
	if !ok {
		return "", errorf(a.call.off, "%s: %s must be a text, and is %s", a.call.name, name, kind(value))
	}
	return s, nil
}

// integer returns a whole number; without a fallback it is required.
func (a *arguments) integer(name string, fallback ...int64) (int64, error) {
	value, ok := a.values[name]
	if !ok {
		if len(fallback) > 0 {
			return fallback[0], nil
		}
		return 0, errorf(a.call.off, "%s needs the argument %s", a.call.name, name)
	}
	n, ok := value.(int64)
	if !ok {
		return 0, errorf(a.call.off, "%s: %s must be a whole number, and is %s", a.call.name, name, kind(value))
	}
	return n, nil
}

func (r *renderer) function(c call) (any, error) {
	if err := r.spend(c.off, 0); err != nil {
		return nil, err
	}
	switch c.name {
	case "get_env":
		return r.getEnv(c)
	case "range":
		return r.rangeList(c)
	case "throw":
		a, err := r.args(c, "message")
		if err != nil {
			return nil, err
		}
		message, err := a.text("message")
		if err != nil {
			return nil, err
		}
		return nil, errorf(c.off, "%s", message)
	}
	return nil, errorf(c.off, "there is no function %s(); known are get_env, range and throw", c.name)
}

func (r *renderer) getEnv(c call) (any, error) {
	a, err := r.args(c, "name", "default")
	if err != nil {
		return nil, err
	}
	name, err := a.text("name")
	if err != nil {
		return nil, err
	}
	if r.opts.Lookup != nil {
		if value, ok := r.opts.Lookup(name); ok {
			return value, nil
		}
	}
	if fallback, ok := a.values["default"]; ok {
		return fallback, nil
	}
	return nil, errorf(c.off, "the environment has no %s; set it, or write get_env(name=%q, default=...)", name, name)
}

func (r *renderer) rangeList(c call) (any, error) {
	a, err := r.args(c, "start", "end", "step_by")
	if err != nil {
		return nil, err
	}
	start, err := a.integer("start", 0)
	if err != nil {
		return nil, err
	}
	end, err := a.integer("end")
	if err != nil {
		return nil, err
	}
	step, err := a.integer("step_by", 1)
	if err != nil {
		return nil, err
	}
	if step < 1 {
		return nil, errorf(c.off, "range: step_by must be 1 or more")
	}
	var list []any
	for i := start; i < end; i += step {
		if len(list) == maxRange || i+step < i {
			return nil, errorf(c.off, "range: more than %d numbers", maxRange)
		}
		list = append(list, i)
	}
	return list, r.spend(c.off, len(list))
}

func (r *renderer) test(e tested) (any, error) {
	of, err := r.eval(e.of)
	if err != nil {
		return nil, err
	}
	args := make([]any, len(e.args))
	for i, arg := range e.args {
		if args[i], err = r.value(arg); err != nil {
			return nil, err
		}
	}
	u, isUndefined := of.(undefined)
	switch e.name {
	case "defined":
		return !isUndefined != e.not, nil
	case "undefined":
		return isUndefined != e.not, nil
	}
	if isUndefined {
		return nil, errorf(u.off, "%s has no value here; test it with: is defined", u.name)
	}
	yes, err := test(e, of, args)
	return yes != e.not, err
}

func test(e tested, of any, args []any) (bool, error) {
	switch e.name {
	case "string":
		_, ok := of.(string)
		return ok, nil
	case "number":
		_, ok := number(of)
		return ok, nil
	case "object":
		_, ok := of.(map[string]any)
		return ok, nil
	case "iterable":
		switch of.(type) {
		case []any, map[string]any:
			return true, nil
		}
		return false, nil
	case "odd", "even":
		n, ok := of.(int64)
		if !ok {
			return false, errorf(e.off, "%s is neither odd nor even", kind(of))
		}
		return (n%2 != 0) == (e.name == "odd"), nil
	case "divisibleby":
		n, ok := of.(int64)
		by, byOK := int64(0), false
		if len(args) == 1 {
			by, byOK = args[0].(int64)
		}
		if !ok || !byOK || by == 0 {
			return false, errorf(e.off, "divisibleby compares two whole numbers")
		}
		return n%by == 0, nil
	case "containing":
		if len(args) == 1 {
			return contains(e.off, of, args[0])
		}
	case "starting_with", "ending_with", "matching":
		return testText(e, of, args)
	default:
		return false, errorf(e.off, "there is no test %q; known are defined, undefined, string, number, object, iterable, odd, even, divisibleby, containing, starting_with, ending_with, matching", e.name)
	}
	return false, errorf(e.off, "%s takes one argument", e.name)
}

func testText(e tested, of any, args []any) (bool, error) {
	s, ok := of.(string)
	arg, argOK := "", false
	if len(args) == 1 {
		arg, argOK = args[0].(string)
	}
	if !ok || !argOK {
		return false, errorf(e.off, "%s compares two texts", e.name)
	}
	switch e.name {
	case "starting_with":
		return strings.HasPrefix(s, arg), nil
	case "ending_with":
		return strings.HasSuffix(s, arg), nil
	}
	pattern, err := regexp.Compile(arg)
	if err != nil {
		return false, errorf(e.off, "matching: this is no regular expression: %v", err)
	}
	return pattern.MatchString(s), nil
}
