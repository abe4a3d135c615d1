package node

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/mirrord-go/mirrord/internal/agent/announce"
	"github.com/mirrord-go/mirrord/internal/agent/target"
	"github.com/mirrord-go/mirrord/internal/agent/worker"
	"github.com/mirrord-go/mirrord/internal/tunnel"
	"github.com/mirrord-go/mirrord/internal/version"
)

// work is the worker: it announces itself and serves.
func work(ctx context.Context, log *slog.Logger, o options, stdout, _ *os.File) (int, error) {
	if o.controlFD != 0 {
		return workManaged(ctx, log, o)
	}
	l, err := inheritListener(o.listenerFD)
	if err != nil {
		return exitFailure, err
	}
	defer l.Close()
	process, err := inheritProcess(o)
	if err != nil {
		return exitFailure, err
	}
	if process != nil {
		defer func() { _ = process.Close() }()
	}
	id, err := tunnel.NewIdentity()
	if err != nil {
		return exitFailure, err
	}
	key := id.Fingerprint()
	if err := announce.Write(stdout, announce.Announcement{Address: l.Addr().String(), Key: &key, Version: version.String()}); err != nil {
		return exitFailure, fmt.Errorf("announcing the agent: %w", err)
	}
	log.Info("the agent is ready", "address", l.Addr().String(), "version", version.String())
	err = worker.Run(ctx, log, worker.Config{
		Listener: l, Identity: id, Client: o.client, Process: process,
		Targetless: o.targetless, Timeout: o.timeout, Version: version.String(),
	})
	if err != nil {
		return exitFailure, err
	}
	return exitOK, nil
}

func inheritListener(fd int) (net.Listener, error) {
	f := inherit(fd, "listener")
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("the worker is started by mirrord-agent serve, with a listener: %w", err)
	}
	return l, nil
}

func inheritProcess(o options) (*target.Process, error) {
	if o.processFD == 0 {
		return nil, nil
	}
	return target.FromFiles(inherit(o.processFD, "process"), inherit(o.pidFD, "pidfd"))
}

func inherit(fd int, name string) *os.File {
	unix.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), name)
}
