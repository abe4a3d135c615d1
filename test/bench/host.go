package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"
)

// host is the testing.TB that clustertest works with, outside of "go test": what is measured here
// passes or fails only on demand, and its output is a table.
type host struct {
	testing.TB // of which only the methods below are used

	ctx    context.Context //nolint:containedctx // as a test's
	cancel context.CancelFunc
	log    io.Writer
	began  time.Time

	mu       sync.Mutex
	failure  error
	cleanups []func()
}

// perform runs f, and then what it left to clean up, also when it failed or ctx has ended.
func perform(ctx context.Context, log io.Writer, f func(*host)) error {
	h := &host{log: log, began: time.Now()}
	h.ctx, h.cancel = context.WithCancel(ctx)
	h.goexits(func() { f(h) })
	h.cancel()
	for {
		h.mu.Lock()
		n := len(h.cleanups) - 1
		if n < 0 {
			break
		}
		last := h.cleanups[n]
		h.cleanups = h.cleanups[:n]
		h.mu.Unlock()
		h.goexits(last)
	}
	defer h.mu.Unlock()
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	return h.failure
}

// goexits runs f to its end, which may be Fatalf.
func (h *host) goexits(f func()) {
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	<-done
}

func (h *host) Helper()                  {}
func (h *host) Name() string             { return "bench" }
func (h *host) Context() context.Context { return h.ctx }

// Cleanup is as for a test.
func (h *host) Cleanup(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.cleanups = append(h.cleanups, f)
}

// Failed is as for a test.
func (h *host) Failed() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.failure != nil
}

// Logf says what is being done.
func (h *host) Logf(format string, args ...any) {
	fmt.Fprintf(h.log, "%4.0fs  %s\n", time.Since(h.began).Seconds(), fmt.Sprintf(format, args...))
}

// Errorf notes the first failure and logs later ones.
func (h *host) Errorf(format string, args ...any) {
	h.mu.Lock()
	first := h.failure == nil
	if first {
		h.failure = fmt.Errorf(format, args...)
	}
	h.mu.Unlock()
	if !first {
		h.Logf(format, args...)
	}
}

// Fatalf ends the goroutine as well.
func (h *host) Fatalf(format string, args ...any) {
	h.Errorf(format, args...)
	runtime.Goexit()
}

// Fatal is Fatalf.
func (h *host) Fatal(args ...any) { h.Fatalf("%s", fmt.Sprint(args...)) }

// Skipf has nothing to skip to.
func (h *host) Skipf(format string, args ...any) { h.Fatalf(format, args...) }

// TempDir is as for a test.
func (h *host) TempDir() string {
	dir, err := os.MkdirTemp("", "mirrord-bench-")
	if err != nil {
		h.Fatal(err)
	}
	h.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
