package session

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/mirrord-go/mirrord/internal/proctree"
)

// exit is what waiting for the process gave.
type exit struct {
	state *os.ProcessState
	err   error
}

// supervise serves until the process has exited.
func (s *session) supervise(ctx context.Context) (ExitStatus, error) {
	s.o.Observer.Started(s.child.Pid())
	defer s.o.Signals.pass(s.child)()
	exited := make(chan exit, 1)
	go func() {
		state, err := s.child.Wait()
		exited <- exit{state, err}
	}()
	select {
	case e := <-exited:
		s.drain(ctx)
		s.endOrphans()
		if s.aborted() {
			// The process was faster than the word of what it was refused.
			return ExitStatus{Code: 1}, s.lost("the local process has ended")
		}
		return e.status()
	case <-s.over:
		err := s.lost("ending the local process")
		s.terminate(exited)
		s.endOrphans() // what was started while the others were ended
		return ExitStatus{Code: 1}, err
	case <-ctx.Done():
		s.terminate(exited)
		s.endOrphans()
		s.drain(context.WithoutCancel(ctx))
		return ExitStatus{Code: 1}, context.Cause(ctx)
	}
}

// drain lets arrive what an exited process has written, as the kernel does for connections
// of its own. The target's ports are given back first.
func (s *session) drain(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	if !s.ports.Drain(ctx) || !s.fleet.Drain(ctx) {
		s.log.Debug("connections outlive the local process; they are cut")
	}
}

// aborted says whether something has happened in which the user wants no session.
func (s *session) aborted() bool {
	select {
	case <-s.over:
		_, ok := errors.AsType[*AbortError](s.overErr)
		return ok
	default:
		return false
	}
}

// lost tells the user, in one line, why the session is over, and what becomes of the process.
func (s *session) lost(process string) error {
	err := &LostError{Cause: s.overErr}
	text := err.Error() + "; " + process + ", which has no network without it"
	if abort, ok := errors.AsType[*AbortError](s.overErr); ok {
		text = abort.Text + "; " + process + " (" + abort.Otherwise + ")"
	}
	s.o.Observer.Event(Event{Kind: "tunnel-lost", Warning: true, Text: text})
	return err
}

// terminate ends the process and all that descend from it, politely at first: a server below
// a shell must not go on either.
func (s *session) terminate(exited <-chan exit) {
	below := proctree.Below(s.child.Pid())
	defer below.Close()
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		deadline := time.Now().Add(killGrace)
		if err := s.child.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
			s.log.Debug("ending the local process", "signal", sig, "error", err)
		}
		below.Signal(sig)
		if s.hasExited(exited, deadline) && below.Wait(deadline) {
			return
		}
	}
	s.log.Debug("the local process does not end", "pid", s.child.Pid())
}

// endOrphans ends what the process has left running, politely at first: when the session is
// over, all its network calls fail, and a server below a shell would try them for ever.
func (s *session) endOrphans() {
	left := proctree.Orphans(IDVariable + "=" + s.o.ID)
	defer left.Close()
	if left.Len() == 0 {
		return
	}
	s.o.Observer.Event(Event{
		Kind: "notice",
		Text: fmt.Sprintf("the process left %d others running; they end with the session, without which they have no network", left.Len()),
	})
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		left.Signal(sig)
		if left.Wait(time.Now().Add(killGrace)) {
			return
		}
	}
}

// hasExited waits for the process. It can be asked again after it has said yes.
func (s *session) hasExited(exited <-chan exit, deadline time.Time) bool {
	if s.gone {
		return true
	}
	t := time.NewTimer(time.Until(deadline))
	defer t.Stop()
	select {
	case <-exited:
		s.gone = true
	case <-t.C:
	}
	return s.gone
}

// status is the process's end as a shell reports it.
func (e exit) status() (ExitStatus, error) {
	if e.err != nil {
		return ExitStatus{Code: 1}, fmt.Errorf("waiting for the local process: %w", e.err)
	}
	if ws, ok := e.state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return ExitStatus{Code: 128 + int(ws.Signal())}, nil
	}
	return ExitStatus{Code: e.state.ExitCode()}, nil
}
