//go:build !linux

package demo

import (
	"context"
	"fmt"
	"os"

	"github.com/mirrord-go/mirrord/internal/intercept"
)

// Run is not available: there are no network namespaces here.
func Run(context.Context, *os.File, *os.File, Options) error {
	return fmt.Errorf("the demo: %w: it needs Linux. Run it in a Linux container or virtual machine", intercept.ErrUnsupported)
}
