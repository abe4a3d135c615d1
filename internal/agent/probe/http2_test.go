package probe

import (
	"bytes"
	"context"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"

	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

func frame(typ, flags byte, stream byte, payload []byte) []byte {
	n := len(payload)
	return append([]byte{byte(n >> 16), byte(n >> 8), byte(n), typ, flags, 0, 0, 0, stream}, payload...)
}

const (
	settingsFrame = "\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64"
	windowFrame   = "\x00\x00\x04\x08\x00\x00\x00\x00\x00\x00\x00\xff\xff"
)

func headerBlock(ua string) []byte {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	for _, f := range []hpack.HeaderField{
		{Name: ":method", Value: "POST"},
		{Name: ":path", Value: "/grpc.health.v1.Health/Check"},
		{Name: "user-agent", Value: ua},
		{Name: "te", Value: "trailers"},
	} {
		if err := e.WriteField(f); err != nil {
			panic(err)
		}
	}
	return b.Bytes()
}

func headersFrame(ua string, flags byte) []byte {
	block := headerBlock(ua)
	if flags&flagPriority != 0 {
		block = append(make([]byte, 5), block...)
	}
	if flags&flagPadded != 0 {
		block = append(append([]byte{3}, block...), 0, 0, 0)
	}
	return frame(frameHeaders, flags|flagEndHeaders, 1, block)
}

// splitHeaders spreads a header block over a HEADERS and two CONTINUATION frames.
func splitHeaders(ua string) []byte {
	b := headerBlock(ua)
	out := frame(frameHeaders, 0, 1, b[:3])
	out = append(out, frame(frameContinuation, 0, 1, b[3:len(b)-5])...)
	return append(out, frame(frameContinuation, flagEndHeaders, 1, b[len(b)-5:])...)
}

// grpc-go is the kubelet's own client. It is classified, handed to a real server with what
// was peeked, and gets its answer; as a probe, and as another client.
func TestGRPC(t *testing.T) {
	backend := listen(t)
	srv := grpc.NewServer()
	agents := make(chan string, 1)
	grpc_health_v1.RegisterHealthServer(srv, healthServer{health.NewServer(), agents})
	go srv.Serve(backend)
	t.Cleanup(srv.Stop)

	for agent, want := range map[string]bool{"kube-probe/1.35": true, "some-client/1": false} {
		t.Run(agent, func(t *testing.T) {
			front := listen(t)
			verdict := make(chan bool, 1)
			var wg sync.WaitGroup
			defer wg.Wait()
			defer front.Close()
			wg.Go(func() { handOver(t, front, backend.Addr().String(), verdict) })
			conn, err := grpc.NewClient(front.Addr().String(), grpc.WithUserAgent(agent),
				grpc.WithTransportCredentials(insecure.NewCredentials()))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			for range 3 {
				res, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
				if err != nil || res.Status != grpc_health_v1.HealthCheckResponse_SERVING {
					t.Fatalf("answer %v, %v", res, err)
				}
				if got := <-agents; !strings.HasPrefix(got, agent) {
					t.Errorf("the server saw %q", got)
				}
			}
			if got := <-verdict; got != want {
				t.Errorf("is a probe: %v, want %v", got, want)
			}
		})
	}
}

type healthServer struct {
	*health.Server
	agents chan<- string
}

func (h healthServer) Check(ctx context.Context, r *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	h.agents <- strings.Join(md.Get("user-agent"), " ")
	return h.Server.Check(ctx, r)
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

// handOver classifies one connection and relays it.
func handOver(t *testing.T, front net.Listener, to string, verdict chan<- bool) {
	in, err := front.Accept()
	if err != nil {
		t.Error(err)
		return
	}
	defer in.Close()
	got, peeked, err := Classify(t.Context(), in.(*net.TCPConn), []wire.ProbeKind{wire.ProbeGRPC})
	if err != nil {
		t.Error(err)
		return
	}
	verdict <- got
	out, err := net.Dial("tcp", to)
	if err != nil {
		t.Error(err)
		return
	}
	defer out.Close()
	var wg sync.WaitGroup
	wg.Go(func() { out.Write(peeked); io.Copy(out, in); out.(*net.TCPConn).CloseWrite() })
	wg.Go(func() { io.Copy(in, out) })
	wg.Wait()
}
