package template

import (
	"bytes"
	"strings"
	"unicode/utf8"
)

// tokenKind is a kind of token inside {{ }} or {% %}.
type tokenKind int

const (
	tokenEnd tokenKind = iota // the closing mark
	tokenName
	tokenString
	tokenInteger
	tokenFloat
	tokenSymbol
)

type token struct {
	kind tokenKind
	text string // the name, the symbol, the digits, or the unquoted string
	off  int
}

// piece is a part of a template: text between marks, or what stands inside one mark.
type piece struct {
	mark   byte // 0 for text, '{' or '%'
	off    int  // of the text, or of the opening mark
	text   []byte
	tokens []token
}

// split cuts a template into pieces. Comments are gone, and so is the white space that a
// dash inside a mark removes; {% raw %} is text.
func split(source []byte) ([]piece, error) {
	var pieces []piece
	trimNext := false
	for pos := 0; pos < len(source); {
		open := findMark(source, pos)
		text, off := source[pos:open], pos
		if trimNext {
			trimmed := bytes.TrimLeft(text, " \t\r\n")
			off += len(text) - len(trimmed)
			text = trimmed
		}
		if open == len(source) {
			return appendText(pieces, off, text), nil
		}
		if open+2 < len(source) && source[open+2] == '-' {
			text = bytes.TrimRight(text, " \t\r\n")
		}
		pieces = appendText(pieces, off, text)

		if source[open+1] == '#' {
			end := bytes.Index(source[open:], []byte("#}"))
			if end < 0 {
				return nil, errorf(open, "this comment is never closed; it ends with #}")
			}
			trimNext = source[open+end-1] == '-' && end > 2
			pos = open + end + 2
			continue
		}
		p, next, err := lexMark(source, open)
		if err != nil {
			return nil, err
		}
		trimNext = source[next-3] == '-'
		if p.mark == '%' && len(p.tokens) == 2 && p.tokens[0].text == "raw" {
			start, end, after, err := rawSection(source, open, next)
			if err != nil {
				return nil, err
			}
			pieces = appendText(pieces, start, source[start:end])
			trimNext, pos = source[after-3] == '-', after
			continue
		}
		pieces, pos = append(pieces, p), next
	}
	return pieces, nil
}

func appendText(pieces []piece, off int, text []byte) []piece {
	if len(text) == 0 {
		return pieces
	}
	return append(pieces, piece{off: off, text: text})
}

// findMark returns the offset of the next opening mark, or the length of source.
func findMark(source []byte, pos int) int {
	for {
		i := bytes.IndexByte(source[pos:], '{')
		if i < 0 || pos+i+1 >= len(source) {
			return len(source)
		}
		pos += i
		switch source[pos+1] {
		case '{', '%', '#':
			return pos
		}
		pos++
	}
}

// rawSection finds the text between {% raw %}, which ends at start, and {% endraw %}.
func rawSection(source []byte, open, start int) (from, to, after int, err error) {
	for pos := start; ; {
		i := bytes.Index(source[pos:], []byte("{%"))
		if i < 0 {
			return 0, 0, 0, errorf(open, "this {%% raw %%} has no {%% endraw %%}")
		}
		pos += i
		if p, next, err := lexMark(source, pos); err == nil && len(p.tokens) == 2 && p.tokens[0].text == "endraw" {
			return start, pos, next, nil
		}
		pos += 2
	}
}

// lexMark reads the tokens of the mark that opens at open, and returns the offset behind it.
func lexMark(source []byte, open int) (piece, int, error) {
	mark := source[open+1]
	closing := "}}"
	if mark == '%' {
		closing = "%}"
	}
	p := piece{mark: mark, off: open}
	pos := open + 2
	if pos < len(source) && source[pos] == '-' {
		pos++
	}
	for {
		for pos < len(source) && strings.IndexByte(" \t\r\n", source[pos]) >= 0 {
			pos++
		}
		rest := source[pos:]
		switch {
		case len(rest) == 0:
			return p, 0, errorf(open, "this mark is never closed; it ends with %s", closing)
		case bytes.HasPrefix(rest, []byte(closing)):
			p.tokens = append(p.tokens, token{off: pos})
			return p, pos + 2, nil
		case rest[0] == '-' && bytes.HasPrefix(rest[1:], []byte(closing)):
			p.tokens = append(p.tokens, token{off: pos})
			return p, pos + 3, nil
		}
		t, n, err := lexToken(rest, pos)
		if err != nil {
			return p, 0, err
		}
		p.tokens = append(p.tokens, t)
		pos += n
	}
}

func lexToken(rest []byte, off int) (token, int, error) {
	c := rest[0]
	switch {
	case c == '"' || c == '\'' || c == '`':
		return lexString(rest, off)
	case isNameStart(c):
		n := 1
		for n < len(rest) && (isNameStart(rest[n]) || isDigit(rest[n])) {
			n++
		}
		return token{kind: tokenName, text: string(rest[:n]), off: off}, n, nil
	case isDigit(c):
		return lexNumber(rest, off)
	}
	for _, symbol := range [...]string{"==", "!=", "<=", ">=", "::"} {
		if bytes.HasPrefix(rest, []byte(symbol)) {
			return token{kind: tokenSymbol, text: symbol, off: off}, 2, nil
		}
	}
	if strings.IndexByte("()[].,=|~+-*/%<>:", c) >= 0 {
		return token{kind: tokenSymbol, text: string(c), off: off}, 1, nil
	}
	r, _ := utf8.DecodeRune(rest)
	return token{}, 0, errorf(off, "a template expression has no place for %q", r)
}

func lexString(rest []byte, off int) (token, int, error) {
	quote := rest[0]
	var b strings.Builder
	for i := 1; i < len(rest); i++ {
		switch c := rest[i]; {
		case c == quote:
			return token{kind: tokenString, text: b.String(), off: off}, i + 1, nil
		case c == '\\' && i+1 < len(rest):
			i++
			switch e := rest[i]; e {
			case 'n':
				b.WriteByte('\n')
			case 't':
				b.WriteByte('\t')
			case 'r':
				b.WriteByte('\r')
			default: // \\, \", \', and inside a JSON string \" again
				b.WriteByte(e)
			}
		default:
			b.WriteByte(c)
		}
	}
	return token{}, 0, errorf(off, "this string is never closed; it ends with %c", quote)
}

func lexNumber(rest []byte, off int) (token, int, error) {
	n, kind := 0, tokenInteger
	for n < len(rest) && isDigit(rest[n]) {
		n++
	}
	if n+1 < len(rest) && rest[n] == '.' && isDigit(rest[n+1]) {
		kind = tokenFloat
		for n++; n < len(rest) && isDigit(rest[n]); n++ {
		}
	}
	return token{kind: kind, text: string(rest[:n]), off: off}, n, nil
}

func isNameStart(c byte) bool {
	return c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }
