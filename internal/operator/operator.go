// Package operator is the operator: it puts the parts together and runs them.
//
// Every replica serves the API (package apiserver) for sessions that package session starts
// and ends. One replica, elected, keeps sessions and the cluster together (package reconcile).
package operator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/pflag"
	"k8s.io/klog/v2"

	"github.com/mirrord-go/mirrord/internal/operator/options"
	"github.com/mirrord-go/mirrord/internal/version"
)

// Exit codes.
const (
	exitFailed = 1
	exitUsage  = 2
)

// Main runs the operator with a command line, without the program's name, until it is told to
// stop. It returns the exit code. All output goes to stderr.
func Main(ctx context.Context, args []string, stderr io.Writer) int {
	o := options.New()
	fs := pflag.NewFlagSet("mirrord-operator", pflag.ContinueOnError)
	fs.SetOutput(stderr)
	o.AddFlags(fs)
	show := fs.Bool("version", false, "print the version")
	switch err := fs.Parse(args); {
	case errors.Is(err, pflag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintln(stderr, err)
		return exitUsage
	case *show:
		fmt.Fprintln(stderr, version.String())
		return 0
	}
	if err := o.Validate(); err != nil {
		fmt.Fprintln(stderr, err)
		return exitUsage
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	log := newLogger(o, stderr)
	klog.SetSlogLogger(slog.New(quieter{log.Handler()}))
	if err := Run(ctx, o, log); err != nil {
		log.Error("the operator ended", "error", err)
		return exitFailed
	}
	return 0
}

// newLogger writes as the options say, which are valid.
func newLogger(o *options.Options, w io.Writer) *slog.Logger {
	level, err := o.Level()
	if err != nil {
		level = slog.LevelInfo
	}
	opts := &slog.HandlerOptions{Level: level}
	if o.LogFormat == "text" {
		return slog.New(slog.NewTextHandler(w, opts))
	}
	return slog.New(slog.NewJSONHandler(w, opts))
}

// quieter is for what Kubernetes' libraries have to say: what they hold for worth knowing is
// detail here.
type quieter struct{ slog.Handler }

// Enabled implements slog.Handler.
func (q quieter) Enabled(ctx context.Context, l slog.Level) bool {
	return q.Handler.Enabled(ctx, lowered(l))
}

// Handle implements slog.Handler.
func (q quieter) Handle(ctx context.Context, r slog.Record) error {
	r.Level = lowered(r.Level)
	if !q.Handler.Enabled(ctx, r.Level) {
		return nil
	}
	return q.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (q quieter) WithAttrs(attrs []slog.Attr) slog.Handler {
	return quieter{q.Handler.WithAttrs(attrs)}
}

// WithGroup implements slog.Handler.
func (q quieter) WithGroup(name string) slog.Handler { return quieter{q.Handler.WithGroup(name)} }

func lowered(l slog.Level) slog.Level {
	if l < slog.LevelWarn {
		return min(l, slog.LevelDebug)
	}
	return l
}
