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

// FileServer is not there.
type FileServer struct{}

// ServeFiles returns [ErrUnsupported], as Start does.
func ServeFiles(context.Context, *slog.Logger, Files) (*FileServer, error) {
	return nil, ErrUnsupported
}

// Close does nothing.
func (*FileServer) Close() error { return nil }

// Check returns [ErrUnsupported], as Start does.
func Check() error { return ErrUnsupported }
