// Package progress tells a waiting person what is being done, how long it takes, and that it is still alive.
package progress

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// Beat is how often a long step says that it is still running.
const Beat = 30 * time.Second

// Printer writes one line for each event. It may be used by several goroutines.
type Printer struct {
	mu    sync.Mutex
	out   io.Writer
	start time.Time
}

// New returns a Printer whose times count from now.
func New(out io.Writer) *Printer { return &Printer{out: out, start: time.Now()} }

// Printf writes a line, preceded by the time since New.
func (p *Printer) Printf(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.out, "%7.1fs  %s\n", time.Since(p.start).Seconds(), fmt.Sprintf(format, args...))
}

// Step runs do. It writes a line before it, one on every Beat, and one with the time it took when it succeeded. A step
// that fails writes nothing more: the caller reports the error.
func (p *Printer) Step(what string, do func() error) error {
	p.Printf("%s…", what)
	begin, done := time.Now(), make(chan struct{})
	var beats sync.WaitGroup
	beats.Go(func() {
		tick := time.NewTicker(Beat)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				p.Printf("  still %s (%s)", what, time.Since(begin).Round(time.Second))
			}
		}
	})
	err := do()
	close(done)
	beats.Wait()
	if err == nil {
		p.Printf("  done in %s", time.Since(begin).Round(100*time.Millisecond))
	}
	return err
}
