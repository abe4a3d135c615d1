package execcmd

import (
	"runtime"
	"sync"
	"testing"
)

// What a burst leaves in pools and as garbage goes back to the system; what is in use stays, and costs nothing more.
func TestTrimmer(t *testing.T) {
	const size, count = 128 << 10, 512 // 64 MiB
	burst := func(n int) [][]byte {
		b := make([][]byte, n)
		for i := range b {
			b[i] = make([]byte, size)
		}
		return b
	}
	var tr trimmer
	tr.look()
	quiet := heldByGo()
	var pool sync.Pool
	inUse := burst(count / 2)
	for _, b := range burst(count) {
		pool.Put(&b)
	}
	if full := heldByGo(); full < quiet+count*size {
		t.Fatalf("after the burst %d MiB are held, before it %d", full>>20, quiet>>20)
	}
	if !tr.look() {
		t.Error("the trimmer leaves the burst's memory")
	}
	// Of 96 MiB, 32 are in use.
	if left := heldByGo(); left > quiet+count*size*3/4 {
		t.Errorf("%d MiB are left, of which %d are in use; before the burst there were %d", left>>20, count/2*size>>20, quiet>>20)
	}
	if tr.look() {
		t.Error("the trimmer collects garbage while there is none")
	}
	runtime.KeepAlive(inUse)
	runtime.KeepAlive(&pool)
}
