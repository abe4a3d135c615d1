package timerslack

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// wide is a slack, in nanoseconds, beside which the runtime's 20 µs do not count.
	wide = 1_000_000
	// ours is what Widen adds: a wide slack that can be told from one of somebody else, who would hardly count single nanoseconds.
	ours = wide + 1
)

// Widen executes the program again, with the same arguments and environment, in the same process and with a wide timer slack, which the runtime's
// monitor then keeps. It returns when that was done, when it is not to be done, because the slack was wide before, or when it can't be done: the
// program runs on as it would have without. Call it first of all: whatever the program has done is lost, but for what survives execve(2).
func Widen() error {
	before, err := slack()
	if err != nil {
		return err
	}
	if isOurs(before) {
		// Before the next line, which starts a thread to start others.
		err := Restore()
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		return errors.Join(err, restoreOthers())
	}
	if before >= wide {
		return nil
	}
	// The slack is the thread's, and the thread that executes is the one that stays.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := set(before + ours); err != nil {
		return err
	}
	// A thread with a real-time policy has none, whatever was set, and the next program would find it narrow again.
	if after, err := slack(); err != nil || after != before+ours {
		return err
	}
	err = syscall.Exec("/proc/self/exe", os.Args, os.Environ())
	_ = set(before)
	return fmt.Errorf("execute this program again: %w", err)
}

// threads is more than a program has when it begins.
const threads = 8

// restoreOthers calls Restore on the threads that the program has by now, but for the monitor: each of as many goroutines needs one, and the idle ones
// are taken first.
func restoreOthers() error {
	var arrived, done sync.WaitGroup
	arrived.Add(threads)
	errs := make([]error, threads)
	for i := range threads {
		done.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			arrived.Done()
			arrived.Wait()
			errs[i] = Restore()
		})
	}
	done.Wait()
	return errors.Join(errs...)
}

// Restore gives the calling thread, to which its goroutine is locked, and what that thread starts the slack that this program was started with.
func Restore() error {
	now, err := slack()
	if err != nil || !isOurs(now) {
		return err
	}
	return set(now - ours)
}

func isOurs(slack int) bool { return slack >= ours && slack%1000 == ours%1000 }

// slack is that of the calling thread, in nanoseconds.
func slack() (int, error) {
	ns, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err != nil {
		return 0, fmt.Errorf("prctl(PR_GET_TIMERSLACK): %w", err)
	}
	return ns, nil
}

func set(ns int) error {
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(ns), 0, 0, 0); err != nil {
		return fmt.Errorf("prctl(PR_SET_TIMERSLACK): %w", err)
	}
	return nil
}
