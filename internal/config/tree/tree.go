// Package tree reads JSON, YAML and TOML into one neutral tree whose every key and value
// remembers where in the text it stood. It knows nothing of what the values mean.
//
// The readers are strict about what a person would not want to pass silently: a key that
// stands twice in one object, a second document, text after the end. JSON may have comments
// and trailing commas. What they accept is bounded in size and in depth.
package tree

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"unicode/utf8"
)

// Limits of a document.
const (
	// MaxSize is the largest document, in bytes.
	MaxSize = 4 << 20
	// MaxDepth is how deep objects and lists may be nested.
	MaxDepth = 100
	// maxNodes bounds what the aliases of a YAML document can expand to.
	maxNodes = 1 << 20
)

// Kind is a kind of value.
type Kind int

// The kinds of values.
const (
	Null Kind = iota
	Bool
	Number
	String
	List
	Object
)

// String names the kind in a sentence, with its article.
func (k Kind) String() string {
	switch k {
	case Bool:
		return "true or false"
	case Number:
		return "a number"
	case String:
		return "a string"
	case List:
		return "a list"
	case Object:
		return "an object"
	}
	return "null"
}

// Node is a value.
type Node struct {
	Kind Kind
	// Offset is where the value starts in the text, in bytes.
	Offset int
	// Text is a string's content, or a number in decimal notation.
	Text string
	// Bool is the value of a Bool.
	Bool bool
	// Items are the elements of a List.
	Items []*Node
	// Members are those of an Object, in the order of the text; keys are unique.
	Members []Member

	size int // the nodes at and below this one
}

// Member is a key of an object and its value.
type Member struct {
	Key    string
	Offset int // of the key
	Value  *Node

	merged bool // by a "<<" key of YAML
}

// Get returns the value of a key, or nil.
func (n *Node) Get(key string) *Node {
	for _, m := range n.Members {
		if m.Key == key {
			return m.Value
		}
	}
	return nil
}

// Value returns the node as the values that encoding/json decodes to: nil, bool, string,
// int64 or float64, []any, map[string]any.
func (n *Node) Value() any {
	switch n.Kind {
	case Bool:
		return n.Bool
	case String:
		return n.Text
	case Number:
		if i, err := strconv.ParseInt(n.Text, 10, 64); err == nil {
			return i
		}
		f, _ := strconv.ParseFloat(n.Text, 64)
		return f
	case List:
		list := make([]any, len(n.Items))
		for i, item := range n.Items {
			list[i] = item.Value()
		}
		return list
	case Object:
		object := make(map[string]any, len(n.Members))
		for _, m := range n.Members {
			object[m.Key] = m.Value.Value()
		}
		return object
	}
	return nil
}

// Format is the notation of a document.
type Format int

// The formats.
const (
	JSON Format = iota
	YAML
	TOML
)

// String returns the format's name.
func (f Format) String() string {
	return [...]string{"JSON", "YAML", "TOML"}[f]
}

// Error is one mistake in a document.
type Error struct {
	Offset  int
	Message string
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

func errorf(offset int, format string, args ...any) error {
	return &Error{Offset: offset, Message: fmt.Sprintf(format, args...)}
}

// Parse reads a document. An error holds one or more [*Error] (see [Errors]); the tree is
// returned beside it when it is usable all the same, as with a key that stands twice.
func Parse(format Format, text []byte) (*Node, error) {
	if len(text) > MaxSize {
		return nil, errorf(0, "the file is larger than %d MiB, the most that a configuration may have", MaxSize>>20)
	}
	if i := invalidUTF8(text); i >= 0 {
		return nil, errorf(i, "the file is not text in UTF-8")
	}
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf"))
	switch format {
	case YAML:
		return parseYAML(text)
	case TOML:
		return parseTOML(text)
	}
	return parseJSON(text)
}

// Errors returns the mistakes that err holds.
func Errors(err error) []*Error {
	var one *Error
	var joined interface{ Unwrap() []error }
	switch {
	case errors.As(err, &joined):
		var all []*Error
		for _, e := range joined.Unwrap() {
			all = append(all, Errors(e)...)
		}
		return all
	case errors.As(err, &one):
		return []*Error{one}
	case err != nil:
		return []*Error{{Message: err.Error()}}
	}
	return nil
}

func invalidUTF8(text []byte) int {
	if utf8.Valid(text) {
		return -1
	}
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRune(text[i:])
		if r == utf8.RuneError && size == 1 {
			return i
		}
		i += size
	}
	return -1
}

// tooDeep finds where brackets are nested beyond MaxDepth, so that no reader recurses
// without bound. It does not know of strings, whose brackets it counts too.
func tooDeep(text []byte) error {
	depth := 0
	for i, c := range text {
		switch c {
		case '[', '{':
			if depth++; depth > 2*MaxDepth {
				return errorf(i, "objects and lists are nested too deep")
			}
		case ']', '}':
			depth = max(depth-1, 0)
		}
	}
	return nil
}

// Position returns the line and the column, in characters, of an offset; both count from 1.
func Position(text []byte, offset int) (line, column int) {
	offset = min(max(offset, 0), len(text))
	before := text[:offset]
	start := bytes.LastIndexByte(before, '\n') + 1
	return bytes.Count(before, []byte("\n")) + 1, utf8.RuneCount(before[start:]) + 1
}

// offsetOf is the reverse of Position.
func offsetOf(text []byte, line, column int) int {
	start := 0
	for ; line > 1; line-- {
		i := bytes.IndexByte(text[start:], '\n')
		if i < 0 {
			return len(text)
		}
		start += i + 1
	}
	for ; column > 1 && start < len(text) && text[start] != '\n'; column-- {
		_, size := utf8.DecodeRune(text[start:])
		start += size
	}
	return start
}
