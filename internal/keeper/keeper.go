// Package keeper ends what is left of a session's process tree when the CLI has died
// without a word, by SIGKILL for one.
//
// The local process itself is tied to the CLI by its parent-death signal, but that is not
// inherited: what a shell or a build tool has started would run on, with a network that
// fails its calls, and hold ports and terminals. The keeper is a process of its own that
// waits at a pipe whose other end the CLI holds. A session that ends in order dismisses it.
// When the pipe just closes, it kills the processes that carry the session's ID in their
// environment.
package keeper

import (
	"bytes"
	"io"
)

// Command is the hidden command by which the executable is started again as a keeper, with
// the environment variable that marks the processes as its argument.
const Command = "session-keeper"

// dismissed is what an orderly end writes into the pipe.
var dismissed = []byte("dismissed")

// Wait blocks until the other end of the pipe closes and says whether the keeper was dismissed.
func wait(pipe io.Reader) bool {
	b, err := io.ReadAll(io.LimitReader(pipe, int64(len(dismissed))))
	return err == nil && bytes.Equal(b, dismissed)
}
