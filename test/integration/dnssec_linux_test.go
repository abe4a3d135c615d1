package integration

import (
	"crypto"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// signedZone is a zone of which every set of records is signed (RFC 4034).
const signedZone = "signed.example."

// signed answers for the zone: its key, a short text, and one that no datagram takes.
type signed struct {
	key  *dns.DNSKEY
	sets map[dns.Question][]dns.RR // a set and its signature
}

func newSigned(t *testing.T) *signed {
	t.Helper()
	key := &dns.DNSKEY{
		Hdr:   dns.RR_Header{Name: signedZone, Rrtype: dns.TypeDNSKEY, Class: dns.ClassINET, Ttl: 300},
		Flags: dns.ZONE | dns.SEP, Protocol: 3, Algorithm: dns.ECDSAP256SHA256,
	}
	private, err := key.Generate(256)
	if err != nil {
		t.Fatal(err)
	}
	s := &signed{key: key, sets: make(map[dns.Question][]dns.RR)}
	s.add(t, private, key)
	s.add(t, private, text("short."+signedZone, "one"))
	var long []dns.RR
	for i := range 30 {
		long = append(long, text("long."+signedZone, fmt.Sprintf("%02d%s", i, strings.Repeat("x", 200))))
	}
	s.add(t, private, long...)
	return s
}

func text(name, value string) dns.RR {
	return &dns.TXT{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: 300}, Txt: []string{value}}
}

func (s *signed) add(t *testing.T, private crypto.PrivateKey, set ...dns.RR) {
	t.Helper()
	h := set[0].Header()
	sig := &dns.RRSIG{
		Hdr:       dns.RR_Header{Ttl: h.Ttl},
		Algorithm: s.key.Algorithm, KeyTag: s.key.KeyTag(), SignerName: signedZone,
		Inception: 1700000000, Expiration: 4000000000,
	}
	signer, ok := private.(crypto.Signer)
	if !ok {
		t.Fatalf("the key is a %T", private)
	}
	if err := sig.Sign(signer, set); err != nil {
		t.Fatal(err)
	}
	s.sets[dns.Question{Name: h.Name, Qtype: h.Rrtype, Qclass: h.Class}] = append(set, sig)
}

// answer answers a query about the zone as its name server would; others are not answered.
func (s *signed) answer(rw dns.ResponseWriter, q *dns.Msg) bool {
	if s == nil || !dns.IsSubDomain(signedZone, q.Question[0].Name) {
		return false
	}
	m := new(dns.Msg)
	m.SetReply(q)
	opt := q.IsEdns0()
	for _, rr := range s.sets[q.Question[0]] {
		if opt != nil && opt.Do() || rr.Header().Rrtype != dns.TypeRRSIG {
			m.Answer = append(m.Answer, rr)
		}
	}
	size := dns.MinMsgSize
	if opt != nil {
		m.SetEdns0(4096, opt.Do())
		size = int(opt.UDPSize())
	}
	if _, stream := rw.RemoteAddr().(*net.TCPAddr); !stream {
		m.Truncate(size)
	}
	_ = rw.WriteMsg(m)
	return true
}

// dnssec is a local program that validates what it resolves. It says so of each set, and how it came.
func dnssec(server string) error {
	var key *dns.DNSKEY
	for _, q := range []struct {
		name      string
		kind      uint16
		transport string
	}{
		{signedZone, dns.TypeDNSKEY, "udp"},
		{"short." + signedZone, dns.TypeTXT, "udp"},
		{"short." + signedZone, dns.TypeTXT, "tcp"},
		{"long." + signedZone, dns.TypeTXT, "udp"},
		{"long." + signedZone, dns.TypeTXT, "tcp"},
	} {
		m := new(dns.Msg).SetQuestion(q.name, q.kind)
		m.SetEdns0(1232, true)
		c := &dns.Client{Net: q.transport, Timeout: patience}
		r, _, err := c.Exchange(m, server)
		if err != nil {
			return err
		}
		if r.Truncated {
			fmt.Println(q.name, q.transport, "truncated")
			continue
		}
		var set []dns.RR
		var sig *dns.RRSIG
		for _, rr := range r.Answer {
			switch rr := rr.(type) {
			case *dns.RRSIG:
				sig = rr
			case *dns.DNSKEY:
				key, set = rr, append(set, rr)
			default:
				set = append(set, rr)
			}
		}
		if opt := r.IsEdns0(); sig == nil || key == nil || opt == nil || !opt.Do() {
			return fmt.Errorf("%s over %s: no signature, no key or no DO in %v", q.name, q.transport, r)
		}
		if err := sig.Verify(key, set); err != nil {
			return fmt.Errorf("%s over %s: %w", q.name, q.transport, err)
		}
		fmt.Println(q.name, q.transport, len(set), "valid")
	}
	plain, err := dns.Exchange(new(dns.Msg).SetQuestion("short."+signedZone, dns.TypeTXT), server)
	if err != nil {
		return err
	}
	if len(plain.Answer) != 1 || plain.IsEdns0() != nil {
		return errors.New("who asks for no signatures gets " + plain.String())
	}
	fmt.Println("key", key.ToDS(dns.SHA256).Digest)
	return nil
}

// signatures: what the target's name server signed is what the process gets, over UDP, and over TCP where it does not fit.
func signatures(t *testing.T, w *world) {
	want := strings.Join([]string{
		"signed.example. udp 1 valid", "short.signed.example. udp 1 valid", "short.signed.example. tcp 1 valid",
		"long.signed.example. udp truncated", "long.signed.example. tcp 30 valid", "key " + w.signed.key.ToDS(dns.SHA256).Digest,
	}, "\n")
	w.prints(t, nil, want, "dnssec", laptopDNS.String())
}
