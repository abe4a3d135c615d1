package wire

import (
	"bytes"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestIncomingTLS(t *testing.T) {
	same := cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })
	in := Incoming{Mode: Steal, Peer: netip.MustParseAddrPort("192.0.2.1:4711"), Local: netip.MustParseAddrPort("[2001:db8::1]:443")}
	for _, info := range []TLSInfo{{}, {ServerName: "shop.example", ALPN: "h2"}, {ServerName: strings.Repeat("x", 255)}} {
		in.TLS = &info
		var b bytes.Buffer
		if err := WriteIncoming(&b, in); err != nil {
			t.Fatal(err)
		}
		whole := b.Bytes()
		if k, err := ReadKind(&b); err != nil || k != KindIncomingTLS {
			t.Fatalf("kind %v, %v", k, err)
		}
		got, err := ReadIncomingTLS(&b)
		if diff := cmp.Diff(in, got, same); err != nil || diff != "" {
			t.Errorf("%v (-want +got):\n%s", err, diff)
		}
		for n := 1; n < len(whole); n++ {
			if _, err := ReadIncomingTLS(bytes.NewReader(whole[1:n])); err == nil {
				t.Errorf("the first %d bytes are enough", n)
			}
		}
	}
	in.TLS = &TLSInfo{ALPN: strings.Repeat("x", 256)}
	if err := WriteIncoming(new(bytes.Buffer), in); !errors.Is(err, ErrMalformed) {
		t.Errorf("a long name gave %v", err)
	}
}

func FuzzIncomingTLS(f *testing.F) {
	f.Add([]byte{2, 4, 192, 0, 2, 1, 0, 80, 4, 192, 0, 2, 2, 0, 80, 1, 'a', 2, 'h', '2'})
	f.Add([]byte{2, 4})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		in, err := ReadIncomingTLS(r)
		if err != nil {
			return
		}
		var out bytes.Buffer
		if err := WriteIncoming(&out, in); err != nil {
			t.Fatal(err)
		}
		if again, err := ReadIncomingTLS(bytes.NewReader(out.Bytes()[1:])); err != nil || *again.TLS != *in.TLS {
			t.Fatalf("%+v became %+v, %v", in, again, err)
		}
	})
}
