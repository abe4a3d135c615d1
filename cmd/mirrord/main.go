// Command mirrord runs a local process as if it were in a Kubernetes pod.
package main

import (
	"context"
	"os"
	"slices"

	"github.com/mirrord-go/mirrord/internal/cli"
	"github.com/mirrord-go/mirrord/internal/cli/iostreams"
	"github.com/mirrord-go/mirrord/internal/timerslack"
)

func main() {
	// Only a session carries traffic. It does without, too.
	if slices.Contains(os.Args, "exec") {
		_ = timerslack.Widen()
	}
	os.Exit(cli.Run(context.Background(), iostreams.System(), os.Args[1:]))
}
