package template

import (
	"math"
	"reflect"
	"strconv"
	"strings"
)

func (r *renderer) binary(e binary) (any, error) {
	if e.op == "and" || e.op == "or" {
		left, err := r.condition(e.left)
		if err != nil || left == (e.op == "or") {
			return left, err
		}
		return r.condition(e.right)
	}
	left, err := r.value(e.left)
	if err != nil {
		return nil, err
	}
	right, err := r.value(e.right)
	if err != nil {
		return nil, err
	}
	if err := r.spend(e.off, weight(left)+weight(right)); err != nil {
		return nil, err
	}
	switch e.op {
	case "~":
		joined := text(left) + text(right)
		return joined, r.spend(e.off, len(joined))
	case "==":
		return equal(left, right), nil
	case "!=":
		return !equal(left, right), nil
	case "in", "not in":
		found, err := contains(e.off, right, left)
		return found == (e.op == "in"), err
	}
	return arithmetic(e, left, right)
}

// arithmetic computes and compares numbers; a whole number and a fraction make a fraction.
func arithmetic(e binary, left, right any) (any, error) {
	if a, ok := left.(string); ok {
		if b, ok := right.(string); ok && strings.Contains("<= >=", e.op) {
			return ordered(e.op, strings.Compare(a, b)), nil
		}
	}
	a, aok := left.(int64)
	b, bok := right.(int64)
	if aok && bok {
		return integers(e, a, b)
	}
	x, xok := number(left)
	y, yok := number(right)
	if !xok || !yok {
		return nil, errorf(e.off, "%q needs two numbers, and has %s and %s; texts are joined with ~", e.op, kind(left), kind(right))
	}
	switch e.op {
	case "+":
		return x + y, nil
	case "-":
		return x - y, nil
	case "*":
		return x * y, nil
	case "/":
		return x / y, nil
	case "%":
		return math.Mod(x, y), nil
	}
	switch {
	case x < y:
		return ordered(e.op, -1), nil
	case x > y:
		return ordered(e.op, 1), nil
	}
	return ordered(e.op, 0), nil
}

func integers(e binary, a, b int64) (any, error) {
	switch e.op {
	case "+":
		return a + b, nil
	case "-":
		return a - b, nil
	case "*":
		return a * b, nil
	case "/", "%":
		if b == 0 {
			return nil, errorf(e.off, "division by zero")
		}
		if e.op == "%" {
			return a % b, nil
		}
		if a%b == 0 {
			return a / b, nil
		}
		return float64(a) / float64(b), nil
	}
	switch {
	case a < b:
		return ordered(e.op, -1), nil
	case a > b:
		return ordered(e.op, 1), nil
	}
	return ordered(e.op, 0), nil
}

func ordered(op string, c int) bool {
	switch op {
	case "<":
		return c < 0
	case "<=":
		return c <= 0
	case ">":
		return c > 0
	}
	return c >= 0
}

func number(v any) (float64, bool) {
	switch v := v.(type) {
	case int64:
		return float64(v), true
	case float64:
		return v, true
	}
	return 0, false
}

func equal(a, b any) bool {
	if x, ok := number(a); ok {
		if y, ok := number(b); ok {
			return x == y
		}
	}
	return reflect.DeepEqual(a, b)
}

func contains(off int, in, what any) (bool, error) {
	switch in := in.(type) {
	case string:
		if s, ok := what.(string); ok {
			return strings.Contains(in, s), nil
		}
	case []any:
		for _, item := range in {
			if equal(item, what) {
				return true, nil
			}
		}
		return false, nil
	case map[string]any:
		_, ok := in[text(what)]
		return ok, nil
	}
	return false, errorf(off, "%s cannot be searched for %s", kind(in), kind(what))
}

// weight is the work that a walk over v takes.
func weight(v any) int {
	switch v := v.(type) {
	case string:
		return len(v)
	case []any:
		n := 1
		for _, item := range v {
			n += weight(item)
		}
		return n
	}
	return 1
}

func truthy(v any) bool {
	switch v := v.(type) {
	case undefined:
		return false
	case bool:
		return v
	case string:
		return v != ""
	case int64:
		return v != 0
	case float64:
		return v != 0
	case []any:
		return len(v) > 0
	case map[string]any:
		return len(v) > 0
	}
	return v != nil
}

// text is how a value is written into the output.
func text(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case bool:
		return strconv.FormatBool(v)
	case int64:
		return strconv.FormatInt(v, 10)
	case float64:
		return strconv.FormatFloat(v, 'g', -1, 64)
	case []any:
		parts := make([]string, len(v))
		for i, item := range v {
			parts[i] = text(item)
		}
		return "[" + strings.Join(parts, ", ") + "]"
	case map[string]any:
		return "[object]"
	}
	return ""
}

func kind(v any) string {
	switch v.(type) {
	case string:
		return "a text"
	case bool:
		return "true or false"
	case int64, float64:
		return "a number"
	case []any:
		return "a list"
	case map[string]any:
		return "an object"
	case undefined:
		return "nothing"
	}
	return "null"
}
