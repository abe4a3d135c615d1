package pki_test

import (
	"crypto/tls"
	"crypto/x509"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mirrord-go/mirrord/test/cluster/internal/pki"
)

func TestWrite(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	c := pki.Cluster{Server: "https://10.200.0.2:6443", Node: "node1", IPs: []netip.Addr{netip.MustParseAddr("10.200.0.2"), netip.MustParseAddr("fd00::2")}}
	if err := pki.Write(dir, c); err != nil {
		t.Fatal(err)
	}
	read := func(name string) []byte {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, tt := range []struct {
		name, ca, user, host string
		usage                x509.ExtKeyUsage
	}{
		{name: "apiserver", ca: "ca", host: "kubernetes.default.svc", usage: x509.ExtKeyUsageServerAuth},
		{name: "apiserver", ca: "ca", host: "fd00::2", usage: x509.ExtKeyUsageServerAuth},
		{name: "kubelet", ca: "ca", host: "10.200.0.2", usage: x509.ExtKeyUsageServerAuth},
		{name: "admin", ca: "ca", user: "kubernetes-admin", usage: x509.ExtKeyUsageClientAuth},
		{name: "node", ca: "ca", user: "system:node:node1", usage: x509.ExtKeyUsageClientAuth},
		{name: "front-proxy-client", ca: "front-proxy-ca", user: "front-proxy-client", usage: x509.ExtKeyUsageClientAuth},
	} {
		t.Run(tt.name+tt.host, func(t *testing.T) {
			keyPair, err := tls.X509KeyPair(read(tt.name+".crt"), read(tt.name+".key"))
			if err != nil {
				t.Fatal(err)
			}
			roots := x509.NewCertPool()
			roots.AppendCertsFromPEM(read(tt.ca + ".crt"))
			if _, err := keyPair.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: tt.host, KeyUsages: []x509.ExtKeyUsage{tt.usage}}); err != nil {
				t.Error(err)
			}
			if tt.user != "" && keyPair.Leaf.Subject.CommonName != tt.user {
				t.Errorf("user %q, want %q", keyPair.Leaf.Subject.CommonName, tt.user)
			}
		})
	}
	if config := string(read("admin.kubeconfig")); !strings.Contains(config, `server: "https://10.200.0.2:6443"`) {
		t.Errorf("kubeconfig without the server:\n%s", config)
	}
	info, err := os.Stat(filepath.Join(dir, "ca.key"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("ca.key: %v, %v", info.Mode(), err)
	}
}
