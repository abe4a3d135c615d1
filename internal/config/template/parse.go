package template

// node is a part of a parsed template.
type node interface{}

type (
	textNode struct {
		off  int
		text []byte
	}
	outputNode struct {
		off  int
		expr expr
	}
	ifNode struct {
		branches []branch // tried in order
	}
	branch struct {
		condition expr // nil for else
		body      []node
	}
	forNode struct {
		off        int
		key, value string // key is empty when only values are named
		over       expr
		body, none []node // none is rendered when there is nothing to go over
	}
	setNode struct {
		name   string
		value  expr
		global bool
	}
	filterNode struct {
		off  int
		call call
		body []node
	}
)

// parser reads the pieces of a template into nodes.
type parser struct {
	pieces []piece
	next   int
	depth  int
}

func parse(source []byte) ([]node, error) {
	pieces, err := split(source)
	if err != nil {
		return nil, err
	}
	p := &parser{pieces: pieces}
	nodes, end, err := p.body()
	if err != nil {
		return nil, err
	}
	if end != nil {
		return nil, errorf(end.off, "{%% %s %%} has nothing to end here", end.tokens[0].text)
	}
	return nodes, nil
}

// body reads nodes up to a mark that ends or divides a block, which it returns, or up to the
// end of the template.
func (p *parser) body() ([]node, *piece, error) {
	if p.depth++; p.depth > maxDepth {
		return nil, nil, errorf(p.pieces[p.next-1].off, "blocks are nested more than %d deep", maxDepth)
	}
	defer func() { p.depth-- }()
	var nodes []node
	for p.next < len(p.pieces) {
		piece := &p.pieces[p.next]
		p.next++
		switch piece.mark {
		case 0:
			nodes = append(nodes, textNode{piece.off, piece.text})
		case '{':
			e, err := parseWhole(piece.tokens)
			if err != nil {
				return nil, nil, err
			}
			nodes = append(nodes, outputNode{piece.off, e})
		default:
			switch name := piece.tokens[0].text; name {
			case "endif", "endfor", "endfilter", "else", "elif":
				return nodes, piece, nil
			}
			n, err := p.block(piece)
			if err != nil {
				return nil, nil, err
			}
			nodes = append(nodes, n)
		}
	}
	return nodes, nil, nil
}

func (p *parser) block(open *piece) (node, error) {
	e := &exprParser{tokens: open.tokens[1:]}
	switch name := open.tokens[0].text; name {
	case "if":
		return p.ifBlock(open, e)
	case "for":
		return p.forBlock(open, e)
	case "set", "set_global":
		n := setNode{global: name == "set_global"}
		var err error
		if n.name, err = e.name("a variable's name"); err != nil {
			return nil, err
		}
		if err := e.symbol("="); err != nil {
			return nil, err
		}
		n.value, err = e.last()
		return n, err
	case "filter":
		c, err := e.call()
		if err != nil {
			return nil, err
		}
		if err := e.end(); err != nil {
			return nil, err
		}
		body, err := p.until(open, "endfilter")
		return filterNode{open.off, c, body}, err
	case "include", "import", "extends", "block", "macro":
		return nil, errorf(open.off, "{%% %s %%} is not available: a configuration is one file", name)
	case "break", "continue":
		return nil, errorf(open.off, "{%% %s %%} is not available", name)
	case "":
		return nil, errorf(open.off, "{%% %%} needs a word such as if, for or set")
	default:
		return nil, errorf(open.off, "there is no {%% %s %%}; known are if, for, set, set_global, filter and raw", name)
	}
}

// until reads a body that one mark ends.
func (p *parser) until(open *piece, end string) ([]node, error) {
	body, mark, err := p.body()
	if err != nil {
		return nil, err
	}
	if mark == nil || mark.tokens[0].text != end {
		return nil, errorf(open.off, "this {%% %s %%} has no {%% %s %%}", open.tokens[0].text, end)
	}
	return body, endOf(mark)
}

func endOf(mark *piece) error {
	return (&exprParser{tokens: mark.tokens[1:]}).end()
}

func (p *parser) ifBlock(open *piece, e *exprParser) (node, error) {
	condition, err := e.last()
	if err != nil {
		return nil, err
	}
	n := ifNode{}
	for closed := false; ; {
		body, mark, err := p.body()
		if err != nil {
			return nil, err
		}
		n.branches = append(n.branches, branch{condition, body})
		if mark == nil {
			return nil, errorf(open.off, "this {%% if %%} has no {%% endif %%}")
		}
		switch name := mark.tokens[0].text; {
		case name == "endif":
			return n, endOf(mark)
		case name == "elif" && !closed:
			if condition, err = (&exprParser{tokens: mark.tokens[1:]}).last(); err != nil {
				return nil, err
			}
		case name == "else" && !closed:
			if err := endOf(mark); err != nil {
				return nil, err
			}
			condition, closed = nil, true
		default:
			return nil, errorf(mark.off, "{%% %s %%} does not belong here, inside {%% if %%}", name)
		}
	}
}

func (p *parser) forBlock(open *piece, e *exprParser) (node, error) {
	n := forNode{off: open.off}
	var err error
	if n.value, err = e.name("a variable's name"); err != nil {
		return nil, err
	}
	if e.take(",") {
		n.key = n.value
		if n.value, err = e.name("a variable's name"); err != nil {
			return nil, err
		}
	}
	if word, err := e.name(`"in"`); err != nil || word != "in" {
		return nil, errorf(open.off, "{%% for %%} is written {%% for name in list %%}")
	}
	if n.over, err = e.last(); err != nil {
		return nil, err
	}
	body, mark, err := p.body()
	if err != nil {
		return nil, err
	}
	n.body = body
	if mark != nil && mark.tokens[0].text == "else" {
		if n.none, mark, err = p.body(); err != nil {
			return nil, err
		}
	}
	if mark == nil || mark.tokens[0].text != "endfor" {
		return nil, errorf(open.off, "this {%% for %%} has no {%% endfor %%}")
	}
	return n, endOf(mark)
}
