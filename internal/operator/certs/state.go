package certs

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"
)

// How long certificates live, and when they are replaced. A serving certificate never outlives
// its authority: an authority signs no more once less than renewCA is left.
const (
	lifeCA       = 365 * 24 * time.Hour
	renewCA      = 120 * 24 * time.Hour
	lifeServing  = 90 * 24 * time.Hour
	renewServing = 30 * 24 * time.Hour
	// backdated is how far clocks of the API server may be behind.
	backdated = time.Hour
)

// Keys of the Secret.
const (
	keyServingCert = "tls.crt"
	keyServingKey  = "tls.key"
	keyCACert      = "ca.crt"
	keyCAKey       = "ca.key"
	keyNextCert    = "next-ca.crt"
	keyNextKey     = "next-ca.key"
	keyOldCert     = "old-ca.crt"
)

// pair is a certificate and its private key, as read and as PEM.
type pair struct {
	cert            *x509.Certificate
	key             *ecdsa.PrivateKey
	certPEM, keyPEM []byte
}

// state is what the Secret holds: the authority that signs, the serving certificate, and while
// one authority replaces another, the next one or the old one.
type state struct {
	ca, serving, next *pair
	old               *x509.Certificate
	oldPEM            []byte
}

// decode reads a Secret's data. What is absent or makes no sense is nil, and why is in the error.
func decode(data map[string][]byte) (state, error) {
	var s state
	var problems []error
	read := func(certKey, keyKey string) *pair {
		if len(data[certKey]) == 0 && len(data[keyKey]) == 0 {
			return nil
		}
		p, err := decodePair(data[certKey], data[keyKey])
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", certKey, err))
		}
		return p
	}
	s.ca = read(keyCACert, keyCAKey)
	s.next = read(keyNextCert, keyNextKey)
	s.serving = read(keyServingCert, keyServingKey)
	if b := data[keyOldCert]; len(b) > 0 {
		cert, err := decodeCert(b)
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", keyOldCert, err))
		} else {
			s.old, s.oldPEM = cert, b
		}
	}
	return s, errors.Join(problems...)
}

func decodeCert(b []byte) (*x509.Certificate, error) {
	block, rest := pem.Decode(b)
	if block == nil || block.Type != "CERTIFICATE" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("it is not one certificate in PEM")
	}
	return x509.ParseCertificate(block.Bytes)
}

func decodePair(certPEM, keyPEM []byte) (*pair, error) {
	cert, err := decodeCert(certPEM)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(keyPEM)
	if block == nil {
		return nil, errors.New("its key is not PEM")
	}
	key, err := x509.ParseECPrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("its key is no ECDSA key") // the cause could show parts of the key
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return nil, errors.New("its key belongs to another certificate")
	}
	return &pair{cert: cert, key: key, certPEM: certPEM, keyPEM: keyPEM}, nil
}

// encode is the Secret's data.
func (s state) encode() map[string][]byte {
	data := map[string][]byte{}
	add := func(p *pair, certKey, keyKey string) {
		if p != nil {
			data[certKey], data[keyKey] = p.certPEM, p.keyPEM
		}
	}
	add(s.ca, keyCACert, keyCAKey)
	add(s.next, keyNextCert, keyNextKey)
	add(s.serving, keyServingCert, keyServingKey)
	if s.old != nil {
		data[keyOldCert] = s.oldPEM
	}
	return data
}

// bundle is what clients should trust: every authority whose certificates may be served, now or
// soon.
func (s state) bundle() []byte {
	var b []byte
	if s.ca != nil {
		b = append(b, s.ca.certPEM...)
	}
	if s.next != nil {
		b = append(b, s.next.certPEM...)
	}
	return append(b, s.oldPEM...)
}

// advance returns what the state should be now, and whether that is another one. Overlap is how
// long an authority must have been trusted before it signs; published says that the bundle of
// this state is where clients look.
func advance(s state, names []string, now time.Time, overlap time.Duration, published bool) (state, bool, error) {
	var err error
	changed := false
	if s.ca == nil || !s.ca.cert.IsCA || now.After(s.ca.cert.NotAfter) {
		s, changed = state{}, true // nothing of it can be verified any more
		if s.ca, err = newCA(names, now); err != nil {
			return s, false, err
		}
	}
	if s.old != nil && now.After(s.old.NotAfter) {
		s.old, s.oldPEM, changed = nil, nil, true
	}
	if s.next == nil && s.ca.cert.NotAfter.Sub(now) < renewCA {
		if s.next, err = newCA(names, now); err != nil {
			return s, false, err
		}
		changed, published = true, false
	}
	if s.next != nil && published && now.Sub(s.next.cert.NotBefore) >= backdated+overlap {
		s.old, s.oldPEM = s.ca.cert, s.ca.certPEM
		s.ca, s.next, changed = s.next, nil, true
	}
	if !s.servingGood(names, now) {
		if s.serving, err = newServing(s.ca, names, now); err != nil {
			return s, false, err
		}
		changed = true
	}
	return s, changed, nil
}

// servingGood says whether the serving certificate needs no replacement.
func (s state) servingGood(names []string, now time.Time) bool {
	if s.serving == nil {
		return false
	}
	c := s.serving.cert
	lasts := c.NotAfter.Sub(now) > renewServing || c.NotAfter.Equal(s.ca.cert.NotAfter)
	return lasts && c.CheckSignatureFrom(s.ca.cert) == nil && slices.Equal(c.DNSNames, names)
}

// newCA makes an authority for the names alone: whoever gets hold of its key can't pretend to be
// anybody else.
func newCA(names []string, now time.Time) (*pair, error) {
	return newPair(&x509.Certificate{
		Subject:                     pkix.Name{CommonName: fmt.Sprintf("mirrord-operator authority of %s", now.UTC().Format(time.DateOnly))},
		NotBefore:                   now.Add(-backdated),
		NotAfter:                    now.Add(lifeCA),
		KeyUsage:                    x509.KeyUsageCertSign,
		BasicConstraintsValid:       true,
		IsCA:                        true,
		MaxPathLenZero:              true,
		PermittedDNSDomains:         names,
		PermittedDNSDomainsCritical: true,
	}, nil)
}

func newServing(ca *pair, names []string, now time.Time) (*pair, error) {
	end := now.Add(lifeServing)
	if end.After(ca.cert.NotAfter) {
		end = ca.cert.NotAfter
	}
	return newPair(&x509.Certificate{
		Subject:               pkix.Name{CommonName: names[0]},
		NotBefore:             now.Add(-backdated),
		NotAfter:              end,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		DNSNames:              names,
	}, ca)
}

// newPair makes a key and has the certificate signed by the authority, or by itself.
func newPair(template *x509.Certificate, by *pair) (*pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)); err != nil {
		return nil, fmt.Errorf("making a serial number: %w", err)
	}
	parent, signer := template, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		return nil, fmt.Errorf("signing a certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("reading the signed certificate: %w", err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encoding a key: %w", err)
	}
	return &pair{
		cert: cert, key: key,
		certPEM: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		keyPEM:  pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}),
	}, nil
}
