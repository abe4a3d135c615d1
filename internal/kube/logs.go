package kube

import (
	"context"
	"log/slog"

	"k8s.io/klog/v2"
)

// RedirectLogs sends what client-go logs by itself, which it otherwise writes to the
// standard error, to the logger; its details, such as the state of each of its feature
// gates, are dropped. It is for a program's main function: it changes the whole process.
func RedirectLogs(log *slog.Logger) { klog.SetSlogLogger(slog.New(coarse{log.Handler()})) }

// coarse is a handler without what is less than an information.
type coarse struct{ slog.Handler }

func (c coarse) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelInfo && c.Handler.Enabled(ctx, level)
}

func (c coarse) WithAttrs(attrs []slog.Attr) slog.Handler { return coarse{c.Handler.WithAttrs(attrs)} }

func (c coarse) WithGroup(name string) slog.Handler { return coarse{c.Handler.WithGroup(name)} }
