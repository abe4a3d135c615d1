package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"time"

	"github.com/quic-go/quic-go/http3"
)

func serveHTTP3(ctx context.Context, name, addr string) error {
	certificate, err := selfSigned()
	if err != nil {
		return err
	}
	s := &http3.Server{
		Addr:      addr,
		TLSConfig: http3.ConfigureTLSConfig(&tls.Config{Certificates: []tls.Certificate{certificate}}),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set(serverHeader, name)
			w.Header().Set(peerHeader, r.RemoteAddr)
			_, _ = io.Copy(w, r.Body)
		}),
	}
	return serveUntil(ctx, s.Close, s.ListenAndServe)
}

// selfSigned makes a certificate that nobody checks: what is tested is the way, not the peer.
func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().AddDate(1, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

func askHTTP3(ctx context.Context, addr string) (*report, error) {
	r := &report{}
	transport := &http3.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} // see selfSigned
	defer transport.Close()
	client := &http.Client{Transport: transport}
	post := func(size int) error {
		body := bytes.Repeat([]byte("3"), size)
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+addr+"/", bytes.NewReader(body))
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		got, err := io.ReadAll(resp.Body)
		if err != nil {
			return err
		}
		if resp.ProtoMajor != 3 || !bytes.Equal(got, body) {
			return fmt.Errorf("%s %s with %d bytes, want %d", resp.Proto, resp.Status, len(got), size)
		}
		r.Server, r.Peer = resp.Header.Get(serverHeader), resp.Header.Get(peerHeader)
		return nil
	}
	if err := post(10); err != nil {
		return r, err
	}
	r.did("request")
	results := make(chan error)
	for range 20 {
		go func() { results <- post(1 << 16) }()
	}
	var problems []error
	for range 20 {
		problems = append(problems, <-results)
	}
	if err := errors.Join(problems...); err != nil {
		return r, err
	}
	r.did("streams side by side")
	if err := post(8 << 20); err != nil {
		return r, err
	}
	r.did("large body")
	return r, nil
}
