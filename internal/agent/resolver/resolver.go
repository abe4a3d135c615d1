package resolver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"

	"github.com/miekg/dns"

	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

// maxFlights bounds the questions that are put to name servers at the same time; further
// ones wait.
const maxFlights = 256

// ErrDropped says that a message deserves no answer: it is not a DNS query.
var ErrDropped = errors.New("not a DNS query")

// Options say whose way of resolving names is followed.
type Options struct {
	// Open opens a file of the target, such as /etc/resolv.conf.
	Open func(name string) (*os.File, error)
	// Hostname is the target's; its domain is the search list of a resolv.conf without one.
	Hostname string
}

// Resolver answers queries. Its methods may be called at once from any goroutine.
type Resolver struct {
	log    *slog.Logger
	files  files
	cache  cache
	rotate atomic.Uint32

	ctx     context.Context //nolint:containedctx // of the flights; ends with Close
	cancel  context.CancelFunc
	slots   chan struct{}
	mu      sync.Mutex
	closed  bool
	flights map[key]*flight
	wg      sync.WaitGroup
}

// flight is a question that is being put to the name servers, for all who ask it.
type flight struct {
	done chan struct{} // closed when the rest is set
	msg  *dns.Msg
	err  error
}

// New returns a resolver in the calling process's network.
func New(log *slog.Logger, o Options) *Resolver {
	ctx, cancel := context.WithCancel(context.Background())
	return &Resolver{
		log:    log,
		files:  files{log: log, open: o.Open, hostname: o.Hostname, port: 53},
		ctx:    ctx,
		cancel: cancel,
		slots:  make(chan struct{}, maxFlights),

		flights: map[key]*flight{},
	}
}

// Close ends the questions under way and waits until they are gone.
func (r *Resolver) Close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.cancel()
	r.wg.Wait()
}

// Ready says whether the files that tell how names are resolved can be read: without them,
// every question fails.
func (r *Resolver) Ready() error {
	_, err := r.files.load()
	return err
}

// Exchange answers one query in wire format. Transport says how long the answer may be: one
// that does not fit a client over UDP is truncated, so that it asks again over TCP.
//
// The error is [ErrDropped] for what is no query, and wraps the syscall.Errno of the last
// attempt when no name server could be reached. Everything else is an answer.
func (r *Resolver) Exchange(ctx context.Context, t wire.Transport, query []byte) ([]byte, error) {
	answer, _, err := r.ExchangeName(ctx, t, query)
	return answer, err
}

// ExchangeName is [Resolver.Exchange] that also tells which name has the answer's records: the
// one that was asked for, as the search list completed it. It is empty without records.
func (r *Resolver) ExchangeName(ctx context.Context, t wire.Transport, query []byte) (answer []byte, name string, err error) {
	var q dns.Msg
	err = q.Unpack(query)
	if len(query) < 12 || q.Response {
		return nil, "", ErrDropped
	}
	resp, name, err := r.respond(ctx, &q, err)
	if err != nil {
		return nil, "", err
	}
	if !hasData(resp) {
		name = ""
	}
	answer, err = pack(resp, &q, t)
	return answer, name, err
}

// respond makes the answer, still without the parts that every answer shares, and says whose
// records it has.
func (r *Resolver) respond(ctx context.Context, q *dns.Msg, malformed error) (*dns.Msg, string, error) {
	switch {
	case malformed != nil || q.Opcode == dns.OpcodeQuery && len(q.Question) != 1:
		return failure(dns.RcodeFormatError), "", nil //nolint:nilerr // the client is told with an answer
	case q.Opcode != dns.OpcodeQuery:
		return failure(dns.RcodeNotImplemented), "", nil
	case q.Question[0].Qtype == dns.TypeAXFR || q.Question[0].Qtype == dns.TypeIXFR:
		// A zone transfer is a conversation, not a query.
		return failure(dns.RcodeNotImplemented), "", nil
	}
	if opt := q.IsEdns0(); opt != nil && opt.Version() != 0 {
		return failure(dns.RcodeBadVers), "", nil
	}
	s, err := r.files.load()
	if err != nil {
		r.log.Warn("a name can't be resolved", "err", err)
		return failure(dns.RcodeServerFailure), "", nil
	}
	question := q.Question[0]
	if question.Qclass != dns.ClassINET {
		m, err := r.lookup(ctx, &s, newRequest(q), question.Name)
		return m, question.Name, err
	}
	if s.noAAAA && question.Qtype == dns.TypeAAAA {
		return local(nil), "", nil
	}
	if rrs, ok := s.hosts.answer(question); ok {
		return local(rrs), question.Name, nil
	}
	return r.search(ctx, &s, q)
}

func failure(rcode int) *dns.Msg { return &dns.Msg{MsgHdr: dns.MsgHdr{Rcode: rcode}} }

func local(rrs []dns.RR) *dns.Msg {
	return &dns.Msg{MsgHdr: dns.MsgHdr{Authoritative: true}, Answer: rrs}
}

// search asks for the name's candidates until one has records, and otherwise chooses among
// the failures as res_search does: the name's own, if it was asked first; then that a
// candidate exists without such records; then a server's failure.
func (r *Resolver) search(ctx context.Context, s *settings, q *dns.Msg) (*dns.Msg, string, error) {
	req := newRequest(q)
	asked := q.Question[0].Name
	candidates := s.candidates(asked)
	var decided, noData, failed, last *dns.Msg
	for i, c := range candidates {
		m, err := r.lookup(ctx, s, req, c.name)
		if err != nil {
			return nil, "", err
		}
		last = rename(m, c.name, asked)
		if hasData(m) {
			return last, c.name, nil
		}
		if c.decides {
			decided = last
		}
		switch m.Rcode {
		case dns.RcodeSuccess:
			noData = first(noData, last)
			if i < len(candidates)-1 && r.hasSibling(ctx, s, req, c.name) {
				return last, "", nil
			}
		case dns.RcodeNameError:
		default:
			failed = first(failed, last)
		}
	}
	return first(decided, noData, failed, last), "", nil
}

func first(ms ...*dns.Msg) *dns.Msg {
	for _, m := range ms {
		if m != nil {
			return m
		}
	}
	return nil
}

func hasData(m *dns.Msg) bool { return m.Rcode == dns.RcodeSuccess && len(m.Answer) > 0 }

// hasSibling reports whether a name without an A record has an AAAA record, or the reverse.
// getaddrinfo asks for both together and stops at the first name that has either, so that
// the addresses of a host never come from two different names.
func (r *Resolver) hasSibling(ctx context.Context, s *settings, req request, name string) bool {
	switch req.qtype {
	case dns.TypeA:
		req.qtype = dns.TypeAAAA
	case dns.TypeAAAA:
		req.qtype = dns.TypeA
	default:
		return false
	}
	m, err := r.lookup(ctx, s, req, name)
	return err == nil && hasData(m)
}

// rename gives the records of the name that was asked for upstream to the name that the
// client asked for. A chain of aliases behind it stays as it is.
func rename(m *dns.Msg, upstream, asked string) *dns.Msg {
	upstream = dns.CanonicalName(upstream)
	for _, rr := range m.Answer {
		if h := rr.Header(); dns.CanonicalName(h.Name) == upstream {
			h.Name = asked
		}
	}
	return m
}

// request is what we ask name servers on behalf of a query, but for the name.
type request struct {
	qtype, qclass uint16
	rd, cd, ad    bool
	edns, do      bool
	options       []dns.EDNS0
}

func newRequest(q *dns.Msg) request {
	req := request{
		qtype: q.Question[0].Qtype, qclass: q.Question[0].Qclass,
		rd: q.RecursionDesired, cd: q.CheckingDisabled, ad: q.AuthenticatedData,
	}
	if opt := q.IsEdns0(); opt != nil {
		req.edns, req.do = true, opt.Do()
		for _, o := range opt.Option {
			switch o.Option() {
			case dns.EDNS0COOKIE, dns.EDNS0PADDING, dns.EDNS0TCPKEEPALIVE:
				// These are about one hop, which ends here.
			default:
				req.options = append(req.options, o)
			}
		}
	}
	return req
}

// shared says that the answer serves everybody who asks the same question.
func (q request) shared() bool {
	return q.rd && !q.cd && len(q.options) == 0 && q.qclass == dns.ClassINET
}

func (q request) message(name string, edns0 bool) *dns.Msg {
	m := &dns.Msg{
		MsgHdr:   dns.MsgHdr{RecursionDesired: q.rd, CheckingDisabled: q.cd, AuthenticatedData: q.ad},
		Question: []dns.Question{{Name: name, Qtype: q.qtype, Qclass: q.qclass}},
	}
	if q.edns || edns0 {
		m.SetEdns0(ednsSize, q.do)
		m.IsEdns0().Option = q.options
	}
	return m
}

// lookup asks for one absolute name, from the cache or from the name servers, and returns
// a message that is the caller's.
func (r *Resolver) lookup(ctx context.Context, s *settings, req request, name string) (*dns.Msg, error) {
	k := key{name: dns.CanonicalName(name), qtype: req.qtype, qclass: req.qclass, dnssecOK: req.do, auth: req.ad}
	if !req.shared() {
		return r.fetch(ctx, s, req, name)
	}
	if m := r.cache.get(k, s.generation); m != nil {
		return m, nil
	}
	f, err := r.fly(k, s, req, name)
	if err != nil {
		return nil, err
	}
	select {
	case <-f.done:
	case <-ctx.Done():
		return nil, fmt.Errorf("resolving: %w", ctx.Err())
	}
	if f.err != nil {
		return nil, f.err
	}
	return f.msg.Copy(), nil
}

// fly joins or starts the flight for a question. It outlives who started it: a client that
// gave up asks again soon, and finds the answer in the cache.
func (r *Resolver) fly(k key, s *settings, req request, name string) (*flight, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, context.Canceled
	}
	if f, ok := r.flights[k]; ok {
		return f, nil
	}
	f := &flight{done: make(chan struct{})}
	r.flights[k] = f
	r.wg.Go(func() {
		f.msg, f.err = r.fetch(r.ctx, s, req, name)
		if f.err == nil {
			r.cache.put(k, s.generation, f.msg)
		}
		r.mu.Lock()
		delete(r.flights, k)
		r.mu.Unlock()
		close(f.done)
	})
	return f, nil
}

func (r *Resolver) fetch(ctx context.Context, s *settings, req request, name string) (*dns.Msg, error) {
	select {
	case r.slots <- struct{}{}:
		defer func() { <-r.slots }()
	case <-ctx.Done():
		return nil, fmt.Errorf("resolving: %w", ctx.Err())
	}
	start := 0
	if s.rotate {
		start = int(r.rotate.Add(1)) % len(s.servers)
	}
	return s.ask(ctx, req.message(name, s.edns0), start)
}

// pack completes the answer to q and encodes it.
func pack(resp, q *dns.Msg, t wire.Transport) ([]byte, error) {
	resp.Id, resp.Response, resp.Opcode = q.Id, true, q.Opcode
	resp.RecursionDesired, resp.RecursionAvailable, resp.CheckingDisabled = q.RecursionDesired, true, q.CheckingDisabled
	resp.Truncated, resp.Zero = false, false
	resp.Question = q.Question
	resp.Compress = true
	opt := q.IsEdns0()
	resp.AuthenticatedData = resp.AuthenticatedData && (q.AuthenticatedData || opt != nil && opt.Do())
	setOPT(resp, opt)
	size := dns.MaxMsgSize
	if t == wire.UDP {
		size = dns.MinMsgSize
		if opt != nil {
			size = max(size, int(opt.UDPSize()))
		}
	}
	resp.Truncate(size)
	b, err := resp.Pack()
	if err == nil {
		return b, nil
	}
	// An answer that can't be encoded for this client, such as an extended response code
	// for one without EDNS.
	m := failure(dns.RcodeServerFailure)
	m.Id, m.Response, m.Opcode, m.RecursionDesired, m.RecursionAvailable = q.Id, true, q.Opcode, q.RecursionDesired, true
	if len(q.Question) == 1 {
		m.Question = q.Question
	}
	if b, err = m.Pack(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDropped, err)
	}
	return b, nil
}

// setOPT replaces the name server's EDNS record by ours, for a client that sent one.
func setOPT(resp *dns.Msg, client *dns.OPT) {
	var options []dns.EDNS0
	extra := make([]dns.RR, 0, len(resp.Extra)+1)
	for _, rr := range resp.Extra {
		if o, ok := rr.(*dns.OPT); ok {
			options = o.Option
			continue
		}
		extra = append(extra, rr)
	}
	resp.Extra = extra
	if client == nil {
		return
	}
	resp.SetEdns0(ednsSize, client.Do())
	resp.IsEdns0().Option = options
}
