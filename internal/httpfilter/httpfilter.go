// Package httpfilter chooses HTTP requests: by a header, the path, the method, a jq program, a body of
// JSON, or several of these together. A filter comes from a user's configuration, crosses the
// tunnel as a [Spec], and is compiled and asked where the requests arrive, once for each
// request.
//
// It knows nothing of how requests are read: what it is shown is a [Request], with the header
// lines as they stood on the wire.
package httpfilter

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/mirrord-go/mirrord/internal/jq"
	"github.com/mirrord-go/mirrord/internal/pattern"
)

const (
	// MaxRules bounds the rules of all_of or any_of.
	MaxRules = 64
	// DefaultJQTimeout is the default of Limits.JQTimeout.
	DefaultJQTimeout = 50 * time.Millisecond
	// DefaultBodyLimit is the default of Limits.Body.
	DefaultBodyLimit = 65535
	// DefaultBodyTimeout is the default of Limits.BodyTimeout.
	DefaultBodyTimeout = time.Second
)

// Limits bound what one request may cost. Zero values are the defaults.
type Limits struct {
	// JQTimeout bounds a jq program's run over one request, with the waiting for its turn. Its
	// memory is bounded too: see package jq.
	JQTimeout time.Duration
	// JQ bounds how many jq programs run at once, of all filters that have the same gate. Nil is no
	// bound but that each filter's program runs once at a time.
	JQ jq.Gate
	// Body is the largest body that is looked at, in bytes.
	Body int
	// BodyTimeout is how long a body may take to arrive.
	BodyTimeout time.Duration
}

func (l Limits) orDefault() Limits {
	if l.JQTimeout <= 0 {
		l.JQTimeout = DefaultJQTimeout
	}
	if l.Body <= 0 {
		l.Body = DefaultBodyLimit
	}
	if l.BodyTimeout <= 0 {
		l.BodyTimeout = DefaultBodyTimeout
	}
	return l
}

// Rule is one condition on a request. Exactly one field is set.
type Rule struct {
	// Header is a pattern for one of the lines "Name: value", without regard to case.
	Header string `json:"header,omitempty"`
	// Path is a pattern for the path, with its query or without, without regard to case.
	Path string `json:"path,omitempty"`
	// Method is compared without regard to case.
	Method string `json:"method,omitempty"`
	// JQ is a jq program that is run over each header line, a string "Name: value". The rule
	// matches when it yields true for one of them.
	JQ string `json:"jq,omitempty"`
	// Body is about the request's body.
	Body *Body `json:"body,omitempty"`
}

// Body is a condition on a body that is JSON. It matches when one of the values that Query
// selects is a text that Matches matches: a string as it is, any other value as JSON.
type Body struct {
	// Query is a JSONPath (RFC 9535), to which the function typeof is added.
	Query string `json:"query"`
	// Matches is a pattern, without regard to case.
	Matches string `json:"matches"`
}

// Spec is a filter as text. Either the rule is set, or one of AllOf and AnyOf. The zero value
// is no filter, and does not compile.
type Spec struct {
	Rule
	// AllOf and AnyOf match when all of the rules do, or one.
	AllOf []Rule `json:"allOf,omitempty"`
	AnyOf []Rule `json:"anyOf,omitempty"`
}

// Request is what a filter sees of a request.
type Request struct {
	Method string
	// Target is the request target in origin form (RFC 9112, section 3.2.1), with the query.
	Target string
	// Header has the lines "Name: value" in the order of the wire.
	Header []string
	// Body returns the body, for filters that look at it; nil without one.
	Body BodyFunc
}

// BodyFunc returns the whole body of a request, which may block for the time-out. It returns
// false when the body is longer than the limit in bytes, does not come in time, or can't be read.
type BodyFunc func(limit int, timeout time.Duration) ([]byte, bool)

// Filter is ready to match. It is safe for concurrent use.
type Filter struct {
	rules []condition
	any   bool // one rule is enough
}

type condition func(*Request) (bool, error)

// ErrSlow is wrapped by Match when a rule took too long to decide.
var ErrSlow = errors.New("the filter takes too long")

// Compile reads a filter, with the default limits. The error reports all that is wrong, each with
// its place.
func Compile(s Spec) (*Filter, error) { return CompileWith(s, Limits{}) }

// CompileWith is [Compile] with other limits.
func CompileWith(s Spec, limits Limits) (*Filter, error) {
	limits = limits.orDefault()
	given := 0
	for _, set := range []bool{s.Rule != (Rule{}), s.AllOf != nil, s.AnyOf != nil} {
		if set {
			given++
		}
	}
	if given != 1 {
		return nil, fmt.Errorf("a filter is one rule, all_of or any_of; this one has %d of them", given)
	}
	if s.Rule != (Rule{}) {
		c, err := s.compile(limits)
		if err != nil {
			return nil, err
		}
		return &Filter{rules: []condition{c}}, nil
	}
	f, name, list := &Filter{}, "all_of", s.AllOf
	if s.AnyOf != nil {
		f.any, name, list = true, "any_of", s.AnyOf
	}
	if len(list) == 0 || len(list) > MaxRules {
		return nil, fmt.Errorf("%s has 1 to %d rules, not %d", name, MaxRules, len(list))
	}
	var problems []error
	var last []condition
	for i, r := range list {
		c, err := r.compile(limits)
		if err != nil {
			problems = append(problems, fmt.Errorf("%s[%d]: %w", name, i, err))
		}
		if r.Body == nil {
			f.rules = append(f.rules, c)
		} else {
			last = append(last, c)
		}
	}
	f.rules = append(f.rules, last...) // a body is waited for only when nothing else decides
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	return f, nil
}

// Match says whether the filter chooses the request. A rule that takes too long matches
// nothing; the error then wraps [ErrSlow], and the other result is right all the same.
func (f *Filter) Match(r *Request) (bool, error) {
	var slow error
	for _, c := range f.rules {
		ok, err := c(r)
		if err != nil {
			slow = err
		}
		if ok == f.any {
			return ok, slow
		}
	}
	return !f.any, slow
}

func (r Rule) compile(limits Limits) (condition, error) {
	given := 0
	for _, text := range []string{r.Header, r.Path, r.Method, r.JQ} {
		if text != "" {
			given++
		}
	}
	if r.Body != nil {
		given++
	}
	switch {
	case given != 1:
		return nil, fmt.Errorf("a rule has exactly one of header, path, method, jq and body; this one has %d of them", given)
	case r.Body != nil:
		return compileBody(*r.Body, limits)
	case r.Header != "":
		return compileHeader(r.Header)
	case r.Path != "":
		return compilePath(r.Path)
	case r.JQ != "":
		return compileJQ(r.JQ, limits)
	}
	return func(q *Request) (bool, error) { return strings.EqualFold(q.Method, r.Method), nil }, nil
}

func compileHeader(text string) (condition, error) {
	p, err := pattern.Compile(text, pattern.IgnoreCase)
	if err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	return func(q *Request) (bool, error) { return anyMatch(p, slices.Values(q.Header)) }, nil
}

func compilePath(text string) (condition, error) {
	p, err := pattern.Compile(text, pattern.IgnoreCase)
	if err != nil {
		return nil, fmt.Errorf("path: %w", err)
	}
	return func(q *Request) (bool, error) {
		path, _, hasQuery := strings.Cut(q.Target, "?")
		if !hasQuery {
			return anyMatch(p, slices.Values([]string{path}))
		}
		return anyMatch(p, slices.Values([]string{path, q.Target}))
	}, nil
}

// anyMatch asks about one text after the other.
func anyMatch(p *pattern.Pattern, texts iter.Seq[string]) (bool, error) {
	ok, err := p.MatchAny(texts)
	if err != nil {
		err = fmt.Errorf("%w: %w", ErrSlow, err)
	}
	return ok, err
}

// compileJQ reads a program.
func compileJQ(text string, limits Limits) (condition, error) {
	program, err := jq.Compile(text, limits.JQ)
	if err != nil {
		return nil, fmt.Errorf("jq: %w", err)
	}
	return func(r *Request) (bool, error) {
		ctx, cancel := context.WithTimeout(context.Background(), limits.JQTimeout)
		defer cancel()
		ok, err := program.Yields(ctx, r.Header)
		switch {
		case errors.Is(err, jq.ErrTooMuch):
			return false, fmt.Errorf("%w: %w", ErrSlow, err)
		case err != nil:
			return false, fmt.Errorf("%w: the jq program", ErrSlow)
		}
		return ok, nil
	}, nil
}
