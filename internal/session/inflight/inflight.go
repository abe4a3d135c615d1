// Package inflight counts what is under way, for those who want to wait until nothing is.
package inflight

import (
	"context"
	"sync"
)

// Count is a number of things under way. The zero value is none. Unlike a sync.WaitGroup it
// may grow while somebody waits, and waiting can be given up.
type Count struct {
	mu   sync.Mutex
	n    int
	none chan struct{} // closed when n falls to 0; nil when nobody waits
}

// Begin counts one thing; end is called once when it is over.
func (c *Count) Begin() (end func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
	return sync.OnceFunc(c.end)
}

func (c *Count) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n--; c.n == 0 && c.none != nil {
		close(c.none)
		c.none = nil
	}
}

// Wait blocks until nothing is under way, or ctx has ended, and says whether nothing is.
func (c *Count) Wait(ctx context.Context) bool {
	c.mu.Lock()
	if c.n == 0 {
		c.mu.Unlock()
		return true
	}
	if c.none == nil {
		c.none = make(chan struct{})
	}
	none := c.none
	c.mu.Unlock()
	select {
	case <-none:
		return true
	case <-ctx.Done():
		return false
	}
}
