package httpsplit

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"time"
)

// preface starts an HTTP/2 connection (RFC 9113, section 3.4).
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// maxMethod is more than any method has in use.
const maxMethod = 32

// protocol is what a connection speaks.
type protocol uint8

const (
	undecided protocol = iota
	http1
	http2
	other
)

// detect says what a new connection speaks; whatever it read can be read again. The error is that of a
// client that failed.
func (s *splitter) detect() (protocol, error) {
	timeout := s.o.DetectTimeout
	if timeout <= 0 {
		timeout = DefaultDetectTimeout
	}
	for {
		b, _ := s.in.Peek(s.in.Buffered())
		if p := classify(b); p != undecided {
			return p, nil
		}
		_ = s.client.SetReadDeadline(time.Now().Add(timeout))
		_, err := s.in.Peek(len(b) + 1)
		_ = s.client.SetReadDeadline(time.Time{})
		switch {
		case err == nil:
		case errors.Is(err, io.EOF):
			return other, nil // the application decides what that means
		case !late(err) || s.ctx.Err() != nil:
			return other, err
		case len(b) > 0:
			return other, nil
		default:
			if p, err := s.whoSpeaks(); p != undecided || err != nil {
				return p, err
			}
		}
	}
}

// whoSpeaks waits until the client or the application says something. It is not HTTP when that
// is the application.
func (s *splitter) whoSpeaks() (protocol, error) {
	u, _, err := s.to(s.o.App)
	if err != nil {
		return other, err
	}
	done := make(chan struct{})
	spoken := false // or ended
	go func() {
		defer close(done)
		if _, err := u.in.Peek(1); !late(err) {
			spoken = true
			_ = s.client.SetReadDeadline(past())
		}
	}()
	_, err = s.in.Peek(1)
	_ = u.SetReadDeadline(past())
	<-done
	_ = u.SetReadDeadline(time.Time{})
	_ = s.client.SetReadDeadline(time.Time{})
	switch {
	case s.ctx.Err() != nil:
		return other, s.ctx.Err()
	case spoken, errors.Is(err, io.EOF):
		return other, nil
	case err != nil:
		return other, err
	}
	return undecided, nil
}

// classify says what bytes are the beginning of.
func classify(b []byte) protocol {
	if n := min(len(b), len(preface)); string(b[:n]) == preface[:n] {
		if n == len(preface) {
			return http2
		}
		return undecided
	}
	method, rest, ok := bytes.Cut(b, []byte(" "))
	switch {
	case !isToken(string(method)), len(method) > maxMethod:
		return other
	case !ok:
		return undecided
	}
	line, _, ok := bytes.Cut(rest, []byte("\n"))
	line = bytes.TrimSuffix(line, []byte("\r"))
	switch {
	case bytes.ContainsFunc(line, func(r rune) bool { return r < ' ' }):
		return other
	case !ok && len(b) < bufferSize:
		return undecided
	case !ok:
		return http1 // with a long target
	}
	target, version, ok := strings.Cut(string(line), " ")
	if ok && target != "" && (version == "HTTP/1.1" || version == "HTTP/1.0") {
		return http1
	}
	return other
}
