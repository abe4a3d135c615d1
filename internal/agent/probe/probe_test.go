package probe

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Bytes as net/http sends them for a kubelet.
const (
	probeRequest = "GET /healthz HTTP/1.1\r\nHost: 10.0.0.1:8080\r\nUser-Agent: kube-probe/1.35\r\nAccept: */*\r\nConnection: close\r\n\r\n"
	otherRequest = "GET /healthz HTTP/1.1\r\nHost: 10.0.0.1:8080\r\nUser-Agent: curl/8.0\r\nAccept: */*\r\n\r\n"
)

// The same in HTTP/2; the first header block has the user agent huffman-coded.
func http2Request(ua string) string { return preface + settingsFrame + string(headersFrame(ua, 0)) }

func TestClassify(t *testing.T) {
	all := []wire.ProbeKind{wire.ProbeHTTP, wire.ProbeHTTPS, wire.ProbeGRPC, wire.ProbeTCP}
	only := func(k wire.ProbeKind) []wire.ProbeKind { return []wire.ProbeKind{k} }
	tests := []struct {
		name  string
		kinds []wire.ProbeKind
		send  string
		want  bool
	}{
		{"http", all, probeRequest, true},
		{"http alone", only(wire.ProbeHTTP), probeRequest, true},
		{"http not declared", []wire.ProbeKind{wire.ProbeHTTPS, wire.ProbeGRPC, wire.ProbeTCP}, probeRequest, false},
		{"http other client", all, otherRequest, false},
		{"http lower case, line feeds", all, "GET / HTTP/1.0\nuser-agent:kube-probe/1.30\n\n", true},
		{"http agent elsewhere", all, "GET /?User-Agent:kube-probe/ HTTP/1.1\r\nX: User-Agent: kube-probe/1\r\n\r\n", false},
		{"http agent in the body", all, "GET / HTTP/1.1\r\nHost: x\r\n\r\nUser-Agent: kube-probe/1\r\n\r\n", false},
		{"http post", all, "POST / HTTP/1.1\r\nUser-Agent: kube-probe/1.35\r\n\r\n", false},
		{"http cut off", all, "GET / HTTP/1.1\r\nUser-Agent: kube-probe/1.3", false},
		{"http endless header", all, "GET / HTTP/1.1\r\nX: " + strings.Repeat("x", 2*maxPeek), false},
		{"no http at all", all, "GET lost\r\nUser-Agent: kube-probe/1\r\n", false},
		{"grpc", all, http2Request("kube-probe/1.35 grpc-go/1.82"), true},
		{"grpc in parts", all, preface + settingsFrame + windowFrame + string(splitHeaders("kube-probe/1.35")), true},
		{"grpc padded", all, preface + settingsFrame + string(headersFrame("kube-probe/1.35", flagPadded|flagPriority)), true},
		{"grpc other client", all, http2Request("grpc-go/1.82"), false},
		{"grpc not declared", only(wire.ProbeHTTP), http2Request("kube-probe/1.35"), false},
		{"grpc second stream", all, http2Request("grpc-go/1.82") + string(headersFrame("kube-probe/1.35", 0)), false},
		{"grpc without settings", all, preface + string(headersFrame("kube-probe/1.35", 0)), false},
		{"grpc data first", all, preface + settingsFrame + string(frame(frameData, 0, 1, nil)), false},
		{"grpc frame too long", all, preface + settingsFrame + "\xff\xff\xff\x01\x04\x00\x00\x00\x01", false},
		{"grpc bad hpack", all, preface + settingsFrame + string(frame(frameHeaders, flagEndHeaders, 1, []byte{0xff, 0xff, 0xff, 0xff, 0xff})), false},
		{"https", all, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", true},
		{"https not declared", only(wire.ProbeTCP), "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", false},
		{"https alert", all, "\x15\x03\x01\x00\x02\x01\x00", false},
		{"https other handshake", all, "\x16\x03\x01\x02\x00\x02\x00", false},
		{"tcp", all, "", true},
		{"tcp not declared", only(wire.ProbeHTTP), "", false},
		{"tcp with data", only(wire.ProbeTCP), "x", false},
		{"no kinds", nil, probeRequest, false},
	}
	for _, tt := range tests {
		for name, size := range map[string]int{"at once": 1 << 20, "by bytes": 1} {
			t.Run(tt.name+"/"+name, func(t *testing.T) {
				if size == 1 && len(tt.send) > maxPeek {
					t.Skip("takes longer than a connection is waited for")
				}
				client, server := tcpPair(t)
				go func() {
					for b := []byte(tt.send); len(b) > 0; {
						n := min(size, len(b))
						client.Write(b[:n])
						b = b[n:]
					}
					client.CloseWrite()
				}()
				got, peeked, err := Classify(t.Context(), server, tt.kinds)
				if got != tt.want || err != nil {
					t.Errorf("got %v, %v; want %v", got, err, tt.want)
				}
				rest, err := io.ReadAll(server)
				if err != nil {
					t.Fatal(err)
				}
				if string(peeked)+string(rest) != tt.send {
					t.Errorf("what was sent did not all come out:\n%q\n%q\nwant\n%q", peeked, rest, tt.send)
				}
			})
		}
	}
}

func tcpPair(t testing.TB) (client, server *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

// A kubelet that leaves with a reset has probed as well.
func TestClassifyReset(t *testing.T) {
	client, server := tcpPair(t)
	client.SetLinger(0)
	client.Close()
	got, peeked, err := Classify(t.Context(), server, []wire.ProbeKind{wire.ProbeTCP})
	if !got || len(peeked) != 0 || err != nil {
		t.Errorf("got %v, %q, %v", got, peeked, err)
	}
}

func TestClassifySilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		defer client.Close()
		defer server.Close()
		start := time.Now()
		got, peeked, err := Classify(t.Context(), server, []wire.ProbeKind{wire.ProbeTCP, wire.ProbeHTTP})
		if got || len(peeked) != 0 || err != nil {
			t.Errorf("got %v, %q, %v", got, peeked, err)
		}
		if took := time.Since(start); took != Patience {
			t.Errorf("took %v", took)
		}
		// The deadline is gone: the connection works as if nothing had been.
		go func() { time.Sleep(time.Minute); client.Write([]byte("late")) }()
		if b := make([]byte, 4); must(io.ReadFull(server, b)) != 4 || string(b) != "late" {
			t.Errorf("read %q", b)
		}
	})
}

// A connection can't be held up by sending slowly.
func TestClassifySlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		defer server.Close()
		go func() {
			defer client.Close()
			for _, b := range []byte(probeRequest) {
				time.Sleep(50 * time.Millisecond)
				if _, err := client.Write([]byte{b}); err != nil {
					return
				}
			}
		}()
		start := time.Now()
		got, peeked, err := Classify(t.Context(), server, []wire.ProbeKind{wire.ProbeHTTP})
		if got || err != nil || time.Since(start) != Patience {
			t.Errorf("got %v, %v after %v", got, err, time.Since(start))
		}
		rest := must(io.ReadAll(server))
		if string(peeked)+string(rest) != probeRequest {
			t.Errorf("lost something: %q %q", peeked, rest)
		}
	})
}

func TestClassifyCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		defer client.Close()
		defer server.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		go client.Write([]byte("GET"))
		got, peeked, err := Classify(ctx, server, []wire.ProbeKind{wire.ProbeHTTP})
		if got || string(peeked) != "GET" || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, %q, %v", got, peeked, err)
		}
	})
}

// A client that waits for the server's settings gets them, and the server does not see that
// they were acknowledged.
func TestClassifyNudge(t *testing.T) {
	ack := string(frame(frameSettings, flagAck, 0, nil))
	probe, other := string(headersFrame("kube-probe/1.35", 0)), string(headersFrame("grpc-go/1", 0))
	tests := []struct {
		name, answer string
		want         bool
		peeked       string
		err          error
	}{
		{"probe", ack + probe, true, probe, nil},
		{"probe, acknowledged late", probe + windowFrame + ack, true, probe + windowFrame, nil},
		{"other client", ack + other, false, other, nil},
		{"no request", ack, false, "", nil},
		{"no acknowledgement", probe, false, probe, ErrNoAck},
		{"silence", "", false, "", ErrNoAck},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, server := net.Pipe()
				defer client.Close()
				defer server.Close()
				go func() {
					client.Write([]byte(preface + settingsFrame))
					got := make([]byte, frameHeaderLen)
					if _, err := io.ReadFull(client, got); err != nil || !bytes.Equal(got, frame(frameSettings, 0, 0, nil)) {
						t.Errorf("the client got %q, %v", got, err)
					}
					client.Write([]byte(tt.answer))
				}()
				got, peeked, err := Classify(t.Context(), server, []wire.ProbeKind{wire.ProbeGRPC})
				if got != tt.want || !errors.Is(err, tt.err) {
					t.Errorf("got %v, %v; want %v, %v", got, err, tt.want, tt.err)
				}
				if want := preface + settingsFrame + tt.peeked; string(peeked) != want {
					t.Errorf("peeked %q, want %q", peeked, want)
				}
			})
		})
	}
}

// A client on a busy machine takes its time to make a request of what it waited for.
func TestClassifySlowAfterNudge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		defer client.Close()
		defer server.Close()
		go func() {
			client.Write([]byte(preface + settingsFrame))
			io.ReadFull(client, make([]byte, frameHeaderLen))
			client.Write(frame(frameSettings, flagAck, 0, nil))
			time.Sleep(4 * Patience)
			client.Write(headersFrame("kube-probe/1.35", 0))
		}()
		if got, _, err := Classify(t.Context(), server, []wire.ProbeKind{wire.ProbeGRPC}); !got || err != nil {
			t.Errorf("got %v, %v", got, err)
		}
	})
}

// The real clients: net/http and crypto/tls as the kubelet uses them.
func TestClassifyRealClients(t *testing.T) {
	tests := []struct {
		name string
		kind wire.ProbeKind
		send func(net.Conn)
	}{
		{"http", wire.ProbeHTTP, func(c net.Conn) {
			req, _ := http.NewRequest("GET", "http://10.0.0.1/healthz", nil)
			req.Header.Set("User-Agent", "kube-probe/1.35")
			req.Write(c)
		}},
		{"https", wire.ProbeHTTPS, func(c net.Conn) {
			tls.Client(c, &tls.Config{InsecureSkipVerify: true}).Handshake()
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			client, server := tcpPair(t)
			sent := make(chan struct{})
			go func() { defer close(sent); tt.send(client) }()
			got, _, err := Classify(t.Context(), server, []wire.ProbeKind{tt.kind})
			if !got || err != nil {
				t.Errorf("got %v, %v", got, err)
			}
			server.Close()
			<-sent
		})
	}
}

func TestSources(t *testing.T) {
	a := netip.MustParseAddr
	s := NewSources([]netip.Addr{a("192.0.2.7"), a("::ffff:192.0.2.8"), {}}, []netip.Addr{a("10.0.0.1"), a("fe80::1%eth0")})
	for addr, want := range map[string]bool{
		"192.0.2.7": true, "::ffff:192.0.2.7": true, "192.0.2.8": true, "10.0.0.1": true,
		"fe80::1": true, "fe80::1%eth1": true, "10.0.0.2": false, "::1": false,
	} {
		if got := s.Contains(a(addr)); got != want {
			t.Errorf("%s: %v", addr, got)
		}
	}
	if (Sources{}).Contains(netip.Addr{}) || s.Contains(netip.Addr{}) {
		t.Error("contains no address")
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// script is a connection that delivers data in pieces, with a timeout after one of them.
type script struct {
	data    []byte
	size    int
	silence int // reads until a timeout; 0 for none
	eof     error
}

func (s *script) Read(b []byte) (int, error) {
	if s.silence--; s.silence == 0 {
		return 0, os.ErrDeadlineExceeded
	}
	if len(s.data) == 0 {
		return 0, s.eof
	}
	n := copy(b[:min(len(b), s.size)], s.data)
	s.data = s.data[n:]
	return n, nil
}

func (*script) Write(b []byte) (int, error)     { return len(b), nil }
func (*script) SetReadDeadline(time.Time) error { return nil }

func FuzzClassify(f *testing.F) {
	for _, s := range []string{probeRequest, otherRequest, http2Request("kube-probe/1"), preface + settingsFrame +
		string(frame(frameSettings, flagAck, 0, nil)) + string(splitHeaders("kube-probe/1")), "\x16\x03\x01\x02\x00\x01\x00", ""} {
		f.Add([]byte(s), 3, 2)
	}
	all := []wire.ProbeKind{wire.ProbeHTTP, wire.ProbeHTTPS, wire.ProbeGRPC, wire.ProbeTCP}
	f.Fuzz(func(t *testing.T, data []byte, size, silence int) {
		if len(data) > 4096 {
			return
		}
		run := func(size, silence int) (bool, string, error) {
			c := &script{data: data, size: size, silence: silence, eof: io.EOF}
			got, peeked, err := Classify(t.Context(), c, all)
			return got, string(peeked) + string(c.data), err
		}
		whole, all1, err := run(len(data)+1, 0)
		if err != nil || all1 != string(data) {
			t.Fatalf("at once: %q, %v", all1, err)
		}
		parts, all2, err := run(max(1, size), 0)
		if err != nil || all2 != string(data) || parts != whole {
			t.Fatalf("in parts: %v, %q, %v; at once: %v", parts, all2, err, whole)
		}
		if _, all3, err := run(max(1, size), max(0, silence)); err == nil && all3 != string(data) {
			ack := string(frame(frameSettings, flagAck, 0, nil))
			if len(all3) != len(data)-len(ack) || !strings.Contains(string(data), ack[1:4]) {
				t.Fatalf("with a pause: %q", all3)
			}
		}
		// A request that net/http reads and that has another agent is never a probe.
		if req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(data))); err == nil && whole && !strings.HasPrefix(string(data), "PRI ") {
			if ua := req.UserAgent(); !strings.HasPrefix(ua, userAgent) {
				t.Fatalf("a request of %q is taken for a probe", ua)
			}
		}
	})
}
