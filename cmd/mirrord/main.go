// Command mirrord runs a local process as if it were in a Kubernetes pod.
package main

import (
	"context"
	"os"

	"github.com/mirrord-go/mirrord/internal/cli"
	"github.com/mirrord-go/mirrord/internal/cli/iostreams"
)

func main() {
	os.Exit(cli.Run(context.Background(), iostreams.System(), os.Args[1:]))
}
