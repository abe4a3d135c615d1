package names

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

func TestName(t *testing.T) {
	for _, tt := range []struct {
		query []byte
		want  string
		ok    bool
	}{
		{query(t, 1, "Shop.prod.", dnsmessage.TypeA), "Shop.prod", true},
		{query(t, 1, ".", dnsmessage.TypeNS), "", true},
		{respond(t, query(t, 1, "yes.", dnsmessage.TypeA)), "", false},
		{[]byte("nonsense"), "", false},
		{append(query(t, 1, "a.", dnsmessage.TypeA)[:12], 0xc0, 12, 0, 1, 0, 1), "", false},
	} {
		if got, ok := Name(tt.query); got != tt.want || ok != tt.ok {
			t.Errorf("% x: %q, %v, want %q, %v", tt.query, got, ok, tt.want, tt.ok)
		}
	}
}

func TestAddresses(t *testing.T) {
	name := dnsmessage.MustNewName("shop.")
	header := func(n dnsmessage.Name) dnsmessage.ResourceHeader {
		return dnsmessage.ResourceHeader{Name: n, Class: dnsmessage.ClassINET, TTL: 20}
	}
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{Response: true},
		Questions: []dnsmessage.Question{{Name: name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
		Answers: []dnsmessage.Resource{
			{Header: header(name), Body: &dnsmessage.CNAMEResource{CNAME: dnsmessage.MustNewName("real.")}},
			{Header: header(dnsmessage.MustNewName("real.")), Body: &dnsmessage.AResource{A: [4]byte{10, 0, 0, 1}}},
			{Header: header(dnsmessage.MustNewName("real.")), Body: &dnsmessage.AAAAResource{AAAA: [16]byte{0x20, 1, 15: 1}}},
		},
		Additionals: []dnsmessage.Resource{{Header: header(name), Body: &dnsmessage.AResource{A: [4]byte{10, 0, 0, 9}}}},
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	want := []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("2001::1")}
	if got := Addresses(b); len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("addresses %v, want %v", got, want)
	}
	for n := range b {
		Addresses(b[:n]) // must not panic
	}
}

// TestForward asks a real server over both transports. It sends an answer to somebody else's
// query first.
func TestForward(t *testing.T) {
	q := query(t, 7, "yes.", dnsmessage.TypeA)
	want := respond(t, q)
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan struct{})
	defer func() { <-done; <-done }()
	go func() {
		defer func() { done <- struct{}{} }()
		b := make([]byte, 512)
		n, from, err := pc.ReadFrom(b)
		if err != nil || !bytes.Equal(b[:n], q) {
			return
		}
		_, _ = pc.WriteTo(respond(t, query(t, 8, "yes.", dnsmessage.TypeA)), from)
		_, _ = pc.WriteTo(want, from)
	}()
	go func() {
		defer func() { done <- struct{}{} }()
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		b := make([]byte, 2+len(q))
		if _, err := io.ReadFull(c, b); err != nil || !bytes.Equal(b[2:], q) {
			return
		}
		_, _ = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(want))), want...))
	}()
	for stream, server := range map[bool]string{false: pc.LocalAddr().String(), true: l.Addr().String()} {
		got, err := Forward(t.Context(), stream, netip.MustParseAddrPort(server), q)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("stream %v: % x, %v", stream, got, err)
		}
	}
}

func TestForwardToNobody(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := netip.MustParseAddrPort(l.Addr().String())
	_ = l.Close()
	for _, stream := range []bool{false, true} {
		if m, err := Forward(t.Context(), stream, server, query(t, 7, "yes.", dnsmessage.TypeA)); err == nil {
			t.Errorf("stream %v: an answer % x", stream, m)
		}
	}
}

func FuzzForwarded(f *testing.F) {
	f.Add(query(f, 1, "yes.", dnsmessage.TypeA))
	f.Add(respond(f, query(f, 1, "yes.", dnsmessage.TypeA)))
	f.Fuzz(func(t *testing.T, m []byte) {
		if name, ok := Name(m); ok && len(name) > len(m) {
			t.Errorf("name %q of %d bytes", name, len(m))
		}
		if n := len(Addresses(m)); n > len(m)/10 {
			t.Errorf("%d addresses in %d bytes", n, len(m))
		}
	})
}
