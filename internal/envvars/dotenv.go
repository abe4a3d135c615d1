package envvars

import (
	"fmt"
	"strings"
)

// SyntaxError is a line of an env file that can't be understood. It never shows the line,
// which may hold a secret.
type SyntaxError struct {
	// Line counts from 1.
	Line int
	// Problem says what is wrong.
	Problem string
}

// Error gives the line's number and the problem.
func (e *SyntaxError) Error() string { return fmt.Sprintf("line %d: %s", e.Line, e.Problem) }

// maxFile is far above any real file and bounds what a wrong path (a log, a device) costs.
const maxFile = 4 << 20

// Parse reads the NAME=value lines of an env file (.env). Empty lines and lines that start
// with # are skipped, a leading "export" is allowed, the last of several equal names wins.
//
// A value may be bare: spaces around it are dropped, and a # after a space starts a comment.
// It may be in single quotes: everything is literal. Or in double quotes: \n, \r, \t, \",
// \\, \$ and \` are escapes. Quoted values may span lines. Variables are not expanded. An
// error is a *[SyntaxError].
func Parse(data []byte) (map[string]string, error) {
	if len(data) > maxFile {
		return nil, &SyntaxError{Line: 1, Problem: fmt.Sprintf("the file is larger than %d MiB", maxFile>>20)}
	}
	p := parser{rest: strings.TrimPrefix(string(data), "\ufeff"), line: 1}
	vars := make(map[string]string)
	for p.rest != "" {
		name, value, ok, err := p.statement()
		if err != nil {
			return nil, err
		}
		if ok {
			vars[name] = value
		}
	}
	return vars, nil
}

type parser struct {
	rest string
	line int
}

func (p *parser) fail(line int, format string, args ...any) error {
	return &SyntaxError{Line: line, Problem: fmt.Sprintf(format, args...)}
}

// statement reads up to the end of a line, or of the line that ends a quoted value.
func (p *parser) statement() (name, value string, ok bool, err error) {
	p.rest = strings.TrimLeft(p.rest, " \t\r")
	if p.rest == "" || p.rest[0] == '\n' || p.rest[0] == '#' {
		p.restOfLine()
		return "", "", false, nil
	}
	line := p.line
	end := strings.IndexAny(p.rest, "=\n")
	if end < 0 || p.rest[end] == '\n' {
		return "", "", false, p.fail(line, "there is no = in it; write NAME=value")
	}
	name = strings.TrimRight(p.rest[:end], " \t")
	if after, found := strings.CutPrefix(name, "export"); found && strings.TrimLeft(after, " \t") != after {
		name = strings.TrimLeft(after, " \t")
	}
	if !validName(name) {
		return "", "", false, p.fail(line, "what stands before = is not a name: letters, digits, '_', '.' and '-', not starting with a digit")
	}
	p.rest = strings.TrimLeft(p.rest[end+1:], " \t")
	switch {
	case strings.HasPrefix(p.rest, "'"):
		value, err = p.single()
	case strings.HasPrefix(p.rest, `"`):
		value, err = p.double()
	default:
		value = bare(p.restOfLine())
	}
	if err == nil && strings.ContainsRune(value, 0) {
		err = p.fail(line, "the value of %s contains a zero byte", name)
	}
	return name, value, err == nil, err
}

// restOfLine consumes the line and returns it without its end.
func (p *parser) restOfLine() string {
	l, rest, found := strings.Cut(p.rest, "\n")
	p.rest = rest
	if found {
		p.line++
	}
	return strings.TrimSuffix(l, "\r")
}

func bare(l string) string {
	for i := range len(l) {
		if l[i] == '#' && (i == 0 || l[i-1] == ' ' || l[i-1] == '\t') {
			l = l[:i]
			break
		}
	}
	return strings.TrimSpace(l)
}

func (p *parser) single() (string, error) {
	line := p.line
	v, rest, found := strings.Cut(p.rest[1:], "'")
	if !found {
		return "", p.fail(line, "the quote ' is never closed")
	}
	p.line += strings.Count(v, "\n")
	p.rest = rest
	return v, p.endOfValue()
}

func (p *parser) double() (string, error) {
	line := p.line
	var b strings.Builder
	for i := 1; i < len(p.rest); i++ {
		switch c := p.rest[i]; c {
		case '"':
			p.rest = p.rest[i+1:]
			return b.String(), p.endOfValue()
		case '\\':
			if i++; i < len(p.rest) {
				b.WriteString(unescape(p.rest[i]))
				if p.rest[i] == '\n' {
					p.line++
				}
			}
		case '\n':
			p.line++
			b.WriteByte(c)
		default:
			b.WriteByte(c)
		}
	}
	return "", p.fail(line, `the quote " is never closed`)
}

// unescape leaves unknown escapes as they stand, as shells do.
func unescape(c byte) string {
	switch c {
	case 'n':
		return "\n"
	case 'r':
		return "\r"
	case 't':
		return "\t"
	case '"', '\\', '$', '`':
		return string(rune(c))
	}
	return `\` + string([]byte{c})
}

// endOfValue allows nothing but a comment behind a closing quote.
func (p *parser) endOfValue() error {
	line := p.line
	if l := strings.TrimSpace(p.restOfLine()); l != "" && l[0] != '#' {
		return p.fail(line, "there is text after the closing quote")
	}
	return nil
}

func validName(n string) bool {
	for i := range len(n) {
		switch c := n[i]; {
		case c == '_', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z':
		case i > 0 && (c >= '0' && c <= '9' || c == '.' || c == '-'):
		default:
			return false
		}
	}
	return n != ""
}
