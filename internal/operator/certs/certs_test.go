package certs

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/server"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const day = 24 * time.Hour

// hostname is what the aggregation layer expects in the certificate.
const hostname = "mirrord-operator.tools.svc"

// bundle is a publisher that remembers.
type bundle struct {
	mu   sync.Mutex
	pem  []byte
	fail error
}

func (b *bundle) Publish(_ context.Context, pem []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fail != nil {
		return b.fail
	}
	b.pem = pem
	return nil
}

func (b *bundle) get() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.pem
}

func (b *bundle) setFail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fail = err
}

// strict makes a fake client check resource versions at updates, as the API server does.
func strict(t *testing.T, objects ...runtime.Object) *fake.Clientset {
	t.Helper()
	client := fake.NewClientset(objects...)
	var mu sync.Mutex
	version := 1
	client.PrependReactor("*", "secrets", func(action clienttesting.Action) (bool, runtime.Object, error) {
		mu.Lock()
		defer mu.Unlock()
		write, ok := action.(clienttesting.UpdateAction)
		if !ok || action.GetVerb() != "update" {
			if create, ok := action.(clienttesting.CreateAction); ok && action.GetVerb() == "create" {
				create.GetObject().(*corev1.Secret).ResourceVersion = "1"
			}
			return false, nil, nil
		}
		secret := write.GetObject().(*corev1.Secret)
		there, err := client.Tracker().Get(action.GetResource(), secret.Namespace, secret.Name)
		if err != nil {
			return true, nil, err
		}
		if there.(*corev1.Secret).ResourceVersion != secret.ResourceVersion {
			return true, nil, conflict()
		}
		version++
		secret = secret.DeepCopy()
		secret.ResourceVersion = string(rune('a' + version))
		return true, secret, client.Tracker().Update(action.GetResource(), secret, secret.Namespace)
	})
	return client
}

func conflict() error {
	return &statusError{metav1.Status{Status: metav1.StatusFailure, Code: http.StatusConflict, Reason: metav1.StatusReasonConflict, Message: "conflict"}}
}

type statusError struct{ status metav1.Status }

func (e *statusError) Error() string         { return e.status.Message }
func (e *statusError) Status() metav1.Status { return e.status }

// empty is the Secret as the installation makes it.
func empty() *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: DefaultSecret, Namespace: "tools", ResourceVersion: "1"}}
}

func newManager(client kubernetes.Interface, publisher Publisher, log *slog.Logger) *Manager {
	return New(client, publisher, Options{Namespace: "tools", Service: "mirrord-operator", Logger: log})
}

// verify checks what a manager serves against what is published, as the API server would.
func verify(t *testing.T, m *Manager, pem []byte) {
	t.Helper()
	certPEM, keyPEM := m.CurrentCertKeyContent()
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: hostname, CurrentTime: time.Now()}); err != nil {
		t.Errorf("at %s: the API server would not trust the certificate: %v", time.Now().Format(time.DateTime), err)
	}
}

func TestFirstReplica(t *testing.T) {
	for name, client := range map[string]*fake.Clientset{"no secret": strict(t), "empty secret": strict(t, empty())} {
		t.Run(name, func(t *testing.T) {
			var b bundle
			m := newManager(client, &b, nil)
			if m.Ready() == nil {
				t.Error("ready before there is a certificate")
			}
			if err := m.RunOnce(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := m.Ready(); err != nil {
				t.Error(err)
			}
			verify(t, m, b.get())
		})
	}
}

// TestReplicasAgree: many replicas that start at once end with one authority.
func TestReplicasAgree(t *testing.T) {
	client := strict(t, empty())
	var b bundle
	replicas := make([]*Manager, 8)
	var all sync.WaitGroup
	for i := range replicas {
		replicas[i] = newManager(client, &b, nil)
		all.Go(func() {
			if err := replicas[i].RunOnce(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	first, _ := replicas[0].CurrentCertKeyContent()
	for _, m := range replicas {
		if cert, _ := m.CurrentCertKeyContent(); !bytes.Equal(cert, first) {
			t.Error("replicas serve different certificates")
		}
		verify(t, m, b.get())
	}
}

// TestThreeYears runs two slow replicas for three years; at every moment the API server trusts what
// each of them serves, although they look at the secret at different times.
func TestThreeYears(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := strict(t, empty())
		var b bundle
		var replicas []*Manager
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		for i := range 2 {
			m := New(client, &b, Options{
				Namespace: "tools", Service: "mirrord-operator",
				Interval: time.Duration(5+2*i) * time.Hour, Overlap: day,
			})
			replicas = append(replicas, m)
			all.Go(func() { m.Run(ctx, 1) })
		}
		synctest.Wait()
		serving, authorities := map[string]bool{}, map[string]bool{}
		for end := time.Now().Add(3 * 365 * day); time.Now().Before(end); {
			for _, m := range replicas {
				verify(t, m, b.get())
				cert, _ := m.CurrentCertKeyContent()
				serving[string(cert)] = true
			}
			if n := bytes.Count(b.get(), []byte("BEGIN CERTIFICATE")); n < 1 || n > 2 {
				t.Errorf("the bundle has %d authorities", n)
			}
			authorities[string(b.get())] = true
			time.Sleep(11 * time.Hour)
			synctest.Wait()
		}
		cancel()
		all.Wait()
		// Two months for each, and authorities after eight months.
		if len(serving) < 15 || len(serving) > 25 {
			t.Errorf("%d serving certificates in three years", len(serving))
		}
		if len(authorities) < 8 {
			t.Errorf("only %d bundles in three years: authorities are not replaced", len(authorities))
		}
	})
}

// TestNextAuthorityWaits: an authority that nobody was told of does not sign.
func TestNextAuthorityWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := strict(t, empty())
		var b bundle
		m := newManager(client, &b, nil)
		round := func() error { return m.RunOnce(t.Context()) }
		if err := round(); err != nil {
			t.Fatal(err)
		}
		first := authority(t, client)
		time.Sleep(lifeCA - renewCA + time.Hour)
		b.setFail(errors.New("the API server is away"))
		for range 10 {
			if err := round(); err == nil {
				t.Fatal("publishing did not fail")
			}
			time.Sleep(time.Hour)
		}
		if !bytes.Equal(authority(t, client), first) {
			t.Error("an authority signs that was never published")
		}
		b.setFail(nil)
		for range 2 {
			if err := round(); err != nil {
				t.Fatal(err)
			}
		}
		if bytes.Equal(authority(t, client), first) {
			t.Error("the next authority does not sign after it was published")
		}
		verify(t, m, b.get())
		secret, err := client.CoreV1().Secrets("tools").Get(t.Context(), DefaultSecret, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if len(secret.Data[keyOldCert]) == 0 || len(secret.Data["old-ca.key"]) > 0 || len(secret.Data[keyNextKey]) > 0 {
			t.Errorf("the secret has %d keys after the change", len(secret.Data))
		}
	})
}

func authority(t *testing.T, client kubernetes.Interface) []byte {
	t.Helper()
	secret, err := client.CoreV1().Secrets("tools").Get(t.Context(), DefaultSecret, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return secret.Data[keyCACert]
}

// TestNonsenseIsReplaced: whatever stands in the secret, there is a certificate afterwards, and no key
// in a log.
func TestNonsenseIsReplaced(t *testing.T) {
	good := strict(t, empty())
	if err := newManager(good, &bundle{}, nil).RunOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	secret, err := good.CoreV1().Secrets("tools").Get(t.Context(), DefaultSecret, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{keyCACert, keyCAKey, keyServingCert, keyServingKey, keyOldCert, keyNextCert} {
		for name, value := range map[string][]byte{
			"text": []byte("no PEM"), "empty": nil, "another": secret.Data[keyServingKey], "two": bytes.Repeat(secret.Data[keyServingCert], 2),
		} {
			t.Run(key+" "+name, func(t *testing.T) {
				bad := secret.DeepCopy()
				bad.ResourceVersion = "1"
				bad.Data[key] = value
				var b bundle
				var logged bytes.Buffer
				m := newManager(strict(t, bad), &b, slog.New(slog.NewTextHandler(&logged, nil)))
				if err := m.RunOnce(t.Context()); err != nil {
					t.Fatal(err)
				}
				verify(t, m, b.get())
				if bytes.Contains(logged.Bytes(), []byte("PRIVATE KEY")) {
					t.Errorf("a key is in the log: %s", logged.Bytes())
				}
			})
		}
	}
}

func TestAPIService(t *testing.T) {
	resource := schema.GroupVersionResource{Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices"}
	object := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
		"metadata": map[string]any{"name": "v1alpha.sessions.mirrord.metalbear.co"},
		"spec":     map[string]any{"groupPriorityMinimum": int64(1000)},
	}}
	client := dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(),
		map[schema.GroupVersionResource]string{resource: "APIServiceList"}, object)
	publisher := NewAPIService(client, "v1alpha.sessions.mirrord.metalbear.co")
	for range 2 {
		if err := publisher.Publish(t.Context(), []byte("bundle")); err != nil {
			t.Fatal(err)
		}
	}
	got, err := client.Resource(resource).Get(t.Context(), object.GetName(), metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	text, _, _ := unstructured.NestedString(got.Object, "spec", "caBundle")
	priority, _, _ := unstructured.NestedInt64(got.Object, "spec", "groupPriorityMinimum")
	if b, _ := base64.StdEncoding.DecodeString(text); string(b) != "bundle" || priority != 1000 {
		t.Errorf("the APIService is %v", got.Object)
	}
	patches := 0
	for _, action := range client.Actions() {
		if action.GetVerb() == "patch" {
			patches++
		}
	}
	if patches != 1 {
		t.Errorf("%d patches for one change", patches)
	}
	if err := NewAPIService(client, "none").Publish(t.Context(), []byte("x")); err == nil {
		t.Error("an APIService that is not there is no error")
	}
}

// TestServed: the API server's library serves the certificate, and the next one without a restart.
func TestServed(t *testing.T) {
	client := strict(t, empty())
	var b bundle
	m := New(client, &b, Options{Namespace: "tools", Service: "mirrord-operator", Interval: 10 * time.Millisecond})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var requests atomic.Int32
	info := &server.SecureServingInfo{Listener: listener, Cert: m}
	stop := make(chan struct{})
	stopped, _, err := info.Serve(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { requests.Add(1) }), time.Second, stop)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { close(stop); <-stopped }()
	serial := func() string {
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(b.get())
		conn, err := tls.Dial("tcp", listener.Addr().String(), &tls.Config{RootCAs: roots, ServerName: hostname})
		if err != nil {
			t.Log(err)
			return ""
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	first := serial()
	if first == "" {
		t.Fatal("the first certificate is not served")
	}
	// Somebody starts anew.
	secrets := client.CoreV1().Secrets("tools")
	for {
		secret, err := secrets.Get(t.Context(), DefaultSecret, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		secret = secret.DeepCopy()
		secret.Data = nil
		if _, err = secrets.Update(t.Context(), secret, metav1.UpdateOptions{}); err == nil {
			break
		}
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if next := serial(); next != "" && next != first {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the new certificate is not served")
		}
	}
}

func FuzzDecode(f *testing.F) {
	p, err := newCA([]string{hostname}, time.Now())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(p.certPEM, p.keyPEM)
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"), []byte{})
	f.Fuzz(func(t *testing.T, cert, key []byte) {
		s, _ := decode(map[string][]byte{keyCACert: cert, keyCAKey: key, keyServingCert: cert, keyServingKey: key, keyOldCert: cert})
		now := time.Now()
		want, _, err := advance(s, []string{hostname}, now, time.Hour, true)
		if err != nil || want.ca == nil || !want.servingGood([]string{hostname}, now) {
			t.Errorf("%v, %+v", err, want)
		}
	})
}
