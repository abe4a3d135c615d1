package jq

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/itchyny/gojq"
)

// guard returns a copy of a program in which values are weighed before they are used, or says what a program can't
// have here.
func guard(q *gojq.Query) (*gojq.Query, error) {
	g := &guarding{}
	out := g.query(q, nil)
	if g.err != nil {
		return nil, g.err
	}
	return out, nil
}

// guarding is the copying of one program.
type guarding struct{ err error }

func (g *guarding) fail(format string, args ...any) {
	if g.err == nil {
		g.err = fmt.Errorf(format, args...)
	}
}

// scope has the functions that a program has defined, the inner ones first.
type scope struct {
	name  string
	args  int
	outer *scope
}

func (s *scope) defines(name string, args int) bool {
	for ; s != nil; s = s.outer {
		if s.name == name && s.args == args {
			return true
		}
	}
	return false
}

func (g *guarding) query(q *gojq.Query, s *scope) *gojq.Query {
	if q == nil {
		return nil
	}
	if len(q.Imports) > 0 || q.Meta != nil {
		g.fail("modules can't be imported")
	}
	out := &gojq.Query{Op: q.Op}
	for _, d := range q.FuncDefs {
		def := &scope{d.Name, len(d.Args), s}
		out.FuncDefs = append(out.FuncDefs, g.funcDef(d, def))
		s = def
	}
	out.Patterns = g.patterns(q.Patterns, s)
	if q.Op == 0 {
		out.Term = g.term(q.Term, s)
		return out
	}
	l, r := g.query(q.Left, s), g.query(q.Right, s)
	switch q.Op {
	case gojq.OpPipe, gojq.OpComma, gojq.OpAnd, gojq.OpOr, gojq.OpAlt:
	case gojq.OpAdd, gojq.OpMod, gojq.OpEq, gojq.OpNe, gojq.OpGt, gojq.OpLt, gojq.OpGe, gojq.OpLe:
		l, r = weighed(l, light), weighed(r, light)
	case gojq.OpSub:
		l, r = squared(l), squared(r)
	case gojq.OpDiv:
		l, r = weighed(l, pieces), weighed(r, pieces)
	case gojq.OpMul:
		return &gojq.Query{FuncDefs: out.FuncDefs, Term: call(timesName, weighed(l, light), weighed(r, light))}
	default:
		g.fail("%s can't be used in a filter: it changes a document, and the input is a text", q.Op)
	}
	out.Left, out.Right = l, r
	return out
}

func (g *guarding) funcDef(d *gojq.FuncDef, s *scope) *gojq.FuncDef {
	if strings.HasPrefix(d.Name, "_") {
		g.fail("the name of a function does not start with _")
	}
	for _, a := range d.Args {
		s = &scope{strings.TrimPrefix(a, "$"), 0, s}
	}
	return &gojq.FuncDef{Name: d.Name, Args: d.Args, Body: g.query(d.Body, s)}
}

func (g *guarding) patterns(list []*gojq.Pattern, s *scope) (out []*gojq.Pattern) {
	for _, p := range list {
		copied := &gojq.Pattern{Name: p.Name, Array: g.patterns(p.Array, s)}
		for _, o := range p.Object {
			field := &gojq.PatternObject{Key: o.Key, KeyString: g.text(o.KeyString, tree, s), KeyQuery: g.query(o.KeyQuery, s)}
			if o.Val != nil {
				field.Val = g.patterns([]*gojq.Pattern{o.Val}, s)[0]
			}
			copied.Object = append(copied.Object, field)
		}
		out = append(out, copied)
	}
	return out
}

// term copies a term. What stands in front of a suffix that looks at more than one value is weighed.
func (g *guarding) term(t *gojq.Term, s *scope) *gojq.Term {
	if t == nil {
		g.fail("the program is empty")
		return identity()
	}
	out := g.bare(t, s)
	for _, x := range t.SuffixList {
		if x.Iter || x.Index != nil && x.Index.IsSlice {
			out = inner(weighed(&gojq.Query{Term: out}, tree))
		}
		out.SuffixList = append(out.SuffixList, &gojq.Suffix{Index: g.index(x.Index, s), Iter: x.Iter, Optional: x.Optional})
	}
	return out
}

// index copies an index. What is computed has to be the place of one value: lists and objects search.
func (g *guarding) index(x *gojq.Index, s *scope) *gojq.Index {
	if x == nil {
		return nil
	}
	out := &gojq.Index{Name: x.Name, IsSlice: x.IsSlice, Str: g.text(x.Str, tree, s), Start: g.query(x.Start, s), End: g.query(x.End, s)}
	if out.Start != nil && !isNumber(out.Start) {
		out.Start = after(&gojq.Query{Term: inner(out.Start)}, call(placeName))
	}
	return out
}

func isNumber(q *gojq.Query) bool {
	return q.Term != nil && q.Term.Type == gojq.TermTypeNumber && len(q.Term.SuffixList) == 0 && len(q.FuncDefs) == 0
}

// bare copies a term without its suffixes.
func (g *guarding) bare(t *gojq.Term, s *scope) *gojq.Term {
	out := &gojq.Term{Type: t.Type}
	switch t.Type {
	case gojq.TermTypeIdentity, gojq.TermTypeNull, gojq.TermTypeTrue, gojq.TermTypeFalse:
	case gojq.TermTypeNumber:
		out.Number = t.Number
	case gojq.TermTypeBreak:
		out.Break = t.Break
	case gojq.TermTypeRecurse:
		return inner(after(weighThis(tree), out))
	case gojq.TermTypeIndex:
		if out.Index = g.index(t.Index, s); t.Index.IsSlice {
			// The places are computed from the same input.
			return inner(after(weighThis(tree), out))
		}
	case gojq.TermTypeFunc:
		return g.function(t.Func, s)
	case gojq.TermTypeObject:
		out.Object = g.object(t.Object, s)
	case gojq.TermTypeArray:
		out.Array = &gojq.Array{Query: g.query(t.Array.Query, s)}
	case gojq.TermTypeUnary:
		out.Unary = &gojq.Unary{Op: t.Unary.Op, Term: g.term(t.Unary.Term, s)}
	case gojq.TermTypeFormat:
		out.Format = t.Format
		if out.Str = g.text(t.Str, format, s); out.Str == nil {
			return inner(after(weighThis(format), out))
		}
	case gojq.TermTypeString:
		out.Str = g.text(t.Str, tree, s)
	case gojq.TermTypeQuery:
		out.Query = g.query(t.Query, s)
	default:
		g.control(out, t, s)
	}
	return out
}

// control copies what decides what is done.
func (g *guarding) control(out, t *gojq.Term, s *scope) {
	switch t.Type {
	case gojq.TermTypeIf:
		out.If = &gojq.If{Cond: g.query(t.If.Cond, s), Then: g.query(t.If.Then, s), Else: g.query(t.If.Else, s)}
		for _, e := range t.If.Elif {
			out.If.Elif = append(out.If.Elif, &gojq.IfElif{Cond: g.query(e.Cond, s), Then: g.query(e.Then, s)})
		}
	case gojq.TermTypeTry:
		out.Try = &gojq.Try{Body: g.query(t.Try.Body, s), Catch: g.query(t.Try.Catch, s)}
	case gojq.TermTypeReduce:
		r := t.Reduce
		out.Reduce = &gojq.Reduce{Query: g.query(r.Query, s), Patterns: g.patterns(r.Patterns, s), Start: g.query(r.Start, s), Update: g.query(r.Update, s)}
	case gojq.TermTypeForeach:
		f := t.Foreach
		out.Foreach = &gojq.Foreach{
			Query: g.query(f.Query, s), Patterns: g.patterns(f.Patterns, s),
			Start: g.query(f.Start, s), Update: g.query(f.Update, s), Extract: g.query(f.Extract, s),
		}
	case gojq.TermTypeLabel:
		out.Label = &gojq.Label{Ident: t.Label.Ident, Body: g.query(t.Label.Body, s)}
	default:
		g.fail("%s can't be used in a filter", t)
	}
}

func (g *guarding) object(o *gojq.Object, s *scope) *gojq.Object {
	out := &gojq.Object{}
	for _, kv := range o.KeyVals {
		out.KeyVals = append(out.KeyVals, &gojq.ObjectKeyVal{
			Key: kv.Key, KeyString: g.text(kv.KeyString, tree, s), KeyQuery: g.query(kv.KeyQuery, s), Val: g.query(kv.Val, s),
		})
	}
	return out
}

// text copies a text, in which the values that it is made of are weighed as often as they are copied.
func (g *guarding) text(t *gojq.String, times int, s *scope) *gojq.String {
	if t == nil {
		return nil
	}
	out := &gojq.String{Str: t.Str}
	for _, part := range t.Queries {
		if part.Term != nil && part.Term.Str != nil {
			out.Queries = append(out.Queries, part)
			continue
		}
		out.Queries = append(out.Queries, &gojq.Query{Term: inner(weighed(g.query(part, s), times+len(t.Queries)))})
	}
	return out
}

func identity() *gojq.Term { return &gojq.Term{Type: gojq.TermTypeIdentity} }

// inner is a query as a term.
func inner(q *gojq.Query) *gojq.Term { return &gojq.Term{Type: gojq.TermTypeQuery, Query: q} }

func after(q *gojq.Query, t *gojq.Term) *gojq.Query {
	return &gojq.Query{Left: q, Op: gojq.OpPipe, Right: &gojq.Query{Term: t}}
}

func call(name string, args ...*gojq.Query) *gojq.Term {
	return &gojq.Term{Type: gojq.TermTypeFunc, Func: &gojq.Func{Name: name, Args: args}}
}

func weighThis(times int) *gojq.Query {
	return &gojq.Query{Term: call(weighName, &gojq.Query{Term: &gojq.Term{Type: gojq.TermTypeNumber, Number: strconv.Itoa(times)}})}
}

// weighed weighs what a query yields. The parentheses keep what the query defines to itself.
func weighed(q *gojq.Query, times int) *gojq.Query {
	return &gojq.Query{Left: &gojq.Query{Term: inner(q)}, Op: gojq.OpPipe, Right: weighThis(times)}
}

func squared(q *gojq.Query) *gojq.Query {
	return after(&gojq.Query{Term: inner(q)}, call(squareName))
}

func searched(q *gojq.Query) *gojq.Query {
	return after(&gojq.Query{Term: inner(q)}, call(searchName))
}
