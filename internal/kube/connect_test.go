package kube

import (
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"

	"github.com/mirrord-go/mirrord/internal/config"
)

func TestConnect(t *testing.T) {
	path := kubeconfig(t, "https://cluster.invalid", "token: secret-token")
	c, err := Connect(Options{Kubeconfig: path})
	if err != nil {
		t.Fatal(err)
	}
	if c.Namespace() != "shop" || c.Context() != "test" || c.Server() != "https://cluster.invalid" {
		t.Errorf("namespace %q, context %q, server %q", c.Namespace(), c.Context(), c.Server())
	}
	c, err = Connect(Options{Kubeconfig: path, Context: "other"})
	if err != nil {
		t.Fatal(err)
	}
	if c.Namespace() != "default" {
		t.Errorf("namespace of a context without one = %q", c.Namespace())
	}
}

func TestConnectBadKubeconfig(t *testing.T) {
	good := kubeconfig(t, "https://cluster.invalid", "token: secret-token")
	missing := filepath.Join(t.TempDir(), "nowhere")
	for _, test := range []struct {
		name string
		opts Options
		env  string
		says []string
	}{
		{"missing file", Options{Kubeconfig: missing}, "", []string{missing, "--kubeconfig"}},
		{"missing $KUBECONFIG", Options{}, missing, []string{missing, "$KUBECONFIG"}},
		{"malformed", Options{Kubeconfig: writeFile(t, "clusters: [")}, "", []string{"reading the kubeconfig"}},
		{"empty", Options{Kubeconfig: writeFile(t, "")}, "", []string{"names no cluster"}},
		{"unknown context", Options{Kubeconfig: good, Context: "tst"}, "", []string{`no context "tst"`, `Did you mean "test"?`, "broken, other, test"}},
		{"dangling context", Options{Kubeconfig: good, Context: "broken"}, "", []string{`context "broken"`, "nowhere"}},
		{"no current context", Options{Kubeconfig: writeFile(t, "contexts: [{name: a, context: {cluster: b}}]")}, "", []string{"no current context", "contexts are a"}},
		{"missing authority", Options{Kubeconfig: writeFile(t, `
current-context: a
contexts: [{name: a, context: {cluster: b}}]
clusters: [{name: b, cluster: {server: "https://x", certificate-authority: "/nowhere/ca"}}]`)}, "", []string{"/nowhere/ca"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("KUBECONFIG", test.env)
			t.Setenv("KUBERNETES_SERVICE_HOST", "")
			_, err := Connect(test.opts)
			says(t, err, test.says...)
			if reasonOf(err) != ReasonKubeconfig {
				t.Errorf("reason = %q", reasonOf(err))
			}
		})
	}
}

// Whatever goes wrong between here and the cluster has its own text.
func TestUnreachable(t *testing.T) {
	gone := httptest.NewServer(nil)
	gone.Close()
	secure := httptest.NewTLSServer(nil)
	defer secure.Close()
	plain := httptest.NewServer(nil)
	defer plain.Close()

	claims := base64.RawURLEncoding.EncodeToString([]byte(`{"exp":1000000000}`))
	// client-go sends no credentials without TLS.
	unauthorized := httptest.NewTLSServer(status(http.StatusUnauthorized, "Unauthorized", "Unauthorized"))
	defer unauthorized.Close()
	for _, test := range []struct {
		name, url, user string
		reason          Reason
		says            []string
	}{
		{"refused", gone.URL, "token: secret-token", ReasonUnreachable, []string{gone.URL, "unreachable", "refused", "VPN"}},
		{"another cluster", secure.URL, "token: secret-token", ReasonCertificate, []string{secure.URL, `"test"`, "another cluster"}},
		{"no TLS", "https" + plain.URL[4:], "token: secret-token", ReasonUnreachable, []string{"does not speak TLS"}},
		{"no such name", "https://cluster.invalid", "token: secret-token", ReasonUnreachable, []string{"cluster.invalid", "does not resolve"}},
		{"unauthorized", unauthorized.URL, "token: secret-token", ReasonUnauthorized, []string{`user "dev"`, "log in again"}},
		{"expired token", unauthorized.URL, "token: e30." + claims + ".x", ReasonUnauthorized, []string{"token of the kubeconfig expired on 2001-09-"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			opts := Options{Kubeconfig: kubeconfig(t, test.url, test.user)}
			if test.reason == ReasonUnauthorized {
				opts.AcceptInvalidCertificates = new(true)
			}
			c, err := Connect(opts)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Close() }()
			_, err = c.FindWorkload(t.Context(), config.TargetPath{Kind: config.Pod, Name: "x"}, "")
			says(t, err, test.says...)
			if reasonOf(err) != test.reason {
				t.Errorf("reason = %q, want %q", reasonOf(err), test.reason)
			}
		})
	}
}

func TestAcceptInvalidCertificates(t *testing.T) {
	s := httptest.NewTLSServer(status(http.StatusNotFound, "NotFound", "no"))
	defer s.Close()
	ca := base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
	path := writeFile(t, fmt.Sprintf(`
current-context: a
contexts: [{name: a, context: {cluster: b}}]
clusters: [{name: b, cluster: {server: %q, certificate-authority-data: %s, tls-server-name: other.name}}]`, s.URL, ca))
	for _, test := range []struct {
		accept *bool
		want   Reason
	}{
		{nil, ReasonCertificate}, {new(false), ReasonCertificate}, {new(true), ReasonNotFound},
	} {
		c, err := Connect(Options{Kubeconfig: path, AcceptInvalidCertificates: test.accept})
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.FindWorkload(t.Context(), config.TargetPath{Kind: config.Pod, Name: "x"}, "")
		if got := reasonOf(err); got != test.want {
			t.Errorf("accept %v: %v", test.accept, err)
		}
		_ = c.Close()
	}
}

// A server that answers badly for a moment is asked again.
func TestRetry(t *testing.T) {
	n := 0
	s := newServer(t, map[string]http.HandlerFunc{
		"GET /api/v1/namespaces/shop/pods/x": func(w http.ResponseWriter, r *http.Request) {
			if n++; n == 1 {
				status(http.StatusServiceUnavailable, "ServiceUnavailable", "starting")(w, r)
				return
			}
			status(http.StatusForbidden, "Forbidden", "no")(w, r)
		},
	})
	_, err := connect(t, s.URL).FindWorkload(t.Context(), config.TargetPath{Kind: config.Pod, Name: "x"}, "")
	if e := new(MissingRulesError); !errors.As(err, &e) || n != 2 {
		t.Errorf("after %d requests: %v", n, err)
	}
}
