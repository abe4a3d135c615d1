package execcmd

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mirrord-go/mirrord/internal/cli/command"
	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/kube"
)

// nobody keeps nothing.
type nobody struct{}

func (nobody) Note(string) error { return nil }
func (nobody) Close() error      { return nil }

// noted keeps what it is told.
type noted struct {
	nobody
	lines []string
}

func (n *noted) Note(line string) error {
	n.lines = append(n.lines, line)
	return nil
}

// TestKeeperRemovesWhatItWasToldOf: the lines that a session writes are those that its keeper
// understands, from another folder and with an API server that fails once.
func TestKeeperRemovesWhatItWasToldOf(t *testing.T) {
	var mu sync.Mutex
	var removed []string
	failed := false
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		if r.URL.Path == "/apis/batch/v1/namespaces/shop/jobs/agent-1" && !failed {
			failed = true
			w.WriteHeader(http.StatusForbidden)
			_, _ = w.Write([]byte(`{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Forbidden","code":403}`))
			return
		}
		removed = append(removed, r.Method+" "+r.URL.Path)
		_, _ = w.Write([]byte(`{"kind":"Status","apiVersion":"v1","status":"Success"}`))
	}))
	defer server.Close()
	dir := t.TempDir()
	t.Chdir(dir)
	kubeconfig := `{"apiVersion":"v1","kind":"Config","current-context":"c","contexts":[{"name":"c","context":{"cluster":"c","user":"u"}}],` +
		`"clusters":[{"name":"c","cluster":{"server":"` + server.URL + `"}}],"users":[{"name":"u","user":{"token":"secret"}}]}`
	if err := os.WriteFile(filepath.Join(dir, "kubeconfig"), []byte(kubeconfig), 0o600); err != nil {
		t.Fatal(err)
	}
	opts := &Options{Factory: &command.Factory{Logger: slog.New(slog.DiscardHandler), Connect: kube.Connect}}
	k := &noted{}
	left := opts.leaves(k, &config.Config{Kubeconfig: "kubeconfig"})
	left(leftover{Job: "agent-1", Namespace: "shop"})
	left(leftover{Session: "s-1", Namespace: "shop"})
	for _, line := range k.lines {
		if bytes.Contains([]byte(line), []byte("secret")) {
			t.Errorf("the keeper is told %s", line)
		}
	}
	t.Chdir("/")
	clean(context.Background(), opts.Factory, append(k.lines, "nonsense"))
	mu.Lock()
	defer mu.Unlock()
	want := []string{
		"DELETE /apis/sessions.mirrord.metalbear.co/v1alpha/namespaces/shop/sessions/s-1",
		"DELETE /apis/batch/v1/namespaces/shop/jobs/agent-1",
	}
	if diff := cmp.Diff(want, only(removed, http.MethodDelete)); diff != "" {
		t.Errorf("what was removed (-want +got):\n%s", diff)
	}
}

// only are the requests of a method.
func only(requests []string, method string) []string {
	var some []string
	for _, r := range requests {
		if len(r) > len(method) && r[:len(method)] == method {
			some = append(some, r)
		}
	}
	return some
}
