package worker

import (
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	// maxAddresses bounds the addresses whose names a session keeps, maxNames the names of
	// one address. What was learned first is forgotten first.
	maxAddresses = 4096
	maxNames     = 16
	// keepNames is how long a name counts at least, whatever its TTL: programs connect long
	// after they have resolved, and again to what they have resolved before.
	keepNames = 30 * time.Minute
	// maxKeep bounds what a name server can ask for.
	maxKeep = 24 * time.Hour
)

// names remembers from which names a session resolved the addresses that it connects to. The
// zero value is ready to use.
type names struct {
	mu    sync.Mutex
	known map[netip.Addr][]knownName
	order []netip.Addr // of known, as they were learned first
}

type knownName struct {
	name  string
	until time.Time
}

// learn takes the addresses of an answer. All names of its chain of aliases count: the one that
// was asked for, the one that the search list made of it, and those that they are aliases of.
func (n *names) learn(answer []byte, completed string, now time.Time) {
	var m dns.Msg
	if len(answer) == 0 || m.Unpack(answer) != nil || m.Rcode != dns.RcodeSuccess {
		return
	}
	chain := []string{plainName(completed)}
	if len(m.Question) == 1 {
		chain = append(chain, plainName(m.Question[0].Name))
	}
	addrs := map[netip.Addr]time.Duration{}
	for _, rr := range m.Answer {
		var a netip.Addr
		var ok bool
		switch rr := rr.(type) {
		case *dns.A:
			a, ok = netip.AddrFromSlice(rr.A.To4())
		case *dns.AAAA:
			a, ok = netip.AddrFromSlice(rr.AAAA)
		case *dns.CNAME:
			chain = append(chain, plainName(rr.Target))
		}
		if ok {
			addrs[a.Unmap()] = time.Duration(rr.Header().Ttl) * time.Second
		}
		chain = append(chain, plainName(rr.Header().Name))
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for a, ttl := range addrs {
		n.add(a, chain, now.Add(min(max(ttl, keepNames), maxKeep)))
	}
}

func (n *names) add(a netip.Addr, chain []string, until time.Time) {
	if n.known == nil {
		n.known = map[netip.Addr][]knownName{}
	}
	known, ok := n.known[a]
	if !ok {
		if len(n.order) >= maxAddresses {
			delete(n.known, n.order[0])
			n.order = n.order[1:]
		}
		n.order = append(n.order, a)
	}
	for _, name := range chain {
		if name == "" {
			continue
		}
		known = slices.DeleteFunc(known, func(k knownName) bool { return k.name == name })
		known = append(known, knownName{name, until})
	}
	n.known[a] = known[max(0, len(known)-maxNames):]
}

// of returns the names that an address was resolved from lately.
func (n *names) of(a netip.Addr, now time.Time) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []string
	for _, k := range n.known[a.Unmap().WithZone("")] {
		if now.Before(k.until) {
			out = append(out, k.name)
		}
	}
	return out
}

// plainName is a name as rules are written for.
func plainName(s string) string { return strings.ToLower(strings.TrimSuffix(s, ".")) }
