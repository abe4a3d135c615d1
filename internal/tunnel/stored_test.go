package tunnel

import (
	"bytes"
	"strings"
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

// FuzzParseIdentity: what is read from a secret of the cluster is an identity, or nothing; and no error shows the key.
func FuzzParseIdentity(f *testing.F) {
	id, err := NewIdentity()
	if err != nil {
		f.Fatal(err)
	}
	text, err := id.PrivateKeyPEM()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add(text[:len(text)/2])
	f.Add(bytes.ReplaceAll(text, []byte("\n"), []byte("\r\n")))
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n"))
	f.Add([]byte("hello"))
	f.Fuzz(func(t *testing.T, text []byte) {
		id, err := ParseIdentity(text)
		if err != nil {
			if len(err.Error()) > 200 {
				t.Errorf("the error is longer than one that names no secret: %v", err)
			}
			return
		}
		again, err := id.PrivateKeyPEM()
		if err != nil {
			t.Fatal(err)
		}
		if same, err := ParseIdentity(again); err != nil || same.Fingerprint() != id.Fingerprint() {
			t.Errorf("it changes when it is stored: %v", err)
		}
	})
}

// FuzzParseFingerprint: there is one way to write a key.
func FuzzParseFingerprint(f *testing.F) {
	f.Add(Fingerprint{1, 2, 3}.String())
	f.Add("sha256:")
	f.Add("sha256:zz")
	f.Add("md5:00")
	f.Fuzz(func(t *testing.T, text string) {
		if fp, err := ParseFingerprint(text); err == nil && !strings.EqualFold(fp.String(), text) {
			t.Errorf("%q became %q", text, fp)
		}
	})
}
