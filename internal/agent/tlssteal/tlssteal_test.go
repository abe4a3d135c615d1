package tlssteal

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mirrord-go/mirrord/internal/agent/httpsplit"
	"github.com/mirrord-go/mirrord/internal/agent/target"
	"github.com/mirrord-go/mirrord/internal/httpfilter"
	"github.com/mirrord-go/mirrord/internal/tlsconn/tlstest"
	"github.com/mirrord-go/mirrord/internal/tlsport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// folder is a container's file system.
type folder string

func (d folder) OpenFile(name string) (*os.File, error) {
	path := filepath.Join(string(d), name)
	if i, err := os.Stat(path); err == nil && !i.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "open", Path: name, Err: target.ErrNotRegular}
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: errors.Unwrap(err)}
	}
	return f, nil
}

func (d folder) ReadDirNames(name string, limit int) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(string(d), name))
	if len(entries) > limit {
		return nil, errors.New("too many")
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

func (d folder) write(t *testing.T, name string, content []byte) {
	t.Helper()
	path := filepath.Join(string(d), name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// shop is an application with TLS, and the files of its container.
type shop struct {
	authority *tlstest.Authority
	files     folder
	config    tlsport.Port
	app, mine destination

	mu    sync.Mutex
	certs []string // that clients showed to the application
}

const certFile, keyFile, rootFile = "/etc/tls/tls.crt", "/etc/tls/tls.key", "/etc/roots/ca.crt"

func newShop(t *testing.T) *shop {
	t.Helper()
	s := &shop{authority: tlstest.New(t, "the shop's authority"), files: folder(t.TempDir())}
	pair := s.authority.Issue("shop.example", "127.0.0.1")
	s.files.write(t, certFile, pair.CertPEM)
	s.files.write(t, keyFile, pair.KeyPEM)
	s.files.write(t, rootFile, s.authority.PEM)
	s.config = tlsport.Port{
		Port: 443,
		AgentAsServer: tlsport.AgentAsServer{
			Authentication: tlsport.Authentication{CertPEM: certFile, KeyPEM: keyFile}, ALPNProtocols: []string{"h2", "http/1.1"},
		},
		AgentAsClient: tlsport.AgentAsClient{Verification: tlsport.ServerVerification{TrustRoots: []string{"/etc/roots"}}},
	}
	app := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s.mu.Lock()
			for _, c := range r.TLS.PeerCertificates {
				s.certs = append(s.certs, c.Subject.CommonName)
			}
			s.mu.Unlock()
			fmt.Fprintf(w, "app %s %s", r.Proto, r.TLS.ServerName)
		}),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair.TLS}, NextProtos: []string{"h2", "http/1.1"}, ClientAuth: tls.RequestClientCert},
		ErrorLog:  slog.NewLogLogger(slog.DiscardHandler, 0),
	}
	s.app = serve(t, app, true)
	var plain http.Protocols
	plain.SetHTTP1(true)
	plain.SetUnencryptedHTTP2(true)
	s.mine = serve(t, &http.Server{Protocols: &plain, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "mine %s %v", r.Proto, r.TLS)
	})}, false)
	return s
}

func serve(t *testing.T, srv *http.Server, secure bool) destination {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if secure {
			_ = srv.ServeTLS(l, "", "")
		} else {
			_ = srv.Serve(l)
		}
	}()
	t.Cleanup(func() {
		_ = srv.Close()
		<-done
	})
	return destination(l.Addr().String())
}

type destination string

func (d destination) Dial(ctx context.Context) (httpsplit.Conn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", string(d))
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// front serves connections as the agent does; what has "X-User: me" is mine.
func (s *shop) front(t *testing.T) string { return s.frontThatWaits(t, time.Minute) }

// frontThatWaits takes a client for silent after that time.
func (s *shop) frontThatWaits(t *testing.T, silence time.Duration) string {
	t.Helper()
	p, err := New(slog.New(slog.NewTextHandler(t.Output(), nil)), s.config, s.files)
	if err != nil {
		t.Fatal(err)
	}
	filter, err := httpfilter.Compile(httpfilter.Spec{Rule: httpfilter.Rule{Header: "^x-user: me$"}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				plain, info, err := p.Accept(ctx, c.(*net.TCPConn), silence)
				if err != nil {
					_ = c.Close()
					return
				}
				o := httpsplit.Options{App: s.app, Choose: func(r *httpfilter.Request) httpsplit.Destination {
					if ok, _ := filter.Match(r); ok {
						return s.mine
					}
					return nil
				}}
				if info != nil {
					o.App = p.App(s.app, *info)
				}
				_ = httpsplit.Serve(ctx, slog.New(slog.DiscardHandler), plain, o)
			})
		}
	})
	t.Cleanup(func() {
		cancel()
		_ = l.Close()
		all.Wait()
	})
	return l.Addr().String()
}

// client speaks TLS to the front.
func client(t *testing.T, front string, c *tls.Config, http2 bool) *http.Client {
	t.Helper()
	var protocols http.Protocols
	protocols.SetHTTP1(!http2)
	protocols.SetHTTP2(http2)
	tr := &http.Transport{
		Protocols: &protocols, TLSClientConfig: c,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", front)
		},
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: time.Minute}
}

func get(c *http.Client, url string, mine bool) (string, error) {
	r, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	if mine {
		r.Header.Set("X-User", "me")
	}
	resp, err := c.Do(r)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

func TestRequestsGoTheirWay(t *testing.T) {
	s := newShop(t)
	front := s.front(t)
	for _, http2 := range []bool{false, true} {
		proto := map[bool]string{false: "HTTP/1.1", true: "HTTP/2.0"}[http2]
		t.Run(proto, func(t *testing.T) {
			c := client(t, front, &tls.Config{RootCAs: s.authority.Pool}, http2)
			for range 2 {
				for mine, want := range map[bool]string{false: "app " + proto + " shop.example", true: "mine " + proto + " <nil>"} {
					if got, err := get(c, "https://shop.example/", mine); err != nil || got != want {
						t.Errorf("got %q, %v; want %q", got, err, want)
					}
				}
			}
		})
	}
}

// TestWithoutServerName verifies the application by its address, or by the name in the configuration.
func TestWithoutServerName(t *testing.T) {
	for _, name := range []string{"", "shop.example"} {
		s := newShop(t)
		s.config.AgentAsClient.Verification.ServerName = name
		c := client(t, s.front(t), &tls.Config{RootCAs: s.authority.Pool}, false)
		if got, err := get(c, "https://127.0.0.1/", false); err != nil || got != "app HTTP/1.1 "+name {
			t.Errorf("got %q, %v", got, err)
		}
	}
}

// TestNotTLS: what is no TLS goes on as it is.
func TestNotTLS(t *testing.T) {
	s := newShop(t)
	s.app = s.mine // an application without TLS
	c := client(t, s.front(t), nil, false)
	if got, err := get(c, "http://shop.example/", false); err != nil || got != "mine HTTP/1.1 <nil>" {
		t.Errorf("got %q, %v", got, err)
	}
}

// TestSilence: a server that speaks first is heard.
func TestSilence(t *testing.T) {
	s := newShop(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		if c, err := l.Accept(); err == nil {
			_, _ = io.WriteString(c, "220 welcome\r\n")
			_ = c.Close()
		}
	}()
	s.app = destination(l.Addr().String())
	c, err := net.Dial("tcp", s.frontThatWaits(t, 50*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	if line, err := bufio.NewReader(c).ReadString('\n'); err != nil || line != "220 welcome\r\n" {
		t.Errorf("got %q, %v", line, err)
	}
}

func TestClientCertificates(t *testing.T) {
	stranger := tlstest.New(t, "somebody else")
	tests := []struct {
		name                 string
		v                    *tlsport.ClientVerification
		known, none, foreign bool // who is let in
	}{
		{"not asked", nil, true, true, true},
		{"required", &tlsport.ClientVerification{TrustRoots: []string{rootFile}}, true, false, false},
		{"anonymous too", &tlsport.ClientVerification{AllowAnonymous: true, TrustRoots: []string{rootFile}}, true, true, false},
		{"any", &tlsport.ClientVerification{AcceptAnyCert: true}, true, false, true},
		{"any or none", &tlsport.ClientVerification{AcceptAnyCert: true, AllowAnonymous: true}, true, true, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newShop(t)
			s.config.AgentAsServer.Verification = tt.v
			front := s.front(t)
			for _, who := range []struct {
				name  string
				certs []tls.Certificate
				in    bool
			}{
				{"known", []tls.Certificate{s.authority.Issue("me").TLS}, tt.known},
				{"none", nil, tt.none},
				{"foreign", []tls.Certificate{stranger.Issue("me").TLS}, tt.foreign},
			} {
				// Also a certificate that the server does not ask for is sent.
				config := &tls.Config{RootCAs: s.authority.Pool, GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
					if who.certs == nil {
						return &tls.Certificate{}, nil
					}
					return &who.certs[0], nil
				}}
				if _, err := get(client(t, front, config, false), "https://shop.example/", false); (err == nil) != who.in {
					t.Errorf("%s: %v", who.name, err)
				}
			}
		})
	}
}

// TestApplicationIsKnown: nothing is sent to who is not the application.
func TestApplicationIsKnown(t *testing.T) {
	s := newShop(t)
	s.files.write(t, rootFile, tlstest.New(t, "somebody else").PEM)
	c := client(t, s.front(t), &tls.Config{RootCAs: s.authority.Pool}, false)
	if got, err := get(c, "https://shop.example/", false); err == nil {
		t.Errorf("got %q", got)
	}
	if got, err := get(c, "https://shop.example/", true); err != nil || got != "mine HTTP/1.1 <nil>" {
		t.Errorf("what is mine does not need the application: got %q, %v", got, err)
	}
}

// TestAgentHasACertificate which the application sees, and not the client's.
func TestAgentHasACertificate(t *testing.T) {
	s := newShop(t)
	pair := s.authority.Issue("the agent")
	s.files.write(t, "/agent.pem", slices.Concat(pair.KeyPEM, pair.CertPEM))
	s.config.AgentAsClient.Authentication = &tlsport.Authentication{CertPEM: "/agent.pem", KeyPEM: "/agent.pem"}
	s.config.AgentAsClient.Verification = tlsport.ServerVerification{AcceptAnyCert: true}
	config := &tls.Config{RootCAs: s.authority.Pool, Certificates: []tls.Certificate{s.authority.Issue("a client").TLS}}
	if _, err := get(client(t, s.front(t), config, false), "https://shop.example/", false); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if got := strings.Join(s.certs, ","); got != "the agent" {
		t.Errorf("the application saw %q", got)
	}
}

// TestRenewal: new files count soon, unreadable ones not.
func TestRenewal(t *testing.T) {
	s := newShop(t)
	p, err := New(slog.New(slog.DiscardHandler), s.config, s.files)
	if err != nil {
		t.Fatal(err)
	}
	old := func() { p.mu.Lock(); p.read = time.Now().Add(-2 * freshFor); p.mu.Unlock() }
	serial := func() string {
		server, _ := p.configs()
		return server.Certificates[0].Leaf.SerialNumber.String()
	}
	first := serial()
	renewed := s.authority.Issue("shop.example", "127.0.0.1")
	s.files.write(t, certFile, renewed.CertPEM)
	if serial() != first {
		t.Error("the files are read for every connection")
	}
	old()
	if serial() != first {
		t.Error("half of the renewal counts")
	}
	s.files.write(t, keyFile, renewed.KeyPEM)
	old()
	if serial() == first {
		t.Error("the renewal does not count")
	}
}

// hanging is a file system that does not answer, as a network's may.
type hanging struct {
	folder
	arrived, release chan struct{}
}

func (h hanging) OpenFile(name string) (*os.File, error) {
	h.arrived <- struct{}{}
	<-h.release
	return h.folder.OpenFile(name)
}

// TestHangingFiles: while one connection reads the files again, the others go on.
func TestHangingFiles(t *testing.T) {
	s := newShop(t)
	p, err := New(slog.New(slog.DiscardHandler), s.config, s.files)
	if err != nil {
		t.Fatal(err)
	}
	h := hanging{s.files, make(chan struct{}, 10), make(chan struct{})}
	p.files = h
	p.read = time.Now().Add(-2 * freshFor)
	var one sync.WaitGroup
	one.Go(func() { p.configs() })
	<-h.arrived
	if server, client := p.configs(); server == nil || client == nil {
		t.Error("there is no configuration meanwhile")
	}
	close(h.release)
	one.Wait()
}

func TestMistakes(t *testing.T) {
	tests := []struct {
		name   string
		change func(*testing.T, *shop)
		want   string
	}{
		{"no certificate", func(_ *testing.T, s *shop) { s.config.AgentAsServer.Authentication.CertPEM = "/none" }, "agentAsServer.authentication.certPem: open /none: no such file"},
		{"no key", func(_ *testing.T, s *shop) { s.config.AgentAsServer.Authentication.KeyPEM = "/none" }, "agentAsServer.authentication.keyPem"},
		{"another key", func(t *testing.T, s *shop) { s.files.write(t, keyFile, s.authority.Issue("x").KeyPEM) }, "private key does not match"},
		{"relative", func(_ *testing.T, s *shop) { s.config.AgentAsServer.Authentication.KeyPEM = "tls.key" }, "must be an absolute path"},
		{"no roots", func(_ *testing.T, s *shop) { s.config.AgentAsClient.Verification.TrustRoots = nil }, "trusts no application"},
		{"roots without certificates", func(_ *testing.T, s *shop) { s.config.AgentAsClient.Verification.TrustRoots = []string{keyFile} }, "there is no certificate"},
		{"too large", func(t *testing.T, s *shop) { s.files.write(t, certFile, make([]byte, maxFile+1)) }, "more than 1048576 bytes"},
		{"takes no client", func(_ *testing.T, s *shop) { s.config.AgentAsServer.Verification = &tlsport.ClientVerification{} }, "takes no client"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newShop(t)
			tt.change(t, s)
			_, err := New(slog.New(slog.DiscardHandler), s.config, s.files)
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "port 443") {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), "PRIVATE") {
				t.Errorf("the error shows a key: %v", err)
			}
		})
	}
}
