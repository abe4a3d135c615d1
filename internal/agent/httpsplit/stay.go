package httpsplit

import (
	"slices"
	"strings"
)

// stayHTTP1 takes out of a request the offer to go on with HTTP/2 on the same connection (RFC 7540, section 3.2), which
// each hop decides for itself (RFC 9110, section 7.8). Who accepts it gets all requests that follow, whoever they are
// for: clients of Java offer it with the first request of each connection.
func (h *head) stayHTTP1() {
	offered, others := false, false
	for _, l := range h.lines {
		if name, value, _ := strings.Cut(l, ":"); strings.EqualFold(name, "upgrade") {
			kept := without(value, "h2c")
			offered = offered || kept != without(value)
			others = others || kept != ""
		}
	}
	if h.offered = offered; !offered {
		return
	}
	dropped := []string{"http2-settings"}
	if !others {
		dropped = append(dropped, "upgrade")
	}
	edit := func(line string) string {
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			return line
		}
		var kept string
		switch strings.ToLower(name) {
		case "upgrade":
			kept = without(value, "h2c")
		case "connection":
			kept = without(value, dropped...)
		case "http2-settings":
			return ""
		default:
			return line
		}
		if kept == "" {
			return ""
		}
		return name + ": " + kept
	}
	start, rest, _ := strings.Cut(strings.TrimSuffix(string(h.raw), "\r\n"), "\r\n")
	raw := append([]byte(start), crlf...)
	for line := range strings.SplitSeq(strings.TrimSuffix(rest, "\r\n"), "\r\n") {
		if line = edit(line); line != "" {
			raw = append(append(raw, line...), crlf...)
		}
	}
	h.raw = append(raw, crlf...)
	for i, l := range h.lines {
		h.lines[i] = edit(l)
	}
	h.lines = slices.DeleteFunc(h.lines, func(l string) bool { return l == "" })
}

// without is a list of tokens without some of them, which are in lower case.
func without(list string, tokens ...string) string {
	var kept []string
	for token := range strings.SplitSeq(list, ",") {
		token = strings.Trim(token, " \t")
		if token != "" && !slices.Contains(tokens, strings.ToLower(token)) {
			kept = append(kept, token)
		}
	}
	return strings.Join(kept, ", ")
}
