// Package clierr turns errors into words and exit codes; it is the one place that does.
//
// An error says in its text what failed and why. An error that also knows what to do next
// has a method Hint() string, which may be of several lines.
package clierr

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
)

// The exit codes of the program, apart from those of a child that exec ran.
const (
	// Success: the command did what it was asked to do.
	Success = 0
	// Failure: it could not.
	Failure = 1
	// Usage: the command line is wrong, and nothing was done.
	Usage = 2
	// Interrupted: a signal ended the command, as shells number SIGINT.
	Interrupted = 130
)

// ExitError ends the program with an exit code and without a word, because all has been
// said: by a child whose code passes through, or in the command's output.
type ExitError struct{ Code int }

func (e *ExitError) Error() string { return fmt.Sprintf("exit code %d", e.Code) }

// UsageError is a mistake in the command line.
type UsageError struct {
	// Command is the command as it was called, such as "mirrord profile show".
	Command string
	Err     error
}

func (e *UsageError) Error() string { return e.Err.Error() }

// Unwrap returns the mistake.
func (e *UsageError) Unwrap() error { return e.Err }

// Hint points to the help text.
func (e *UsageError) Hint() string {
	if e.Command == "" {
		return ""
	}
	return fmt.Sprintf("See %q.", e.Command+" --help")
}

// Usagef returns a [*UsageError] of a command.
func Usagef(command, format string, args ...any) error {
	return &UsageError{Command: command, Err: fmt.Errorf(format, args...)}
}

// Hint returns what to do about an error: the hint of the first error in its chain that has
// one, or nothing.
func Hint(err error) string {
	var hinter interface {
		error
		Hint() string
	}
	if errors.As(err, &hinter) {
		return hinter.Hint()
	}
	return ""
}

// Messages returns the texts of an error: one for each of its problems when it has several,
// with the hint after the last.
func Messages(err error) []string {
	messages := strings.Split(err.Error(), "\n")
	if hint := Hint(err); hint != "" {
		messages[len(messages)-1] += "\n" + hint
	}
	return messages
}

// Report writes what the user has to know about err and returns the exit code. A nil error
// is success.
func Report(w io.Writer, err error) int {
	if err == nil {
		return Success
	}
	if exit, ok := errors.AsType[*ExitError](err); ok {
		return exit.Code
	}
	if errors.Is(err, context.Canceled) {
		return Interrupted // by the user, who knows
	}
	var text strings.Builder
	for line := range strings.SplitSeq(err.Error(), "\n") {
		text.WriteString("error: " + line + "\n")
	}
	if hint := Hint(err); hint != "" {
		text.WriteString(hint + "\n")
	}
	_, _ = io.WriteString(w, text.String()) // there is nobody to tell when that fails
	if _, ok := errors.AsType[*UsageError](err); ok {
		return Usage
	}
	return Failure
}
