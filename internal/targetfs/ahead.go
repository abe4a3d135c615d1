package targetfs

import (
	"slices"
	"sync"
)

// readers share the places for what is read ahead: who has how many of the [maxAhead]. A place is taken until its block is read or
// forgotten, or is too old to be of use and somebody else wants it.
type readers struct {
	mu    sync.Mutex
	all   int
	files map[*file]int
}

// room takes a place for a file whose lock the caller holds, and says whether there was one.
func (r *readers) room(f *file) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.all >= maxAhead {
		r.evict(f)
	}
	if r.all >= maxAhead {
		return false
	}
	if r.files == nil {
		r.files = map[*file]int{}
	}
	r.files[f]++
	r.all++
	return true
}

// leave gives places of a file back.
func (r *readers) leave(f *file, places int) {
	if places == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.forget(f, places)
}

func (r *readers) forget(f *file, places int) {
	r.all -= places
	if r.files[f] -= places; r.files[f] == 0 {
		delete(r.files, f)
	}
}

// evict takes from files that nobody reads any more what was read ahead for them. One whose lock is taken is being read.
func (r *readers) evict(not *file) {
	for f := range r.files {
		if f == not || !f.mu.TryLock() {
			continue
		}
		if slices.ContainsFunc(f.blocks, (*block).stale) {
			f.blocks, f.window = nil, 0
			r.forget(f, r.files[f])
		}
		f.mu.Unlock()
	}
}
