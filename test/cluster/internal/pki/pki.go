// Package pki makes the certificates, keys and kubeconfig files of a cluster.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"
)

// lifetime of every certificate: much longer than any test cluster lives.
const lifetime = 5 * 365 * 24 * time.Hour

// Cluster is what the certificates are made for.
type Cluster struct {
	Server string       // URL of the API server
	Node   string       // name of the node
	IPs    []netip.Addr // under which the API server and the kubelet are reached
}

// pair is a certificate with its key.
type pair struct {
	cert    *x509.Certificate
	key     crypto.Signer
	certPEM []byte
	keyPEM  []byte
}

// Write makes everything anew and writes it into dir, which it makes:
//
//	ca, front-proxy-ca                             .crt, .key
//	apiserver, kubelet                             .crt, .key, servers
//	apiserver-kubelet-client, front-proxy-client   .crt, .key, clients
//	admin                                          .crt, .key, .kubeconfig
//	controller-manager, scheduler, proxy, node     .crt, .key, .kubeconfig
//	sa                                             .key, .pub, signs service account tokens
func Write(dir string, c Cluster) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("certificates: %w", err)
	}
	w := writer{dir: dir}
	ca := w.authority("ca", "kubernetes-ca")
	proxyCA := w.authority("front-proxy-ca", "front-proxy-ca")
	w.client("front-proxy-client", "front-proxy-client", nil, proxyCA)
	w.client("apiserver-kubelet-client", "kube-apiserver-kubelet-client", []string{"system:masters"}, ca)
	w.server("apiserver", "kube-apiserver", c, ca, "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")
	w.server("kubelet", c.Node, c, ca)
	w.serviceAccounts("sa")
	for _, u := range []struct {
		file, user string
		groups     []string
	}{
		{"admin", "kubernetes-admin", []string{"system:masters"}},
		{"controller-manager", "system:kube-controller-manager", nil},
		{"scheduler", "system:kube-scheduler", nil},
		{"proxy", "system:kube-proxy", nil},
		{"node", "system:node:" + c.Node, []string{"system:nodes"}},
	} {
		w.kubeconfig(u.file, c.Server, ca, w.client(u.file, u.user, u.groups, ca))
	}
	if w.err != nil {
		return fmt.Errorf("certificates: %w", w.err)
	}
	return nil
}

// writer keeps the first error: after it, nothing more is done.
type writer struct {
	dir string
	err error
}

func (w *writer) file(name string, content []byte) {
	if w.err == nil {
		w.err = os.WriteFile(filepath.Join(w.dir, name), content, 0o600)
	}
}

func (w *writer) authority(name, commonName string) *pair {
	return w.pair(name, &x509.Certificate{
		Subject: pkix.Name{CommonName: commonName}, IsCA: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
	}, nil)
}

func (w *writer) client(name, user string, groups []string, ca *pair) *pair {
	return w.pair(name, &x509.Certificate{
		Subject: pkix.Name{CommonName: user, Organization: groups}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, ca)
}

func (w *writer) server(name, commonName string, c Cluster, ca *pair, names ...string) *pair {
	ips := []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	for _, ip := range c.IPs {
		ips = append(ips, ip.AsSlice())
	}
	return w.pair(name, &x509.Certificate{
		Subject: pkix.Name{CommonName: commonName}, KeyUsage: x509.KeyUsageDigitalSignature,
		DNSNames: append(names, "localhost", c.Node), IPAddresses: ips,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, ca)
}

// pair makes and writes a certificate, signed by ca or by itself.
func (w *writer) pair(name string, template *x509.Certificate, ca *pair) *pair {
	if w.err != nil {
		return nil
	}
	p, err := newPair(template, ca)
	if err != nil {
		w.err = fmt.Errorf("%s: %w", name, err)
		return nil
	}
	w.file(name+".crt", p.certPEM)
	w.file(name+".key", p.keyPEM)
	return p
}

func newPair(template *x509.Certificate, ca *pair) (*pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)); err != nil {
		return nil, err
	}
	now := time.Now()
	template.NotBefore, template.NotAfter = now.Add(-time.Hour), now.Add(lifetime)
	template.BasicConstraintsValid = true
	parent, signer := template, crypto.Signer(key)
	if ca != nil {
		parent, signer = ca.cert, ca.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return &pair{cert: cert, key: key, certPEM: encode("CERTIFICATE", der), keyPEM: encode("PRIVATE KEY", keyDER)}, nil
}

// serviceAccounts writes the key that signs tokens. It is RSA because every JWT library verifies that.
func (w *writer) serviceAccounts(name string) {
	if w.err != nil {
		return
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		w.err = err
		return
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		w.err = err
		return
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		w.err = err
		return
	}
	w.file(name+".key", encode("PRIVATE KEY", private))
	w.file(name+".pub", encode("PUBLIC KEY", public))
}

func (w *writer) kubeconfig(name, server string, ca, user *pair) {
	if w.err != nil {
		return
	}
	b64 := base64.StdEncoding.EncodeToString
	w.file(name+".kubeconfig", fmt.Appendf(nil, `apiVersion: v1
kind: Config
current-context: mirrord-test
contexts:
- name: mirrord-test
  context: {cluster: mirrord-test, user: %[1]s}
clusters:
- name: mirrord-test
  cluster: {server: %[2]q, certificate-authority-data: %[3]s}
users:
- name: %[1]s
  user: {client-certificate-data: %[4]s, client-key-data: %[5]s}
`, name, server, b64(ca.certPEM), b64(user.certPEM), b64(user.keyPEM)))
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
