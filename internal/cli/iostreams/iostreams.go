// Package iostreams holds the standard streams of a command, so that a test can give it
// others.
package iostreams

import (
	"bytes"
	"fmt"
	"io"
	"os"

	"golang.org/x/term"
)

// Streams are what a command reads and writes. Results go to Out; all that is for the eye,
// such as progress, warnings and errors, goes to Err.
type Streams struct {
	In  io.Reader
	Out io.Writer
	Err io.Writer

	errTerminal bool
}

// System returns the streams of the process.
func System() *Streams {
	return &Streams{
		In: os.Stdin, Out: os.Stdout, Err: os.Stderr,
		errTerminal: isTerminal(os.Stderr, os.Getenv("TERM")),
	}
}

// isTerminal says whether a file is a terminal whose lines can change.
func isTerminal(f *os.File, kind string) bool {
	return kind != "dumb" && term.IsTerminal(int(f.Fd()))
}

// Test returns streams in memory, none of them a terminal.
func Test() (s *Streams, in, out, err *bytes.Buffer) {
	in, out, err = &bytes.Buffer{}, &bytes.Buffer{}, &bytes.Buffer{}
	return &Streams{In: in, Out: out, Err: err}, in, out, err
}

// Notef writes a line to Err. There is nobody to tell when that fails.
func (s *Streams) Notef(format string, args ...any) {
	_, _ = fmt.Fprintf(s.Err, format+"\n", args...)
}

// IsErrTerminal reports whether a person reads Err on a terminal, and one that can do more than add lines.
func (s *Streams) IsErrTerminal() bool { return s.errTerminal }
