package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mirrord-go/mirrord/internal/agent/target"
)

const (
	workerCommand = "worker"
	// stopTimeout is how long a worker may take to end after SIGTERM.
	stopTimeout = 10 * time.Second
	// firstFD is the number of the first descriptor that a child inherits beside the
	// standard ones, see [exec.Cmd.ExtraFiles].
	firstFD = 3
)

// guard finds the target, starts the worker and waits for its end. The error is for the
// announcement.
func guard(ctx context.Context, log *slog.Logger, o options, stdout, stderr *os.File) (int, error) {
	process, err := findTarget(log, o)
	if err != nil {
		return exitFailure, err
	}
	if process != nil {
		defer func() { _ = process.Close() }()
		log.Info("the target is found", "pid", process.PID())
	}
	listener, unlink, err := listen(o.listen)
	if err != nil {
		return exitFailure, err
	}
	defer unlink()
	defer listener.Close()
	state, err := runWorker(ctx, o, process, listener, stdout, stderr)
	if err != nil {
		return exitFailure, err
	}
	if ws, ok := state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal()), fmt.Errorf("the agent's worker was killed by the signal %q", ws.Signal())
	}
	return state.ExitCode(), nil
}

// findTarget returns the process that the session stands in for; nil when there is none or
// it can't be seen.
func findTarget(log *slog.Logger, o options) (*target.Process, error) {
	switch {
	case o.targetless:
		return nil, nil
	case o.targetPID > 0:
		return target.Open(o.procRoot, o.targetPID)
	case !o.inTarget:
		return target.Find(log, o.procRoot, o.selector)
	}
	// An ephemeral container shares the process IDs of the container that it was made for,
	// whose first process is 1 then; without that, only its network.
	if o.selector != (target.Selector{}) {
		p, err := target.Find(log, o.procRoot, o.selector)
		if err == nil || !errors.Is(err, target.ErrNotFound) {
			return p, err
		}
	}
	if os.Getpid() != 1 && o.selector.ContainerID != "" {
		return target.Open(o.procRoot, 1)
	}
	log.Warn("the target's process can't be seen, so neither its environment nor its end are known")
	return nil, nil
}

// listen opens the agent's listener as a file for the worker. The second result removes
// what it leaves in the file system.
func listen(address string) (*os.File, func(), error) {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			return nil, nil, fmt.Errorf("listening for the client: %w", err)
		}
		l.SetUnlinkOnClose(false)
		defer func() { _ = l.Close() }()
		f, err := l.File()
		return f, func() { _ = os.Remove(path) }, err
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, nil, fmt.Errorf("listening for the client: %w", err)
	}
	defer l.Close()
	f, err := l.(*net.TCPListener).File()
	return f, func() {}, err
}

// runWorker starts the worker in the target's namespaces and waits until it has ended. The
// listener is closed in this process once the worker has it.
func runWorker(ctx context.Context, o options, process *target.Process, listener *os.File, stdout, stderr *os.File) (*os.ProcessState, error) {
	s := spawning{args: workerArgs(o, process), files: []*os.File{listener}, stdout: stdout, stderr: stderr, started: func() { _ = listener.Close() }}
	if process != nil {
		dir, pidfd := process.Files()
		s.files = append(s.files, dir, pidfd)
		if !o.inTarget {
			s.process = process
		}
	}
	s.gently = true
	return spawn(ctx, s)
}

// spawning is a worker process to be.
type spawning struct {
	args           []string
	process        *target.Process // whose namespaces it gets; nil for our own
	files          []*os.File      // that it inherits, from firstFD on
	stdout, stderr *os.File
	started        func() // called when it runs; may be nil
	// gently says that it gets SIGTERM and some time when ctx ends.
	gently bool
}

// spawn starts this program again as a worker and waits until it has ended.
func spawn(ctx context.Context, s spawning) (*os.ProcessState, error) {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", s.args...)
	cmd.Args[0] = os.Args[0]
	cmd.Stdout, cmd.Stderr = s.stdout, s.stderr
	cmd.ExtraFiles = s.files
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if s.gently {
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
		cmd.WaitDelay = stopTimeout
	}
	done := make(chan error, 1)
	go func() {
		// Never unlocked: the thread is in other namespaces for good, and ends with this
		// goroutine. It has to live as long as the worker, whose death signal is bound
		// to the thread that started it, prctl(2).
		runtime.LockOSThread()
		done <- func() error {
			if s.process != nil {
				if err := enter(s.process); err != nil {
					return err
				}
			}
			if err := cmd.Start(); err != nil {
				return fmt.Errorf("starting the agent's worker: %w", err)
			}
			if s.started != nil {
				s.started()
			}
			var exit *exec.ExitError
			err := cmd.Wait()
			if errors.As(err, &exit) || errors.Is(err, context.Canceled) {
				return nil
			}
			return err
		}()
	}()
	err := <-done
	return cmd.ProcessState, err
}

// enter moves the calling thread into the target's network and host name.
func enter(p *target.Process) error {
	for _, ns := range []struct {
		kind string
		flag int
	}{{"net", unix.CLONE_NEWNET}, {"uts", unix.CLONE_NEWUTS}} {
		f, err := p.Namespace(ns.kind)
		if err != nil {
			return err
		}
		err = unix.Setns(int(f.Fd()), ns.flag)
		_ = f.Close()
		if err != nil {
			return fmt.Errorf("entering the target's %s namespace (needs CAP_SYS_ADMIN): %w", ns.kind, err)
		}
	}
	return nil
}

func workerArgs(o options, process *target.Process) []string {
	args := []string{
		workerCommand,
		"--client-key", o.client.String(),
		"--session", o.session,
		"--communication-timeout", o.timeout.String(),
		"--log-level", o.level.String(),
		"--targetless=" + strconv.FormatBool(o.targetless),
		"--listener-fd", strconv.Itoa(firstFD),
	}
	if process != nil {
		args = append(args, "--process-fd", strconv.Itoa(firstFD+1), "--pidfd", strconv.Itoa(firstFD+2))
	}
	return args
}
