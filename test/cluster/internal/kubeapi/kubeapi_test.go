package kubeapi_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mirrord-go/mirrord/test/cluster/internal/kubeapi"
	"github.com/mirrord-go/mirrord/test/cluster/internal/pki"
)

// newClient returns a client of a server that answers with answers[path], and asks for a client certificate.
func newClient(t *testing.T, answers map[string]string) *kubeapi.Client {
	t.Helper()
	dir := t.TempDir()
	if err := pki.Write(dir, pki.Cluster{Node: "node1"}); err != nil {
		t.Fatal(err)
	}
	cert, err := tls.LoadX509KeyPair(filepath.Join(dir, "apiserver.crt"), filepath.Join(dir, "apiserver.key"))
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	clients := x509.NewCertPool()
	clients.AppendCertsFromPEM(ca)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if who := r.TLS.PeerCertificates[0].Subject.CommonName; who != "kubernetes-admin" {
			t.Errorf("asked by %q", who)
		}
		answer, ok := answers[r.URL.Path]
		if !ok {
			http.Error(w, "no such thing", http.StatusNotFound)
			return
		}
		_, _ = io.WriteString(w, answer)
	}))
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, ClientCAs: clients, ClientAuth: tls.RequireAndVerifyClientCert}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	client, err := kubeapi.New(srv.URL, dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

func TestReadiness(t *testing.T) {
	c := newClient(t, map[string]string{
		"/readyz":                  "ok",
		"/api/v1/nodes/ready":      `{"status": {"conditions": [{"type": "MemoryPressure", "status": "False"}, {"type": "Ready", "status": "True"}]}}`,
		"/api/v1/nodes/broken":     `{"status": {"conditions": [{"type": "Ready", "status": "False", "message": "no network"}]}}`,
		"/api/v1/nodes/new":        `{"status": {}}`,
		"/api/v1/nodes/nonsense":   `[`,
		deployment + "ready":       `{"metadata": {"generation": 2}, "spec": {"replicas": 1}, "status": {"observedGeneration": 2, "updatedReplicas": 1, "availableReplicas": 1}}`,
		deployment + "unseen":      `{"metadata": {"generation": 2}, "spec": {"replicas": 1}, "status": {"observedGeneration": 1, "updatedReplicas": 1, "availableReplicas": 1}}`,
		deployment + "unavailable": `{"metadata": {"generation": 1}, "spec": {"replicas": 1}, "status": {"observedGeneration": 1, "updatedReplicas": 1}}`,
	})
	node := func(name string) error { return c.NodeReady(t.Context(), name) }
	deploy := func(name string) error { return c.DeploymentReady(t.Context(), "n", name) }
	for _, tt := range []struct {
		name  string
		check func(string) error
		want  string // part of the error; "" is none
	}{
		{"ready", node, ""},
		{"broken", node, "no network"},
		{"new", node, "not reported"},
		{"nonsense", node, "JSON"},
		{"absent", node, "404"},
		{"ready", deploy, ""},
		{"unseen", deploy, "1 of 1"},
		{"unavailable", deploy, "0 of 1"},
		{"absent", deploy, "no such thing"},
	} {
		err := tt.check(tt.name)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
	if err := c.Ready(t.Context()); err != nil {
		t.Error(err)
	}
}

const deployment = "/apis/apps/v1/namespaces/n/deployments/"

func TestWaitKeepsTheLastError(t *testing.T) {
	calls, notYet := 0, errors.New("not yet")
	if err := kubeapi.Wait(t.Context(), func(context.Context) error {
		if calls++; calls < 3 {
			return notYet
		}
		return nil
	}); err != nil || calls != 3 {
		t.Errorf("%d calls, %v", calls, err)
	}
	gaveUp := errors.New("gave up")
	ctx, cancel := context.WithTimeoutCause(t.Context(), time.Millisecond, gaveUp)
	defer cancel()
	if err := kubeapi.Wait(ctx, func(context.Context) error { return notYet }); !errors.Is(err, gaveUp) || !errors.Is(err, notYet) {
		t.Errorf("%v, want both %v and %v", err, gaveUp, notYet)
	}
}
