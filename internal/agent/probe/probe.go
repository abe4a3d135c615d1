// Package probe tells the kubelet's probes from other connections. While a session takes a
// port's connections, the probes of that port have to stay with the target: a local process
// that answers late or wrongly must not get a container restarted.
//
// A connection counts as a probe when both are true: it comes from where the kubelet of the
// pod's node probes from ([Sources]), and it looks like a probe of a kind that the pod
// declares ([Classify]). The source alone says too little, because what enters a cluster
// through a node often has the node's address.
//
// A TCP probe is over when the connection is accepted, so while a port is taken, its TCP
// probes succeed whether or not the target listens.
package probe

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

const (
	// Patience is how long [Classify] waits for a connection to show what it is. The kubelet
	// sends its request at once; a client that waits for the server to speak first is kept
	// waiting this long, if it comes from the kubelet's addresses. An HTTP/2 client that got
	// the settings it waited for has ten times as long.
	Patience = 500 * time.Millisecond

	// nudgeAfter is how long an HTTP/2 client may be silent after its preface before it gets
	// the server's settings that it seems to wait for.
	nudgeAfter = 20 * time.Millisecond
	// ackPatience is how long a client has then to acknowledge them.
	ackPatience = 5 * time.Second

	// maxPeek bounds what is read before deciding, in bytes, and maxPeekAck what is read
	// before an acknowledgement: more than a client may send before it hears from a server.
	maxPeek    = 32 << 10
	maxPeekAck = 128 << 10
)

// userAgent is how the user agent of the kubelet's HTTP and gRPC probes begins
// (k8s.io/kubernetes/pkg/probe).
const userAgent = "kube-probe/"

// ErrNoAck says that an HTTP/2 client did not acknowledge the server's settings in time. Its
// connection can't be used any more.
var ErrNoAck = errors.New("the HTTP/2 client does not acknowledge settings")

// Conn is what [Classify] needs of a connection. The write half is used for one thing only,
// see there.
type Conn interface {
	io.ReadWriter
	SetReadDeadline(time.Time) error
}

// Classify reads from a new connection until it is clear whether it is a probe of one of the
// kinds, at most for about [Patience]. What it read is in peeked, also when it returns an
// error, and has to be handled before anything else from c. Without kinds it reads nothing.
// It leaves c without a read deadline.
//
//   - http: a GET request of HTTP/1 whose User-Agent begins with "kube-probe/";
//   - grpc: an HTTP/2 connection without TLS whose first request has such a user agent;
//   - https: a TLS ClientHello (nothing more is visible);
//   - tcp: a connection that is closed before any data.
//
// A gRPC client sends no request before it has the server's settings (RFC 9113, section 3.4).
// When a client only sends its preface, Classify writes the first, empty, SETTINGS frame
// itself and takes the acknowledgement out of peeked, so that for the server that the
// connection is handed to its own settings are the first.
//
// The error is ctx's, a failed read or write of c, or [ErrNoAck].
func Classify(ctx context.Context, c Conn, kinds []wire.ProbeKind) (isProbe bool, peeked []byte, err error) {
	if len(kinds) == 0 {
		return false, nil, nil
	}
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(interrupted)
		_ = c.SetReadDeadline(time.Unix(1, 0))
	})
	p := peek{ctx: ctx, conn: c, judge: judge{kinds: kinds}}
	isProbe, err = p.run()
	if !stop() {
		<-interrupted
		err = ctx.Err()
	}
	if derr := c.SetReadDeadline(time.Time{}); err == nil {
		err = derr
	}
	return isProbe && err == nil, p.judge.withoutAck(), err
}

// peek is one call of [Classify].
type peek struct {
	ctx   context.Context
	conn  Conn
	judge judge
}

func (p *peek) run() (bool, error) {
	end := time.Now().Add(Patience)
	v := undecided
	for v == undecided {
		deadline := end
		canNudge := p.judge.awaitsServer()
		if canNudge {
			deadline = earlier(end, time.Now().Add(nudgeAfter))
		}
		switch err := p.read(deadline); {
		case err == nil:
			v = p.judge.next()
		case errors.Is(err, os.ErrDeadlineExceeded):
			if !canNudge || !time.Now().Before(end) || p.ctx.Err() != nil {
				v = no
				break
			}
			if err := p.nudge(); err != nil {
				return false, err
			}
			// It has what it waited for. If it says nothing now, it has nothing to
			// say, and keeping it costs nobody anything.
			end = time.Now().Add(ackPatience)
		default:
			return p.judge.ended(err)
		}
		if len(p.judge.buf) >= maxPeek && v == undecided {
			v = no
		}
	}
	return v == yes, p.awaitAck()
}

// read reads once, behind what is there.
func (p *peek) read(deadline time.Time) error {
	if p.ctx.Err() != nil {
		return p.ctx.Err()
	}
	if err := p.conn.SetReadDeadline(deadline); err != nil {
		return err
	}
	if p.ctx.Err() != nil { // Its deadline may just have been overwritten.
		return p.ctx.Err()
	}
	b := slices.Grow(p.judge.buf, 1024)
	n, err := p.conn.Read(b[len(b):min(cap(b), maxPeekAck+1024)])
	p.judge.buf = b[:len(b)+n]
	if n > 0 {
		return nil // An error comes again.
	}
	return err
}

// nudge sends an empty SETTINGS frame: length 0, type 4, no flags, stream 0.
func (p *peek) nudge() error {
	p.judge.h2.nudged = true
	_, err := p.conn.Write([]byte{0, 0, 0, frameSettings, 0, 0, 0, 0, 0})
	return err
}

// awaitAck reads until the acknowledgement of our settings is there, if we sent any.
func (p *peek) awaitAck() error {
	for end := time.Now().Add(ackPatience); p.judge.owesAck(); {
		err := p.read(end)
		if errors.Is(err, os.ErrDeadlineExceeded) || len(p.judge.buf) >= maxPeekAck {
			return ErrNoAck
		}
		if err != nil {
			return err
		}
		p.judge.next()
	}
	return nil
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// verdict is what is known of a connection.
type verdict int

const (
	undecided verdict = iota
	yes
	no
)

// judge decides from the bytes that a connection has begun with.
type judge struct {
	kinds []wire.ProbeKind
	buf   []byte
	line  int // where the next line of an HTTP/1 header begins
	h2    http2Judge
}

func (j *judge) declared(k wire.ProbeKind) bool { return slices.Contains(j.kinds, k) }

// next looks at the bytes that have come since its last call.
func (j *judge) next() verdict {
	const tlsHandshake = 0x16
	switch {
	case len(j.buf) == 0:
		return undecided
	case j.declared(wire.ProbeHTTPS) && j.buf[0] == tlsHandshake:
		return clientHello(j.buf)
	case j.declared(wire.ProbeHTTP) && begins(j.buf, "GET "):
		return j.http1()
	case j.declared(wire.ProbeGRPC) && begins(j.buf, preface):
		return j.h2.next(j.buf)
	}
	return no
}

// ended decides about a connection that ended, by err, before it was clear what it is.
func (j *judge) ended(err error) (bool, error) {
	if len(j.buf) == 0 && j.declared(wire.ProbeTCP) && closed(err) {
		return true, nil
	}
	if errors.Is(err, io.EOF) {
		if j.owesAck() {
			return false, ErrNoAck
		}
		return false, nil
	}
	return false, err
}

// closed says whether an error of a read means that the peer closed the connection; one that
// leaves in a hurry sends a reset.
func closed(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) }

func (j *judge) awaitsServer() bool { return j.h2.settings && !j.h2.nudged }
func (j *judge) owesAck() bool      { return j.h2.nudged && j.h2.ack == 0 }

// withoutAck is what was read, without the acknowledgement of a SETTINGS frame of ours.
func (j *judge) withoutAck() []byte {
	if j.h2.ack == 0 {
		return j.buf
	}
	return slices.Delete(j.buf, j.h2.ack, j.h2.ack+frameHeaderLen)
}

// begins says whether b begins with s, as far as it goes.
func begins(b []byte, s string) bool {
	n := min(len(b), len(s))
	return string(b[:n]) == s[:n]
}

// clientHello judges the head of a TLS record (RFC 8446, sections 4 and 5.1): a handshake of
// any version whose first message is a ClientHello.
func clientHello(b []byte) verdict {
	const (
		versionMajor = 3
		helloType    = 1
	)
	if len(b) > 1 && b[1] != versionMajor || len(b) > 5 && b[5] != helloType {
		return no
	}
	if len(b) < 6 {
		return undecided
	}
	return yes
}

// http1 judges a request that begins with GET by its first User-Agent.
func (j *judge) http1() verdict {
	for {
		end := bytes.IndexByte(j.buf[j.line:], '\n')
		if end < 0 {
			return undecided
		}
		line := bytes.TrimSuffix(j.buf[j.line:j.line+end], []byte("\r"))
		first := j.line == 0
		j.line += end + 1
		if first {
			if !bytes.Contains(line, []byte(" HTTP/1.")) {
				return no
			}
			continue
		}
		if len(line) == 0 {
			return no
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		if bytes.EqualFold(name, []byte("User-Agent")) {
			return judgeAgent(string(bytes.TrimSpace(value)))
		}
	}
}

func judgeAgent(ua string) verdict {
	if len(ua) >= len(userAgent) && ua[:len(userAgent)] == userAgent {
		return yes
	}
	return no
}

// Sources are the addresses that the kubelet of a pod's node probes the pod from. The zero
// value has none.
type Sources struct{ addrs []netip.Addr }

// NewSources makes a set of the addresses of the node, as the cluster knows them, and those
// of the default gateways of the pod's network namespace, see [Gateways]: where pods hang on
// a bridge, the kubelet's packets have the bridge's address, which is the pods' gateway.
func NewSources(node, gateways []netip.Addr) Sources {
	var s Sources
	for _, a := range slices.Concat(node, gateways) {
		if a = a.Unmap().WithZone(""); a.IsValid() && !s.Contains(a) {
			s.addrs = append(s.addrs, a)
		}
	}
	return s
}

// Contains says whether the kubelet may connect from an address.
func (s Sources) Contains(a netip.Addr) bool {
	return slices.Contains(s.addrs, a.Unmap().WithZone(""))
}
