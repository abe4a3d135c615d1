// Package wire is the vocabulary of the tunnel: how a stream says what it is for, and the
// messages of the control stream. It encodes and decodes, and does nothing else; SPEC.md in
// the parent folder is its text.
//
// Everything read here comes from a peer that may be hostile. Readers allocate no more than
// the limits below and return an error that wraps [ErrMalformed] for what they can't accept.
package wire

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
)

// Version is the protocol version that this package speaks. Peers compare it in
// [Hello] and [Welcome]; a different major version ends the session with a message.
const Version = 1

// Limits of what a reader accepts.
const (
	// MaxMessage is the longest DNS message or datagram payload, in bytes.
	MaxMessage = 65535
	// MaxControl is the longest control frame, in bytes. An environment may be large: Linux
	// allows 6 MiB in all (execve(2)), which are 8 MiB in base64.
	MaxControl = 9 << 20
)

// ErrMalformed is wrapped by every error about bytes that do not follow SPEC.md.
var ErrMalformed = errors.New("malformed tunnel message")

// Kind says what a stream is for. It is the stream's first byte.
type Kind uint8

// The kinds of streams.
const (
	// KindControl carries [Control] frames both ways for as long as the session lasts.
	// The client opens exactly one, first.
	KindControl Kind = 1
	// KindDial asks the agent for a TCP connection from the target: [Dial], then
	// [DialReply], then raw bytes.
	KindDial Kind = 2
	// KindDatagrams is one UDP socket in the target's network: [Datagram] frames both ways.
	KindDatagrams Kind = 3
	// KindResolve is one DNS query: [Query] from the client, [Answer] from the agent.
	KindResolve Kind = 4
	// KindIncoming is one connection that arrived at the target, opened by the agent:
	// [Incoming], then [IncomingReply], then raw bytes.
	KindIncoming Kind = 5
	// KindUnix asks the agent for a connection to a Unix socket of the target: [Unix], then
	// [UnixReply], then raw bytes, or messages ([ReadPacket]).
	KindUnix Kind = 6
	// KindFiles carries requests about the target's files, and their answers: the messages of
	// package targetfs. The agent announces [CanFiles].
	KindFiles Kind = 7
)

// String returns the kind's name in SPEC.md.
func (k Kind) String() string {
	switch k {
	case KindControl:
		return "control"
	case KindDial:
		return "dial"
	case KindDatagrams:
		return "datagrams"
	case KindResolve:
		return "resolve"
	case KindIncoming:
		return "incoming"
	case KindIncomingTLS:
		return "incoming-tls"
	case KindUnix:
		return "unix"
	case KindFiles:
		return "files"
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// Errno is a Linux error number (the generic table, as on amd64 and arm64); 0 is success.
type Errno uint16

// Dial asks for a TCP connection from the target's network.
type Dial struct {
	// Addr is where to connect to.
	Addr netip.AddrPort
}

// DialReply answers [Dial].
type DialReply struct {
	// Errno is what connect(2) in the target's network failed with, or 0.
	Errno Errno
	// Local is the connection's local address there; the zero value when Errno is not 0.
	Local netip.AddrPort
}

// Transport says how a DNS query travelled on the client's side, which decides how long an
// answer may be (RFC 1035, section 4.2).
type Transport uint8

// The transports of a [Query].
const (
	UDP Transport = 1
	TCP Transport = 2
)

// Query is one DNS query in wire format.
type Query struct {
	Transport Transport
	Message   []byte
}

// Answer is the reply to a [Query].
type Answer struct {
	// Errno is set when there is no DNS answer at all: no name server could be reached.
	Errno Errno
	// Message is the DNS answer in wire format.
	Message []byte
}

// Mode says what happens to the target's connections on a subscribed port.
type Mode uint8

// The modes of an [Incoming] connection and of a [Subscribe] request.
const (
	// Mirror delivers a copy; the target keeps answering.
	Mirror Mode = 1
	// Steal delivers the connection itself; the target does not see it.
	Steal Mode = 2
)

// String returns the mode as the config file spells it.
func (m Mode) String() string {
	switch m {
	case Mirror:
		return "mirror"
	case Steal:
		return "steal"
	}
	return fmt.Sprintf("mode(%d)", uint8(m))
}

// MarshalText spells the mode as the config file does.
func (m Mode) MarshalText() ([]byte, error) {
	if m != Mirror && m != Steal {
		return nil, fmt.Errorf("%w: mode %d", ErrMalformed, m)
	}
	return []byte(m.String()), nil
}

// UnmarshalText accepts what MarshalText writes.
func (m *Mode) UnmarshalText(b []byte) error {
	switch string(b) {
	case "mirror":
		*m = Mirror
	case "steal":
		*m = Steal
	default:
		return fmt.Errorf("%w: mode %q", ErrMalformed, b)
	}
	return nil
}

// Incoming announces a connection that arrived at the target.
type Incoming struct {
	Mode Mode
	// Peer is the client's address as the target would have seen it.
	Peer netip.AddrPort
	// Local is the address the client connected to; its port is the subscribed port.
	Local netip.AddrPort
	// TLS is set for a connection whose TLS the agent has ended.
	TLS *TLSInfo
}

// IncomingReply answers [Incoming]. For a stolen connection an Errno other than 0 (usually
// ECONNREFUSED) tells the agent to hand the connection to the target instead.
type IncomingReply struct {
	Errno Errno
}

// DatagramType is the first byte of a [Datagram] frame.
type DatagramType uint8

// The types of datagram frames.
const (
	// DatagramData carries a payload to (client's frame) or from (agent's frame) Addr.
	DatagramData DatagramType = 1
	// DatagramError says that an earlier datagram to Addr failed with Errno; agent only.
	DatagramError DatagramType = 2
)

// Datagram is one frame of a datagrams stream.
type Datagram struct {
	Type    DatagramType
	Addr    netip.AddrPort
	Errno   Errno
	Payload []byte
}

// ReadKind reads a stream's first byte and refuses unknown kinds.
func ReadKind(r io.Reader) (Kind, error) {
	var b [1]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return 0, err
	}
	k := Kind(b[0])
	if (k < KindControl || k > KindFiles) && k != KindIncomingTLS {
		return 0, fmt.Errorf("%w: stream kind %d", ErrMalformed, b[0])
	}
	return k, nil
}

// WriteControlHeader writes the first byte of a control stream.
func WriteControlHeader(w io.Writer) error { return write(w, []byte{byte(KindControl)}) }

// WriteDatagramsHeader writes the first byte of a datagrams stream.
func WriteDatagramsHeader(w io.Writer) error { return write(w, []byte{byte(KindDatagrams)}) }

// WriteFilesHeader writes the first byte of a files stream.
func WriteFilesHeader(w io.Writer) error { return write(w, []byte{byte(KindFiles)}) }

// WriteDial writes the header of a dial stream, kind included.
func WriteDial(w io.Writer, d Dial) error {
	return write(w, appendAddr([]byte{byte(KindDial)}, d.Addr))
}

// ReadDial reads what follows the kind of a dial stream.
func ReadDial(r io.Reader) (Dial, error) {
	a, err := readAddr(r)
	if err == nil && !a.IsValid() {
		err = fmt.Errorf("%w: dial without an address", ErrMalformed)
	}
	return Dial{Addr: a}, err
}

// WriteDialReply writes the agent's answer to a dial stream.
func WriteDialReply(w io.Writer, d DialReply) error {
	return write(w, appendAddr(binary.BigEndian.AppendUint16(nil, uint16(d.Errno)), d.Local))
}

// ReadDialReply reads the agent's answer to a dial stream.
func ReadDialReply(r io.Reader) (DialReply, error) {
	e, err := readErrno(r)
	if err != nil {
		return DialReply{}, err
	}
	a, err := readAddr(r)
	return DialReply{Errno: e, Local: a}, err
}

// WriteQuery writes the header of a resolve stream, kind included.
func WriteQuery(w io.Writer, q Query) error {
	b, err := appendMessage([]byte{byte(KindResolve), byte(q.Transport)}, q.Message)
	if err != nil {
		return err
	}
	return write(w, b)
}

// ReadQuery reads what follows the kind of a resolve stream.
func ReadQuery(r io.Reader) (Query, error) {
	var b [1]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return Query{}, noEOF(err)
	}
	t := Transport(b[0])
	if t != UDP && t != TCP {
		return Query{}, fmt.Errorf("%w: transport %d", ErrMalformed, b[0])
	}
	m, err := readMessage(r)
	return Query{Transport: t, Message: m}, err
}

// WriteAnswer writes the agent's answer to a resolve stream.
func WriteAnswer(w io.Writer, a Answer) error {
	b, err := appendMessage(binary.BigEndian.AppendUint16(nil, uint16(a.Errno)), a.Message)
	if err != nil {
		return err
	}
	return write(w, b)
}

// ReadAnswer reads the agent's answer to a resolve stream.
func ReadAnswer(r io.Reader) (Answer, error) {
	e, err := readErrno(r)
	if err != nil {
		return Answer{}, err
	}
	m, err := readMessage(r)
	return Answer{Errno: e, Message: m}, err
}

// WriteIncoming writes the header of an incoming stream, kind included.
func WriteIncoming(w io.Writer, in Incoming) error {
	kind := KindIncoming
	if in.TLS != nil {
		kind = KindIncomingTLS
	}
	b := appendAddr(appendAddr([]byte{byte(kind), byte(in.Mode)}, in.Peer), in.Local)
	if in.TLS != nil {
		var err error
		if b, err = in.TLS.append(b); err != nil {
			return err
		}
	}
	return write(w, b)
}

// ReadIncoming reads what follows the kind of an incoming stream.
func ReadIncoming(r io.Reader) (Incoming, error) {
	var b [1]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return Incoming{}, noEOF(err)
	}
	in := Incoming{Mode: Mode(b[0])}
	if in.Mode != Mirror && in.Mode != Steal {
		return Incoming{}, fmt.Errorf("%w: mode %d", ErrMalformed, b[0])
	}
	var err error
	if in.Peer, err = readAddr(r); err != nil {
		return Incoming{}, err
	}
	if in.Local, err = readAddr(r); err != nil {
		return Incoming{}, err
	}
	if !in.Peer.IsValid() || !in.Local.IsValid() {
		return Incoming{}, fmt.Errorf("%w: incoming connection without addresses", ErrMalformed)
	}
	return in, nil
}

// WriteIncomingReply writes the client's answer to an incoming stream.
func WriteIncomingReply(w io.Writer, r IncomingReply) error {
	return write(w, binary.BigEndian.AppendUint16(nil, uint16(r.Errno)))
}

// ReadIncomingReply reads the client's answer to an incoming stream.
func ReadIncomingReply(r io.Reader) (IncomingReply, error) {
	e, err := readErrno(r)
	return IncomingReply{Errno: e}, err
}

// WriteDatagram writes one frame of a datagrams stream in a single Write.
func WriteDatagram(w io.Writer, d Datagram) error {
	b := appendAddr([]byte{byte(d.Type)}, d.Addr)
	switch d.Type {
	case DatagramData:
		var err error
		if b, err = appendMessage(b, d.Payload); err != nil {
			return err
		}
	case DatagramError:
		b = binary.BigEndian.AppendUint16(b, uint16(d.Errno))
	default:
		return fmt.Errorf("%w: datagram type %d", ErrMalformed, d.Type)
	}
	return write(w, b)
}

// ReadDatagram reads one frame of a datagrams stream. The payload is its own memory. A
// stream that ended between two frames gives io.EOF.
func ReadDatagram(r *bufio.Reader) (Datagram, error) {
	t, err := r.ReadByte()
	if err != nil {
		return Datagram{}, err
	}
	d := Datagram{Type: DatagramType(t)}
	if d.Addr, err = readAddr(r); err != nil {
		return Datagram{}, err
	}
	if !d.Addr.IsValid() {
		return Datagram{}, fmt.Errorf("%w: datagram without an address", ErrMalformed)
	}
	switch d.Type {
	case DatagramData:
		d.Payload, err = readMessage(r)
	case DatagramError:
		d.Errno, err = readErrno(r)
	default:
		err = fmt.Errorf("%w: datagram type %d", ErrMalformed, t)
	}
	return d, err
}

// An address is one byte (0, 4 or 6), the IP address's bytes, and the port; 0 is no address
// and has neither. IPv4-mapped addresses are sent as IPv4; zones are not sent.
func appendAddr(b []byte, a netip.AddrPort) []byte {
	ip := a.Addr().Unmap()
	switch {
	case !ip.IsValid():
		return append(b, 0)
	case ip.Is4():
		v := ip.As4()
		b = append(append(b, 4), v[:]...)
	default:
		v := ip.As16()
		b = append(append(b, 6), v[:]...)
	}
	return binary.BigEndian.AppendUint16(b, a.Port())
}

func readAddr(r io.Reader) (netip.AddrPort, error) {
	var b [18]byte
	if _, err := io.ReadFull(r, b[:1]); err != nil {
		return netip.AddrPort{}, noEOF(err)
	}
	var n int
	switch b[0] {
	case 0:
		return netip.AddrPort{}, nil
	case 4:
		n = 4
	case 6:
		n = 16
	default:
		return netip.AddrPort{}, fmt.Errorf("%w: address family %d", ErrMalformed, b[0])
	}
	if _, err := io.ReadFull(r, b[:n+2]); err != nil {
		return netip.AddrPort{}, noEOF(err)
	}
	ip, _ := netip.AddrFromSlice(b[:n])
	if ip.Is4In6() {
		return netip.AddrPort{}, fmt.Errorf("%w: IPv4-mapped address", ErrMalformed)
	}
	return netip.AddrPortFrom(ip, binary.BigEndian.Uint16(b[n:])), nil
}

func appendMessage(b, m []byte) ([]byte, error) {
	if len(m) > MaxMessage {
		return nil, fmt.Errorf("%w: message of %d bytes", ErrMalformed, len(m))
	}
	return append(binary.BigEndian.AppendUint16(b, uint16(len(m))), m...), nil
}

func readMessage(r io.Reader) ([]byte, error) {
	var l [2]byte
	if _, err := io.ReadFull(r, l[:]); err != nil {
		return nil, noEOF(err)
	}
	m := make([]byte, binary.BigEndian.Uint16(l[:]))
	if _, err := io.ReadFull(r, m); err != nil {
		return nil, noEOF(err)
	}
	return m, nil
}

func readErrno(r io.Reader) (Errno, error) {
	var b [2]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return 0, noEOF(err)
	}
	return Errno(binary.BigEndian.Uint16(b[:])), nil
}

func write(w io.Writer, b []byte) error {
	_, err := w.Write(b)
	return err
}

// noEOF turns the end of the stream inside a message into an error of its own.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
