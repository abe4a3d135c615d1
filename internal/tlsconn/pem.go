package tlsconn

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
)

// ErrNone says that a file has no certificate.
var ErrNone = errors.New("there is no certificate in the file")

// Certificates reads all certificates of a PEM file, of which there must be one. Other entries,
// such as keys, are ignored.
func Certificates(b []byte) ([]*x509.Certificate, error) {
	var all []*x509.Certificate
	for {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	if len(all) == 0 {
		return nil, ErrNone
	}
	return all, nil
}
