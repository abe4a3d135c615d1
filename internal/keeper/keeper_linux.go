package keeper

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mirrord-go/mirrord/internal/proctree"
)

const (
	// sweeps and pause bound how long the keeper looks for processes: some are being
	// started while it kills.
	sweeps = 20
	pause  = 50 * time.Millisecond
)

// Keeper is a running keeper.
type Keeper struct {
	cmd *exec.Cmd

	mu   sync.Mutex
	pipe io.WriteCloser
}

// Start starts the executable self as the keeper of the processes with the environment
// variable mark ("NAME=value"). It does not wait for the keeper to be ready: the pipe is there.
func Start(self, mark string) (*Keeper, error) {
	cmd := exec.Command(self, Command, mark)
	name, _, _ := strings.Cut(mark, "=")
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, name+"=") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Dir = "/"
	// The terminal's signals are for the session, not for its keeper.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("starting the session's keeper: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the session's keeper: %w", err)
	}
	return &Keeper{cmd: cmd, pipe: pipe}, nil
}

// Note tells the keeper what there is to clean up, in one line that the cleaning of [Main]
// understands. It is safe for concurrent use.
func (k *Keeper) Note(line string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, err := io.WriteString(k.pipe, line+"\n"); err != nil {
		return fmt.Errorf("telling the session's keeper: %w", err)
	}
	return nil
}

// Close dismisses the keeper and waits for its end.
func (k *Keeper) Close() error {
	werr := k.Note(dismissed)
	_ = k.pipe.Close()
	if err := k.cmd.Wait(); err != nil {
		return fmt.Errorf("the session's keeper: %w", err)
	}
	return werr
}

// Main is the keeper's process. It blocks until the pipe closes. When it was not dismissed, it
// kills what carries mark, and then calls clean with what it was told.
func Main(pipe io.Reader, mark string, clean func(notes []string)) {
	notes, over := wait(pipe)
	if over {
		return
	}
	sweepAll(mark)
	clean(notes)
}

// sweepAll kills the marked processes.
func sweepAll(mark string) {
	quiet := 0
	for range sweeps {
		if sweep(mark) == 0 {
			// Twice, because a process that has just been forked may have been missed.
			if quiet++; quiet == 2 {
				return
			}
		} else {
			quiet = 0
		}
		time.Sleep(pause)
	}
}

// sweep kills the marked processes and returns how many there were.
func sweep(mark string) int {
	found := proctree.Marked(mark)
	defer found.Close()
	found.Signal(unix.SIGKILL)
	return found.Len()
}
