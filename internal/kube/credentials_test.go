package kube

import (
	"encoding/base64"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/mirrord-go/mirrord/internal/tlsconn/tlstest"
)

// FuzzCredentials: whatever a kubeconfig has as certificate and token, there is advice.
func FuzzCredentials(f *testing.F) {
	p := tlstest.New(f, "authority").Issue("anna")
	claims := func(text string) string { return "e30." + base64.RawURLEncoding.EncodeToString([]byte(text)) + ".c2ln" }
	f.Add(p.CertPEM, claims(`{"exp":1}`))
	f.Add(p.CertPEM[:50], claims(`{"exp":"1"}`))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"), claims(`{"exp":-9223372036854775808}`))
	f.Add([]byte(nil), "a.b.c")
	f.Fuzz(func(t *testing.T, cert []byte, token string) {
		c := credentials{config: &rest.Config{BearerToken: token, TLSClientConfig: rest.TLSClientConfig{CertData: cert}}}
		if c.advice() == "" {
			t.Error("no advice")
		}
		if at, ok := c.tokenEnd(); !ok && !at.Equal(time.Time{}) {
			t.Errorf("an end at %v that there is not", at)
		}
	})
}
