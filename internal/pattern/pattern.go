// Package pattern compiles the patterns that users and platform teams write: regular
// expressions, and globs with * and ?.
//
// Configurations and policies were written for a regular expression engine with look-around
// and back-references. Package regexp has neither, and takes linear time; so [Compile] takes
// it wherever it can, and only what it does not understand goes to an engine that backtracks
// (regexp2), with a bound on the time of each match. What a match that took too long means,
// only the caller knows: [Pattern.Match] reports it as [ErrTimeout].
//
// While patterns of the second kind are in use, that engine keeps one goroutine for its
// clock, which ends about a second after the last match.
package pattern

import (
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"
	"time"

	"github.com/dlclark/regexp2"
)

// MaxLength bounds the text of a pattern, in bytes.
const MaxLength = 4096

// MaxSteps bounds what a pattern becomes when its repetitions are written out, as package regexp does:
// x{1000} has seven bytes, and a thousand steps, each of some forty bytes.
const MaxSteps = 5000

// MatchTimeout bounds one match of a pattern that backtracks. The engine looks at its clock
// ten times a second, so that a match may take that much longer.
const MatchTimeout = 50 * time.Millisecond

// ErrTimeout says that a match was given up.
var ErrTimeout = errors.New("the pattern takes too long to match")

// Option changes how a pattern is compiled.
type Option func(*options)

type options struct{ ignoreCase bool }

// IgnoreCase makes upper and lower case the same.
func IgnoreCase(o *options) { o.ignoreCase = true }

// Pattern is a regular expression that is ready to match. It is safe for concurrent use.
type Pattern struct {
	text  string
	plain *regexp.Regexp  // nil when it backtracks
	slow  *regexp2.Regexp // nil when it does not
}

// SyntaxError says why a text is no pattern.
type SyntaxError struct {
	// Pattern is the text; Reason says what is wrong with it.
	Pattern, Reason string
}

func (e *SyntaxError) Error() string {
	return fmt.Sprintf("%q is no regular expression: %s", shorten(e.Pattern), e.Reason)
}

// shorten bounds how much of a text a message shows.
func shorten(text string) string {
	const most = 100
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}

// Compile reads a regular expression. An error is a [*SyntaxError].
func Compile(text string, opts ...Option) (*Pattern, error) {
	var o options
	for _, set := range opts {
		set(&o)
	}
	if len(text) > MaxLength {
		return nil, &SyntaxError{text, fmt.Sprintf("it is longer than %d bytes", MaxLength)}
	}
	prefix := ""
	if o.ignoreCase {
		prefix = "(?i)"
	}
	if tree, err := syntax.Parse(text, syntax.Perl); err == nil && steps(tree) > MaxSteps {
		return nil, &SyntaxError{text, fmt.Sprintf("with its repetitions written out it has more than %d steps", MaxSteps)}
	}
	plain, err := regexp.Compile(prefix + text)
	if err == nil {
		return &Pattern{text: text, plain: plain}, nil
	}
	if _, bare := regexp.Compile(text); bare != nil {
		err = bare // which does not show the prefix
	}
	slow, slowErr := compileSlow(text, o)
	if slowErr == nil {
		return &Pattern{text: text, slow: slow}, nil
	}
	return nil, &SyntaxError{text, reason(err, slowErr)}
}

// steps is about how many instructions an expression becomes.
func steps(e *syntax.Regexp) int {
	n := 1
	if e.Op == syntax.OpLiteral {
		n = len(e.Rune)
	}
	for _, sub := range e.Sub {
		n += steps(sub)
	}
	if e.Op == syntax.OpRepeat {
		n *= max(e.Min, e.Max) // the parser bounds it, nested ones together
	}
	return n
}

// compileSlow reads the text for the engine that backtracks.
func compileSlow(text string, o options) (re *regexp2.Regexp, err error) {
	flags := regexp2.RegexOptions(regexp2.RE2)
	if o.ignoreCase {
		flags |= regexp2.IgnoreCase
	}
	if re, err = regexp2.Compile(text, flags); err != nil {
		return nil, err
	}
	re.MatchTimeout = MatchTimeout
	return re, nil
}

// reason takes the words of the engine that the text was meant for: what the first one does
// not have, the second one judges.
func reason(plain, slow error) string {
	var e *syntax.Error
	if !errors.As(plain, &e) {
		return plain.Error()
	}
	switch e.Code {
	case syntax.ErrInvalidPerlOp, syntax.ErrInvalidEscape, syntax.ErrInvalidRepeatOp:
		words, _, _ := strings.Cut(strings.TrimPrefix(slow.Error(), "error parsing regexp: "), " in `")
		return words
	}
	return fmt.Sprintf("%s: %q", e.Code, shorten(e.Expr))
}

// String is the text of the pattern.
func (p *Pattern) String() string { return p.text }

// Match reports whether the pattern matches a part of s. The error is [ErrTimeout].
func (p *Pattern) Match(s string) (bool, error) {
	if p.plain != nil {
		return p.plain.MatchString(s), nil
	}
	matched, err := p.slow.MatchString(s)
	if err != nil {
		return false, ErrTimeout // the engine fails for no other reason
	}
	return matched, nil
}
