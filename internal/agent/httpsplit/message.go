package httpsplit

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"

	"github.com/mirrord-go/mirrord/internal/httpfilter"
)

const (
	bufferSize = 4 << 10
	// maxHead bounds the lines in front of a message's body, in bytes. Servers allow 8 KiB to 1 MiB.
	maxHead = 256 << 10
)

// errUnclear says that the bytes are not HTTP/1 as everybody reads it the same way.
var errUnclear = errors.New("not clearly HTTP/1")

// framing says where a message's body ends (RFC 9112, section 6.3).
type framing uint8

const (
	noBody framing = iota
	byLength
	chunked
	untilClose
)

// head is the part of a message before its body.
type head struct {
	raw []byte // as on the wire, with the empty line
	// start has the words of the first line; of a response's reason nothing.
	start [3]string
	lines []string // "Name: value", in order

	body   framing
	length int64 // byLength
	// minor is the version: 0 or 1.
	minor int
	// As Connection says.
	close, keepAlive, upgrade bool
	expects                   bool // Expect: 100-continue
	asked                     bool // for the body that it waits with
	last                      bool // a response that says that no other follows
	offered                   bool // HTTP/2, see stayHTTP1
}

// readHead reads up to and with the empty line. What it read is in raw also when it fails.
func readHead(r *bufio.Reader) (*head, error) {
	h := &head{}
	for {
		line, err := r.ReadSlice('\n')
		if h.raw == nil {
			h.raw = make([]byte, 0, len(line)+r.Buffered()) // most heads are there at once, with what follows them
		}
		h.raw = append(h.raw, line...)
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
		case err != nil:
			return h, err
		case !bytes.HasSuffix(h.raw, crlf):
			return h, errUnclear // a lonely LF ends a line for some (RFC 9112, section 2.2)
		case len(h.raw) == len(crlf):
			return h, errUnclear // an empty line before the message, which servers skip: too rare to follow
		case bytes.HasSuffix(h.raw, headEnd):
			return h, h.parse()
		}
		if len(h.raw) > maxHead {
			return h, fmt.Errorf("%w: a head of more than %d bytes", errUnclear, maxHead)
		}
	}
}

// headEnd is the end of the last line, and the empty one.
var headEnd = []byte("\r\n\r\n")

func (h *head) parse() error {
	text := strings.TrimSuffix(string(h.raw), "\r\n")
	if lonelyCR(text) || strings.IndexByte(text, 0) >= 0 {
		return errUnclear
	}
	first, rest, _ := strings.Cut(text, "\r\n")
	h.start[0], first, _ = strings.Cut(first, " ")
	h.start[1], h.start[2], _ = strings.Cut(first, " ")
	h.lines = make([]string, 0, strings.Count(rest, "\r\n")+1)
	var length, transfer []string
	for rest != "" {
		var line string
		line, rest, _ = strings.Cut(rest, "\r\n")
		name, value, ok := strings.Cut(line, ":")
		if !ok || !isToken(name) {
			return errUnclear // folded lines, spaces before the colon: everybody reads them in their own way
		}
		value = strings.Trim(value, " \t")
		if written := len(name) + len(": ") + len(value); len(line) != written || line[len(name)+1] != ' ' {
			line = name + ": " + value
		}
		h.lines = append(h.lines, line)
		switch {
		case strings.EqualFold(name, "Content-Length"):
			length = append(length, value)
		case strings.EqualFold(name, "Transfer-Encoding"):
			transfer = append(transfer, value)
		case strings.EqualFold(name, "Connection"):
			h.connection(value)
		case strings.EqualFold(name, "Expect"):
			h.expects = h.expects || strings.EqualFold(value, "100-continue")
		}
	}
	return h.frame(length, transfer)
}

// lonelyCR says that there is a CR which does not end a line.
func lonelyCR(text string) bool { return strings.Count(text, "\r") != strings.Count(text, "\r\n") }

func (h *head) connection(value string) {
	for option := range strings.SplitSeq(value, ",") {
		switch strings.ToLower(strings.Trim(option, " \t")) {
		case "close":
			h.close = true
		case "keep-alive":
			h.keepAlive = true
		case "upgrade":
			h.upgrade = true
		}
	}
}

// frame decides about the body from the header lines alone.
func (h *head) frame(length, transfer []string) error {
	switch {
	case len(transfer) > 1, len(length) > 1, len(transfer) > 0 && len(length) > 0:
		return errUnclear
	case len(transfer) == 1:
		if !strings.EqualFold(transfer[0], "chunked") {
			return errUnclear
		}
		h.body = chunked
	case len(length) == 1:
		n, err := strconv.ParseUint(length[0], 10, 63)
		if err != nil || length[0][0] == '+' {
			return errUnclear
		}
		h.body, h.length = byLength, int64(n)
		if n == 0 {
			h.body = noBody
		}
	}
	return nil
}

// readRequest reads the head of a request.
func readRequest(r *bufio.Reader) (*head, error) {
	h, err := readHead(r)
	if err != nil {
		return h, err
	}
	if !isToken(h.start[0]) || h.start[1] == "" || strings.ContainsFunc(h.start[1], unicode.IsControl) {
		return h, errUnclear
	}
	if h.minor, err = version(h.start[2]); err != nil {
		return h, err
	}
	if h.minor == 0 && h.body == chunked {
		return h, errUnclear
	}
	h.expects = h.expects && h.minor > 0 // RFC 9110, section 10.1.1
	h.stayHTTP1()
	return h, nil
}

// readResponse reads the head of a response to a request.
func readResponse(r *bufio.Reader, to *head) (h *head, code int, err error) {
	if h, err = readHead(r); err != nil {
		return h, 0, err
	}
	if h.minor, err = version(h.start[0]); err != nil {
		return h, 0, err
	}
	code, err = strconv.Atoi(h.start[1])
	if err != nil || len(h.start[1]) != 3 || code < 100 {
		return h, 0, errUnclear
	}
	switch {
	case h.minor == 0 && h.body == chunked:
		return h, 0, errUnclear // RFC 9112, section 6.1
	case to.start[0] == "HEAD", code < 200, code == 204, code == 304, to.start[0] == "CONNECT" && code < 300:
		h.body = noBody
	case h.body == noBody && h.length == 0 && !h.hasLength():
		h.body = untilClose
	}
	return h, code, nil
}

func (h *head) hasLength() bool {
	for _, l := range h.lines {
		if name, _, _ := strings.Cut(l, ":"); strings.EqualFold(name, "content-length") {
			return true
		}
	}
	return false
}

// repeatable says that the request can be sent again when nothing came of it (RFC 9110, section
// 9.2.2).
func (h *head) repeatable() bool {
	switch h.start[0] {
	case "GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE":
		return h.body == noBody
	}
	return false
}

// isSafe says that a request with this method asks for nothing but an answer (RFC 9110, section 9.2.1).
func isSafe(method string) bool {
	switch method {
	case "GET", "HEAD", "OPTIONS", "TRACE":
		return true
	}
	return false
}

// request is what a filter sees.
func (h *head) request(body httpfilter.BodyFunc) *httpfilter.Request {
	return &httpfilter.Request{Method: h.start[0], Target: originForm(h.start[1]), Header: h.lines, Body: body}
}

// originForm takes the scheme and the host off a target that has them, as clients of proxies write it and
// servers have to take it (RFC 9112, section 3.2.2).
func originForm(target string) string {
	scheme, rest, ok := strings.Cut(target, "://")
	if !ok || !strings.EqualFold(scheme, "http") && !strings.EqualFold(scheme, "https") {
		return target
	}
	i := strings.IndexAny(rest, "/?")
	switch {
	case i < 0:
		return "/"
	case rest[i] == '?':
		return "/" + rest[i:]
	}
	return rest[i:]
}

// persists says whether the connection of a request can carry another one after this response
// to it (RFC 9112, section 9.3).
func (h *head) persists(to *head) bool {
	switch {
	case h.body == untilClose, h.close, to.close:
		return false
	case h.minor == 0 || to.minor == 0:
		return h.keepAlive
	}
	return true
}

func version(s string) (minor int, err error) {
	switch s {
	case "HTTP/1.1":
		return 1, nil
	case "HTTP/1.0":
		return 0, nil
	}
	return 0, errUnclear
}

// isToken is the rule "token" of RFC 9110, section 5.6.2.
func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0:
		default:
			return false
		}
	}
	return s != ""
}
