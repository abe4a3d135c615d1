package kube

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

// The SPDY library of the tests' servers waits ten minutes in this function, whatever one does.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/moby/spdystream.(*Connection).shutdown"))
}

// server is an API server that knows nothing but what a test tells it.
type server struct {
	*httptest.Server
	t *testing.T
	// answers are by "METHOD /path"; everything else is not found, as in a cluster
	// without that object.
	answers map[string]http.HandlerFunc
}

func newServer(t *testing.T, answers map[string]http.HandlerFunc) *server {
	t.Helper()
	s := &server{t: t, answers: answers}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h := s.answers[r.Method+" "+r.URL.Path]; h != nil {
		h(w, r)
		return
	}
	if strings.HasSuffix(r.URL.Path, "selfsubjectaccessreviews") {
		respond(http.StatusCreated, `{"kind":"SelfSubjectAccessReview","apiVersion":"authorization.k8s.io/v1","status":{"allowed":true}}`)(w, r)
		return
	}
	status(http.StatusNotFound, "NotFound", "not found")(w, r)
}

func respond(code int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_, _ = w.Write([]byte(body))
	}
}

func object(v any) http.HandlerFunc {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return respond(http.StatusOK, string(b))
}

func status(code int, reason, message string) http.HandlerFunc {
	b, _ := json.Marshal(map[string]any{
		"kind": "Status", "apiVersion": "v1", "status": "Failure",
		"code": code, "reason": reason, "message": message,
	})
	return respond(code, string(b))
}

// kubeconfig writes one with a context "test" for the server, and returns its path.
func kubeconfig(t *testing.T, url, user string) string {
	t.Helper()
	return writeFile(t, `apiVersion: v1
kind: Config
current-context: test
clusters: [{name: c, cluster: {server: "`+url+`"}}]
users: [{name: dev, user: {`+user+`}}]
contexts:
- {name: test, context: {cluster: c, user: dev, namespace: shop}}
- {name: other, context: {cluster: c, user: dev}}
- {name: broken, context: {cluster: nowhere, user: dev}}
`)
}

func writeFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func connect(t *testing.T, url string) *Cluster {
	t.Helper()
	c, err := Connect(Options{Kubeconfig: kubeconfig(t, url, "token: secret-token")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// says checks that an error has the texts in its message and hint, and no secret.
func says(t *testing.T, err error, texts ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	all := err.Error()
	if h, ok := err.(interface{ Hint() string }); ok {
		all += "\n" + h.Hint()
	}
	for _, text := range texts {
		if !strings.Contains(all, text) {
			t.Errorf("the error does not say %q:\n%s", text, all)
		}
	}
	if strings.Contains(all, "secret-token") {
		t.Errorf("the error tells the token:\n%s", all)
	}
}
