package resume

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

// minKey is the least length of a secret, in bytes.
const minKey = 32

// keys are what both sides make of the secret.
type keys struct {
	id             [idSize]byte // names the connection to the server; no secret once it was used
	client, server []byte
}

func newKeys(secret []byte) (*keys, error) {
	if len(secret) < minKey {
		return nil, fmt.Errorf("resume: a secret of %d bytes is too short, %d are needed", len(secret), minKey)
	}
	k := &keys{}
	for _, part := range []struct {
		name string
		set  func([]byte)
		size int
	}{
		{"id", func(b []byte) { copy(k.id[:], b) }, idSize},
		{"client", func(b []byte) { k.client = b }, sha256.Size},
		{"server", func(b []byte) { k.server = b }, sha256.Size},
	} {
		b, err := hkdf.Expand(sha256.New, secret, "mirrord resume 1 "+part.name, part.size)
		if err != nil {
			return nil, fmt.Errorf("resume: deriving keys: %w", err)
		}
		part.set(b)
	}
	return k, nil
}

// exchange is what both sides of one handshake have said.
type exchange struct {
	id                         [idSize]byte
	clientNonce, serverNonce   [nonceSize]byte
	clientOffset, serverOffset uint64
}

// clientProof says that the client knows the secret, and how much it has received.
func (k *keys) clientProof(x *exchange) []byte { return prove(k.client, x, x.clientOffset) }

// serverProof says the same of the server, which has heard the client.
func (k *keys) serverProof(x *exchange) []byte {
	return prove(k.server, x, x.clientOffset, x.serverOffset)
}

func prove(key []byte, x *exchange, offsets ...uint64) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte{Version})
	m.Write(x.id[:])
	m.Write(x.clientNonce[:])
	m.Write(x.serverNonce[:])
	for _, o := range offsets {
		m.Write(binary.BigEndian.AppendUint64(nil, o))
	}
	return m.Sum(nil)
}
