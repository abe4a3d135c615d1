package machine

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// LockSlots keeps other cluster commands on this machine from choosing a slot until release is called. It waits.
func LockSlots() (release func(), err error) {
	for _, dir := range []string{"/run", os.TempDir()} { // folders that everyone here shares; locking one leaves nothing behind
		if release, err = Lock(dir, nil); err == nil {
			return release, nil
		}
	}
	return nil, err
}

// Lock takes the folder's lock, and waits while another process has it; then it calls waiting first, unless that is nil.
// The lock ends with release, or with the process.
func Lock(dir string, waiting func()) (release func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	err = flock(f, unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		if waiting != nil {
			waiting()
		}
		err = flock(f, unix.LOCK_EX)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return func() { f.Close() }, nil
}

func flock(f *os.File, how int) error {
	for {
		if err := unix.Flock(int(f.Fd()), how); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
