package httpsplit

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// maxChunkLine bounds the line of a chunk's size with its extensions, and each line of a trailer.
const maxChunkLine = 4 << 10

// copyBody copies a message's body as it stands on the wire. A body that can't be followed
// gives an error that wraps [errUnclear]; everything read until then has been written.
func copyBody(dst io.Writer, src *bufio.Reader, h *head) error {
	switch h.body {
	case byLength:
		_, err := io.CopyN(dst, src, h.length)
		return err
	case chunked:
		return copyChunks(dst, src)
	case untilClose:
		_, err := io.Copy(dst, src)
		return err
	}
	return nil
}

// copyTogether copies a head and its body of chunks as [copyChunks] does, with fewer writes.
func copyTogether(dst io.Writer, src *bufio.Reader, head []byte) error {
	g := &gathered{dst: dst, src: src}
	_, err := g.Write(head)
	if err == nil {
		err = copyChunks(g, src)
	}
	if werr := g.flush(); err == nil {
		err = werr
	}
	return err
}

// gathered is a writer for what is read of src. It holds back what is followed by another line that has come already, and
// writes it with that: a chunk takes three lines, of which each would be a packet of its own.
type gathered struct {
	dst  io.Writer
	src  *bufio.Reader
	held []byte
}

func (g *gathered) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	next, _ := g.src.Peek(g.src.Buffered())
	more := bytes.IndexByte(next, '\n') >= 0 // nobody waits for more before the next Write
	if len(g.held) == 0 && !more {
		return g.dst.Write(p)
	}
	g.held = append(g.held, p...)
	if more && len(g.held) < bufferSize {
		return len(p), nil
	}
	return len(p), g.flush()
}

func (g *gathered) flush() error {
	if len(g.held) == 0 {
		return nil
	}
	_, err := g.dst.Write(g.held)
	g.held = g.held[:0]
	return err
}

// copyChunks copies a body of chunks with its trailer (RFC 9112, section 7.1).
func copyChunks(dst io.Writer, src *bufio.Reader) error {
	for {
		line, err := copyLine(dst, src)
		if err != nil {
			return err
		}
		size, err := chunkSize(line)
		if err != nil {
			return err
		}
		if size == 0 {
			break
		}
		if _, err := io.CopyN(dst, src, size); err != nil {
			return err
		}
		if line, err = copyLine(dst, src); err != nil {
			return err
		}
		if len(line) > 0 {
			return fmt.Errorf("%w: a chunk is longer than it says", errUnclear)
		}
	}
	for {
		if line, err := copyLine(dst, src); err != nil || len(line) == 0 {
			return err
		}
	}
}

func chunkSize(line []byte) (int64, error) {
	digits, _, _ := strings.Cut(string(line), ";")
	size, err := strconv.ParseUint(strings.TrimRight(digits, " \t"), 16, 62)
	if err != nil {
		return 0, fmt.Errorf("%w: the size of a chunk is %q", errUnclear, digits)
	}
	return int64(size), nil
}

// copyLine copies one line and returns it without its end.
func copyLine(dst io.Writer, src *bufio.Reader) ([]byte, error) {
	line, err := src.ReadSlice('\n')
	if _, werr := dst.Write(line); werr != nil {
		return nil, werr
	}
	if errors.Is(err, bufio.ErrBufferFull) || len(line) > maxChunkLine {
		return nil, fmt.Errorf("%w: a line of a chunked body has more than %d bytes", errUnclear, maxChunkLine)
	}
	if err != nil {
		return nil, err
	}
	// Who takes a lonely CR or LF for the end of a line, and who does not, finds the end of the body
	// elsewhere.
	text, ok := bytes.CutSuffix(line, crlf)
	if !ok || bytes.IndexByte(text, '\r') >= 0 {
		return nil, fmt.Errorf("%w: a line of a chunked body does not end as lines do", errUnclear)
	}
	return text, nil
}
