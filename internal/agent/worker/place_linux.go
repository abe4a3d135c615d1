package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/mirrord-go/mirrord/internal/agent/resolver"
	"github.com/mirrord-go/mirrord/internal/agent/target"
)

// place is a container of the pod: what the sessions that stand in for it share.
type place struct {
	id       string
	process  *target.Process // nil when there is none, or it can't be seen
	resolver *resolver.Resolver
	users    int // guarded by Worker.mu

	cancel   context.CancelFunc
	gone     chan struct{} // closed when the process has ended, or can't be watched
	problem  error         // why not, after gone
	watching chan struct{}
}

func newPlace(log *slog.Logger, id string, process *target.Process, hostname string) *place {
	files := os.Open
	if process != nil {
		files = process.OpenFile
	}
	p := &place{
		id: id, process: process, users: 1, gone: make(chan struct{}), watching: make(chan struct{}),
		resolver: resolver.New(log, resolver.Options{Open: files, Hostname: hostname}),
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	go p.watch(ctx)
	return p
}

func (p *place) watch(ctx context.Context) {
	defer close(p.watching)
	if p.process == nil {
		return
	}
	err := p.process.Wait(ctx)
	if errors.Is(err, context.Canceled) {
		return
	}
	p.problem = err
	close(p.gone)
}

func (p *place) close() {
	p.cancel()
	<-p.watching
	p.resolver.Close()
}

// at returns the place of a container, for one more user; an empty ID is the worker's own.
func (w *Worker) at(id string) (*place, error) {
	w.mu.Lock()
	p := w.places[id]
	if p != nil {
		p.users++
	}
	w.mu.Unlock()
	if p != nil {
		return p, nil
	}
	var process *target.Process
	if id != "" {
		var err error
		if process, err = w.find(id); err != nil {
			return nil, err
		}
	}
	p = newPlace(w.log, id, process, w.hostname)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.places[id] = p // registrations come one at a time
	return p, nil
}

// find returns the process of a container, which must be in the worker's network.
func (w *Worker) find(id string) (*target.Process, error) {
	process, err := w.Find(id)
	if err != nil {
		return nil, err
	}
	if err := sameNetwork(process); err != nil {
		_ = process.Close()
		return nil, err
	}
	return process, nil
}

func sameNetwork(p *target.Process) error {
	f, err := p.Namespace("net")
	if err != nil {
		return err
	}
	defer f.Close()
	theirs, err := f.Stat()
	if err != nil {
		return fmt.Errorf("looking at the target's network: %w", err)
	}
	ours, err := os.Stat("/proc/thread-self/ns/net")
	if err != nil {
		return fmt.Errorf("looking at the agent's network: %w", err)
	}
	if !os.SameFile(theirs, ours) {
		return errors.New("the container is in another network than its pod")
	}
	return nil
}

// leave ends the use of a place.
func (w *Worker) leave(p *place) {
	w.mu.Lock()
	p.users--
	last := p.users == 0
	if last && w.places[p.id] == p {
		delete(w.places, p.id)
	}
	w.mu.Unlock()
	if !last {
		return
	}
	p.close()
	if p.process != nil && w.Find != nil {
		_ = p.process.Close()
	}
}
