package execcmd

import (
	"context"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"time"
)

// Go keeps the memory of a burst: buffers stay in their pools until the second collection after it, which comes when
// there is as much garbage again, and what was collected goes back to the system bit by bit. A session that has moved a lot
// may do little for hours after that, on a laptop where others need the memory.

// trimEvery is how often it is looked whether there is memory to give back. It bounds what that costs: a collection
// each time, if memory comes and goes all the time.
const trimEvery = 5 * time.Second

// trimSlack is what is not worth a collection, in bytes.
const trimSlack = 4 << 20

// trimmer gives memory back to the system when Go holds half as much again as after the last time. With gcPercent that is more than
// garbage alone makes of what is in use, however much that is: so there is nothing to do while connections are just used.
// The zero value is ready.
type trimmer struct {
	floor uint64 // the least that was held since then, in bytes
}

// trimming begins, and ends with the returned function.
func trimming() (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	work.Go(func() { (&trimmer{}).run(ctx) })
	return func() {
		cancel()
		work.Wait()
	}
}

// run looks every now and then until ctx ends.
func (t *trimmer) run(ctx context.Context) {
	tick := time.NewTicker(trimEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			t.look()
		case <-ctx.Done():
			return
		}
	}
}

// look says whether it has given memory back.
func (t *trimmer) look() bool {
	now := heldByGo()
	if now <= t.floor+t.floor/2+trimSlack {
		t.floor = min(t.floor, now)
		return false
	}
	// The first collection leaves what was in pools, see sync.Pool.
	runtime.GC()
	debug.FreeOSMemory()
	t.floor = heldByGo()
	return true
}

// heldByGo is the memory that Go has of the system, in bytes.
func heldByGo() uint64 {
	s := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(s)
	if s[0].Value.Kind() != metrics.KindUint64 || s[1].Value.Kind() != metrics.KindUint64 {
		return 0 // another Go
	}
	return s[0].Value.Uint64() - s[1].Value.Uint64()
}
