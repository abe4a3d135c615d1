//go:build !linux

package demo

import (
	"context"
	"io"
	"log/slog"
)

// Inside is not available: there are no network namespaces here.
func Inside(context.Context, *slog.Logger, io.Writer, string, string, string) (int, error) {
	return 1, nil
}
