//go:build !linux

package democmd

import (
	"github.com/spf13/cobra"

	"github.com/mirrord-go/mirrord/internal/cli/command"
)

// parts has nothing: the demo needs Linux.
func parts(*command.Factory) []*cobra.Command { return nil }
