package route

import (
	"bufio"
	"bytes"
	"net/netip"
	"slices"
	"strings"
	"sync"
)

// Bounds of what a process can make us remember.
const (
	maxAddresses    = 8192
	maxNamesOfOne   = 16
	maxLengthOfName = 255
)

// book remembers from which names the process got an address. It forgets nothing while
// there is room, whatever the records' TTL: programs keep addresses for as long as they like.
type book struct {
	mu    sync.RWMutex
	names map[netip.Addr][]string
	order []netip.Addr // oldest first
}

func (b *book) learn(name string, addrs []netip.Addr) {
	if name == "" || len(name) > maxLengthOfName {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.names == nil {
		b.names = make(map[netip.Addr][]string)
	}
	for _, a := range addrs {
		a = a.Unmap().WithZone("")
		known, ok := b.names[a]
		if slices.Contains(known, name) {
			continue
		}
		if !ok {
			if len(b.order) == maxAddresses {
				delete(b.names, b.order[0])
				b.order = b.order[1:]
			}
			b.order = append(b.order, a)
		}
		if len(known) == maxNamesOfOne {
			known = known[1:]
		}
		b.names[a] = append(slices.Clone(known), name) // readers hold the old one
	}
}

func (b *book) of(a netip.Addr) []string {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.names[a.Unmap().WithZone("")]
}

// LearnHosts records the addresses of a hosts(5) file of the laptop, in which the process finds
// names without asking anybody. Lines that it does not understand are skipped, as resolvers do.
func (t *Table) LearnHosts(file []byte) {
	for s := bufio.NewScanner(bytes.NewReader(file)); s.Scan(); {
		line, _, _ := strings.Cut(s.Text(), "#")
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		a, err := netip.ParseAddr(fields[0])
		if err != nil {
			continue
		}
		for _, name := range fields[1:] {
			t.Learn(name, []netip.Addr{a})
		}
	}
}
