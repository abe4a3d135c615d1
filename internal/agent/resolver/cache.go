package resolver

import (
	"container/list"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// Bounds of the cache.
const (
	maxEntries    = 4096
	maxCacheBytes = 8 << 20 // of packed messages
	maxTTL        = time.Hour
	maxNegative   = 5 * time.Minute
)

// key is what an answer depends on.
type key struct {
	name           string // canonical
	qtype, qclass  uint16
	dnssecOK, auth bool // the DO bit (RFC 3225), the AD bit of the query (RFC 6840)
}

// cache keeps answers until their TTL has passed, the least recently used ones going first
// when there are too many.
type cache struct {
	mu         sync.Mutex
	generation int
	entries    map[key]*list.Element
	order      list.List // of *entry, most recently used first
	bytes      int
}

type entry struct {
	key             key
	msg             *dns.Msg // never changed
	size            int
	stored, expires time.Time
}

// get returns a copy of the answer with the TTLs that are left, or nil. Answers of another
// generation of the resolver's settings are thrown away.
func (c *cache) get(k key, generation int) *dns.Msg {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.turn(generation)
	el, ok := c.entries[k]
	if !ok {
		return nil
	}
	e := el.Value.(*entry)
	now := time.Now()
	if !now.Before(e.expires) {
		c.remove(el)
		return nil
	}
	c.order.MoveToFront(el)
	m := e.msg.Copy()
	age := uint32(now.Sub(e.stored) / time.Second)
	for _, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range section {
			if h := rr.Header(); h.Rrtype != dns.TypeOPT {
				h.Ttl -= min(age, h.Ttl)
			}
		}
	}
	return m
}

// put keeps an answer, if its TTL allows it. The message is the cache's from then on.
func (c *cache) put(k key, generation int, m *dns.Msg) {
	ttl := lifetime(m, k.qtype)
	if ttl <= 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if generation < c.generation {
		return
	}
	c.turn(generation)
	if el, ok := c.entries[k]; ok {
		c.remove(el)
	}
	now := time.Now()
	e := &entry{key: k, msg: m, size: m.Len(), stored: now, expires: now.Add(ttl)}
	if c.entries == nil {
		c.entries = map[key]*list.Element{}
	}
	c.entries[k] = c.order.PushFront(e)
	c.bytes += e.size
	for len(c.entries) > maxEntries || c.bytes > maxCacheBytes {
		c.remove(c.order.Back())
	}
}

func (c *cache) turn(generation int) {
	if generation > c.generation {
		c.generation, c.entries, c.bytes = generation, nil, 0
		c.order.Init()
	}
}

func (c *cache) remove(el *list.Element) {
	e := c.order.Remove(el).(*entry)
	delete(c.entries, e.key)
	c.bytes -= e.size
}

// lifetime says how long an answer may be kept: the lowest TTL of its records, and for what
// does not exist the one of the zone's SOA record (RFC 2308, section 5). Zero is not at all.
func lifetime(m *dns.Msg, qtype uint16) time.Duration {
	if m.Truncated || m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError {
		return 0
	}
	ttl := maxTTL
	has := false
	for _, rr := range m.Answer {
		ttl = min(ttl, seconds(rr.Header().Ttl))
		has = has || rr.Header().Rrtype == qtype || qtype == dns.TypeANY
	}
	if has && m.Rcode == dns.RcodeSuccess {
		return ttl
	}
	for _, rr := range m.Ns {
		if soa, ok := rr.(*dns.SOA); ok {
			return min(ttl, maxNegative, seconds(soa.Hdr.Ttl), seconds(soa.Minttl))
		}
	}
	return 0
}

func seconds(n uint32) time.Duration { return time.Duration(n) * time.Second }
