package mirror

import (
	"bytes"
	"net"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

var (
	client4 = netip.MustParseAddrPort("192.0.2.1:40000")
	pod4    = netip.MustParseAddrPort("192.0.2.2:8080")
	client6 = netip.MustParseAddrPort("[2001:db8::1]:40000")
	pod6    = netip.MustParseAddrPort("[2001:db8::2]:8080")
)

// build makes a packet with gopacket, which knows the formats independently of us.
func build(t testing.TB, src, dst netip.AddrPort, change func(ip gopacket.SerializableLayer, tcp *layers.TCP), payload string) []byte {
	t.Helper()
	tcp := &layers.TCP{
		SrcPort: layers.TCPPort(src.Port()), DstPort: layers.TCPPort(dst.Port()),
		Seq: 0x01020304, Ack: 0x05060708, ACK: true, PSH: true,
	}
	var ip gopacket.SerializableLayer
	if src.Addr().Is4() {
		ip4 := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: src.Addr().AsSlice(), DstIP: dst.Addr().AsSlice()}
		tcp.SetNetworkLayerForChecksum(ip4)
		ip = ip4
	} else {
		ip6 := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolTCP, SrcIP: src.Addr().AsSlice(), DstIP: dst.Addr().AsSlice()}
		tcp.SetNetworkLayerForChecksum(ip6)
		ip = ip6
	}
	if change != nil {
		change(ip, tcp)
	}
	buf := gopacket.NewSerializeBuffer()
	opts := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(buf, opts, ip, tcp, gopacket.Payload(payload)); err != nil {
		t.Fatal(err)
	}
	return bytes.Clone(buf.Bytes())
}

func TestDecode(t *testing.T) {
	const psh = 1 << 3
	plain4 := segment{client4, pod4, 0x01020304, 0x05060708, flagACK | psh, []byte("hello"), 5}
	plain6 := segment{client6, pod6, 0x01020304, 0x05060708, flagACK | psh, []byte("hello"), 5}
	options := func(ip gopacket.SerializableLayer, tcp *layers.TCP) {
		tcp.Options = []layers.TCPOption{{OptionType: layers.TCPOptionKindTimestamps, OptionLength: 10, OptionData: make([]byte, 8)}}
		if ip4, ok := ip.(*layers.IPv4); ok {
			ip4.Options = []layers.IPv4Option{{OptionType: 1}, {OptionType: 1}, {OptionType: 1}, {OptionType: 0}}
		}
	}
	v4, v6 := build(t, client4, pod4, nil, "hello"), build(t, client6, pod6, nil, "hello")
	set := func(b []byte, at int, v ...byte) []byte {
		b = bytes.Clone(b)
		copy(b[at:], v)
		return b
	}
	hopOpt := func(b []byte, optLen byte) []byte {
		b = set(b, 6, protoHopOpt)
		b = append(b[:40:40], append([]byte{protoTCP, optLen, 0xc2, 4, 0, 0, 0, 0}, b[40:]...)...)
		return set(b, 4, 0, 0)
	}
	cut4, cut6 := plain4, plain6
	cut4.payload, cut6.payload = []byte("hel"), nil
	tests := []struct {
		name string
		b    []byte
		want *segment
	}{
		{"IPv4", v4, &plain4},
		{"IPv6", v6, &plain6},
		{"IPv4 with options", build(t, client4, pod4, options, "hello"), &plain4},
		{"IPv6 with options", build(t, client6, pod6, options, "hello"), &plain6},
		{"padding of a short frame", append(bytes.Clone(v4), 0, 0, 0, 0), &plain4},
		{"IPv6 padding", append(bytes.Clone(v6), 0, 0), &plain6},
		{"BIG TCP, IPv4", set(v4, 2, 0, 0), &plain4},
		{"BIG TCP, IPv6", set(v6, 4, 0, 0), &plain6},
		{"jumbogram", hopOpt(v6, 0), &plain6},
		{"cut payload", v4[:len(v4)-2], &cut4},
		{"cut behind the header", v6[:60], &cut6},
		{"cut header", v4[:39], nil},
		{"cut IP header", v6[:39], nil},
		{"empty", nil, nil},
		{"first fragment", build(t, client4, pod4, func(ip gopacket.SerializableLayer, _ *layers.TCP) { ip.(*layers.IPv4).Flags = layers.IPv4MoreFragments }, "hello"), nil},
		{"later fragment", build(t, client4, pod4, func(ip gopacket.SerializableLayer, _ *layers.TCP) { ip.(*layers.IPv4).FragOffset = 9 }, "hello"), nil},
		{"UDP", set(v4, 9, 17), nil},
		{"IPv6 UDP", set(v6, 6, 17), nil},
		{"long hop-by-hop", hopOpt(v6, 1), nil},
		{"version 5", set(v4, 0, 0x55), nil},
		{"short IP header", set(v4, 0, 0x44), nil},
		{"short TCP header", set(v4, 32, 0x40), nil},
		{"long TCP header", set(v4, 32, 0xf0), nil},
		{"total below the header", set(v4, 2, 0, 19), nil},
		{"total below TCP's header", set(v4, 2, 0, 30), nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := decode(tt.b)
			if !ok {
				if tt.want != nil {
					t.Fatal("refused")
				}
				return
			}
			if tt.want == nil {
				t.Fatalf("accepted as %+v", got)
			}
			opts := cmp.Options{cmp.AllowUnexported(segment{}), cmpopts.EquateComparable(netip.AddrPort{}), cmpopts.EquateEmpty()}
			if d := cmp.Diff(*tt.want, got, opts); d != "" {
				t.Error(d)
			}
		})
	}
}

// FuzzDecode compares with gopacket whatever both accept.
func FuzzDecode(f *testing.F) {
	f.Add(build(f, client4, pod4, nil, "hello"))
	f.Add(build(f, client6, pod6, nil, ""))
	f.Fuzz(func(t *testing.T, b []byte) {
		seg, ok := decode(b)
		if !ok {
			return
		}
		if seg.length < len(seg.payload) {
			t.Fatalf("%d bytes of %d", len(seg.payload), seg.length)
		}
		first := layers.LayerTypeIPv4
		if b[0]>>4 == 6 {
			first = layers.LayerTypeIPv6
		}
		p := gopacket.NewPacket(b, first, gopacket.NoCopy)
		tcp, ok := p.Layer(layers.LayerTypeTCP).(*layers.TCP)
		if !ok || p.ErrorLayer() != nil || p.NetworkLayer() == nil {
			return
		}
		ip := func(a netip.AddrPort) net.IP { return a.Addr().AsSlice() }
		src, dst := p.NetworkLayer().NetworkFlow().Endpoints()
		if !bytes.Equal(ip(seg.src), src.Raw()) || !bytes.Equal(ip(seg.dst), dst.Raw()) ||
			seg.src.Port() != uint16(tcp.SrcPort) || seg.dst.Port() != uint16(tcp.DstPort) || seg.seq != tcp.Seq || seg.ack != tcp.Ack {
			t.Fatalf("%+v, gopacket has %v", seg, p)
		}
	})
}
