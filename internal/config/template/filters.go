package template

import (
	"encoding/json"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// filterNames are the filters, for the message about an unknown one.
const filterNames = "default, lower, upper, capitalize, title, trim, trim_start, trim_end, trim_start_matches, trim_end_matches, " +
	"replace, truncate, split, slugify, addslashes, urlencode, length, first, last, nth, join, reverse, concat, slice, " +
	"int, float, abs, round, as_str, json_encode, safe"

func (r *renderer) filter(of any, c call) (any, error) {
	if err := r.spend(c.off, weight(of)); err != nil {
		return nil, err
	}
	value, err := r.filterValue(of, c)
	if err != nil {
		return nil, err
	}
	return value, r.spend(c.off, weight(value))
}

func (r *renderer) filterValue(of any, c call) (any, error) {
	switch c.name {
	case "default":
		a, err := r.args(c, "value")
		if err != nil {
			return nil, err
		}
		fallback, ok := a.values["value"]
		if !ok {
			return nil, errorf(c.off, "default needs the argument value")
		}
		if _, missing := of.(undefined); missing {
			return fallback, nil
		}
		return of, nil
	case "safe", "as_str", "json_encode", "length", "first", "last", "nth", "join", "reverse", "concat", "slice":
		return r.filterAny(of, c)
	case "int", "float", "abs", "round":
		return r.filterNumber(of, c)
	}
	s, ok := of.(string)
	if !ok {
		if !strings.Contains(", "+filterNames+",", ", "+c.name+",") {
			return nil, unknownFilter(c)
		}
		return nil, errorf(c.off, "%s takes a text, and this is %s", c.name, kind(of))
	}
	return r.filterText(s, c)
}

func unknownFilter(c call) error {
	return errorf(c.off, "there is no filter %s; known are %s", c.name, filterNames)
}

func (r *renderer) filterText(s string, c call) (any, error) {
	switch c.name {
	case "lower":
		return strings.ToLower(s), nil
	case "upper":
		return strings.ToUpper(s), nil
	case "trim":
		return strings.TrimSpace(s), nil
	case "trim_start":
		return strings.TrimLeftFunc(s, unicode.IsSpace), nil
	case "trim_end":
		return strings.TrimRightFunc(s, unicode.IsSpace), nil
	case "capitalize":
		first, size := utf8.DecodeRuneInString(s)
		if size == 0 {
			return s, nil
		}
		return string(unicode.ToUpper(first)) + strings.ToLower(s[size:]), nil
	case "title":
		return title(s), nil
	case "addslashes":
		return strings.NewReplacer(`\`, `\\`, `"`, `\"`, `'`, `\'`).Replace(s), nil
	case "slugify":
		return slugify(s), nil
	case "urlencode":
		return strings.ReplaceAll(url.QueryEscape(s), "+", "%20"), nil
	}
	return r.filterTextArgs(s, c)
}

func (r *renderer) filterTextArgs(s string, c call) (any, error) {
	switch c.name {
	case "trim_start_matches", "trim_end_matches", "split":
		a, err := r.args(c, "pat")
		if err != nil {
			return nil, err
		}
		pat, err := a.text("pat")
		if err != nil {
			return nil, err
		}
		return byPattern(c.name, s, pat), nil
	case "replace":
		a, err := r.args(c, "from", "to")
		if err != nil {
			return nil, err
		}
		from, err := a.text("from")
		if err != nil {
			return nil, err
		}
		to, err := a.text("to")
		if err != nil {
			return nil, err
		}
		if err := r.spend(c.off, (strings.Count(s, from)+1)*len(to)); err != nil {
			return nil, err
		}
		return strings.ReplaceAll(s, from, to), nil
	case "truncate":
		a, err := r.args(c, "length", "end")
		if err != nil {
			return nil, err
		}
		length, err := a.integer("length", 255)
		if err != nil {
			return nil, err
		}
		end, err := a.text("end", "…")
		if err != nil {
			return nil, err
		}
		runes := []rune(s)
		if length < 0 || int64(len(runes)) <= length {
			return s, nil
		}
		return string(runes[:length]) + end, nil
	}
	return nil, unknownFilter(c)
}

func byPattern(name, s, pat string) any {
	switch name {
	case "trim_start_matches":
		for pat != "" && strings.HasPrefix(s, pat) {
			s = s[len(pat):]
		}
		return s
	case "trim_end_matches":
		for pat != "" && strings.HasSuffix(s, pat) {
			s = s[:len(s)-len(pat)]
		}
		return s
	}
	var list []any
	for part := range strings.SplitSeq(s, pat) {
		list = append(list, part)
	}
	return list
}

// filterAny holds the filters that take lists, or values of several kinds.
func (r *renderer) filterAny(of any, c call) (any, error) {
	list, isList := of.([]any)
	switch c.name {
	case "safe":
		return of, nil
	case "as_str":
		return text(of), nil
	case "json_encode":
		if _, err := r.args(c, "pretty"); err != nil {
			return nil, err
		}
		encoded, err := json.Marshal(of)
		if err != nil {
			return nil, errorf(c.off, "json_encode: %v", err)
		}
		return string(encoded), nil
	case "length":
		switch of := of.(type) {
		case string:
			return int64(utf8.RuneCountInString(of)), nil
		case []any:
			return int64(len(of)), nil
		case map[string]any:
			return int64(len(of)), nil
		}
		return nil, errorf(c.off, "%s has no length", kind(of))
	case "reverse":
		if s, ok := of.(string); ok {
			runes := []rune(s)
			slices.Reverse(runes)
			return string(runes), nil
		}
	}
	if !isList {
		return nil, errorf(c.off, "%s takes a list, and this is %s", c.name, kind(of))
	}
	return r.filterList(list, c)
}

func (r *renderer) filterList(list []any, c call) (any, error) {
	a, err := r.args(c, "n", "sep", "with", "start", "end")
	if err != nil {
		return nil, err
	}
	size := int64(len(list))
	at := int64(0)
	switch c.name {
	case "reverse":
		reversed := slices.Clone(list)
		slices.Reverse(reversed)
		return reversed, nil
	case "concat":
		with, ok := a.values["with"]
		if !ok {
			return nil, errorf(c.off, "concat needs the argument with")
		}
		if more, ok := with.([]any); ok {
			return slices.Concat(list, more), nil
		}
		return append(slices.Clone(list), with), nil
	case "join":
		sep, err := a.text("sep", "")
		if err != nil {
			return nil, err
		}
		if err := r.spend(c.off, len(list)*len(sep)); err != nil {
			return nil, err
		}
		parts := make([]string, len(list))
		for i, item := range list {
			parts[i] = text(item)
			if err := r.spend(c.off, len(parts[i])); err != nil {
				return nil, err
			}
		}
		return strings.Join(parts, sep), nil
	case "slice":
		start, err := a.integer("start", 0)
		if err != nil {
			return nil, err
		}
		end, err := a.integer("end", size)
		if err != nil {
			return nil, err
		}
		start, end = within(start, size), within(end, size)
		return list[start:max(start, end)], nil
	case "last":
		at = size - 1
	case "nth":
		if at, err = a.integer("n"); err != nil {
			return nil, err
		}
	}
	if at < 0 || at >= size {
		return "", nil
	}
	return list[at], nil
}

// within turns a position that may count from the end into one of 0 to size.
func within(i, size int64) int64 {
	if i < 0 {
		i += size
	}
	return min(max(i, 0), size)
}

func (r *renderer) filterNumber(of any, c call) (any, error) {
	a, err := r.args(c, "default", "method", "precision")
	if err != nil {
		return nil, err
	}
	x, ok := number(of)
	if s, isText := of.(string); isText {
		parsed, err := strconv.ParseFloat(strings.TrimSpace(s), 64)
		x, ok = parsed, err == nil
	}
	if !ok {
		if fallback, given := a.values["default"]; given {
			return fallback, nil
		}
		return nil, errorf(c.off, "%s: this is no number; a default can be given with default=", c.name)
	}
	switch c.name {
	case "float":
		return x, nil
	case "abs":
		x = math.Abs(x)
	case "round":
		method, err := a.text("method", "common")
		if err != nil {
			return nil, err
		}
		switch method {
		case "ceil":
			x = math.Ceil(x)
		case "floor":
			x = math.Floor(x)
		default:
			x = math.Round(x)
		}
	}
	if math.Abs(x) > 1<<53 || math.IsNaN(x) {
		return nil, errorf(c.off, "%s: this number is too large", c.name)
	}
	if c.name == "abs" && x != math.Trunc(x) {
		return x, nil
	}
	return int64(x), nil
}

func title(s string) string {
	start := true
	return strings.Map(func(c rune) rune {
		defer func() { start = !unicode.IsLetter(c) && !unicode.IsDigit(c) && c != '\'' }()
		if start {
			return unicode.ToUpper(c)
		}
		return unicode.ToLower(c)
	}, s)
}

// slugify keeps letters and digits of ASCII in lower case, and joins the rest into dashes.
func slugify(s string) string {
	var b strings.Builder
	dash := false
	for _, c := range strings.ToLower(s) {
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' {
			if dash && b.Len() > 0 {
				b.WriteByte('-')
			}
			dash = false
			b.WriteRune(c)
			continue
		}
		dash = true
	}
	return b.String()
}
