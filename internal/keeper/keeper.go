// Package keeper ends what is left of a session when the CLI has died without a word, by SIGKILL
// for one.
//
// The local process itself is tied to the CLI by its parent-death signal, but that is not
// inherited: what a shell or a build tool has started would run on, with a network that
// fails its calls, and hold ports and terminals. In the cluster, agents would wait for the client
// to come back. The keeper is a process of its own that waits at a pipe whose other end the CLI
// holds, and through which it is told what there will be to clean up ([Keeper.Note]). A session
// that ends in order dismisses it. When the pipe just closes, it kills the processes that carry
// the session's ID in their environment, and has the rest cleaned up. A carrier that broke closes
// no pipe.
package keeper

import (
	"bufio"
	"io"
)

// Command is the hidden command by which the executable is started again as a keeper, with
// the environment variable that marks the processes as its argument.
const Command = "session-keeper"

// dismissed is the line that an orderly end writes into the pipe.
const dismissed = "dismissed"

// Bounds of what a keeper keeps.
const (
	maxNote  = 32 << 10
	maxNotes = 4096
)

// wait blocks until the other end of the pipe closes. It returns the notes, and whether the keeper was
// dismissed.
func wait(pipe io.Reader) (notes []string, over bool) {
	lines := bufio.NewScanner(pipe)
	lines.Buffer(nil, maxNote)
	for lines.Scan() {
		if lines.Text() == dismissed {
			return nil, true
		}
		if len(notes) < maxNotes {
			notes = append(notes, lines.Text())
		}
	}
	_, _ = io.Copy(io.Discard, pipe) // after a line that is too long
	return notes, false
}
