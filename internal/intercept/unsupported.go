//go:build !linux || !(amd64 || arm64)

package intercept

import (
	"context"
	"log/slog"
)

// Start returns [ErrUnsupported]: interception needs Linux on amd64 or arm64.
func Start(context.Context, *slog.Logger, Options) (Process, error) {
	return nil, ErrUnsupported
}

// Check returns [ErrUnsupported], as Start does.
func Check() error { return ErrUnsupported }
