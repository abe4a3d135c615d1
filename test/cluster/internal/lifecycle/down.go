package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mirrord-go/mirrord/test/cluster/internal/layout"
	"github.com/mirrord-go/mirrord/test/cluster/internal/machine"
	"github.com/mirrord-go/mirrord/test/cluster/internal/progress"
)

// Down ends the cluster and removes everything of it except the built binaries. It reports whether there was anything.
func Down(ctx context.Context, l layout.Layout, out *progress.Printer) (bool, error) {
	if err := machine.Check(); err != nil {
		return false, err
	}
	release, err := lock(l, out)
	if err != nil {
		return false, err
	}
	defer release()
	_, err = os.Stat(l.State())
	return err == nil, errors.Join(clear(ctx, l), removeLastLogs(l))
}

// Clean removes the built binaries of all versions. No cluster of this cache folder may run.
func Clean(l layout.Layout, out *progress.Printer) error {
	release, err := lock(l, out)
	if err != nil {
		return err
	}
	defer release()
	running, err := filepath.Glob(filepath.Join(l.Cache, "run", "*"))
	if err != nil {
		return err
	}
	if len(running) > 0 {
		return fmt.Errorf("the binaries are in use by %s: \"cluster down\" first", filepath.Base(running[0]))
	}
	return os.RemoveAll(l.Cache)
}

// clear ends and removes what there is of the cluster, whole or in part.
func clear(ctx context.Context, l layout.Layout) error {
	record, ok, err := layout.ReadRecord(l.State())
	if err != nil {
		return fmt.Errorf("%w; what it described cannot be removed: see \"ip link\", \"ip route\" and the processes \"cluster node-init\"", err)
	}
	if ok {
		if err := kill(ctx, record); err != nil {
			return err
		}
		if err := errors.Join(machine.Disconnect(record.Ranges()), machine.RemoveCgroup(ctx, record.Ranges().Cgroup())); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(l.State()); err != nil {
		return fmt.Errorf("state folder: %w", err)
	}
	os.Remove(filepath.Dir(l.State())) // succeeds when this was the last cluster
	return nil
}

// endLimit is how long the node may take to end. It has hundreds of processes, which a busy machine ends one by one.
const endLimit = 10 * time.Minute

// kill ends the node's first process and waits until it, and so everything in its namespaces, has ended.
func kill(ctx context.Context, record layout.Record) error {
	if !alive(record) {
		return nil
	}
	fd, err := unix.PidfdOpen(record.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("end the node: %w", err)
	}
	defer unix.Close(fd)
	if !alive(record) { // the number may have passed to another process before it was opened
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("end the node: %w", err)
	}
	deadline := time.Now().Add(endLimit)
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 100)
		switch {
		case n == 1:
			return nil
		case err != nil && !errors.Is(err, unix.EINTR):
			return fmt.Errorf("end the node: %w", err)
		case ctx.Err() != nil:
			return ctx.Err()
		case time.Now().After(deadline):
			return fmt.Errorf("end the node: process %d has not ended %v after SIGKILL", record.PID, endLimit)
		}
	}
}
