package tunnel

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"time"
)

// Identity is a key that one side made for one session, and a certificate that carries it.
// The private key never leaves the process that made it.
type Identity struct {
	cert tls.Certificate
	fp   Fingerprint
}

// Fingerprint names the public key of an [Identity]: the SHA-256 of its
// SubjectPublicKeyInfo. It is not secret; whoever knows it can recognise the key's owner.
type Fingerprint [sha256.Size]byte

const fingerprintPrefix = "sha256:"

// String returns "sha256:" and 64 hexadecimal digits.
func (f Fingerprint) String() string { return fingerprintPrefix + hex.EncodeToString(f[:]) }

// MarshalText returns what String does.
func (f Fingerprint) MarshalText() ([]byte, error) { return []byte(f.String()), nil }

// UnmarshalText accepts what MarshalText returns.
func (f *Fingerprint) UnmarshalText(b []byte) (err error) {
	*f, err = ParseFingerprint(string(b))
	return err
}

// ParseFingerprint reads what [Fingerprint.String] writes.
func ParseFingerprint(s string) (Fingerprint, error) {
	var f Fingerprint
	h, ok := strings.CutPrefix(s, fingerprintPrefix)
	if !ok {
		return f, fmt.Errorf("fingerprint %q does not start with %q", s, fingerprintPrefix)
	}
	b, err := hex.DecodeString(h)
	if err != nil || len(b) != len(f) {
		return f, fmt.Errorf("fingerprint %q is not %d hexadecimal digits after %q", s, 2*len(f), fingerprintPrefix)
	}
	copy(f[:], b)
	return f, nil
}

// NewIdentity makes a fresh Ed25519 key.
func NewIdentity() (*Identity, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a session key: %w", err)
	}
	return identityOf(key)
}

// identityOf wraps a key in a certificate. The fingerprint depends on the key alone.
func identityOf(key ed25519.PrivateKey) (*Identity, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("making a session key: %w", err)
	}
	// The validity is generous because peers compare keys, not dates: clocks of a laptop
	// and a node differ.
	t := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: "mirrord session"},
		NotBefore:    time.Unix(0, 0),
		NotAfter:     time.Date(2199, 1, 1, 0, 0, 0, 0, time.UTC),
		KeyUsage:     x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("making a session certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("making a session certificate: %w", err)
	}
	return &Identity{
		cert: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf},
		fp:   sha256.Sum256(leaf.RawSubjectPublicKeyInfo),
	}, nil
}

// Fingerprint names the identity's public key.
func (id *Identity) Fingerprint() Fingerprint { return id.fp }

// PeerError says that the other end of a carrier is not who was expected: something stands
// between the two, or the agent belongs to another session.
type PeerError struct {
	Want, Got Fingerprint
}

// Error names both keys in short.
func (e *PeerError) Error() string {
	short := func(f Fingerprint) string { return base64.RawURLEncoding.EncodeToString(f[:6]) }
	return fmt.Sprintf("the peer's key is %s, not %s", short(e.Got), short(e.Want))
}

// tlsConfig trusts exactly one key, whatever the certificate around it says.
func (id *Identity) tlsConfig(peer Fingerprint) *tls.Config {
	return id.TLSConfig(alpn, only(peer))
}

// alpn names the tunnel among protocols over TLS.
const alpn = "mirrord-go/1"

// only accepts one key, and says with a [PeerError] that another one is not it.
func only(peer Fingerprint) func(Fingerprint) error {
	return func(got Fingerprint) error {
		if got != peer {
			return &PeerError{Want: peer, Got: got}
		}
		return nil
	}
}

// TLSConfig returns the configuration of either side of a TLS 1.3 connection in which id is
// shown and the peer is known by its key alone: accept decides, and its error fails the
// handshake. Both sides have to name the same protocol (ALPN, RFC 7301).
func (id *Identity) TLSConfig(protocol string, accept func(peer Fingerprint) error) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{id.cert},
		ClientAuth:             tls.RequireAnyClientCert,
		SessionTicketsDisabled: true,
		// Small records are for browsers that can show a part of a page.
		DynamicRecordSizingDisabled: true,
		NextProtos:                  []string{protocol},
		// Verification is by key, below: there is no authority and no name to check.
		InsecureSkipVerify: true, //nolint:gosec // VerifyConnection pins the peer's key
		VerifyConnection: func(cs tls.ConnectionState) error {
			if len(cs.PeerCertificates) == 0 {
				return errors.New("the peer showed no certificate")
			}
			return accept(sha256.Sum256(cs.PeerCertificates[0].RawSubjectPublicKeyInfo))
		},
	}
}
