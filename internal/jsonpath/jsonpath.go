// Package jsonpath selects values of a JSON document with JSONPath (RFC 9535). To its functions it
// adds typeof, which gives the name of a value's type: "null", "boolean", "number", "string",
// "array" or "object".
//
// Queries are users' and documents strangers': a query has a bounded length and depth, and
// evaluating one a bounded number of steps. None of the libraries at hand bounds them, and none can be
// told of another function.
//
// Members of objects are visited in the order of their names. Numbers are compared as float64.
// The patterns of match and search are those of package regexp, which has all of RFC 9485.
package jsonpath

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

const (
	// MaxLength bounds the text of a query, in bytes.
	MaxLength = 4096
	// maxDepth bounds how deep filters and parentheses are nested.
	maxDepth = 32
	// MaxSteps bounds what one evaluation looks at: values, and the texts of patterns by what matching takes.
	MaxSteps = 1 << 20
	// workPerStep is the bytes of a text, times the steps of the pattern, that count as one.
	workPerStep = 256
)

// ErrTooMuch says that an evaluation was given up after [MaxSteps].
var ErrTooMuch = errors.New("the query looks at too much of the document")

// SyntaxError says why a text is no query.
type SyntaxError struct {
	// Offset is where, in bytes.
	Offset int
	Reason string
}

func (e *SyntaxError) Error() string {
	return fmt.Sprintf("no JSONPath at offset %d: %s", e.Offset, e.Reason)
}

// Path is a query that is ready to be evaluated. It is safe for concurrent use.
type Path struct{ query query }

// Parse reads a query. The error is a [*SyntaxError].
func Parse(text string) (*Path, error) {
	if len(text) > MaxLength {
		return nil, &SyntaxError{MaxLength, fmt.Sprintf("a query has at most %d bytes", MaxLength)}
	}
	p := &parser{text: text}
	q, err := p.whole()
	if err != nil {
		return nil, err
	}
	return &Path{q}, nil
}

// Decode reads a document for [Path.Select]. Anything behind it is an error.
func Decode(text []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var doc any
	if err := d.Decode(&doc); err != nil {
		return nil, fmt.Errorf("reading JSON: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("reading JSON: there is something behind the value")
	}
	return doc, nil
}

// Select returns the values that the query selects of a document from [Decode].
func (p *Path) Select(doc any) ([]any, error) {
	e := &evaluation{root: doc, left: MaxSteps}
	out := e.query(p.query, doc)
	if e.left < 0 {
		return nil, ErrTooMuch
	}
	return out, nil
}
