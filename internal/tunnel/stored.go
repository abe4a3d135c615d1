package tunnel

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

// keyBlock is the type of PEM block that a stored key has (RFC 7468, PKCS #8).
const keyBlock = "PRIVATE KEY"

// PrivateKeyPEM is the identity's private key, for an identity that outlives its process. It is
// a secret.
func (id *Identity) PrivateKeyPEM() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(id.cert.PrivateKey)
	if err != nil {
		return nil, fmt.Errorf("encoding a key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: keyBlock, Bytes: der}), nil
}

// ParseIdentity makes the identity of a key that [Identity.PrivateKeyPEM] wrote: its fingerprint
// is the same.
func ParseIdentity(text []byte) (*Identity, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != keyBlock {
		return nil, errors.New("reading a key: it is no private key in PEM")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("reading a key: %w", err)
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, errors.New("reading a key: it is no Ed25519 key")
	}
	return identityOf(key)
}
