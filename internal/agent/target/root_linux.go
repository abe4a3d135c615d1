package target

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Root opens the process's root directory, as a place to look up files from (O_PATH). It holds
// on to the container's file system until it is closed.
func (p *Process) Root() (*os.File, error) {
	f, err := p.openat("root", unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return nil, fmt.Errorf("opening the target's root: %w", err)
	}
	return f, nil
}

// Status returns the text of /proc/PID/status, proc_pid_status(5).
func (p *Process) Status() ([]byte, error) {
	b, err := p.read("status", maxProcFile)
	if err != nil {
		return nil, fmt.Errorf("reading the status of the target's process: %w", err)
	}
	return b, nil
}
