//go:build amd64 || arm64

package intercept

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/mirrord-go/mirrord/internal/intercept/seccomp"
	"github.com/mirrord-go/mirrord/internal/timerslack"
)

// Start runs a program with its network calls intercepted. The context's values reach the
// methods of the network; its end does not end the program.
//
// The program shares our terminal and process group, so Ctrl-C reaches both: the caller
// outlives it by handling the signal. The kernel kills it when we die. Its descendants then
// go on, but every intercepted call of theirs fails with ENOSYS: nothing leaves for the
// wrong network.
//
// The error wraps [ErrNested]; or [ErrUnsupported] with what is missing; or is that of
// starting the program, such as [os.ErrNotExist].
func Start(ctx context.Context, log *slog.Logger, o Options) (Process, error) {
	p, err := start(ctx, log, o, defaultTimes())
	if err != nil {
		return nil, err // and no *process in the interface, not even a nil one
	}
	return p, nil
}

func start(ctx context.Context, log *slog.Logger, o Options, t times) (*process, error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	if o.Network == nil || o.Path == "" {
		return nil, errors.New("intercept: a path and a network are required")
	}
	if err := probe(); err != nil {
		return nil, err
	}
	s, err := newSupervisor(ctx, log, o, t)
	if err != nil {
		return nil, err
	}
	p := &process{
		supervisor: s,
		exited:     make(chan struct{}), quit: make(chan struct{}), gone: make(chan struct{}), served: make(chan struct{}),
	}
	p.becomeReaper()
	started := make(chan error)
	go p.launch(o, started)
	if err := <-started; err != nil {
		close(p.quit)
		p.release()
		return nil, err
	}
	p.spawn(p.sweep)
	return p, nil
}

// process is a running child.
type process struct {
	*supervisor
	child *os.Process

	exited chan struct{} // the child has ended; state and err are set
	state  *os.ProcessState
	err    error

	quit   chan struct{} // closed to end the launching thread
	gone   chan struct{} // that thread has ended
	served chan struct{} // the receiving loop has ended

	reaperBefore bool
	closing      sync.Once
}

// launch starts the child and waits for it, all on one thread: the filter is that thread's,
// its end is what the child's parent-death signal follows, and the kernel needs a thread
// under the filter to tell the receiving loop that it is over.
func (p *process) launch(o Options, started chan<- error) {
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
	own := unix.Gettid()
	if own == os.Getpid() {
		// The first thread can't end, and stands for the process in /proc. While we hold
		// it, the next goroutine gets another.
		go p.launch(o, started)
		<-p.gone
		runtime.UnlockOSThread()
		return
	}
	defer close(p.gone)
	l, err := seccomp.Install(seccomp.Filter{Accept: o.TranslatePeers, Hostname: o.Hostname != "", Files: o.Files != nil})
	if err != nil {
		close(p.served)
		started <- explainInstall(err)
		return
	}
	p.listener = l
	go func() {
		defer close(p.served)
		p.serve(uint32(own))
	}()
	// After this call the receiving loop is over.
	defer func() { _ = unix.Listen(-1, 0) }()

	if err := timerslack.Restore(); err != nil {
		p.log.Debug("the process has this program's timer slack", slog.Any("error", err))
	}
	p.child, err = startChild(o)
	if err == nil {
		err = p.checkAccess()
	}
	started <- err
	if err == nil {
		awaitEnd(p.child.Pid)
		p.state, p.err = p.child.Wait()
		close(p.exited)
	}
	<-p.quit
}

// awaitEnd returns when the child has ended. To wait for it at once would also see it stop for ptrace, which is ours: see enter.
func awaitEnd(pid int) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	for {
		if n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1); n > 0 || err != unix.EINTR {
			return
		}
	}
}

func startChild(o Options) (*os.Process, error) {
	files := []*os.File{o.Stdin, o.Stdout, o.Stderr}
	for i, f := range files {
		if f != nil {
			continue
		}
		null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		defer null.Close()
		files[i] = null
	}
	env := o.Env
	if env == nil {
		env = []string{} // os.StartProcess would take ours
	}
	// Go starts children with the limit of open files that we were started with, not with
	// the one that it raised for us.
	return os.StartProcess(o.Path, o.Args, &os.ProcAttr{
		Dir: o.Dir, Env: env, Files: files,
		Sys: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL},
	})
}

// checkAccess tries on the new child what every call will need, and kills it when we may
// not.
func (p *process) checkAccess() error {
	fd, err := p.tasks.descriptor(p.child.Pid, 0)
	switch err {
	case nil:
		_ = unix.Close(fd)
		return nil
	case unix.EPERM, unix.EACCES:
	default: // no descriptor 0, or ended already
		return nil
	}
	_ = p.child.Kill()
	_, _ = p.child.Wait()
	return fmt.Errorf("%w: the program may not be inspected by its parent: %w. "+
		"It is a setuid program or one without read permission, or this system restricts ptrace (kernel.yama.ptrace_scope)",
		ErrUnsupported, err)
}

// probe finds what the kernel, or a container's seccomp profile, withholds.
func probe() error {
	self, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return missing("pidfd_open (Linux 5.3)", err)
	}
	defer unix.Close(self)
	fd, err := unix.PidfdGetfd(self, self, 0)
	if err != nil {
		return missing("pidfd_getfd (Linux 5.6)", err)
	}
	_ = unix.Close(fd)
	var from, to [1]byte
	if err := readMemory(os.Getpid(), uint64(uintptr(unsafe.Pointer(&from))), to[:]); err != nil {
		return missing("process_vm_readv (CONFIG_CROSS_MEMORY_ATTACH)", err)
	}
	return nil
}

func missing(what string, err error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return fmt.Errorf("%w: %s is not permitted: %w. In a container, add the capability SYS_PTRACE or relax its seccomp profile",
			ErrUnsupported, what, err)
	}
	return fmt.Errorf("%w: %s is missing: %w", ErrUnsupported, what, err)
}

func explainInstall(err error) error {
	if errors.Is(err, seccomp.ErrListenerExists) {
		return fmt.Errorf("%w: %w. Run mirrord outside of another mirrord exec, and outside of containers whose runtime intercepts calls",
			ErrNested, err)
	}
	return fmt.Errorf("%w: %w", ErrUnsupported, err)
}

// Pid of the child.
func (p *process) Pid() int { return p.child.Pid }

// Signal sends a signal to the child.
func (p *process) Signal(sig os.Signal) error { return p.child.Signal(sig) }

// Wait blocks until the child has exited.
func (p *process) Wait() (*os.ProcessState, error) {
	<-p.exited
	return p.state, p.err
}

// DialChild connects to a listener of the child.
func (p *process) DialChild(ctx context.Context, listener, peer netip.AddrPort) (Conn, error) {
	return p.dialChild(ctx, listener, peer)
}

// Close kills the child if it still runs, ends the connections of what is left of its tree
// and waits until nothing of the interception remains. It always returns nil.
func (p *process) Close() error {
	p.closing.Do(func() {
		select {
		case <-p.exited:
		default:
			_ = p.child.Kill()
			<-p.exited
		}
		close(p.quit)
		p.release()
	})
	return nil
}

func (p *process) release() {
	<-p.gone
	<-p.served
	p.close()
	p.reap()
	p.endReaper()
}
