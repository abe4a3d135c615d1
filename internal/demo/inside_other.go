//go:build !linux

package demo

import (
	"context"
	"log/slog"
)

// Inside is not available: there are no network namespaces here.
func Inside(context.Context, *slog.Logger, string, string, string) int { return 1 }
