package jq

import (
	"github.com/itchyny/gojq"

	"github.com/mirrord-go/mirrord/internal/pattern"
)

// What a function takes for each byte of its input and its arguments: what it makes of them, or what it reads.
const (
	light  = 2  // as much as it gets, or nothing
	tree   = 8  // lists and texts of what it gets
	pieces = 48 // a value for each byte
	format = 48 // texts in which a byte becomes six, and then again
	parsed = 96 // documents of texts
)

// A function is one of these.
type function struct {
	times  int  // that input and arguments are weighed
	all    bool // everything is compared with everything
	search bool // the same, but texts are searched once
	regex  bool // the first argument is a regular expression, a second that is not the last its flags
}

// steps are functions that take memory only by the steps of the interpreter.
var steps = function{}

// functions have the name and the number of arguments. They are those of jq's manual, without the ones that work on paths,
// read other inputs, or take dates to texts.
var functions = map[string]function{
	"empty/0": steps, "not/0": steps, "error/0": steps, "error/1": steps, "select/1": steps, "type/0": steps, "env/0": steps,
	"range/1": steps, "range/2": steps, "range/3": steps, "first/1": steps, "last/1": steps, "limit/2": steps, "skip/2": steps, "nth/2": steps,
	"until/2": steps, "while/2": steps, "repeat/1": steps, "isempty/1": steps, "any/2": steps, "all/2": steps, "recurse/1": steps, "recurse/2": steps,
	"values/0": steps, "nulls/0": steps, "strings/0": steps, "numbers/0": steps, "booleans/0": steps, "arrays/0": steps, "objects/0": steps,
	"iterables/0": steps, "scalars/0": steps, "now/0": steps, "infinite/0": steps, "nan/0": steps,

	"length/0": {times: light}, "utf8bytelength/0": {times: light}, "has/1": {times: light}, "in/1": {times: light},
	"startswith/1": {times: light}, "endswith/1": {times: light}, "ltrimstr/1": {times: light}, "rtrimstr/1": {times: light}, "trimstr/1": {times: light},
	"trim/0": {times: light}, "ltrim/0": {times: light}, "rtrim/0": {times: light}, "ascii_downcase/0": {times: light}, "ascii_upcase/0": {times: light},
	"tonumber/0": {times: light}, "toboolean/0": {times: light}, "abs/0": {times: light}, "floor/0": {times: light}, "ceil/0": {times: light},
	"round/0": {times: light}, "fabs/0": {times: light}, "sqrt/0": {times: light}, "pow/2": {times: light}, "log/0": {times: light}, "log2/0": {times: light},
	"log10/0": {times: light}, "isnan/0": {times: light}, "isinfinite/0": {times: light}, "isnormal/0": {times: light},
	"first/0": {times: light}, "last/0": {times: light},

	"tostring/0": {times: tree}, "tojson/0": {times: tree}, "keys/0": {times: tree}, "add/0": {times: tree}, "add/1": {times: tree},
	"reverse/0": {times: tree}, "implode/0": {times: tree}, "flatten/0": {times: tree}, "flatten/1": {times: tree}, "any/0": {times: tree},
	"all/0": {times: tree}, "any/1": {times: tree}, "all/1": {times: tree}, "map/1": {times: tree}, "recurse/0": {times: tree},
	"min/0": {times: tree}, "max/0": {times: tree}, "sort/0": {times: tree}, "unique/0": {times: tree},
	"min_by/1": {times: tree}, "max_by/1": {times: tree}, "sort_by/1": {times: tree}, "unique_by/1": {times: tree}, "group_by/1": {times: tree},
	"IN/1": {times: tree}, "IN/2": {times: tree}, "to_entries/0": {times: tree}, "from_entries/0": {times: tree}, "with_entries/1": {times: tree},
	"mktime/0": {times: tree}, "gmtime/0": {times: tree}, "strptime/1": {times: tree}, "fromdate/0": {times: tree}, "fromdateiso8601/0": {times: tree},

	"explode/0": {times: pieces}, "split/1": {times: pieces}, "fromjson/0": {times: parsed},

	"contains/1": {search: true}, "inside/1": {search: true}, "index/1": {search: true}, "rindex/1": {search: true}, "indices/1": {all: true}, "nth/1": {all: true},

	"test/1": {regex: true}, "test/2": {regex: true},
	"match/1": {regex: true, all: true}, "match/2": {regex: true, all: true}, "capture/1": {regex: true, all: true}, "capture/2": {regex: true, all: true},
	"scan/1": {regex: true, all: true}, "scan/2": {regex: true, all: true}, "split/2": {regex: true, all: true}, "splits/1": {regex: true, all: true},
	"splits/2": {regex: true, all: true}, "sub/2": {regex: true, all: true}, "sub/3": {regex: true, all: true}, "gsub/2": {regex: true, all: true},
	"gsub/3": {regex: true, all: true},
}

// function copies a call. What the program has defined itself needs no weighing.
func (g *guarding) function(f *gojq.Func, s *scope) *gojq.Term {
	args := make([]*gojq.Query, len(f.Args))
	for i, a := range f.Args {
		args[i] = g.query(a, s)
	}
	if f.Name[0] == '$' || s.defines(f.Name, len(args)) {
		return call(f.Name, args...)
	}
	name := f.Name + "/" + string(rune('0'+min(len(args), 9)))
	if name == "join/1" {
		return call(joinName, args...)
	}
	known, ok := functions[name]
	if !ok {
		g.fail("there is no function %s in a filter", name)
		return identity()
	}
	if known.regex {
		return g.regex(f, args, known)
	}
	if known == steps {
		return call(f.Name, args...)
	}
	for i := range args {
		args[i] = known.weigh(args[i])
	}
	return inner(after(known.weigh(&gojq.Query{Term: identity()}), call(f.Name, args...)))
}

func (f function) weigh(q *gojq.Query) *gojq.Query {
	switch {
	case f.all:
		return squared(q)
	case f.search:
		return searched(q)
	}
	return weighed(q, f.times)
}

// regex copies a call with a regular expression, which is a text as it stands: it is known how much it takes.
func (g *guarding) regex(f *gojq.Func, args []*gojq.Query, known function) *gojq.Term {
	text, ok := literal(f.Args[0])
	if !ok {
		g.fail("the regular expression of %s has to be a text as it stands", f.Name)
		return identity()
	}
	size, err := pattern.Size(text)
	if err != nil {
		g.fail("%w", err)
		return identity()
	}
	for i, a := range f.Args[1:] {
		if _, ok := literal(a); ok {
			continue
		}
		if i+1 != replacement(f) {
			g.fail("the flags of %s have to be a text as they stand", f.Name)
		}
		args[i+1] = weighed(args[i+1], tree)
	}
	in := weighed(&gojq.Query{Term: identity()}, 1+size/16)
	if known.all {
		in = squared(in)
	}
	return inner(after(in, call(f.Name, args...)))
}

// replacement is the number of the argument that replaces what was found, or 0.
func replacement(f *gojq.Func) int {
	if f.Name == "sub" || f.Name == "gsub" {
		return 1
	}
	return 0
}

// literal is the text that a query is, or null as flags.
func literal(q *gojq.Query) (string, bool) {
	t := q.Term
	if t == nil || len(t.SuffixList) > 0 || len(q.FuncDefs) > 0 {
		return "", false
	}
	switch t.Type {
	case gojq.TermTypeString:
		return t.Str.Str, t.Str.Queries == nil
	case gojq.TermTypeNull:
		return "", true
	case gojq.TermTypeQuery:
		return literal(t.Query)
	}
	return "", false
}
