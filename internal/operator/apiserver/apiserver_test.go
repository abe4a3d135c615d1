package apiserver

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/authentication/authenticatorfactory"
	"k8s.io/apiserver/pkg/authentication/request/headerrequest"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"

	sessions "github.com/mirrord-go/mirrord/api/sessions/v1alpha"
)

// authority signs certificates for a test.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t}
	a.cert, a.key = a.sign("authority", true)
	return a
}

func (a *authority) sign(name string, ca bool) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: ca, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	parent, signer := a.cert, a.key
	if ca {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

func (a *authority) client(name string) []tls.Certificate {
	cert, key := a.sign(name, false)
	return []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}}
}

// backend is what the server under test is made of.
type backend struct {
	created *sessions.Session
	creator user.Info
	refuse  error

	mine  []sessions.Session // what List has; nil means the one
	ended []string

	agent net.Conn // the far end of the next carrier
	over  chan struct{}
}

func (b *backend) session() *sessions.Session {
	return &sessions.Session{
		ObjectMeta: metav1.ObjectMeta{Name: "s-1", Namespace: "shop", ResourceVersion: "7", CreationTimestamp: metav1.Now()},
		Spec: sessions.SessionSpec{Target: "deployment/shop", Profile: "base", Features: sessions.Features{
			Incoming: sessions.Incoming{Mode: "steal"}, Outgoing: sessions.Outgoing{TCP: true, UDP: true}, DNS: sessions.DNS{Enabled: true},
		}},
		Status: sessions.SessionStatus{User: "alice", Phase: sessions.SessionActive},
	}
}

func (b *backend) Create(_ context.Context, u user.Info, s *sessions.Session, _ bool) (*sessions.Session, error) {
	b.created, b.creator = s, u
	if b.refuse != nil {
		return nil, b.refuse
	}
	return b.session(), nil
}

func (b *backend) Get(_ context.Context, _, name string) (*sessions.Session, error) {
	if name != "s-1" {
		return nil, apierrors.NewNotFound(sessions.Resource("sessions"), name)
	}
	return b.session(), nil
}

func (b *backend) List(context.Context, string, metav1.ListOptions) (*sessions.SessionList, error) {
	if b.mine != nil {
		return &sessions.SessionList{Items: b.mine}, nil
	}
	return &sessions.SessionList{ListMeta: metav1.ListMeta{ResourceVersion: "9"}, Items: []sessions.Session{*b.session()}}, nil
}

func (b *backend) Watch(context.Context, string, metav1.ListOptions) (watch.Interface, error) {
	w := watch.NewFakeWithChanSize(1, false)
	w.Modify(b.session())
	return w, nil
}

func (b *backend) End(_ context.Context, u user.Info, namespace, name string, pre *metav1.Preconditions, _ bool) (*sessions.Session, error) {
	if name == "gone" {
		return nil, apierrors.NewNotFound(sessions.Resource("sessions"), name)
	}
	if pre != nil && pre.UID != nil {
		b.ended = append(b.ended, namespace+"/"+name+"/"+string(*pre.UID)+"/"+u.GetName())
	}
	s := b.session()
	s.Status.End = &sessions.SessionEnd{By: u.GetName()}
	return s, nil
}

func (b *backend) Dial(_ context.Context, u user.Info, _, _, attachment string) (net.Conn, <-chan struct{}, error) {
	if u.GetName() != "alice" || attachment != "pod" {
		return nil, nil, apierrors.NewForbidden(sessions.Resource("sessions"), "s-1", errors.New("no"))
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return nil, nil, err
	}
	b.agent, err = l.Accept()
	return conn, b.over, err
}

type targets struct{}

func (targets) Get(context.Context, string, string) (*sessions.Target, error) {
	return nil, apierrors.NewNotFound(sessions.Resource("targets"), "x")
}

func (targets) List(_ context.Context, namespace string) (*sessions.TargetList, error) {
	item := func(name string) sessions.Target {
		return sessions.Target{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace, Labels: map[string]string{"app": name}}}
	}
	return &sessions.TargetList{Items: []sessions.Target{item("deployment.shop"), item("deployment.bank")}}, nil
}

// everybody may do everything but delete.
func everybody(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	if a.GetVerb() == "delete" {
		return authorizer.DecisionNoOpinion, "nobody deletes", nil
	}
	return authorizer.DecisionAllow, "", nil
}

// lab is a server with a front proxy.
type lab struct {
	*testing.T
	*backend
	proxy *authority
	addr  string
	serve *Server
	stop  context.CancelFunc
	done  chan error
}

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{T: t, backend: &backend{over: make(chan struct{})}, proxy: newAuthority(t), done: make(chan error, 1)}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.addr = listener.Addr().String()
	serving := newAuthority(t)
	cert, key := serving.sign("operator", false)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	provider, err := dynamiccertificates.NewStaticCertKeyContent("serving",
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
	if err != nil {
		t.Fatal(err)
	}
	ca, err := dynamiccertificates.NewStaticCAContent("front-proxy", l.proxy.pem())
	if err != nil {
		t.Fatal(err)
	}
	server, err := New(Config{
		Listener: listener, Certificate: provider,
		FrontProxy: &authenticatorfactory.RequestHeaderConfig{
			CAContentProvider:   ca,
			UsernameHeaders:     headerrequest.StaticStringSlice{"X-Remote-User"},
			UIDHeaders:          headerrequest.StaticStringSlice{"X-Remote-Uid"},
			GroupHeaders:        headerrequest.StaticStringSlice{"X-Remote-Group"},
			ExtraHeaderPrefixes: headerrequest.StaticStringSlice{"X-Remote-Extra-"},
			AllowedClientNames:  headerrequest.StaticStringSlice{"front-proxy"},
		},
		Authorizer: authorizer.AuthorizerFunc(everybody),
		Sessions:   l.backend, Targets: targets{}, Carriers: l.backend, Version: "1.2.3",
	})
	if err != nil {
		t.Fatal(err)
	}
	l.serve = server
	ctx, stop := context.WithCancel(t.Context())
	l.stop = stop
	go func() { l.done <- server.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-l.done; err != nil {
			t.Errorf("the server ended with %v", err)
		}
	})
	l.until("serving", func() bool {
		code, _ := l.do(l.client("front-proxy"), http.MethodGet, "/readyz", "")
		return code == http.StatusOK
	})
	return l
}

func (l *lab) until(what string, f func() bool) {
	l.Helper()
	for deadline := time.Now().Add(time.Minute); !f(); {
		if time.Now().After(deadline) {
			l.Fatalf("waited in vain for %s", what)
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-l.Context().Done():
			l.Fatal(l.Context().Err())
		}
	}
}

// client is the front proxy, or somebody who has only its name.
func (l *lab) client(name string) *http.Client {
	return l.with(l.proxy.client(name))
}

func (l *lab) with(certs []tls.Certificate) *http.Client {
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: certs}, DisableKeepAlives: true}
	return &http.Client{Transport: transport, Timeout: 30 * time.Second}
}

const api = "/apis/sessions.mirrord.metalbear.co/v1alpha"

// do sends a request as alice.
func (l *lab) do(c *http.Client, method, path, body string, header ...string) (int, []byte) {
	l.Helper()
	req, err := http.NewRequestWithContext(l.Context(), method, "https://"+l.addr+path, strings.NewReader(body))
	if err != nil {
		l.Fatal(err)
	}
	req.Header.Set("X-Remote-User", "alice")
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := c.Do(req)
	if err != nil {
		return 0, []byte(err.Error())
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		l.Fatal(err)
	}
	return resp.StatusCode, raw
}

func TestOnlyTheFrontProxyIsBelieved(t *testing.T) {
	l := newLab(t)
	other := newAuthority(t)
	for name, test := range map[string]struct {
		client *http.Client
		header []string
		want   int
	}{
		"the front proxy":                      {l.client("front-proxy"), nil, http.StatusOK},
		"another name of the same authority":   {l.client("kubelet"), nil, http.StatusUnauthorized},
		"the name by another authority":        {l.with(other.client("front-proxy")), nil, http.StatusUnauthorized},
		"nobody":                               {l.with(nil), nil, http.StatusUnauthorized},
		"nobody with a token":                  {l.with(nil), []string{"Authorization", "Bearer secret"}, http.StatusUnauthorized},
		"the front proxy about nobody":         {l.client("front-proxy"), []string{"X-Remote-User", ""}, http.StatusUnauthorized},
		"who may not, through the front proxy": {l.client("front-proxy"), []string{"Impersonate-User", "bob"}, http.StatusOK},
	} {
		t.Run(name, func(t *testing.T) {
			if code, body := l.do(test.client, http.MethodGet, api+"/sessions", "", test.header...); code != test.want {
				t.Errorf("answer %d, want %d: %s", code, test.want, body)
			}
		})
	}
	if code, _ := l.do(l.client("front-proxy"), http.MethodDelete, api+"/namespaces/shop/sessions/s-1", ""); code != http.StatusForbidden {
		t.Errorf("what the authoriser does not allow: %d", code)
	}
}

func TestCreate(t *testing.T) {
	l := newLab(t)
	proxy := l.client("front-proxy")
	body := `{"apiVersion":"sessions.mirrord.metalbear.co/v1alpha","kind":"Session","spec":{"target":"deployment/shop"}}`
	code, raw := l.do(proxy, http.MethodPost, api+"/namespaces/shop/sessions", body, "X-Remote-Group", "team")
	var got sessions.Session
	if err := json.Unmarshal(raw, &got); err != nil || code != http.StatusCreated || got.Name != "s-1" || got.Kind != "Session" {
		t.Errorf("answer %d: %s", code, raw)
	}
	if l.created.Namespace != "shop" || l.creator.GetName() != "alice" || !strings.Contains(strings.Join(l.creator.GetGroups(), " "), "team") {
		t.Errorf("created %+v by %+v", l.created, l.creator)
	}
	l.refuse = &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusForbidden, Reason: metav1.StatusReasonForbidden, Message: "no",
		Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{Type: "Blocked", Field: "strict: block: steal", Message: "it steals\nmirror"}}},
	}}
	code, raw = l.do(proxy, http.MethodPost, api+"/namespaces/shop/sessions", body)
	var status metav1.Status
	if err := json.Unmarshal(raw, &status); err != nil || code != http.StatusForbidden {
		t.Fatalf("answer %d: %s", code, raw)
	}
	if diff := cmp.Diff(l.refuse.(apierrors.APIStatus).Status().Details.Causes, status.Details.Causes); diff != "" {
		t.Errorf("the causes (-want +got):\n%s", diff)
	}
	for name, bad := range map[string]string{
		"another kind":    strings.Replace(body, "Session", "Target", 1),
		"another version": strings.Replace(body, "v1alpha", "v1", 1),
		"no JSON":         "{",
		"too large":       strings.Replace(body, "deployment", strings.Repeat("x", maxBody), 1),
	} {
		if code, raw := l.do(proxy, http.MethodPost, api+"/namespaces/shop/sessions", bad); code < 400 || code >= 500 {
			t.Errorf("%s: %d: %s", name, code, raw)
		}
	}
}

// TestAllSessionsOfANamespaceEnd: the verb is one of its own, and sessions that end meanwhile do
// not matter.
func TestAllSessionsOfANamespaceEnd(t *testing.T) {
	l := newLab(t)
	for name, phase := range map[string]sessions.SessionPhase{"s-1": sessions.SessionActive, "over": sessions.SessionEnded, "gone": sessions.SessionActive} {
		s := *l.session()
		s.Name, s.UID, s.Status.Phase = name, "u", phase
		l.mine = append(l.mine, s)
	}
	// As the controller of namespaces asks.
	const protobuf = "application/vnd.kubernetes.protobuf,application/json"
	for _, accept := range []string{"application/json", protobuf} {
		if code, raw := l.do(l.client("front-proxy"), http.MethodDelete, api+"/namespaces/shop/sessions", "", "Accept", accept); code != http.StatusOK {
			t.Errorf("%s: answer %d: %s", accept, code, raw)
		}
	}
	if diff := cmp.Diff([]string{"shop/s-1/u/alice", "shop/s-1/u/alice"}, l.ended); diff != "" {
		t.Errorf("what ended (-want +got):\n%s", diff)
	}
	if code, raw := l.do(l.client("front-proxy"), http.MethodDelete, api+"/sessions", ""); code < 400 {
		t.Errorf("sessions of all namespaces at once: %d: %s", code, raw)
	}
}

func TestTables(t *testing.T) {
	l := newLab(t)
	const asTable = "application/json;as=Table;v=v1;g=meta.k8s.io"
	_, raw := l.do(l.client("front-proxy"), http.MethodGet, api+"/namespaces/shop/sessions", "", "Accept", asTable)
	var table metav1.Table
	if err := json.Unmarshal(raw, &table); err != nil || len(table.Rows) != 1 {
		t.Fatalf("%v: %s", err, raw)
	}
	want := []any{"s-1", "alice", "deployment/shop", "base", "steal, outgoing, dns", "Active"}
	if diff := cmp.Diff(want, table.Rows[0].Cells[:6]); diff != "" {
		t.Errorf("the row (-want +got):\n%s", diff)
	}
	_, raw = l.do(l.client("front-proxy"), http.MethodGet, api+"/namespaces/shop/targets?labelSelector=app%3Ddeployment.bank", "", "Accept", asTable)
	if err := json.Unmarshal(raw, &table); err != nil || len(table.Rows) != 1 || table.Rows[0].Cells[0] != "deployment.bank" {
		t.Errorf("%v: %s", err, raw)
	}
}

func TestSummary(t *testing.T) {
	for want, f := range map[string]sessions.Features{
		"none":                          {Incoming: sessions.Incoming{Mode: "off"}, Files: sessions.Files{Mode: "local"}},
		"steal (filtered), env":         {Incoming: sessions.Incoming{Mode: "steal", Filter: &sessions.HTTPFilter{}}, Env: sessions.Env{Enabled: true}},
		"mirror, outgoing (tcp), dns":   {Incoming: sessions.Incoming{Mode: "mirror"}, Outgoing: sessions.Outgoing{TCP: true}, DNS: sessions.DNS{Enabled: true}},
		"outgoing (udp), files (write)": {Outgoing: sessions.Outgoing{UDP: true}, Files: sessions.Files{Mode: "write"}},
	} {
		if got := Summary(f); got != want {
			t.Errorf("summary %q, want %q", got, want)
		}
	}
}
