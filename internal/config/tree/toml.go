package tree

import (
	"errors"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

func parseTOML(text []byte) (*Node, error) {
	if err := tooDeep(text); err != nil {
		return nil, err
	}
	// The library's decoder knows the rules about what may be defined once; its parser, used
	// after it, knows the positions.
	var ignored map[string]any
	if err := toml.Unmarshal(text, &ignored); err != nil {
		return nil, tomlError(text, err)
	}
	r := &tomlReader{root: &Node{Kind: Object}}
	r.parser.Reset(text)
	table := r.root
	for r.parser.NextExpression() {
		e := r.parser.Expression()
		switch e.Kind {
		case unstable.Table:
			table = r.table(e, false)
		case unstable.ArrayTable:
			table = r.table(e, true)
		case unstable.KeyValue:
			r.keyValue(table, e, 0)
		}
		if r.err != nil {
			return nil, r.err
		}
	}
	if err := r.parser.Error(); err != nil {
		return nil, errorf(0, "this is not TOML: %v", err)
	}
	return r.root, nil
}

func tomlError(text []byte, err error) error {
	var decode *toml.DecodeError
	if errors.As(err, &decode) {
		line, column := decode.Position()
		return errorf(offsetOf(text, line, 1)+column-1, "this is not TOML: %s", strings.TrimPrefix(decode.Error(), "toml: "))
	}
	return errorf(0, "this is not TOML: %v", err)
}

type tomlReader struct {
	parser unstable.Parser
	root   *Node
	err    error
}

// table walks to the table of a [header], making what is not there; the last element of a
// list stands for the list. A [[header]] adds an element.
func (r *tomlReader) table(e *unstable.Node, element bool) *Node {
	at := r.root
	for it, depth := e.Key(), 0; it.Next(); depth++ {
		key := it.Node()
		last := it.IsLast()
		at = r.child(at, key, depth)
		if last && element {
			if at.Kind != List {
				at.Kind = List
			}
			item := &Node{Kind: Object, Offset: int(key.Raw.Offset)}
			at.Items = append(at.Items, item)
			return item
		}
		if at.Kind == List && len(at.Items) > 0 {
			at = at.Items[len(at.Items)-1]
		}
	}
	return at
}

// child returns the object under key, which it makes when there is none.
func (r *tomlReader) child(at *Node, key *unstable.Node, depth int) *Node {
	offset := int(key.Raw.Offset)
	if depth > MaxDepth {
		r.err = errorf(offset, "tables are nested more than %d deep", MaxDepth)
	}
	name := string(key.Data)
	if n := at.Get(name); n != nil {
		return n
	}
	n := &Node{Kind: Object, Offset: offset}
	at.Members = append(at.Members, Member{Key: name, Offset: offset, Value: n})
	return n
}

func (r *tomlReader) keyValue(at *Node, e *unstable.Node, depth int) {
	for it := e.Key(); it.Next(); {
		key := it.Node()
		if !it.IsLast() {
			at = r.child(at, key, depth)
			depth++
			continue
		}
		offset := int(key.Raw.Offset)
		value := r.value(e.Value(), offset, depth+1)
		at.Members = append(at.Members, Member{Key: string(key.Data), Offset: offset, Value: value})
	}
}

// value reads a value; around is the position of what holds it, for those without their own.
func (r *tomlReader) value(e *unstable.Node, around, depth int) *Node {
	n := &Node{Offset: around}
	if e.Raw.Length > 0 {
		n.Offset = int(e.Raw.Offset)
	}
	if depth > MaxDepth {
		r.err = errorf(n.Offset, "tables and arrays are nested more than %d deep", MaxDepth)
		return n
	}
	switch e.Kind {
	case unstable.String, unstable.LocalDate, unstable.LocalTime, unstable.LocalDateTime, unstable.DateTime:
		n.Kind, n.Text = String, string(e.Data)
	case unstable.Bool:
		n.Kind, n.Bool = Bool, string(e.Data) == "true"
	case unstable.Integer:
		n.Kind, n.Text = Number, tomlInteger(string(e.Data))
	case unstable.Float:
		n.Kind, n.Text = Number, strings.ReplaceAll(string(e.Data), "_", "")
	case unstable.Array:
		n.Kind = List
		for it := e.Children(); it.Next(); {
			if it.Node().Kind != unstable.Comment {
				n.Items = append(n.Items, r.value(it.Node(), n.Offset, depth+1))
			}
		}
	case unstable.InlineTable:
		n.Kind = Object
		for it := e.Children(); it.Next(); {
			if it.Node().Kind == unstable.KeyValue {
				r.keyValue(n, it.Node(), depth+1)
			}
		}
	}
	return n
}

// tomlInteger turns a number in any base into decimal notation.
func tomlInteger(s string) string {
	if i, err := strconv.ParseInt(strings.ReplaceAll(s, "_", ""), 0, 64); err == nil {
		return strconv.FormatInt(i, 10)
	}
	return s
}
