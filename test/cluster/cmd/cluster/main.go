// Cluster starts and ends a real Kubernetes cluster of one node for the tests of this repository.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/mirrord-go/mirrord/test/cluster/internal/node"
)

func main() {
	// The processes of the node are this program, called by these names.
	if len(os.Args) == 3 {
		switch os.Args[1] {
		case node.InitArgument:
			exit(node.Init(os.Args[2]))
		case node.SuperviseArgument:
			exit(node.Supervise(context.Background(), os.Args[2]))
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	exit(newRoot().ExecuteContext(ctx))
}

// exit ends the process. The exit code of a program that was run for the user is passed on.
func exit(err error) {
	var failed *exec.ExitError
	switch {
	case err == nil:
		os.Exit(0)
	case errors.As(err, &failed) && failed.ExitCode() > 0:
		os.Exit(failed.ExitCode())
	}
	fmt.Fprintln(os.Stderr, "cluster:", err)
	os.Exit(1)
}
