package session

import (
	"sync"

	"k8s.io/apimachinery/pkg/watch"

	recordsv1 "github.com/mirrord-go/mirrord/api/records/v1alpha"
	"github.com/mirrord-go/mirrord/internal/operator/records"
)

// sessionWatch is a watch on records that shows sessions. Unlike one of [watch.Filter], it does not
// stay behind with an event in its hands when whoever watches goes away.
type sessionWatch struct {
	from   watch.Interface
	events chan watch.Event
	done   chan struct{}
	stop   sync.Once
}

// shown makes a watch on sessions of one on records. It ends when that one does, or is stopped.
func shown(from watch.Interface) *sessionWatch {
	w := &sessionWatch{from: from, events: make(chan watch.Event), done: make(chan struct{})}
	go w.run()
	return w
}

// ResultChan implements [watch.Interface].
func (w *sessionWatch) ResultChan() <-chan watch.Event { return w.events }

// Stop implements [watch.Interface].
func (w *sessionWatch) Stop() {
	w.stop.Do(func() { close(w.done) })
	w.from.Stop()
}

func (w *sessionWatch) run() {
	defer close(w.events)
	for e := range w.from.ResultChan() {
		if r, ok := e.Object.(*recordsv1.SessionRecord); ok {
			e.Object = records.Session(r)
		}
		select {
		case w.events <- e:
		case <-w.done:
			return
		}
	}
}
