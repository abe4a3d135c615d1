package jsonpath

import (
	"encoding/json"
	"regexp"
	"strings"

	"github.com/mirrord-go/mirrord/internal/pattern"
)

// The types of RFC 9535, section 2.4.1.
type kind uint8

const (
	valueType kind = iota
	logicalType
	nodesType
)

// functions have the types of their arguments and of their result.
var functions = map[string]struct {
	args   []kind
	result kind
}{
	"length": {[]kind{valueType}, valueType},
	"count":  {[]kind{nodesType}, valueType},
	"value":  {[]kind{nodesType}, valueType},
	"typeof": {[]kind{valueType}, valueType},
	"match":  {[]kind{valueType, valueType}, logicalType},
	"search": {[]kind{valueType, valueType}, logicalType},
}

func (p *parser) or() (logical, error) {
	p.depth++
	defer func() { p.depth-- }()
	if p.depth > maxDepth {
		return nil, p.fail("nested more than %d deep", maxDepth)
	}
	return p.chain("||", p.and, func(l []logical) logical { return or(l) })
}

func (p *parser) and() (logical, error) {
	return p.chain("&&", p.basic, func(l []logical) logical { return and(l) })
}

func (p *parser) chain(op string, next func() (logical, error), join func([]logical) logical) (logical, error) {
	var list []logical
	for {
		e, err := next()
		if err != nil {
			return nil, err
		}
		list = append(list, e)
		before := p.at
		p.space()
		if !p.take(op) {
			p.at = before
			break
		}
		p.space()
	}
	if len(list) == 1 {
		return list[0], nil
	}
	return join(list), nil
}

// basic reads an expression in parentheses, a comparison or a test.
func (p *parser) basic() (logical, error) {
	negated := p.take("!")
	if negated {
		p.space()
	}
	var e logical
	var err error
	if p.take("(") {
		p.space()
		if e, err = p.or(); err != nil {
			return nil, err
		}
		p.space()
		if !p.take(")") {
			return nil, p.fail("a ) is missing")
		}
	} else if e, err = p.relation(negated); err != nil {
		return nil, err
	}
	if negated {
		e = not{e}
	}
	return e, nil
}

// relation reads a comparison or, if nothing is compared, a test.
func (p *parser) relation(negated bool) (logical, error) {
	start := p.at
	left, err := p.operand()
	if err != nil {
		return nil, err
	}
	before := p.at
	p.space()
	for _, op := range []string{"==", "!=", "<=", ">=", "<", ">"} {
		if negated || !p.take(op) {
			continue
		}
		p.space()
		right, err := p.operand()
		if err != nil {
			return nil, err
		}
		for _, o := range []operand{left, right} {
			if !isValue(o) {
				p.at = start
				return nil, p.fail("only single values can be compared")
			}
		}
		return comparison{op, left, right}, nil
	}
	p.at = before
	switch o := left.(type) {
	case query:
		return exists{o}, nil
	case call:
		if functions[o.function].result == logicalType {
			return test{o}, nil
		}
	}
	p.at = start
	return nil, p.fail("a value alone is no condition")
}

// isValue says whether an operand stands for one value.
func isValue(o operand) bool {
	switch o := o.(type) {
	case query:
		return o.singular()
	case call:
		return functions[o.function].result == valueType
	}
	return true
}

func (p *parser) operand() (operand, error) {
	switch c := p.peek(); {
	case c == '@' || c == '$':
		p.at++
		q, err := p.segments()
		q.relative = c == '@'
		return q, err
	case c == '\'' || c == '"':
		s, err := p.quoted()
		return literal{s}, err
	case c == '-' || c >= '0' && c <= '9':
		return p.number()
	}
	start := p.at
	for c := p.peek(); c >= 'a' && c <= 'z' || p.at > start && (c >= '0' && c <= '9' || c == '_'); c = p.peek() {
		p.at++
	}
	word := p.text[start:p.at]
	if p.take("(") {
		return p.call(word, start)
	}
	switch word {
	case "true", "false":
		return literal{word == "true"}, nil
	case "null":
		return literal{nil}, nil
	}
	p.at = start
	return nil, p.fail("a value or a query is missing")
}

var numberForm = regexp.MustCompile(`^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?`)

func (p *parser) number() (operand, error) {
	text := numberForm.FindString(p.text[p.at:])
	if text == "" {
		return nil, p.fail("no number")
	}
	p.at += len(text)
	return literal{json.Number(text)}, nil
}

// call reads the arguments of a function.
func (p *parser) call(word string, start int) (operand, error) {
	f, ok := functions[word]
	if !ok {
		p.at = start
		return nil, p.fail("there is no function %s", word)
	}
	p.depth++
	defer func() { p.depth-- }()
	if p.depth > maxDepth {
		return nil, p.fail("nested more than %d deep", maxDepth)
	}
	c := call{function: word}
	for i, want := range f.args {
		p.space()
		if i > 0 {
			if !p.take(",") {
				return nil, p.fail("%s has %d arguments", word, len(f.args))
			}
			p.space()
		}
		at := p.at
		arg, err := p.operand()
		if err != nil {
			return nil, err
		}
		if _, isQuery := arg.(query); want == nodesType && !isQuery || want == valueType && !isValue(arg) {
			p.at = at
			return nil, p.fail("%s does not take this", word)
		}
		c.args = append(c.args, arg)
	}
	p.space()
	if !p.take(")") {
		return nil, p.fail("%s has %d arguments, and then a )", word, len(f.args))
	}
	if f.result == logicalType {
		if l, ok := c.args[1].(literal); ok {
			text, ok := l.value.(string)
			var err error
			if c.pattern, err = compile(word, text); err != nil || !ok {
				p.at = start
				return nil, p.fail("%s needs a regular expression: %v", word, err)
			}
		}
	}
	return c, nil
}

// expression is a regular expression, of so many steps.
type expression struct {
	*regexp.Regexp
	size int
}

// compileFrom compiles a pattern that a document has, and counts what that takes.
func (e *evaluation) compileFrom(function, text string) (*expression, bool) {
	if len(text) > MaxLength || !e.step(len(text)) {
		return nil, false
	}
	x, err := compile(function, text)
	return x, err == nil && e.step(x.size)
}

// compile makes a pattern for match, which is about the whole text, or for search.
func compile(function, text string) (*expression, error) {
	text = strings.ToValidUTF8(text, "\uFFFD")
	if function == "match" {
		text = "^(?:" + text + ")$"
	}
	size, err := pattern.Size(text)
	if err != nil {
		return nil, err
	}
	re, err := regexp.Compile(text)
	return &expression{re, size}, err
}
