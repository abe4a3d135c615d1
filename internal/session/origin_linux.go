//go:build amd64 || arm64

package session

import (
	"os/signal"
	"syscall"

	"github.com/mirrord-go/mirrord/internal/sigorigin"
)

// watchOrigins begins to tell the terminal's signals from other processes'. Where it can't, the foreground
// decides: see forwards.
func watchOrigins() {
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGQUIT} {
		if !signal.Ignored(sig) {
			_ = sigorigin.Watch(sig)
		}
	}
}

// origin says who has sent the signal; neither when it is unknown.
func origin(sig syscall.Signal) (terminal, process bool) { return sigorigin.Take(sig) }
