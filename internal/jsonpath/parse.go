package jsonpath

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// query is a chain of segments, from the root or, in a filter, from the current value.
type query struct {
	relative bool
	segments []segment
}

// singular says that the query selects one value at most (RFC 9535, section 2.3.5.1).
func (q query) singular() bool {
	for _, s := range q.segments {
		if s.descend || len(s.selectors) != 1 {
			return false
		}
		switch s.selectors[0].(type) {
		case name, index:
		default:
			return false
		}
	}
	return true
}

type segment struct {
	descend   bool
	selectors []selector
}

// selector is a name, wildcard, index, slice or filter.
type selector any

type (
	name     string
	wildcard struct{}
	index    int64
	slice    struct{ start, end, step *int64 }
	filter   struct{ expr logical }
)

// The expressions of filters.
type (
	logical any // or, and, not, comparison, exists, test
	or      []logical
	and     []logical
	not     struct{ of logical }
	exists  struct{ query query }
	test    struct{ call call } // a function that is true or false

	comparison struct {
		op          string
		left, right operand
	}

	operand any // literal, query (singular) or call
	literal struct{ value any }
	call    struct {
		function string
		args     []operand // or query, for functions of several values
		pattern  *expression
	}
)

// parser reads a query from left to right.
type parser struct {
	text  string
	at    int
	depth int
}

func (p *parser) fail(format string, args ...any) error {
	return &SyntaxError{p.at, fmt.Sprintf(format, args...)}
}

func (p *parser) peek() byte {
	if p.at < len(p.text) {
		return p.text[p.at]
	}
	return 0
}

// take takes a text if it is next.
func (p *parser) take(s string) bool {
	if strings.HasPrefix(p.text[p.at:], s) {
		p.at += len(s)
		return true
	}
	return false
}

func (p *parser) space() {
	for p.at < len(p.text) && strings.IndexByte(" \t\n\r", p.text[p.at]) >= 0 {
		p.at++
	}
}

func (p *parser) whole() (query, error) {
	if !p.take("$") {
		return query{}, p.fail("a query begins with $")
	}
	q, err := p.segments()
	if err == nil && p.at < len(p.text) {
		err = p.fail("%q does not belong here", p.text[p.at:])
	}
	return q, err
}

func (p *parser) segments() (q query, err error) {
	for {
		before := p.at
		p.space()
		var s segment
		switch {
		case p.take(".."):
			s.descend = true
			if p.peek() == '[' {
				p.at++
				s.selectors, err = p.bracket()
			} else {
				s.selectors, err = p.short()
			}
		case p.take("."):
			s.selectors, err = p.short()
		case p.take("["):
			s.selectors, err = p.bracket()
		default:
			p.at = before // the space belongs to what comes
			return q, nil
		}
		if err != nil {
			return q, err
		}
		q.segments = append(q.segments, s)
	}
}

// short reads * or a name without quotes.
func (p *parser) short() ([]selector, error) {
	if p.take("*") {
		return []selector{wildcard{}}, nil
	}
	start := p.at
	for p.at < len(p.text) {
		r, n := utf8.DecodeRuneInString(p.text[p.at:])
		letter := r == '_' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= utf8.RuneSelf && r != utf8.RuneError
		if !letter && (p.at == start || r < '0' || r > '9') {
			break
		}
		p.at += n
	}
	if p.at == start {
		return nil, p.fail("a name or * is missing")
	}
	return []selector{name(p.text[start:p.at])}, nil
}

// bracket reads selectors up to and with the closing bracket.
func (p *parser) bracket() (out []selector, err error) {
	for {
		p.space()
		s, err := p.selector()
		if err != nil {
			return nil, err
		}
		out = append(out, s)
		p.space()
		switch {
		case p.take("]"):
			return out, nil
		case !p.take(","):
			return nil, p.fail("a comma or ] is missing")
		}
	}
}

func (p *parser) selector() (selector, error) {
	switch c := p.peek(); {
	case c == '\'' || c == '"':
		s, err := p.quoted()
		return name(s), err
	case p.take("*"):
		return wildcard{}, nil
	case p.take("?"):
		p.space()
		e, err := p.or()
		return filter{e}, err
	}
	first, err := p.integer()
	if err != nil {
		return nil, err
	}
	before := p.at
	p.space()
	if !p.take(":") {
		p.at = before
		if first == nil {
			return nil, p.fail("a selector is missing: a quoted name, *, a number, a slice or ?")
		}
		return index(*first), nil
	}
	s := slice{start: first}
	p.space()
	if s.end, err = p.integer(); err != nil {
		return nil, err
	}
	before = p.at
	p.space()
	if !p.take(":") {
		p.at = before
		return s, nil
	}
	p.space()
	s.step, err = p.integer()
	return s, err
}

// integer reads a whole number if there is one.
func (p *parser) integer() (*int64, error) {
	start := p.at
	p.take("-")
	digits := p.at
	for c := p.peek(); c >= '0' && c <= '9'; c = p.peek() {
		p.at++
	}
	text := p.text[start:p.at]
	if text == "" {
		return nil, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	const most = 1<<53 - 1 // RFC 9535, section 2.1
	if err != nil || n > most || n < -most || text == "-0" || p.at > digits+1 && p.text[digits] == '0' {
		p.at = start
		return nil, p.fail("%q is no index", text)
	}
	return &n, nil
}

// quoted reads a string literal in quotes of either kind.
func (p *parser) quoted() (string, error) {
	start, quote := p.at, p.peek()
	p.at++
	var b strings.Builder // as JSON
	b.WriteByte('"')
	for p.at < len(p.text) {
		c := p.text[p.at]
		switch {
		case c == quote:
			p.at++
			b.WriteByte('"')
			var s string
			if err := json.Unmarshal([]byte(b.String()), &s); err != nil {
				p.at = start
				return "", p.fail("no string: %v", err)
			}
			return s, nil
		case c == '\\' && p.at+1 < len(p.text):
			switch next := p.text[p.at+1]; {
			case next == quote && quote == '\'':
				b.WriteByte('\'')
			case next == '\'' || next == '"' && quote == '\'':
				return "", p.fail(`\%c does not belong here`, next)
			default:
				b.WriteString(p.text[p.at : p.at+2])
			}
			p.at += 2
			continue
		case c == '"':
			b.WriteString(`\"`)
		default:
			b.WriteByte(c)
		}
		p.at++
	}
	p.at = start
	return "", p.fail("the string has no end")
}
