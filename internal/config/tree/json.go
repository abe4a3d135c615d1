package tree

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/tailscale/hujson"
)

func parseJSON(text []byte) (*Node, error) {
	if len(bytes.TrimSpace(text)) == 0 {
		return nil, errorf(0, "the file is empty; an empty configuration is {}")
	}
	if err := tooDeep(text); err != nil {
		return nil, err
	}
	value, err := hujson.Parse(text)
	if err != nil {
		return nil, jsonError(text, err)
	}
	r := &jsonReader{}
	return r.node(&value, 0), errors.Join(r.errs...)
}

// jsonError gives the library's error a position, which it tells only in its text.
func jsonError(text []byte, err error) error {
	line, column := 1, 1
	message := err.Error()
	if n, _ := fmt.Sscanf(message, "hujson: line %d, column %d:", &line, &column); n == 2 {
		if cause := errors.Unwrap(err); cause != nil {
			message = cause.Error()
		}
	}
	offset := offsetOf(text, line, 1) + column - 1
	return errorf(min(offset, len(text)), "this is not JSON: %s%s", message, jsonAdvice(text, offset))
}

// jsonAdvice explains the usual slips.
func jsonAdvice(text []byte, offset int) string {
	if offset < 0 || offset >= len(text) {
		return "; the file ends too early, is a bracket or a quote missing?"
	}
	switch c := text[offset]; {
	case c == '\'':
		return `; strings are written in double quotes`
	case c == '"':
		return `; is a comma missing before it?`
	case c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_':
		return `; keys and strings are written in double quotes`
	}
	return ""
}

type jsonReader struct{ errs []error }

func (r *jsonReader) node(value *hujson.Value, depth int) *Node {
	n := &Node{Offset: value.StartOffset}
	if depth > MaxDepth {
		r.errs = append(r.errs, errorf(n.Offset, "objects and lists are nested more than %d deep", MaxDepth))
		return n
	}
	switch v := value.Value.(type) {
	case *hujson.Object:
		n.Kind = Object
		seen := make(map[string]bool, len(v.Members))
		for i := range v.Members {
			member := &v.Members[i]
			key, _ := member.Name.Value.(hujson.Literal)
			m := Member{Key: key.String(), Offset: member.Name.StartOffset, Value: r.node(&member.Value, depth+1)}
			if seen[m.Key] {
				r.errs = append(r.errs, errorf(m.Offset, "the key %q stands twice in this object", m.Key))
				continue
			}
			seen[m.Key] = true
			n.Members = append(n.Members, m)
		}
	case *hujson.Array:
		n.Kind = List
		for i := range v.Elements {
			n.Items = append(n.Items, r.node(&v.Elements[i], depth+1))
		}
	case hujson.Literal:
		jsonLiteral(n, v)
	}
	return n
}

func jsonLiteral(n *Node, v hujson.Literal) {
	switch v.Kind() {
	case 't', 'f':
		n.Kind, n.Bool = Bool, v.Bool()
	case '"':
		n.Kind, n.Text = String, v.String()
	case '0':
		n.Kind, n.Text = Number, strings.Clone(string(v))
	}
}
