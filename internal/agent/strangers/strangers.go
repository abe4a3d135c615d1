// Package strangers bounds the connections that have not proven yet whose they are. Whoever can reach a
// listener can open connections and say nothing; a stranger that is silent must not keep out
// those who have something to say.
package strangers

import (
	"net"
	"slices"
	"sync"
)

// Set holds the strangers of one listener. It is safe for concurrent use.
type Set struct {
	max int

	mu    sync.Mutex
	conns []net.Conn // the oldest first
}

// New returns a set of at most max connections.
func New(max int) *Set { return &Set{max: max} }

// Add takes a connection in. When there is no room, the one that came first is closed.
func (s *Set) Add(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.conns) >= s.max {
		_ = s.conns[0].Close()
		s.conns = slices.Delete(s.conns, 0, 1)
	}
	s.conns = append(s.conns, c)
}

// Remove forgets a connection: it has proven whose it is, or it is closed.
func (s *Set) Remove(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.conns, c); i >= 0 {
		s.conns = slices.Delete(s.conns, i, i+1)
	}
}
