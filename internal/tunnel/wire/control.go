package wire

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/mirrord-go/mirrord/internal/httpfilter"
)

// Control is one frame of the control stream: four bytes of length, big endian, then this
// as JSON. Exactly one of the pointers is set. Unknown fields are ignored, so that a newer
// peer may say more.
type Control struct {
	// ID pairs a request with its [Result]; the client counts up from 1. It is 0 in
	// messages that have no answer.
	ID uint64 `json:"id,omitempty"`

	Hello       *Hello       `json:"hello,omitempty"`
	Welcome     *Welcome     `json:"welcome,omitempty"`
	Subscribe   *Subscribe   `json:"subscribe,omitempty"`
	Unsubscribe *Unsubscribe `json:"unsubscribe,omitempty"`
	Environ     *Environ     `json:"environ,omitempty"`
	Result      *Result      `json:"result,omitempty"`
	Notice      *Notice      `json:"notice,omitempty"`
	Goodbye     *Goodbye     `json:"goodbye,omitempty"`
}

// Hello is the client's first message.
type Hello struct {
	Version int `json:"version"`
	// Client names the client's build, for logs.
	Client string `json:"client,omitempty"`
	// SessionID is the session's public name.
	SessionID string `json:"sessionID,omitempty"`
}

// Welcome is the agent's answer to [Hello].
type Welcome struct {
	Version int `json:"version"`
	// Agent names the agent's build.
	Agent string `json:"agent,omitempty"`
	// Hostname is the target's host name.
	Hostname string `json:"hostname,omitempty"`
	// Addresses are the addresses of the target's network, loopback and link-local ones left out.
	Addresses []netip.Addr `json:"addresses,omitempty"`
	// Targetless says that the agent has no target: nothing can be stolen, mirrored or read.
	Targetless bool `json:"targetless,omitempty"`
	// StealBackend is how connections are taken: "sk_lookup" or "nftables"; empty when
	// they can't be, and then StealProblem says why.
	StealBackend string `json:"stealBackend,omitempty"`
	StealProblem string `json:"stealProblem,omitempty"`
	// MirrorProblem says why connections can't be captured; empty when they can.
	MirrorProblem string `json:"mirrorProblem,omitempty"`
	// FilesProblem says why the session has no files of the target; empty when it has. It counts with
	// [CanFiles] only.
	FilesProblem string `json:"filesProblem,omitempty"`
	// FileRules are the policies' rules for files. The agent enforces them; the client knows by them
	// what stays local.
	FileRules []FileRules `json:"fileRules,omitempty"`
	// Can names what this agent can do beyond what every agent of this version can: the
	// constants Can…. A client that needs something else refuses to start a session.
	Can []string `json:"can,omitempty"`
}

// FileRules are one policy's rules for files, as regular expressions without regard to case. When several match,
// Local comes first, then NotFound, then ReadOnly.
type FileRules struct {
	Policy   string   `json:"policy"`
	ReadOnly []string `json:"readOnly,omitempty"`
	Local    []string `json:"local,omitempty"`
	NotFound []string `json:"notFound,omitempty"`
}

// What an agent may announce in [Welcome].
const (
	// CanHTTPFilter is about Filter in [Subscribe].
	CanHTTPFilter = "http-filter"
	// CanFiles is about files of the target.
	CanFiles = "files"
	// CanTLS is about filters where the target terminates TLS.
	CanTLS = "tls"
	// CanTakeProbes is about TakeProbes in [Subscribe].
	CanTakeProbes = "take-probes"
)

// Subscribe asks for the connections of one port of the target. A second subscription of
// a port replaces the first. The agent answers with a [Result].
type Subscribe struct {
	Port uint16 `json:"port"`
	Mode Mode   `json:"mode"`
	// Probes are the kubelet's probes of this port, which stay with the target.
	Probes []Probe `json:"probes,omitempty"`
	// ProbeSources are addresses that the kubelet probes from (the node's), beside the
	// target's default gateways, which the agent knows itself.
	ProbeSources []netip.Addr `json:"probeSources,omitempty"`
	// TakeProbes leaves no probe with the target for this session's sake: they are connections
	// like all others. Only for agents that announce [CanTakeProbes]: others ignore it.
	TakeProbes bool `json:"takeProbes,omitempty"`
	// Filter, when not nil, says which HTTP requests are wanted; everything else stays with
	// the target. Each incoming stream then carries only such requests. Only for agents that
	// announce [CanHTTPFilter]: others ignore it.
	Filter *httpfilter.Spec `json:"filter,omitempty"`
	// HTTP is about how a filter is applied.
	HTTP HTTPOptions `json:"http,omitzero"`
	// TLS, when not nil, lets a filter look into TLS where its configuration is known; without it,
	// TLS stays with the target. Only for agents that announce [CanTLS]: others ignore it.
	TLS *SubscribeTLS `json:"tls,omitempty"`
}

// HTTPOptions are about subscriptions with a filter. Zero values are the defaults, and what is
// above a limit counts as the limit.
type HTTPOptions struct {
	// MarkResponses adds a header line [MarkHeader] to each response, which says who answered.
	MarkResponses bool `json:"markResponses,omitempty"`
	// BodyLimit is how large a body may be, in bytes, for a filter to look at it: 65535 by
	// default, at most 1 MiB. A larger one does not match.
	BodyLimit uint32 `json:"bodyLimit,omitempty"`
	// BodyTimeout is how long a body may take to arrive for a filter to look at it, in
	// milliseconds: 1000 by default, at most a minute. A slower one does not match.
	BodyTimeout uint32 `json:"bodyTimeout,omitempty"`
	// DetectTimeout is how long a connection may be silent, in milliseconds, before it counts as
	// one that is not HTTP: 2000 by default, at most a minute.
	DetectTimeout uint32 `json:"detectTimeout,omitempty"`
	// JQTimeout is how long a jq program may take for one request, in milliseconds: 50 by
	// default, at most 1000. A slower one does not match.
	JQTimeout uint32 `json:"jqTimeout,omitempty"`
}

// MarkHeader is the header field that says who answered a request: [MarkApp] or [MarkSession].
// It is that of the public tool.
const (
	MarkHeader  = "Mirrord-Agent"
	MarkApp     = "passed-through"
	MarkSession = "forwarded-to-client"
)

// ProbeKind says how the kubelet probes a port.
type ProbeKind string

// The kinds of probes.
const (
	ProbeHTTP  ProbeKind = "http"
	ProbeHTTPS ProbeKind = "https"
	ProbeGRPC  ProbeKind = "grpc"
	ProbeTCP   ProbeKind = "tcp"
)

// Probe is one way in which the kubelet probes a subscribed port.
type Probe struct {
	Kind ProbeKind `json:"kind"`
}

// Unsubscribe gives a port back to the target. Stolen connections that are open go on.
// The agent answers with a [Result].
type Unsubscribe struct {
	Port uint16 `json:"port"`
}

// Environ asks for the environment of the target's process; the answer is in [Result].
type Environ struct{}

// Result answers the request with the same ID.
type Result struct {
	// Error is empty when the request was carried out.
	Error string `json:"error,omitempty"`
	// Errno classifies Error for the program, when it comes from a system call.
	Errno Errno `json:"errno,omitempty"`
	// Moved counts the established connections that were ended so that they come back
	// to the session; only for [Subscribe].
	Moved int `json:"moved,omitempty"`
	// Environ is the environment; only for [Environ].
	Environ Variables `json:"environ,omitempty"`
}

// Variables are NAME=value pairs. Their bytes need not be UTF-8, which JSON text has to be:
// they travel as the kernel keeps them (proc_pid_environ(5)), each ended by a zero byte,
// in base64.
type Variables []string

// MarshalJSON writes the pairs. A pair is cut at a zero byte, which none can have.
func (v Variables) MarshalJSON() ([]byte, error) {
	var block []byte
	for _, pair := range v {
		pair, _, _ = strings.Cut(pair, "\x00")
		block = append(append(block, pair...), 0)
	}
	return json.Marshal(block)
}

// UnmarshalJSON reads the pairs and leaves out empty ones.
func (v *Variables) UnmarshalJSON(data []byte) error {
	var block []byte
	if err := json.Unmarshal(data, &block); err != nil {
		return err
	}
	*v = nil
	for pair := range bytes.SplitSeq(block, []byte{0}) {
		if len(pair) > 0 {
			*v = append(*v, string(pair))
		}
	}
	return nil
}

// Notice is something the agent wants the user to read: a mirrored connection that was
// dropped, for one.
type Notice struct {
	// Level is "info" or "warning".
	Level string `json:"level"`
	Text  string `json:"text"`
	// Port is the subscription that the notice is about, or 0.
	Port uint16 `json:"port,omitempty"`
	// Refused says that the notice is about something that the session wanted and that its
	// grant does not have.
	Refused bool `json:"refused,omitempty"`
}

// Goodbye ends the session on purpose, with a reason for the other side. The client's
// goodbye means that the session is over and the agent may stop at once.
type Goodbye struct {
	Reason string `json:"reason,omitempty"`
}

// WriteControl writes one frame of the control stream in a single Write.
func WriteControl(w io.Writer, c Control) error {
	b, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("encoding a control message: %w", err)
	}
	if len(b) > MaxControl {
		return fmt.Errorf("%w: control message of %d bytes", ErrMalformed, len(b))
	}
	return write(w, append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...))
}

// ReadControl reads one frame of the control stream. A stream that ended between two
// frames gives io.EOF.
func ReadControl(r io.Reader) (Control, error) {
	var l [4]byte
	if _, err := io.ReadFull(r, l[:]); err != nil {
		return Control{}, err
	}
	n := binary.BigEndian.Uint32(l[:])
	if n > MaxControl {
		return Control{}, fmt.Errorf("%w: control message of %d bytes", ErrMalformed, n)
	}
	// Grow with what really arrives: a length alone must not cost memory.
	b, err := io.ReadAll(io.LimitReader(r, int64(n)))
	if err != nil {
		return Control{}, noEOF(err)
	}
	if len(b) != int(n) {
		return Control{}, io.ErrUnexpectedEOF
	}
	var c Control
	if err := json.Unmarshal(b, &c); err != nil {
		return Control{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return c, nil
}
