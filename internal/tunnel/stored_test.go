package tunnel

import (
	"bytes"
	"testing"
)

func TestAStoredKeyKeepsItsFingerprint(t *testing.T) {
	id, err := NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	text, err := id.PrivateKeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseIdentity(text)
	if err != nil {
		t.Fatal(err)
	}
	if again.Fingerprint() != id.Fingerprint() {
		t.Errorf("fingerprint %s became %s", id.Fingerprint(), again.Fingerprint())
	}
	for name, bad := range map[string][]byte{
		"nothing":      nil,
		"no key":       []byte("hello"),
		"another type": bytes.ReplaceAll(text, []byte("PRIVATE KEY"), []byte("CERTIFICATE")),
		"cut":          append(append([]byte{}, text[:40]...), text[60:]...),
	} {
		if _, err := ParseIdentity(bad); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}
