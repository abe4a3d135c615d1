package tlsdelivery

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/tlsconn/tlstest"
	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// seen is what the process sees of a connection.
type seen struct {
	name, alpn, client, text string
	err                      error
}

// process takes one connection, echoes and ends it.
func process(t *testing.T, c *tls.Config) (*net.TCPConn, <-chan seen) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	out := make(chan seen, 1)
	go func() {
		defer l.Close()
		var s seen
		raw, err := l.Accept()
		if err != nil {
			out <- seen{err: err}
			return
		}
		defer raw.Close()
		conn := raw
		if c != nil {
			secure := tls.Server(raw, c)
			conn = secure
			if s.err = secure.Handshake(); s.err != nil {
				out <- s
				return
			}
			state := secure.ConnectionState()
			s.name, s.alpn = state.ServerName, state.NegotiatedProtocol
			if len(state.PeerCertificates) > 0 {
				s.client = state.PeerCertificates[0].Subject.CommonName
			}
		}
		b, err := io.ReadAll(conn)
		s.text, s.err = string(b), err
		_, _ = conn.Write(b)
		out <- s
	}()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	return conn.(*net.TCPConn), out
}

func TestDelivery(t *testing.T) {
	authority, other := tlstest.New(t, "authority"), tlstest.New(t, "another")
	pair, me := authority.Issue("shop.example", "localhost"), authority.Issue("me")
	cert, root := tlstest.Write(t, "cert.pem", pair.CertPEM), tlstest.Write(t, "ca.pem", authority.PEM)
	wrong := tlstest.Write(t, "wrong.pem", other.PEM)
	otherCert := tlstest.Write(t, "other.pem", other.Issue("shop.example").CertPEM)
	clientCert, clientKey := tlstest.Write(t, "me.pem", me.CertPEM), tlstest.Write(t, "me.key", me.KeyPEM)
	server := &tls.Config{Certificates: []tls.Certificate{pair.TLS}, NextProtos: []string{"h2", "http/1.1"}, ClientAuth: tls.RequestClientCert}
	h1 := server.Clone()
	h1.NextProtos = []string{"http/1.1"}
	tests := []struct {
		name   string
		d      config.TLSDelivery
		server *tls.Config
		info   wire.TLSInfo
		want   seen
		fails  string
	}{
		{name: "any certificate", server: server, info: wire.TLSInfo{ServerName: "x.example", ALPN: "h2"}, want: seen{name: "x.example", alpn: "h2"}},
		{name: "no name", server: server, want: seen{name: "localhost"}},
		{name: "plain", d: config.TLSDelivery{Protocol: config.DeliverTCP}, info: wire.TLSInfo{ALPN: "h2"}},
		{name: "roots", d: config.TLSDelivery{TrustRoots: []string{root}}, server: server, info: wire.TLSInfo{ServerName: "shop.example"}, want: seen{name: "shop.example"}},
		{name: "folder of roots", d: config.TLSDelivery{TrustRoots: []string{filepath.Dir(root)}}, server: server, want: seen{name: "localhost"}},
		{name: "wrong roots", d: config.TLSDelivery{TrustRoots: []string{wrong}}, server: server, fails: "unknown authority"},
		{name: "roots and another name", d: config.TLSDelivery{TrustRoots: []string{root}}, server: server, info: wire.TLSInfo{ServerName: "x.example"}, fails: "not x.example"},
		{name: "roots and a name", d: config.TLSDelivery{TrustRoots: []string{root}, ServerName: "shop.example"}, server: server, info: wire.TLSInfo{ServerName: "x.example"}, want: seen{name: "shop.example"}},
		{name: "certificate", d: config.TLSDelivery{ServerCert: cert}, server: server, info: wire.TLSInfo{ServerName: "x.example"}, want: seen{name: "shop.example"}},
		{name: "another certificate", d: config.TLSDelivery{ServerCert: otherCert}, server: server, fails: "unknown authority"},
		{name: "client certificate", d: config.TLSDelivery{ClientCert: clientCert, ClientKey: clientKey}, server: server, want: seen{name: "localhost", client: "me"}},
		{name: "no HTTP/2", server: h1, info: wire.TLSInfo{ALPN: "h2"}, fails: "no application protocol"},
		{name: "HTTP/2 unheard of", server: &tls.Config{Certificates: server.Certificates}, info: wire.TLSInfo{ALPN: "h2"}, fails: "does not speak HTTP/2"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d, err := New(tt.d)
			if err != nil {
				t.Fatal(err)
			}
			raw, saw := process(t, tt.server)
			c, err := d.Wrap(t.Context(), raw, tt.info)
			if tt.fails != "" {
				if bad, ok := errors.AsType[*HandshakeError](err); !ok || !strings.Contains(bad.Error(), tt.fails) {
					t.Errorf("got %v, want %q", err, tt.fails)
				}
				<-saw
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(c, "hello"); err != nil {
				t.Fatal(err)
			}
			if err := c.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if b, err := io.ReadAll(c); err != nil || string(b) != "hello" {
				t.Errorf("got %q, %v", b, err)
			}
			tt.want.text = "hello"
			if got := <-saw; got != tt.want {
				t.Errorf("the process saw %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestMistakes(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for field, d := range map[string]config.TLSDelivery{
		"server_cert": {ServerCert: "/none"},
		"trust_roots": {TrustRoots: []string{empty}},
		"client_cert": {ClientCert: empty, ClientKey: empty},
	} {
		_, err := New(d)
		if bad, ok := errors.AsType[*FieldError](err); !ok || bad.Field != field {
			t.Errorf("%s: got %v", field, err)
		}
	}
}
