// Package worker is the agent inside the target's network: it serves one client over the
// tunnel. Connections that arrive at the target go to the client, connections and queries
// of the client leave from here.
//
// One worker serves one session. Its client proves a key that the worker was started with;
// whoever else connects is turned away and costs nothing but a handshake. When the client
// is gone, however it went, the target has all its ports back at once, and the worker waits
// a while for the client to come back before it ends. It ends as well when the client says
// goodbye and when the target's process ends.
package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/mirrord-go/mirrord/internal/agent/resolver"
	"github.com/mirrord-go/mirrord/internal/agent/target"
	"github.com/mirrord-go/mirrord/internal/tunnel"
)

// drainTime is how long a worker that ends lets connections go on that it handed to the
// target, such as a probe.
const drainTime = 2 * time.Second

// Config is what a worker is started with. Listener, Identity and Client are needed.
type Config struct {
	// Listener is where the client connects. The worker closes it.
	Listener net.Listener
	// Identity is the agent's key, Client the only key that a client may have.
	Identity *tunnel.Identity
	Client   tunnel.Fingerprint
	// Process is the target's, whose environment and files count and whose end is the
	// session's. Nil means that there is none, or that it can't be seen; then the
	// worker's own files say how names are resolved.
	Process *target.Process
	// Targetless says that there is no target at all: nothing can be taken.
	Targetless bool
	// Timeout is how long the worker waits for its client: from the start, and whenever
	// it has lost it. The zero value means 30 seconds.
	Timeout time.Duration
	// Version names the agent's build.
	Version string

	// openSteal and openMirror make the ways of taking connections; tests replace them.
	openSteal  func(*slog.Logger) (stealer, error)
	openMirror func(*slog.Logger) (mirrorer, error)
}

type worker struct {
	Config
	log      *slog.Logger
	hostname string
	resolver *resolver.Resolver
	incoming *incoming
}

// Run serves until there is no more reason to: it returns nil when the client said goodbye,
// when none came within the time, when the target has ended, and when ctx has ended, which
// is how it is stopped. The ports of the target are given back before it returns.
func Run(ctx context.Context, log *slog.Logger, cfg Config) error {
	if cfg.Timeout == 0 {
		cfg.Timeout = 30 * time.Second
	}
	if cfg.openSteal == nil {
		cfg.openSteal = openSteal
	}
	if cfg.openMirror == nil {
		cfg.openMirror = openMirror
	}
	hostname, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("asking for the target's host name: %w", err)
	}
	files := os.Open
	if cfg.Process != nil {
		files = cfg.Process.OpenFile
	}
	w := &worker{
		Config: cfg, log: log, hostname: hostname,
		resolver: resolver.New(log, resolver.Options{Open: files, Hostname: hostname}),
	}
	defer w.resolver.Close()
	w.incoming = newIncoming(log, cfg.openSteal, cfg.openMirror)
	defer w.incoming.close(drainTime)

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	clients, stop := w.accept(ctx)
	defer stop()
	gone, stopWatching := w.watch(ctx)
	defer stopWatching()
	return w.serve(ctx, clients, gone)
}

// serve serves one client after the other until one of the ends.
func (w *worker) serve(ctx context.Context, clients <-chan tunnel.Session, gone <-chan error) error {
	var current *session
	defer func() {
		if current != nil {
			current.end("")
		}
	}()
	timeout := time.NewTimer(w.Timeout)
	defer timeout.Stop()
	for {
		var ended <-chan struct{} // never, without a client
		if current != nil {
			ended = current.ended
		}
		select {
		case tun := <-clients:
			if current != nil {
				// The same key, so it is our client, back before we noticed that it
				// had gone.
				w.log.Info("the client came back, its old connection ends")
				current.end("")
			}
			timeout.Stop()
			current = w.start(ctx, tun)
		case <-ended:
			if current.saidGoodbye() {
				w.log.Info("the client has ended the session")
				return nil
			}
			w.log.Info("the client is gone, waiting for it to come back", "timeout", w.Timeout, "err", current.tun.Err())
			current = nil
			timeout.Reset(w.Timeout)
		case <-timeout.C:
			w.log.Info("no client came in time", "timeout", w.Timeout)
			return nil
		case err := <-gone:
			if err != nil {
				return err
			}
			w.log.Info("the target's process has ended")
			current.end("the target's process has ended")
			current = nil
			return nil
		case <-ctx.Done():
			w.log.Info("the agent is being stopped")
			current.end("the agent is being stopped")
			current = nil
			return nil
		}
	}
}

// watch tells when the target's process has ended. The second result ends the watching.
func (w *worker) watch(ctx context.Context) (<-chan error, func()) {
	if w.Process == nil {
		return nil, func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	gone := make(chan error, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := w.Process.Wait(ctx); !errors.Is(err, context.Canceled) {
			gone <- err
		}
	}()
	return gone, func() {
		cancel()
		<-done
	}
}
