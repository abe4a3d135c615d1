package tree

import (
	"bytes"
	"errors"
	"slices"
	"strconv"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// maxYAMLIndent is more white space and dashes than a line of a configuration starts with.
const maxYAMLIndent = 1000

func parseYAML(text []byte) (node *Node, err error) {
	if err := tooDeep(text); err != nil {
		return nil, err
	}
	if err := tooIndented(text); err != nil {
		return nil, err
	}
	// The library indexes beyond its tokens on some malformed documents; that is a mistake
	// in the document to the user, and must not end the program.
	defer func() {
		if p := recover(); p != nil {
			node, err = nil, errorf(0, "this is not YAML")
		}
	}()
	file, err := parser.ParseBytes(text, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		return nil, yamlError(text, err)
	}
	r := &yamlReader{text: text, anchors: map[string]*Node{}}
	for _, doc := range file.Docs {
		if doc.Body == nil || doc.Body.Type() == ast.CommentType {
			continue
		}
		if doc.Body.Type() == ast.DirectiveType {
			continue
		}
		next := r.node(doc.Body, 0)
		if node != nil {
			return nil, errorf(next.Offset, "a second YAML document starts here; a configuration is one")
		}
		node = next
	}
	if node == nil {
		return nil, errorf(0, "the file is empty; an empty configuration is {}")
	}
	return node, errors.Join(r.errs...)
}

// tooIndented finds nesting by white space and dashes that no person writes.
func tooIndented(text []byte) error {
	for offset := 0; offset < len(text); {
		line := text[offset:]
		if i := bytes.IndexByte(line, '\n'); i >= 0 {
			line = line[:i+1]
		}
		if len(line)-len(bytes.TrimLeft(line, " \t-?:&*!")) > maxYAMLIndent {
			return errorf(offset, "this line is indented too far")
		}
		offset += len(line)
	}
	return nil
}

func yamlError(text []byte, err error) error {
	var syntax *yaml.SyntaxError
	if errors.As(err, &syntax) && syntax.Token != nil && syntax.Token.Position != nil {
		at := syntax.Token.Position
		return errorf(offsetOf(text, at.Line, at.Column), "this is not YAML: %s", syntax.Message)
	}
	return errorf(0, "this is not YAML: %v", err)
}

type yamlReader struct {
	text    []byte
	anchors map[string]*Node
	nodes   int
	errs    []error
	// The position of the last token, so that the search for the next line starts there.
	line, start int
}

func (r *yamlReader) fail(offset int, format string, args ...any) {
	// One alias inside another could repeat a mistake without bound.
	if len(r.errs) < 100 {
		r.errs = append(r.errs, errorf(offset, format, args...))
	}
}

// offset turns the line and column of a token into an offset.
func (r *yamlReader) offset(t *token.Token) int {
	if t == nil || t.Position == nil {
		return 0
	}
	if r.line == 0 || t.Position.Line < r.line {
		r.line, r.start = 1, 0
	}
	for r.line < t.Position.Line {
		i := bytes.IndexByte(r.text[r.start:], '\n')
		if i < 0 {
			return len(r.text)
		}
		r.line, r.start = r.line+1, r.start+i+1
	}
	return r.start + offsetOf(r.text[r.start:], 1, t.Position.Column)
}

func (r *yamlReader) node(in ast.Node, depth int) *Node {
	n := &Node{size: 1}
	if in == nil {
		return n
	}
	n.Offset = r.offset(in.GetToken())
	if r.nodes++; depth > MaxDepth || r.nodes > maxNodes {
		r.fail(n.Offset, "the document is nested too deep, or too large")
		return n
	}
	switch in := in.(type) {
	case *ast.NullNode:
	case *ast.BoolNode:
		n.Kind, n.Bool = Bool, in.Value
	case *ast.IntegerNode:
		n.Kind = Number
		switch v := in.Value.(type) {
		case int64:
			n.Text = strconv.FormatInt(v, 10)
		case uint64:
			n.Text = strconv.FormatUint(v, 10)
		default:
			n.Text = in.Token.Value
		}
	case *ast.FloatNode:
		n.Kind, n.Text = Number, strconv.FormatFloat(in.Value, 'g', -1, 64)
	case *ast.InfinityNode, *ast.NanNode:
		n.Kind, n.Text = Number, in.GetToken().Value
	case *ast.StringNode:
		n.Kind, n.Text = String, in.Value
	case *ast.LiteralNode:
		n.Kind, n.Text = String, in.Value.Value
	case *ast.MappingValueNode:
		n.Offset = r.offset(in.Key.GetToken())
		return r.mapping([]*ast.MappingValueNode{in}, n, depth)
	case *ast.MappingNode:
		if !in.IsFlowStyle && len(in.Values) > 0 {
			n.Offset = r.offset(in.Values[0].Key.GetToken())
		}
		return r.mapping(in.Values, n, depth)
	case *ast.SequenceNode:
		n.Kind = List
		for _, value := range in.Values {
			item := r.node(value, depth+1)
			n.size += item.size
			n.Items = append(n.Items, item)
		}
	default:
		return r.reference(in, depth)
	}
	return n
}

// reference reads what stands for another value: anchors, aliases and tags.
func (r *yamlReader) reference(in ast.Node, depth int) *Node {
	n := &Node{Offset: r.offset(in.GetToken()), size: 1}
	switch in := in.(type) {
	case *ast.AnchorNode:
		value := r.node(in.Value, depth+1)
		r.anchors[in.Name.GetToken().Value] = value
		return value
	case *ast.AliasNode:
		name := in.Value.GetToken().Value
		value, ok := r.anchors[name]
		if !ok {
			r.fail(n.Offset, "there is no anchor &%s before this alias", name)
			return n
		}
		if r.nodes += value.size; r.nodes > maxNodes {
			r.fail(n.Offset, "the aliases of this document expand to too much")
			return n
		}
		aliased := *value
		aliased.Offset = n.Offset
		return &aliased
	case *ast.TagNode:
		value := r.node(in.Value, depth+1)
		if scalar, ok := in.Value.(ast.ScalarNode); ok && in.Start.Value == "!!str" {
			return &Node{Kind: String, Offset: value.Offset, Text: scalar.GetToken().Value, size: 1}
		}
		return value
	}
	r.fail(n.Offset, "a configuration has no place for this kind of YAML (%s)", in.Type())
	return n
}

// mapping reads the members of an object.
func (r *yamlReader) mapping(in []*ast.MappingValueNode, n *Node, depth int) *Node {
	n.Kind = Object
	own := make(map[string]bool, len(in))
	for _, pair := range in {
		key := ast.Node(pair.Key)
		if explicit, ok := key.(*ast.MappingKeyNode); ok {
			key = explicit.Value
		}
		if key == nil {
			r.fail(n.Offset, "a key must be plain text")
			continue
		}
		offset := r.offset(key.GetToken())
		value := r.node(pair.Value, depth+1)
		n.size += value.size
		if pair.Key.IsMergeKey() {
			r.merge(n, value, offset)
			continue
		}
		scalar, ok := key.(ast.ScalarNode)
		if !ok {
			r.fail(offset, "a key must be plain text")
			continue
		}
		name := scalar.GetToken().Value
		if own[name] {
			r.fail(offset, "the key %q stands twice in this object", name)
			continue
		}
		own[name] = true
		// What << merged before gives way to the object's own.
		n.Members = slices.DeleteFunc(n.Members, func(m Member) bool { return m.merged && m.Key == name })
		n.Members = append(n.Members, Member{Key: name, Offset: offset, Value: value})
	}
	return n
}

// merge adds the members of a "<<" key, which lose to those that are there.
func (r *yamlReader) merge(object, from *Node, offset int) {
	sources := []*Node{from}
	if from.Kind == List {
		sources = from.Items
	}
	for _, source := range sources {
		if source.Kind != Object {
			r.fail(offset, "<< merges objects, and this is %s", source.Kind)
			return
		}
		for _, m := range source.Members {
			if object.Get(m.Key) == nil {
				object.Members = append(object.Members, Member{Key: m.Key, Offset: offset, Value: m.Value, merged: true})
			}
		}
	}
}
