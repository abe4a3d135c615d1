// Package template renders configuration files that are written as templates, in the part of
// the Tera language (a relative of Jinja) that such files use: {{ expressions }} with filters
// and tests, {% if %}, {% for %}, {% set %}, {% filter %}, {% raw %} and {# comments #}.
//
// A template comes from a repository that a user may not have read, so it can do nothing but
// produce text: it sees the variables and functions it is given, it cannot open files, and
// its steps and its output are bounded. A name without a value is an error that says where.
//
// The result remembers which byte of the source each byte of the text came from, so that a
// mistake found in the text later can be shown in the file that the user wrote.
package template

import (
	"bytes"
	"context"
	"fmt"
	"sort"
)

// Limits of a rendering. They are far above what a configuration needs.
const (
	// MaxOutput is the largest text that a template with marks may produce, in bytes.
	MaxOutput = 4 << 20
	// baseFuel and sourceFuel, for each byte of the source, bound the work: a step costs one,
	// and one more for each byte that it produces.
	baseFuel   = 4 << 20
	sourceFuel = 4
	// maxDepth bounds the nesting of expressions and blocks.
	maxDepth = 100
)

// Options is what a template can see. The zero value sees nothing.
type Options struct {
	// Lookup is the environment for get_env; nil is an empty one.
	Lookup func(name string) (string, bool)
	// Variable returns the value of a name, and false when it has none. It is called only for
	// names that are used; nil has no variables.
	Variable func(name string) (string, bool)
}

// Error is a mistake in a template, or a limit that it reached.
type Error struct {
	// Offset is the place in the source, in bytes.
	Offset int
	// Message says what is wrong; it holds no values of variables.
	Message string
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

func errorf(offset int, format string, args ...any) *Error {
	return &Error{Offset: offset, Message: fmt.Sprintf(format, args...)}
}

// Result is a rendered template.
type Result struct {
	// Text is the output.
	Text []byte
	// segments are in the order of Text; empty when Text is the source itself.
	segments []segment
}

// segment is a run of the output that starts at out and came from the source at src:
// byte by byte when literal, else all of it from the expression there.
type segment struct {
	out, src int
	literal  bool
}

// Source returns the offset in the source that the byte at offset of the text came from: the
// same byte for what was copied, the start of the expression for what was computed.
func (r *Result) Source(offset int) int {
	if len(r.segments) == 0 {
		return offset
	}
	i := sort.Search(len(r.segments), func(i int) bool { return r.segments[i].out > offset }) - 1
	if i < 0 {
		return 0
	}
	s := r.segments[i]
	if !s.literal {
		return s.src
	}
	return s.src + offset - s.out
}

// HasMarks tells whether source has anything to render; without marks, Render returns it as
// it is.
func HasMarks(source []byte) bool {
	for rest := source; ; {
		i := bytes.IndexByte(rest, '{')
		if i < 0 || i+1 >= len(rest) {
			return false
		}
		switch rest[i+1] {
		case '{', '%', '#':
			return true
		}
		rest = rest[i+1:]
	}
}

// Render renders source. An error is an [*Error], or that of ctx.
func Render(ctx context.Context, source []byte, opts Options) (*Result, error) {
	if !HasMarks(source) {
		return &Result{Text: source}, nil
	}
	nodes, err := parse(source)
	if err != nil {
		return nil, err
	}
	r := &renderer{done: ctx.Err, opts: opts, source: source, fuel: baseFuel + sourceFuel*len(source), out: &Result{}}
	if err := r.nodes(nodes); err != nil {
		return nil, err
	}
	return r.out, nil
}
