//go:build amd64 || arm64

package intercept

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/mirrord-go/mirrord/internal/intercept/seccomp"
)

// Check says whether processes can be intercepted here, without starting one. Its error is
// what [Start] would say of this system: it wraps [ErrNested] or [ErrUnsupported].
func Check() error {
	if err := probe(); err != nil {
		return err
	}
	if _, err := ownNetns(); err != nil {
		return err
	}
	tried := make(chan error)
	go tryFilter(tried)
	return <-tried
}

// tryFilter puts a filter in force for a thread that then ends.
func tryFilter(tried chan<- error) {
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
	if unix.Gettid() == os.Getpid() {
		// Not for the first thread, which can't end: see launch.
		again := make(chan error)
		go tryFilter(again)
		err := <-again
		runtime.UnlockOSThread()
		tried <- err
		return
	}
	l, err := seccomp.Install(seccomp.Filter{})
	if err != nil {
		tried <- explainInstall(err)
		return
	}
	tried <- l.Close()
}
