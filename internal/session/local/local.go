// Package local runs an agent as a child process of the client, without a cluster: for the
// demo and for tests. The agent's command line is the caller's; this package reads its
// announcement, dials it, and ends it.
package local

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/mirrord-go/mirrord/internal/agent/announce"
	"github.com/mirrord-go/mirrord/internal/tunnel"
)

// exitGrace is how long the agent may take to end by itself.
const exitGrace = 2 * time.Second

// maxLine bounds a line of the agent's output; longer lines are skipped in parts.
const maxLine = 64 << 10

// Agent is a running agent process.
type Agent struct {
	cmd      *exec.Cmd
	announce announce.Announcement
	exited   chan struct{} // closed after Wait
	close    sync.Once
}

// Start starts the command and waits until the agent has announced itself or ctx has
// ended. It uses the command's standard output; standard error is the caller's. The
// command's arguments contain the client's fingerprint.
func Start(ctx context.Context, cmd *exec.Cmd) (*Agent, error) {
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("starting the agent: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the agent: %w", err)
	}
	a := &Agent{cmd: cmd, exited: make(chan struct{})}
	announced := make(chan announce.Announcement, 1)
	go func() {
		defer close(a.exited)
		read(out, announced)
		_ = cmd.Wait() // ProcessState says it all
	}()
	select {
	case a.announce = <-announced:
	case <-a.exited:
		select {
		case a.announce = <-announced: // its last words
		default:
			return nil, fmt.Errorf("the agent (%s) ended before it was ready: %v", cmd.Path, cmd.ProcessState)
		}
	case <-ctx.Done():
		_ = a.Close(context.WithoutCancel(ctx))
		return nil, fmt.Errorf("waiting for the agent: %w", context.Cause(ctx))
	}
	if a.announce.Error != "" {
		_ = a.Close(context.WithoutCancel(ctx))
		return nil, fmt.Errorf("the agent can't serve: %s", a.announce.Error)
	}
	return a, nil
}

// read passes on the first announcement and drains the rest.
func read(out io.Reader, announced chan<- announce.Announcement) {
	r := bufio.NewReaderSize(out, maxLine)
	for {
		line, err := r.ReadSlice('\n')
		if m, ok := announce.Parse(bytes.TrimSpace(line)); ok {
			select {
			case announced <- m:
			default:
			}
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}

// Key is the agent's public key, from its announcement.
func (a *Agent) Key() tunnel.Fingerprint { return *a.announce.Key }

// Dial opens a carrier to the agent.
func (a *Agent) Dial(ctx context.Context) (net.Conn, error) {
	network := "tcp"
	if filepath.IsAbs(a.announce.Address) {
		network = "unix"
	}
	var d net.Dialer
	return d.DialContext(ctx, network, a.announce.Address)
}

// Fate says that the agent has ended, and how; nil while it runs.
func (a *Agent) Fate(context.Context) error {
	select {
	case <-a.exited:
		return fmt.Errorf("%s has ended: %v", a.Describe(), a.cmd.ProcessState)
	default:
		return nil
	}
}

// Describe names the process.
func (a *Agent) Describe() string {
	return fmt.Sprintf("the agent on this machine (process %d)", a.cmd.Process.Pid)
}

// Process is the agent's process, for callers that want to know about it.
func (a *Agent) Process() *os.Process { return a.cmd.Process }

// Close waits a moment for the agent, which ends with its client, and then kills it.
func (a *Agent) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, exitGrace)
	defer cancel()
	select {
	case <-a.exited:
	case <-ctx.Done():
		a.close.Do(func() { _ = a.cmd.Process.Kill() })
		<-a.exited
	}
	return nil
}
