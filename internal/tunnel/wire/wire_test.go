package wire_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

var (
	v4 = netip.MustParseAddrPort("10.1.2.3:80")
	v6 = netip.MustParseAddrPort("[fd00::1]:443")

	addrs = cmpopts.EquateComparable(netip.AddrPort{}, netip.Addr{})
)

// messages are one of each kind: how it is written and read, and its value.
func messages() map[string]struct {
	write func(io.Writer) error
	read  func(*bufio.Reader) (any, error)
	kind  wire.Kind // 0 when the message has no kind byte
	want  any
} {
	type row = struct {
		write func(io.Writer) error
		read  func(*bufio.Reader) (any, error)
		kind  wire.Kind
		want  any
	}
	dial := wire.Dial{Addr: v6}
	reply := wire.DialReply{Local: v4}
	refused := wire.DialReply{Errno: 111}
	query := wire.Query{Transport: wire.UDP, Message: []byte("query")}
	answer := wire.Answer{Message: []byte("answer")}
	in := wire.Incoming{Mode: wire.Steal, Peer: v4, Local: v6}
	data := wire.Datagram{Type: wire.DatagramData, Addr: v4, Payload: []byte{}}
	derr := wire.Datagram{Type: wire.DatagramError, Addr: v6, Errno: 90}
	ctl := wire.Control{ID: 7, Subscribe: &wire.Subscribe{
		Port: 80, Mode: wire.Mirror,
		Probes: []wire.Probe{{Kind: wire.ProbeGRPC}}, ProbeSources: []netip.Addr{v4.Addr()},
	}}
	unix := wire.Unix{Type: wire.UnixSeqpacket, Name: "@\x00\xffname"}
	env := wire.Control{ID: 8, Result: &wire.Result{Environ: wire.Variables{"A=1", "EMPTY=", "LATIN=v\xe4rde", "LINES=a\nb", "HTML=<&>"}}}
	return map[string]row{
		"dial":     {func(w io.Writer) error { return wire.WriteDial(w, dial) }, func(r *bufio.Reader) (any, error) { return wire.ReadDial(r) }, wire.KindDial, dial},
		"reply":    {func(w io.Writer) error { return wire.WriteDialReply(w, reply) }, func(r *bufio.Reader) (any, error) { return wire.ReadDialReply(r) }, 0, reply},
		"refused":  {func(w io.Writer) error { return wire.WriteDialReply(w, refused) }, func(r *bufio.Reader) (any, error) { return wire.ReadDialReply(r) }, 0, refused},
		"query":    {func(w io.Writer) error { return wire.WriteQuery(w, query) }, func(r *bufio.Reader) (any, error) { return wire.ReadQuery(r) }, wire.KindResolve, query},
		"answer":   {func(w io.Writer) error { return wire.WriteAnswer(w, answer) }, func(r *bufio.Reader) (any, error) { return wire.ReadAnswer(r) }, 0, answer},
		"incoming": {func(w io.Writer) error { return wire.WriteIncoming(w, in) }, func(r *bufio.Reader) (any, error) { return wire.ReadIncoming(r) }, wire.KindIncoming, in},
		"unix":     {func(w io.Writer) error { return wire.WriteUnix(w, unix) }, func(r *bufio.Reader) (any, error) { return wire.ReadUnix(r) }, wire.KindUnix, unix},
		"un-reply": {func(w io.Writer) error { return wire.WriteUnixReply(w, wire.UnixReply{Errno: 2}) }, func(r *bufio.Reader) (any, error) { return wire.ReadUnixReply(r) }, 0, wire.UnixReply{Errno: 2}},
		"packet":   {func(w io.Writer) error { return wire.WritePacket(w, []byte("packet")) }, func(r *bufio.Reader) (any, error) { return wire.ReadPacket(r, nil) }, 0, []byte("packet")},
		"in-reply": {func(w io.Writer) error { return wire.WriteIncomingReply(w, wire.IncomingReply{Errno: 111}) }, func(r *bufio.Reader) (any, error) { return wire.ReadIncomingReply(r) }, 0, wire.IncomingReply{Errno: 111}},
		"datagram": {func(w io.Writer) error { return wire.WriteDatagram(w, data) }, func(r *bufio.Reader) (any, error) { return wire.ReadDatagram(r) }, 0, data},
		"dgerror":  {func(w io.Writer) error { return wire.WriteDatagram(w, derr) }, func(r *bufio.Reader) (any, error) { return wire.ReadDatagram(r) }, 0, derr},
		"control":  {func(w io.Writer) error { return wire.WriteControl(w, ctl) }, func(r *bufio.Reader) (any, error) { return wire.ReadControl(r) }, 0, ctl},
		"environ":  {func(w io.Writer) error { return wire.WriteControl(w, env) }, func(r *bufio.Reader) (any, error) { return wire.ReadControl(r) }, 0, env},
	}
}

func TestRoundTrip(t *testing.T) {
	for name, m := range messages() {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			if err := m.write(&b); err != nil {
				t.Fatal(err)
			}
			full := bytes.Clone(b.Bytes())
			r := bufio.NewReader(&b)
			if m.kind != 0 {
				if k, err := wire.ReadKind(r); err != nil || k != m.kind {
					t.Fatalf("kind %v, %v; want %v", k, err, m.kind)
				}
			}
			got, err := m.read(r)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(m.want, got, addrs); d != "" {
				t.Fatalf("read back (-want +got):\n%s", d)
			}
			// Cut anywhere inside, it is an error and no value is made up.
			for n := range full {
				r := bufio.NewReader(bytes.NewReader(full[:n]))
				if m.kind != 0 {
					if _, err := wire.ReadKind(r); err != nil {
						continue
					}
				}
				if _, err := m.read(r); !errors.Is(err, io.ErrUnexpectedEOF) && (n > 0 || !errors.Is(err, io.EOF)) {
					t.Fatalf("cut after %d bytes: %v", n, err)
				}
			}
		})
	}
}

func TestMalformed(t *testing.T) {
	cases := map[string]struct {
		in   string
		read func(*bufio.Reader) error
	}{
		"kind 0":           {"\x00", kind},
		"kind 9":           {"\x09", kind},
		"unix type 3":      {"\x03\x02/a", func(r *bufio.Reader) error { _, err := wire.ReadUnix(r); return err }},
		"unix no name":     {"\x01\x00", func(r *bufio.Reader) error { _, err := wire.ReadUnix(r); return err }},
		"unix long name":   {"\x01\x6d/" + strings.Repeat("a", 108), func(r *bufio.Reader) error { _, err := wire.ReadUnix(r); return err }},
		"unix relative":    {"\x01\x02a/", func(r *bufio.Reader) error { _, err := wire.ReadUnix(r); return err }},
		"packet too long":  {"\x00\x04\x00\x01", func(r *bufio.Reader) error { _, err := wire.ReadPacket(r, nil); return err }},
		"family 5":         {"\x05", func(r *bufio.Reader) error { _, err := wire.ReadDial(r); return err }},
		"dial without":     {"\x00", func(r *bufio.Reader) error { _, err := wire.ReadDial(r); return err }},
		"mapped address":   {"\x06" + strings.Repeat("\x00", 10) + "\xff\xff\x01\x02\x03\x04\x00\x50", func(r *bufio.Reader) error { _, err := wire.ReadDial(r); return err }},
		"transport 3":      {"\x03\x00\x00", func(r *bufio.Reader) error { _, err := wire.ReadQuery(r); return err }},
		"mode 3":           {"\x03\x00\x00", func(r *bufio.Reader) error { _, err := wire.ReadIncoming(r); return err }},
		"incoming without": {"\x02\x00\x00", func(r *bufio.Reader) error { _, err := wire.ReadIncoming(r); return err }},
		"datagram type 9":  {"\x09\x04\x01\x02\x03\x04\x00\x50", func(r *bufio.Reader) error { _, err := wire.ReadDatagram(r); return err }},
		"control too long": {"\xff\xff\xff\xff{}", func(r *bufio.Reader) error { _, err := wire.ReadControl(r); return err }},
		"control no JSON":  {"\x00\x00\x00\x02{]", func(r *bufio.Reader) error { _, err := wire.ReadControl(r); return err }},
		"control mode":     {"\x00\x00\x00\x1e" + `{"subscribe":{"mode":"borrow"}}`[:30], func(r *bufio.Reader) error { _, err := wire.ReadControl(r); return err }},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if err := c.read(bufio.NewReader(strings.NewReader(c.in))); !errors.Is(err, wire.ErrMalformed) {
				t.Fatalf("got %v, want ErrMalformed", err)
			}
		})
	}
	if err := wire.WriteQuery(io.Discard, wire.Query{Transport: wire.UDP, Message: make([]byte, wire.MaxMessage+1)}); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("an over-long query was written: %v", err)
	}
}

// TestLargestEnvironment is what Linux allows a process at most.
func TestLargestEnvironment(t *testing.T) {
	v := wire.Variables(slices.Repeat([]string{strings.Repeat("\xff", 128<<10-1)}, 48))
	var b bytes.Buffer
	if err := wire.WriteControl(&b, wire.Control{ID: 1, Result: &wire.Result{Environ: v}}); err != nil {
		t.Fatal(err)
	}
	c, err := wire.ReadControl(&b)
	if err != nil || !slices.Equal(c.Result.Environ, v) {
		t.Fatalf("it did not arrive as it was: %v", err)
	}
}

func kind(r *bufio.Reader) error { _, err := wire.ReadKind(r); return err }

// TestFilesHeader: what follows is package targetfs's.
func TestFilesHeader(t *testing.T) {
	var b bytes.Buffer
	if err := wire.WriteFilesHeader(&b); err != nil {
		t.Fatal(err)
	}
	if k, err := wire.ReadKind(&b); k != wire.KindFiles || err != nil || k.String() != "files" {
		t.Errorf("%v, %v", k, err)
	}
}

// FuzzStream feeds every reader: none may panic, and what one accepts it must write back
// in a form that reads the same.
func FuzzStream(f *testing.F) {
	for _, m := range messages() {
		var b bytes.Buffer
		if _, control := m.want.(wire.Control); control {
			_ = wire.WriteControlHeader(&b)
		}
		if err := m.write(&b); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bufio.NewReader(bytes.NewReader(in))
		k, err := wire.ReadKind(r)
		if err != nil {
			return
		}
		var got any
		var b bytes.Buffer
		switch k {
		case wire.KindControl:
			c, err := wire.ReadControl(r)
			if err != nil {
				return
			}
			if err := wire.WriteControl(&b, c); err != nil {
				t.Fatalf("%+v can be read but not written: %v", c, err)
			}
			again, err := wire.ReadControl(&b)
			if d := cmp.Diff(c, again, addrs, cmpopts.EquateEmpty()); err != nil || d != "" {
				t.Fatalf("read again (-first +second): %v\n%s", err, d)
			}
			return
		case wire.KindDial:
			d, err := wire.ReadDial(r)
			if err != nil {
				return
			}
			got, err = d, wire.WriteDial(&b, d)
			if err != nil {
				t.Fatal(err)
			}
		case wire.KindDatagrams:
			d, err := wire.ReadDatagram(r)
			if err != nil {
				return
			}
			_ = wire.WriteDatagramsHeader(&b)
			got, err = d, wire.WriteDatagram(&b, d)
			if err != nil {
				t.Fatal(err)
			}
		case wire.KindResolve:
			q, err := wire.ReadQuery(r)
			if err != nil {
				return
			}
			got, err = q, wire.WriteQuery(&b, q)
			if err != nil {
				t.Fatal(err)
			}
		case wire.KindUnix:
			u, err := wire.ReadUnix(r)
			if err != nil {
				return
			}
			got, err = u, wire.WriteUnix(&b, u)
			if err != nil {
				t.Fatal(err)
			}
		case wire.KindIncoming:
			i, err := wire.ReadIncoming(r)
			if err != nil {
				return
			}
			got, err = i, wire.WriteIncoming(&b, i)
			if err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.HasPrefix(in, b.Bytes()) {
			t.Fatalf("%+v was written as %x, read from %x", got, b.Bytes(), in)
		}
	})
}
