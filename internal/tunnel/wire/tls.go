package wire

import (
	"bytes"
	"fmt"
	"io"

	"github.com/mirrord-go/mirrord/internal/tlsport"
)

// KindIncomingTLS is an incoming connection whose TLS the agent has ended: what [KindIncoming] has,
// with the [TLSInfo] behind the addresses.
const KindIncomingTLS Kind = 8

// SubscribeTLS says that the client understands streams of [KindIncomingTLS].
type SubscribeTLS struct {
	// Port is how TLS ends on the port; nil when the client knows of nothing. Where there is an
	// operator, its word counts instead.
	Port *tlsport.Port `json:"port,omitempty"`
}

// TLSInfo is what the client of a connection and the agent agreed on. Neither has more than 255
// bytes.
type TLSInfo struct {
	// ServerName is the name that the client asked for (SNI); empty when it named none.
	ServerName string
	// ALPN is the protocol inside of TLS; empty for none.
	ALPN string
}

// maxTLSName is the longest of the strings in [TLSInfo], in bytes.
const maxTLSName = 255

func (i TLSInfo) append(b []byte) ([]byte, error) {
	for _, s := range []string{i.ServerName, i.ALPN} {
		if len(s) > maxTLSName {
			return nil, fmt.Errorf("%w: a name of %d bytes", ErrMalformed, len(s))
		}
		b = append(append(b, byte(len(s))), s...)
	}
	return b, nil
}

// ReadIncomingTLS reads what follows the kind of a stream of [KindIncomingTLS].
func ReadIncomingTLS(r io.Reader) (Incoming, error) {
	in, err := ReadIncoming(r)
	if err != nil {
		return Incoming{}, err
	}
	in.TLS = new(TLSInfo)
	for _, s := range []*string{&in.TLS.ServerName, &in.TLS.ALPN} {
		var n [1]byte
		if _, err := io.ReadFull(r, n[:]); err != nil {
			return Incoming{}, noEOF(err)
		}
		b := make([]byte, n[0])
		if _, err := io.ReadFull(r, b); err != nil {
			return Incoming{}, noEOF(err)
		}
		if bytes.IndexByte(b, 0) >= 0 {
			return Incoming{}, fmt.Errorf("%w: a name with a zero byte", ErrMalformed)
		}
		*s = string(b)
	}
	return in, nil
}
