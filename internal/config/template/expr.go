package template

import (
	"slices"
	"strconv"
)

// expr is a part of an expression.
type expr interface{}

type (
	literal  struct{ value any }
	listExpr struct{ items []expr }
	variable struct {
		off  int
		name string
	}
	index struct {
		off  int
		of   expr
		with expr
	}
	call struct {
		off  int
		name string
		args map[string]expr
	}
	filtered struct {
		of expr
		by call
	}
	tested struct {
		off  int
		of   expr
		name string
		args []expr
		not  bool
	}
	unary struct {
		off int
		op  string
		of  expr
	}
	binary struct {
		off         int
		op          string
		left, right expr
	}
)

// exprParser reads the expression inside one mark; the last token is the mark's end.
type exprParser struct {
	tokens []token
	next   int
	depth  int
}

func parseWhole(tokens []token) (expr, error) {
	return (&exprParser{tokens: tokens}).last()
}

func (p *exprParser) peek() token { return p.tokens[p.next] }

func (p *exprParser) advance() token {
	t := p.tokens[p.next]
	if t.kind != tokenEnd {
		p.next++
	}
	return t
}

// take consumes the symbol or the word when it comes next.
func (p *exprParser) take(text string) bool {
	t := p.peek()
	if (t.kind == tokenSymbol || t.kind == tokenName) && t.text == text {
		p.next++
		return true
	}
	return false
}

func (p *exprParser) symbol(text string) error {
	if !p.take(text) {
		return p.expected(strconv.Quote(text))
	}
	return nil
}

func (p *exprParser) name(what string) (string, error) {
	if t := p.peek(); t.kind == tokenName {
		p.next++
		return t.text, nil
	}
	return "", p.expected(what)
}

func (p *exprParser) expected(what string) error {
	t := p.peek()
	if t.kind == tokenEnd {
		return errorf(t.off, "the template mark ends where %s should be", what)
	}
	return errorf(t.off, "%q stands where %s should be", t.text, what)
}

func (p *exprParser) end() error {
	if t := p.peek(); t.kind != tokenEnd {
		return errorf(t.off, "%q does not belong here; the mark should end", t.text)
	}
	return nil
}

// last reads an expression that fills the rest of the mark.
func (p *exprParser) last() (expr, error) {
	e, err := p.expression()
	if err != nil {
		return nil, err
	}
	return e, p.end()
}

func (p *exprParser) enter() error {
	if p.depth++; p.depth > maxDepth {
		return errorf(p.peek().off, "this expression is nested more than %d deep", maxDepth)
	}
	return nil
}

func (p *exprParser) expression() (expr, error) {
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer func() { p.depth-- }()
	return p.operators(0)
}

// levels are the binary operators, from the loosest binding to the tightest.
var levels = [...][]string{
	{"or"},
	{"and"},
	{"not"}, // a prefix; see operators
	{"==", "!=", "<=", ">=", "<", ">", "in"},
	{"~"},
	{"+", "-"},
	{"*", "/", "%"},
}

const notLevel = 2

func (p *exprParser) operators(level int) (expr, error) {
	if level == len(levels) {
		return p.postfix()
	}
	if level == notLevel {
		if t := p.peek(); t.kind == tokenName && p.take("not") {
			if err := p.enter(); err != nil {
				return nil, err
			}
			defer func() { p.depth-- }()
			of, err := p.operators(notLevel)
			return unary{t.off, "not", of}, err
		}
		return p.operators(level + 1)
	}
	left, err := p.operators(level + 1)
	if err != nil {
		return nil, err
	}
	for chain := 0; ; chain++ {
		t := p.peek()
		op, ok := p.operator(levels[level])
		if !ok {
			return left, nil
		}
		if chain > 10*maxDepth {
			return nil, errorf(t.off, "this expression is too long")
		}
		right, err := p.operators(level + 1)
		if err != nil {
			return nil, err
		}
		left = binary{t.off, op, left, right}
	}
}

// operator consumes the next operator when it is one of ops; "not in" counts as one.
func (p *exprParser) operator(ops []string) (string, bool) {
	t := p.peek()
	if t.kind != tokenSymbol && t.kind != tokenName {
		return "", false
	}
	if t.text == "not" && slices.Contains(ops, "in") {
		if following := p.tokens[p.next+1]; following.kind == tokenName && following.text == "in" {
			p.next += 2
			return "not in", true
		}
	}
	if slices.Contains(ops, t.text) {
		p.next++
		return t.text, true
	}
	return "", false
}

// postfix reads a value with what follows it: .name, [index], | filter, is test.
func (p *exprParser) postfix() (expr, error) {
	e, err := p.primary()
	if err != nil {
		return nil, err
	}
	for chain := 0; ; chain++ {
		if chain > maxDepth {
			return nil, errorf(p.peek().off, "this expression is too long")
		}
		t := p.peek()
		switch {
		case p.take("."):
			switch member := p.advance(); member.kind {
			case tokenName:
				e = index{t.off, e, literal{member.text}}
			case tokenInteger:
				n, _ := strconv.ParseInt(member.text, 10, 64)
				e = index{t.off, e, literal{n}}
			default:
				return nil, errorf(t.off, "a dot is followed by a name or a number")
			}
		case p.take("["):
			with, err := p.expression()
			if err != nil {
				return nil, err
			}
			if err := p.symbol("]"); err != nil {
				return nil, err
			}
			e = index{t.off, e, with}
		case p.take("|"):
			c, err := p.call()
			if err != nil {
				return nil, err
			}
			e = filtered{e, c}
		case t.kind == tokenName && p.take("is"):
			if e, err = p.test(e, t.off); err != nil {
				return nil, err
			}
		default:
			return e, nil
		}
	}
}

func (p *exprParser) test(of expr, off int) (expr, error) {
	n := tested{off: off, of: of, not: p.take("not")}
	var err error
	if n.name, err = p.name("the name of a test"); err != nil {
		return nil, err
	}
	if !p.take("(") {
		return n, nil
	}
	for !p.take(")") {
		// Tera's tests take positional arguments, and tolerate a name before one.
		if t := p.peek(); t.kind == tokenName && p.tokens[p.next+1].kind == tokenSymbol && p.tokens[p.next+1].text == "=" {
			p.next += 2
		}
		arg, err := p.expression()
		if err != nil {
			return nil, err
		}
		n.args = append(n.args, arg)
		if p.take(",") {
			continue
		}
		if err := p.symbol(")"); err != nil {
			return nil, err
		}
		break
	}
	return n, nil
}

// call reads NAME or NAME(key=value, ...).
func (p *exprParser) call() (call, error) {
	c := call{off: p.peek().off}
	var err error
	if c.name, err = p.name("the name of a filter"); err != nil {
		return c, err
	}
	if p.take("(") {
		err = p.arguments(&c)
	}
	return c, err
}

func (p *exprParser) arguments(c *call) error {
	c.args = map[string]expr{}
	for !p.take(")") {
		name := p.peek()
		if name.kind != tokenName || p.tokens[p.next+1].text != "=" || p.tokens[p.next+1].kind != tokenSymbol {
			return errorf(name.off, "arguments of %s are named, as in %s(name=value)", c.name, c.name)
		}
		p.next += 2
		if _, twice := c.args[name.text]; twice {
			return errorf(name.off, "%s is given twice", name.text)
		}
		value, err := p.expression()
		if err != nil {
			return err
		}
		c.args[name.text] = value
		if p.take(",") {
			continue
		}
		return p.symbol(")")
	}
	return nil
}

func (p *exprParser) primary() (expr, error) {
	t := p.advance()
	switch t.kind {
	case tokenString:
		return literal{t.text}, nil
	case tokenInteger:
		n, err := strconv.ParseInt(t.text, 10, 64)
		if err != nil {
			return nil, errorf(t.off, "the number %s is too large", t.text)
		}
		return literal{n}, nil
	case tokenFloat:
		f, err := strconv.ParseFloat(t.text, 64)
		if err != nil {
			return nil, errorf(t.off, "%s is no number", t.text)
		}
		return literal{f}, nil
	case tokenName:
		return p.named(t)
	case tokenSymbol:
		switch t.text {
		case "(":
			e, err := p.expression()
			if err != nil {
				return nil, err
			}
			return e, p.symbol(")")
		case "[":
			return p.list()
		case "-":
			if err := p.enter(); err != nil {
				return nil, err
			}
			defer func() { p.depth-- }()
			of, err := p.primary()
			return unary{t.off, "-", of}, err
		}
	}
	if t.kind != tokenEnd {
		p.next--
	}
	return nil, p.expected("a value")
}

func (p *exprParser) named(t token) (expr, error) {
	switch t.text {
	case "true", "True":
		return literal{true}, nil
	case "false", "False":
		return literal{false}, nil
	}
	if p.peek().text == "::" {
		return nil, errorf(t.off, "macros are not available")
	}
	if p.take("(") {
		c := call{off: t.off, name: t.text}
		return c, p.arguments(&c)
	}
	return variable{t.off, t.text}, nil
}

func (p *exprParser) list() (expr, error) {
	l := listExpr{}
	for !p.take("]") {
		item, err := p.expression()
		if err != nil {
			return nil, err
		}
		l.items = append(l.items, item)
		if p.take(",") {
			continue
		}
		return l, p.symbol("]")
	}
	return l, nil
}
