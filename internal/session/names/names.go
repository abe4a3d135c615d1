// Package names answers the local process's DNS queries with what the target's resolver
// says.
//
// Queries arrive in wire format and leave in wire format: record types, EDNS options and
// the case of letters pass through unexamined. The agent applies the target's search
// domains and hosts file. What is kept here is small and short-lived: enough that a process
// that looks up a name for every request pays the way to the cluster only once in a while.
//
// Without IPv6 (feature.network.ipv6), AAAA queries are answered here: the name exists and
// has no such records, so that a process uses IPv4 at once.
package names

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"sync"
	"time"
)

// Limits of what is kept.
const (
	maxEntries     = 512
	maxMessage     = 4 << 10
	maxTTL         = 30 * time.Second
	maxNegativeTTL = 5 * time.Second // of an answer without records: someone may be creating the service just now
	// askTimeout is how long one query may take; resolvers ask again after five seconds
	// and give up after ten or fifteen.
	askTimeout = 15 * time.Second
)

// Ask sends one query to the target's resolver. Stream says that it came over TCP.
type Ask func(ctx context.Context, stream bool, query []byte) ([]byte, error)

// Resolver answers queries. Its methods may be called at once from any goroutine.
type Resolver struct {
	log    *slog.Logger
	ask    Ask
	noAAAA bool

	mu      sync.Mutex
	entries map[string]entry
	flights map[string]*flight
}

type entry struct {
	message []byte
	ttls    []int
	stored  time.Time
	expires time.Time
}

// flight is a query under way that others wait for.
type flight struct {
	done    chan struct{}
	message []byte // nil when it failed
	err     error
}

// New makes a resolver. NoAAAA answers AAAA queries with no records.
func New(log *slog.Logger, ask Ask, noAAAA bool) *Resolver {
	return &Resolver{
		log: log, ask: ask, noAAAA: noAAAA,
		entries: make(map[string]entry), flights: make(map[string]*flight),
	}
}

// Exchange answers one query. Trouble on the way to the target gives the answer SERVFAIL,
// which processes understand as "try again"; an error means that there is no answer.
func (r *Resolver) Exchange(ctx context.Context, stream bool, query []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	q, err := parseQuery(query)
	if err != nil {
		return r.ask(ctx, stream, query)
	}
	if r.noAAAA && q.qtype == typeAAAA {
		return reply(query, q, rcodeOK), nil
	}
	m, err := r.shared(ctx, stream, query, q)
	if err != nil {
		r.log.Debug("a name could not be resolved at the target", "error", err)
		return reply(query, q, rcodeServFail), nil
	}
	return m, nil
}

// shared answers from what is kept, or together with an equal query that is under way.
func (r *Resolver) shared(ctx context.Context, stream bool, query []byte, q question) ([]byte, error) {
	k := key(stream, query, q)
	for {
		m, f, mine := r.lookup(k)
		switch {
		case m != nil:
			return readdress(m, query, q), nil
		case mine:
			r.lead(ctx, f, k, stream, query, q)
			if f.message == nil {
				return nil, f.err
			}
			return readdress(bytes.Clone(f.message), query, q), nil
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if f.message != nil {
			return readdress(bytes.Clone(f.message), query, q), nil
		}
		if !errors.Is(f.err, context.Canceled) {
			return nil, f.err
		}
		// The one who asked gave up; this one has not.
	}
}

// lookup returns a kept answer, or the flight for the key and whether it is the caller's.
func (r *Resolver) lookup(k string) (m []byte, f *flight, mine bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e, ok := r.entries[k]; ok {
		if now := time.Now(); now.Before(e.expires) {
			return e.aged(now), nil, false
		}
		delete(r.entries, k)
	}
	if f, ok := r.flights[k]; ok {
		return nil, f, false
	}
	f = &flight{done: make(chan struct{})}
	r.flights[k] = f
	return nil, f, true
}

// lead asks the target and lands the flight.
func (r *Resolver) lead(ctx context.Context, f *flight, k string, stream bool, query []byte, q question) {
	m, err := r.ask(ctx, stream, query)
	var a answer
	if err == nil {
		a, err = parseAnswer(m, query, q)
	}
	if err == nil {
		f.message = m
	}
	f.err = err
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.flights, k)
	if err == nil && len(m) <= maxMessage {
		r.keep(k, m, a)
	}
	close(f.done)
}

func (r *Resolver) keep(k string, m []byte, a answer) {
	ttl := min(time.Duration(a.ttl)*time.Second, maxTTL)
	if binary.BigEndian.Uint16(m[6:]) == 0 {
		ttl = min(ttl, maxNegativeTTL)
	}
	if ttl <= 0 {
		return
	}
	now := time.Now()
	if len(r.entries) >= maxEntries {
		r.makeRoom(now)
	}
	r.entries[k] = entry{message: bytes.Clone(m), ttls: a.ttls, stored: now, expires: now.Add(ttl)}
}

// makeRoom drops what has expired, or anything when nothing has.
func (r *Resolver) makeRoom(now time.Time) {
	var some string
	for k, e := range r.entries {
		if !now.Before(e.expires) {
			delete(r.entries, k)
		}
		some = k
	}
	if len(r.entries) >= maxEntries {
		delete(r.entries, some)
	}
}

// aged is a copy of the answer with the time it was kept taken off its TTLs.
func (e entry) aged(now time.Time) []byte {
	m := bytes.Clone(e.message)
	age := uint32(now.Sub(e.stored) / time.Second)
	for _, off := range e.ttls {
		binary.BigEndian.PutUint32(m[off:], binary.BigEndian.Uint32(m[off:])-age)
	}
	return m
}

// key is the query without its number, and without the case of its name.
func key(stream bool, query []byte, q question) string {
	k := bytes.Clone(query)
	k[0], k[1] = 0, 0
	for i := headerSize; i < q.end-4; i++ {
		k[i] = lower(k[i])
	}
	if stream {
		return "t" + string(k)
	}
	return "u" + string(k)
}

// readdress gives an answer the number and the spelling of the query it answers now.
func readdress(m, query []byte, q question) []byte {
	copy(m[:2], query[:2])
	copy(m[headerSize:q.end], query[headerSize:q.end])
	return m
}
