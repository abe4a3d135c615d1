package tlsconn_test

import (
	"bytes"
	"encoding/pem"
	"testing"

	"github.com/mirrord-go/mirrord/internal/tlsconn"
	"github.com/mirrord-go/mirrord/internal/tlsconn/tlstest"
)

// FuzzCertificates: files of the target and of users have certificates, each with its bytes, or an error says why not.
func FuzzCertificates(f *testing.F) {
	p := tlstest.New(f, "authority").Issue("shop")
	f.Add(p.CertPEM)
	f.Add(append(append([]byte("a comment\n"), p.KeyPEM...), p.CertPEM...))
	f.Add(p.KeyPEM)
	f.Add(p.CertPEM[:len(p.CertPEM)/2])
	f.Add(bytes.Repeat(p.CertPEM, 3))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"))
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, file []byte) {
		all, err := tlsconn.Certificates(file)
		if (len(all) == 0) != (err != nil) {
			t.Fatalf("%d certificates, %v", len(all), err)
		}
		var again []byte
		for _, c := range all {
			again = append(again, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
		}
		if same, err := tlsconn.Certificates(again); len(all) > 0 && (err != nil || len(same) != len(all)) {
			t.Errorf("%d of %d certificates when they are written again: %v", len(same), len(all), err)
		}
	})
}
