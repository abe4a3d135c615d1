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
	"iter"
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
	size  int             // of plain
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
	size, err := Size(text)
	if size > MaxSteps {
		return nil, err
	}
	plain, err := regexp.Compile(prefix + text)
	if err == nil {
		return &Pattern{text: text, plain: plain, size: size}, nil
	}
	if _, bare := regexp.Compile(text); bare != nil {
		err = bare // which does not show the prefix
	}
	slow, slowErr := compileSlow(text, o)
	if slowErr == nil && loops(text, slowFlags(o)) > MaxSteps {
		return nil, tooManySteps(text)
	}
	if slowErr == nil {
		return &Pattern{text: text, slow: slow}, nil
	}
	return nil, &SyntaxError{text, reason(err, slowErr)}
}

// Size is about how many instructions a regular expression of package regexp becomes, which is what it takes in
// memory, some forty bytes each, and in time, for each byte of a text. Above [MaxSteps] the error is a [*SyntaxError],
// as it is for a text that package regexp does not know.
func Size(text string) (int, error) {
	tree, err := syntax.Parse(text, syntax.Perl)
	if err != nil {
		return 0, &SyntaxError{text, reason(err, err)}
	}
	n := steps(tree)
	if n > MaxSteps {
		err = tooManySteps(text)
	}
	return n, err
}

func tooManySteps(text string) error {
	return &SyntaxError{text, fmt.Sprintf("with its repetitions written out it has more than %d steps", MaxSteps)}
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
	if re, err = regexp2.Compile(text, slowFlags(o)); err != nil {
		return nil, err
	}
	re.MatchTimeout = MatchTimeout
	return re, nil
}

func slowFlags(o options) regexp2.RegexOptions {
	flags := regexp2.RegexOptions(regexp2.RE2)
	if o.ignoreCase {
		flags |= regexp2.IgnoreCase
	}
	return flags
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

const (
	// maxWork bounds what the linear engine does for one [Pattern.MatchAny], in steps for bytes: about a second
	// of the worst. What is above that counts as too long at once.
	maxWork = 1 << 27
	// maxTime bounds the same of the engine that backtracks, whose every match may be just below its time-out.
	maxTime = 2 * time.Second
)

// MatchAny reports whether the pattern matches a part of one of the texts. The error is [ErrTimeout], and means that
// not all of them have been looked at.
func (p *Pattern) MatchAny(texts iter.Seq[string]) (bool, error) {
	work, start := 0, time.Now()
	for s := range texts {
		if work += (p.size + 1) * len(s); work > maxWork && p.plain != nil {
			return false, ErrTimeout
		}
		ok, err := p.Match(s)
		if ok || err != nil {
			return ok, err
		}
		if p.slow != nil && time.Since(start) > maxTime {
			return false, ErrTimeout
		}
	}
	return false, nil
}

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
