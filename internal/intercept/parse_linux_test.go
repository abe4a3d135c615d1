//go:build amd64 || arm64

package intercept

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestSockaddr(t *testing.T) {
	v4 := []byte{0, 0, 0x1f, 0x90, 198, 51, 100, 1, 0, 0, 0, 0, 0, 0, 0, 0}
	binary.NativeEndian.PutUint16(v4, unix.AF_INET)
	v6 := make([]byte, 28)
	binary.NativeEndian.PutUint16(v6, unix.AF_INET6)
	v6[2], v6[3], v6[8], v6[23], v6[24] = 0x1f, 0x90, 0x20, 1, 7
	mapped := bytes.Clone(v6)
	copy(mapped[8:], netip.MustParseAddr("::ffff:198.51.100.1").AsSlice())
	tests := []struct {
		name string
		in   []byte
		want string
		ok   bool
	}{
		{"IPv4", v4, "198.51.100.1:8080", true},
		{"IPv4, longer than needed", append(bytes.Clone(v4), 1, 2, 3), "198.51.100.1:8080", true},
		{"IPv4, too short", v4[:15], "", false},
		{"IPv6", v6, "[2000::1]:8080", true},
		{"IPv6 without scope", v6[:24], "[2000::1]:8080", true},
		{"IPv6, too short", v6[:23], "", false},
		{"mapped", mapped, "198.51.100.1:8080", true},
		{"local socket", []byte{unix.AF_UNIX, 0, '/', 'x'}, "", false},
		{"one byte", []byte{2}, "", false},
		{"nothing", nil, "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := parseSockaddr(tt.in)
			if ok != tt.ok || ok && got.String() != tt.want {
				t.Errorf("%v, %v; want %v, %v", got, ok, tt.want, tt.ok)
			}
		})
	}
}

func FuzzSockaddr(f *testing.F) {
	f.Add([]byte{2, 0, 0, 80, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Add(append([]byte{10, 0, 0, 80, 0, 0, 0, 0}, make([]byte, 20)...))
	f.Add([]byte{1, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		ap, ok := parseSockaddr(b)
		if !ok {
			return
		}
		if ap.Addr().Is4In6() {
			t.Fatalf("%v is mapped", ap)
		}
		for _, domain := range []int{unix.AF_INET, unix.AF_INET6} {
			out, ok := appendSockaddr(nil, ap, domain)
			if !ok {
				if domain == unix.AF_INET6 || ap.Addr().Is4() {
					t.Fatalf("%v has no form in domain %d", ap, domain)
				}
				continue
			}
			if again, ok := parseSockaddr(out); !ok || again != ap {
				t.Fatalf("%v became %v in domain %d", ap, again, domain)
			}
		}
	})
}

func FuzzMsghdr(f *testing.F) {
	f.Add(make([]byte, msghdrSize), make([]byte, iovecSize), make([]byte, cmsgHeaderSize))
	f.Add(make([]byte, 3), []byte{1}, []byte{0xff})
	f.Fuzz(func(t *testing.T, header, vector, control []byte) {
		if h, ok := parseMsghdr(header, 7); ok && h.at != 7 {
			t.Fatal("the place is lost")
		}
		v, room, err := parseVector(vector)
		if err == nil {
			if room < 0 || room > maxDatagram {
				t.Fatalf("room for %d", room)
			}
			if n := length(v); n > maxDatagram+1 || n < room {
				t.Fatalf("length %d, room %d", n, room)
			}
			left := 0
			for _, r := range limit(v, room) {
				left += r.Len
			}
			if left != room {
				t.Fatalf("%d bytes in a vector limited to %d", left, room)
			}
		}
		if out := withoutSource(control); len(out) > len(control) {
			t.Fatalf("control data grew from %d to %d bytes", len(control), len(out))
		}
	})
}

func TestWithoutSource(t *testing.T) {
	cmsg := func(level, kind int32, data ...byte) []byte {
		b := binary.NativeEndian.AppendUint64(nil, uint64(cmsgHeaderSize+len(data)))
		b = binary.NativeEndian.AppendUint32(b, uint32(level))
		b = binary.NativeEndian.AppendUint32(b, uint32(kind))
		b = append(b, data...)
		return append(b, make([]byte, -len(b)&7)...)
	}
	ttl := cmsg(unix.IPPROTO_IP, unix.IP_TTL, 9, 0, 0, 0)
	info4 := cmsg(unix.IPPROTO_IP, unix.IP_PKTINFO, make([]byte, 12)...)
	info6 := cmsg(unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, make([]byte, 20)...)
	segment := cmsg(unix.IPPROTO_UDP, unix.UDP_SEGMENT, 0xb0, 4)
	tests := []struct {
		name     string
		in, want []byte
	}{
		{"nothing", nil, nil},
		{"kept", ttl, ttl},
		{"only the source", info4, nil},
		{"in between", bytes.Join([][]byte{ttl, info6, segment}, nil), bytes.Join([][]byte{ttl, segment}, nil)},
		{"not well formed", append(bytes.Clone(ttl), 99, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), append(bytes.Clone(ttl), 99, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, withoutSource(tt.in)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestStatus(t *testing.T) {
	got := parseStatus([]byte("Name:\tx\nState:\tZ (zombie)\nTgid:\t12\nThreads:\t3\nSigPnd:\t0000000000000001\nShdPnd:\t0000000000004000\nSigBlk:\t0000000000000002\nSeccomp_filters:\t2\n"))
	want := status{process: 12, threads: 3, zombie: true, ownPending: 1, allPending: 0x4000, blocked: 2, filterCount: 2}
	if got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	parseStatus([]byte("\n:\nTgid\nState:\n"))
}

func FuzzStatus(f *testing.F) {
	f.Add([]byte("State:\tZ\nTgid:\t1\n"))
	f.Fuzz(func(_ *testing.T, b []byte) { parseStatus(b) })
}

func FuzzDNSFrame(f *testing.F) {
	f.Add([]byte{0, 3, 'a', 'b', 'c'})
	f.Add([]byte{0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := readDNS(bytes.NewReader(b))
		if err != nil {
			return
		}
		var out bytes.Buffer
		if err := writeDNS(&out, m); err != nil || !bytes.HasPrefix(b, out.Bytes()) {
			t.Fatalf("%x became %x, %v", b, out.Bytes(), err)
		}
	})
}
