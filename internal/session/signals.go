package session

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"sync"
)

// InterruptError is the cause of a context that a signal has ended.
type InterruptError struct{ Signal os.Signal }

// Error names the signal.
func (e *InterruptError) Error() string { return fmt.Sprintf("interrupted by %v", e.Signal) }

// Signals are the signals that this program receives on behalf of the local process. Until
// the process runs, those that mean an end cancel the preparations; while it runs they are
// passed on; after it they are swallowed, so that the cleanup is not cut short.
//
// The process shares the terminal's process group, so it has already got what the terminal
// sends (Ctrl-C, Ctrl-\, a new window size); that is not passed on a second time. What another
// process sends (kill -INT) is. Of those, one that is sent to the whole group arrives twice.
type Signals struct {
	incoming chan os.Signal
	stopped  chan struct{}
	done     chan struct{}

	mu   sync.Mutex
	sink func(os.Signal)
}

// Notify starts to receive signals. Those that were ignored when this program started, as
// under nohup, stay ignored.
func Notify() *Signals {
	s := &Signals{incoming: make(chan os.Signal, 64), stopped: make(chan struct{}), done: make(chan struct{})}
	for _, sig := range handled() {
		if !signal.Ignored(sig) {
			signal.Notify(s.incoming, sig)
		}
	}
	watchOrigins()
	go s.loop()
	return s
}

// Stop gives the signals their normal meaning back.
func (s *Signals) Stop() {
	signal.Stop(s.incoming)
	close(s.stopped)
	<-s.done
}

// Context returns a context that ends, with an *[InterruptError] as its cause, when a
// signal that means an end arrives before a process runs.
func (s *Signals) Context(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	s.deliver(func(sig os.Signal) {
		if ends(sig) {
			cancel(&InterruptError{Signal: sig})
		}
	})
	return ctx, func() { cancel(nil) }
}

// pass sends signals to the process until the returned function is called. A nil receiver
// passes on nothing.
func (s *Signals) pass(to interface{ Signal(os.Signal) error }) (stop func()) {
	if s == nil {
		return func() {}
	}
	s.deliver(func(sig os.Signal) {
		if forwards(sig) {
			_ = to.Signal(sig) // it may just have exited
		}
	})
	return func() { s.deliver(nil) }
}

func (s *Signals) deliver(f func(os.Signal)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sink = f
}

func (s *Signals) loop() {
	defer close(s.done)
	for {
		select {
		case sig := <-s.incoming:
			s.mu.Lock()
			if s.sink != nil {
				s.sink(sig)
			}
			s.mu.Unlock()
		case <-s.stopped:
			return
		}
	}
}
