package files

import (
	"context"
	"errors"
	"runtime"
	"sync"
)

// maxThreads bounds the threads of one session, and so the calls that can hang at once, on a dead network file system for one.
const maxThreads = 8

var errClosed = errors.New("the session's files are closed")

// threads run functions on threads that have an identity of their own.
type threads struct {
	id   identity
	jobs chan func()
	stop chan struct{}

	mu      sync.Mutex
	started int
	closed  bool
	running sync.WaitGroup
}

func newThreads(id identity) *threads {
	return &threads{id: id, jobs: make(chan func()), stop: make(chan struct{})}
}

// do runs f on one of the threads and waits for it. When ctx ends first, f does not run at all, or what it does counts.
func (t *threads) do(ctx context.Context, f func() error) error {
	var err error
	done := make(chan struct{})
	job := func() {
		defer close(done)
		err = f()
	}
	select {
	case t.jobs <- job: // One is idle.
	default:
		if err := t.more(); err != nil {
			return err
		}
		select {
		case t.jobs <- job:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-t.stop:
			return errClosed
		}
	}
	<-done
	return err
}

// more starts one more thread, up to the limit.
func (t *threads) more() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return errClosed
	}
	if t.started == maxThreads {
		return nil
	}
	ready := make(chan error)
	t.running.Go(func() {
		// Never unlocked: the thread ends with the goroutine.
		runtime.LockOSThread()
		err := t.id.adopt()
		ready <- err
		if err == nil {
			t.run()
		}
	})
	if err := <-ready; err != nil {
		return err
	}
	t.started++
	return nil
}

func (t *threads) run() {
	for {
		select {
		case job := <-t.jobs:
			job()
		case <-t.stop:
			return
		}
	}
}

// close waits for what runs.
func (t *threads) close() {
	t.mu.Lock()
	if !t.closed {
		t.closed = true
		close(t.stop)
	}
	t.mu.Unlock()
	t.running.Wait()
}
