package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// authority is a certificate that signs others.
type authority struct {
	tls.Certificate
	pem []byte
}

// newAuthority makes one that nobody knows.
func newAuthority(t *testing.T) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "somebody else"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authority{tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

// clusterAuthority is the cluster's own, which the test cluster keeps beside its kubeconfig.
func (s *stage) clusterAuthority(t *testing.T) authority {
	t.Helper()
	pki := filepath.Join(filepath.Dir(s.Cluster.Kubeconfig), "pki")
	pair, err := tls.LoadX509KeyPair(filepath.Join(pki, "ca.crt"), filepath.Join(pki, "ca.key"))
	if err != nil {
		t.Skipf("the key of the cluster's authority is not at hand: %v", err)
	}
	if pair.Leaf, err = x509.ParseCertificate(pair.Certificate[0]); err != nil {
		t.Fatal(err)
	}
	return authority{Certificate: pair}
}

// client makes a client certificate of a user in groups that ends at a time.
func (a authority) client(t *testing.T, name string, end time.Time, groups ...string) (certPEM, keyPEM []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name, Organization: groups},
		NotBefore: end.Add(-25 * time.Hour), NotAfter: end,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, a.Leaf, key.Public(), a.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
}

// closedPort is an address where nothing listens, and nothing else can during the test: a socket is bound to it.
func closedPort(t *testing.T) string {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() { _ = unix.Close(fd) })
	must(t, unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	name, err := unix.Getsockname(fd)
	must(t, err)
	return net.JoinHostPort("127.0.0.1", fmt.Sprint(name.(*unix.SockaddrInet4).Port))
}

// TestClusterMistakes names clusters that can't be spoken to. The target and the profile
// find it out alike.
func TestClusterMistakes(t *testing.T) {
	s := newStage(t)
	type kc = func(*clientcmdapi.Config, *clientcmdapi.Cluster, *clientcmdapi.AuthInfo)
	server := func(url string) kc {
		return func(_ *clientcmdapi.Config, c *clientcmdapi.Cluster, _ *clientcmdapi.AuthInfo) { c.Server = url }
	}
	token := func(token string) kc {
		return func(_ *clientcmdapi.Config, _ *clientcmdapi.Cluster, u *clientcmdapi.AuthInfo) {
			*u = clientcmdapi.AuthInfo{Token: token}
		}
	}
	stranger := newAuthority(t)
	closed := closedPort(t)
	page := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(page.Close)
	expired := time.Now().Add(-24 * time.Hour).Truncate(time.Second)
	claims := base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"exp":%d}`, expired.Unix()))
	malformed := file(t, "kubeconfig", "clusters: {\n")
	empty := file(t, "kubeconfig", "")

	check := s.untouched(t)
	for _, test := range []struct {
		name   string
		change kc
		path   string // of the kubeconfig, instead of change
		flags  []string
		says   []string
	}{
		{name: "no kubeconfig", path: "/does/not/exist", says: []string{"looking for a kubeconfig: there is none", "/does/not/exist", "--kubeconfig"}},
		{name: "no kubeconfig where the flag says", flags: []string{"--kubeconfig", "/not/there"}, says: []string{"there is none at /not/there", "Correct the path (--kubeconfig"}},
		{name: "malformed", path: malformed, says: []string{"reading the kubeconfig " + malformed, "kubectl config view"}},
		{name: "empty", path: empty, says: []string{"none that names a cluster, at " + empty}},
		{name: "no such context", flags: []string{"--context", "nope"}, says: []string{`it has no context "nope"`, "Its contexts are"}},
		{
			name: "context without its cluster", says: []string{`it names a cluster "gone" that is not there`},
			change: func(c *clientcmdapi.Config, _ *clientcmdapi.Cluster, _ *clientcmdapi.AuthInfo) {
				c.Contexts[c.CurrentContext].Cluster = "gone"
			},
		},
		{name: "nobody listens", change: server("https://" + closed), says: []string{"the cluster at https://" + closed + " is unreachable", "connection refused", "kubectl get --raw /version"}},
		{name: "no such host", change: server("https://no-such-host.invalid:6443"), says: []string{"no-such-host.invalid", "does not resolve"}},
		{name: "no TLS there", change: server("https://" + page.Listener.Addr().String()), says: []string{"does not speak TLS"}},
		{name: "no API server there", change: server(page.URL), says: []string{"what answers at " + page.URL + " is no Kubernetes API server", "404 page not found"}},
		{
			name: "another cluster", says: []string{"is not the one that context", "certificate signed by unknown authority", "get the kubeconfig again"},
			change: func(_ *clientcmdapi.Config, c *clientcmdapi.Cluster, _ *clientcmdapi.AuthInfo) {
				c.CertificateAuthorityData = stranger.pem
			},
		},
		{
			name: "another cluster's user", says: []string{"does not accept the credentials of user", "belong to another cluster"},
			change: func(_ *clientcmdapi.Config, _ *clientcmdapi.Cluster, u *clientcmdapi.AuthInfo) {
				u.ClientCertificateData, u.ClientKeyData = stranger.client(t, "admin", time.Now().Add(time.Hour), "system:masters")
			},
		},
		{
			name: "expired certificate", says: []string{"does not accept the credentials of user", "The client certificate of the kubeconfig expired on " + expired.UTC().Format(time.DateOnly)},
			change: func(_ *clientcmdapi.Config, _ *clientcmdapi.Cluster, u *clientcmdapi.AuthInfo) {
				u.ClientCertificateData, u.ClientKeyData = s.clusterAuthority(t).client(t, "admin", expired, "system:masters")
			},
		},
		{name: "expired token", change: token("e30." + claims + ".secret-signature"), says: []string{"The token of the kubeconfig expired on"}},
		{name: "revoked token", change: token("secret-token"), says: []string{"does not accept the credentials of user", "log in again"}},
		{
			name: "a program to log in that is not there", says: []string{"no-such-login"},
			change: func(_ *clientcmdapi.Config, _ *clientcmdapi.Cluster, u *clientcmdapi.AuthInfo) {
				*u = clientcmdapi.AuthInfo{Exec: &clientcmdapi.ExecConfig{
					Command: "no-such-login", APIVersion: "client.authentication.k8s.io/v1", InteractiveMode: clientcmdapi.NeverExecInteractiveMode,
				}}
			},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := test.path
			if path == "" {
				path = s.kubeconfig(t, test.change)
			}
			for _, args := range [][]string{
				append([]string{"exec", "-t", "deployment/shop"}, append(test.flags, "--", "true")...),
				append([]string{"exec", "--verbose", "-t", "deployment/shop", "--profile", "team-base"}, append(test.flags, "--", "true")...),
				append([]string{"profile", "list"}, test.flags...),
				append([]string{"ls"}, test.flags...),
			} {
				o := s.mirrord(t, call{args: args, kubeconfig: path})
				o.refused(t, 1, test.says...)
				o.tellsNothing(t, path)
			}
		})
	}
	check()
}
