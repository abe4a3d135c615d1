package httpsplit

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/mirrord-go/mirrord/internal/httpfilter"
)

// service answers with its name, in a header, in the messages and in a trailer.
type service struct {
	pb.UnimplementedTestServiceServer
	name string

	mu    sync.Mutex
	calls []string
}

func (s *service) called(method string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, method)
}

func (s *service) got() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

func (s *service) payload(n int) *pb.Payload {
	return &pb.Payload{Body: []byte(s.name + strconv.Itoa(n))}
}

func (s *service) UnaryCall(ctx context.Context, r *pb.SimpleRequest) (*pb.SimpleResponse, error) {
	s.called("unary")
	_ = grpc.SetTrailer(ctx, metadata.Pairs("answered-by", s.name))
	if r.GetResponseStatus().GetCode() != 0 {
		return nil, status.Error(codes.Code(r.GetResponseStatus().GetCode()), "as asked by: "+s.name)
	}
	return &pb.SimpleResponse{Payload: s.payload(len(r.GetPayload().GetBody()))}, nil
}

func (s *service) StreamingOutputCall(r *pb.StreamingOutputCallRequest, st grpc.ServerStreamingServer[pb.StreamingOutputCallResponse]) error {
	s.called("down")
	for i := range r.GetResponseParameters() {
		if err := st.Send(&pb.StreamingOutputCallResponse{Payload: s.payload(i)}); err != nil {
			return err
		}
	}
	st.SetTrailer(metadata.Pairs("answered-by", s.name))
	return nil
}

func (s *service) StreamingInputCall(st grpc.ClientStreamingServer[pb.StreamingInputCallRequest, pb.StreamingInputCallResponse]) error {
	s.called("up")
	n := 0
	for {
		r, err := st.Recv()
		if errors.Is(err, io.EOF) {
			st.SetTrailer(metadata.Pairs("answered-by", s.name))
			return st.SendAndClose(&pb.StreamingInputCallResponse{AggregatedPayloadSize: int32(n)})
		}
		if err != nil {
			return err
		}
		n += len(r.GetPayload().GetBody())
	}
}

func (s *service) FullDuplexCall(st grpc.BidiStreamingServer[pb.StreamingOutputCallRequest, pb.StreamingOutputCallResponse]) error {
	s.called("both")
	for n := 0; ; n++ {
		if _, err := st.Recv(); errors.Is(err, io.EOF) {
			st.SetTrailer(metadata.Pairs("answered-by", s.name))
			return status.Error(codes.Aborted, "the end")
		} else if err != nil {
			return err
		}
		if err := st.Send(&pb.StreamingOutputCallResponse{Payload: s.payload(n)}); err != nil {
			return err
		}
	}
}

// serveGRPC is a service behind an address.
func serveGRPC(t *testing.T, name string) (*service, *address) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, srv := &service{name: name}, grpc.NewServer()
	pb.RegisterTestServiceServer(srv, s)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l)
	}()
	t.Cleanup(func() {
		srv.Stop()
		<-done
	})
	return s, &address{addr: l.Addr().String()}
}

func clientGRPC(t *testing.T, addr string) pb.TestServiceClient {
	t.Helper()
	cc, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cc.Close() })
	return pb.NewTestServiceClient(cc)
}

// TestGRPC: calls of each kind at once on one connection, with a real client and real servers.
func TestGRPC(t *testing.T) {
	_, app := serveGRPC(t, "app")
	_, local := serveGRPC(t, "local")
	c := clientGRPC(t, split(t, app, local))
	var all sync.WaitGroup
	for i := range 40 {
		want, ctx := "app", t.Context()
		if i%2 == 0 {
			want, ctx = "local", metadata.AppendToOutgoingContext(ctx, "x-user", "me")
		}
		all.Go(func() {
			for _, call := range []func(context.Context, *testing.T, pb.TestServiceClient, string){unary, refused, down, up, both} {
				call(ctx, t, c, want)
			}
		})
	}
	all.Wait()
	if app.dials() != 1 || local.dials() != 1 {
		t.Errorf("%d and %d connections", app.dials(), local.dials())
	}
}

func wantTrailer(t *testing.T, trailer metadata.MD, want string) {
	t.Helper()
	if got := trailer.Get("answered-by"); !slices.Equal(got, []string{want}) {
		t.Errorf("trailer %v, want %s", trailer, want)
	}
}

func unary(ctx context.Context, t *testing.T, c pb.TestServiceClient, want string) {
	t.Helper()
	var trailer metadata.MD
	r, err := c.UnaryCall(ctx, &pb.SimpleRequest{Payload: &pb.Payload{Body: make([]byte, 100<<10)}}, grpc.Trailer(&trailer))
	if err != nil || string(r.GetPayload().GetBody()) != want+"102400" {
		t.Errorf("unary: %v, %v", r, err)
	}
	wantTrailer(t, trailer, want)
}

// refused has a response of nothing but a trailer.
func refused(ctx context.Context, t *testing.T, c pb.TestServiceClient, want string) {
	t.Helper()
	_, err := c.UnaryCall(ctx, &pb.SimpleRequest{ResponseStatus: &pb.EchoStatus{Code: int32(codes.NotFound)}})
	if s := status.Convert(err); s.Code() != codes.NotFound || s.Message() != "as asked by: "+want {
		t.Errorf("refused: %v", err)
	}
}

func down(ctx context.Context, t *testing.T, c pb.TestServiceClient, want string) {
	t.Helper()
	st, err := c.StreamingOutputCall(ctx, &pb.StreamingOutputCallRequest{ResponseParameters: make([]*pb.ResponseParameters, 5)})
	if err != nil {
		t.Error(err)
		return
	}
	for i := range 5 {
		if r, err := st.Recv(); err != nil || string(r.GetPayload().GetBody()) != want+strconv.Itoa(i) {
			t.Errorf("down: %v, %v", r, err)
		}
	}
	if _, err := st.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("down: %v", err)
	}
	wantTrailer(t, st.Trailer(), want)
}

func up(ctx context.Context, t *testing.T, c pb.TestServiceClient, want string) {
	t.Helper()
	upload(ctx, t, c, want, 50<<10)
}

func upload(ctx context.Context, t *testing.T, c pb.TestServiceClient, want string, size int) {
	t.Helper()
	st, err := c.StreamingInputCall(ctx)
	if err != nil {
		t.Error(err)
		return
	}
	for range 5 {
		if err := st.Send(&pb.StreamingInputCallRequest{Payload: &pb.Payload{Body: make([]byte, size)}}); err != nil {
			t.Error(err)
		}
	}
	if r, err := st.CloseAndRecv(); err != nil || int(r.GetAggregatedPayloadSize()) != 5*size {
		t.Errorf("up: %v, %v", r, err)
	}
	wantTrailer(t, st.Trailer(), want)
}

// both is a conversation: each message is answered before the next is sent.
func both(ctx context.Context, t *testing.T, c pb.TestServiceClient, want string) {
	t.Helper()
	st, err := c.FullDuplexCall(ctx)
	if err != nil {
		t.Error(err)
		return
	}
	for i := range 5 {
		if err := st.Send(&pb.StreamingOutputCallRequest{}); err != nil {
			t.Error(err)
		}
		if r, err := st.Recv(); err != nil || string(r.GetPayload().GetBody()) != want+strconv.Itoa(i) {
			t.Errorf("both: %v, %v", r, err)
		}
	}
	_ = st.CloseSend()
	if _, err := st.Recv(); status.Code(err) != codes.Aborted {
		t.Errorf("both: %v", err)
	}
	wantTrailer(t, st.Trailer(), want)
}

// tee is a connection whose sent bytes are copied.
type tee struct {
	net.Conn
	copy *io.PipeWriter
}

func (c tee) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	_, _ = c.copy.Write(p[:n])
	return n, err
}

func (c tee) Close() error {
	_ = c.copy.Close()
	return c.Conn.Close()
}

// TestSift2: the chosen calls of a copied connection arrive at another server, and no others.
func TestSift2(t *testing.T) {
	app, appAddr := serveGRPC(t, "app")
	local, localAddr := serveGRPC(t, "local")
	f, err := httpfilter.Compile(httpfilter.Spec{Rule: httpfilter.Rule{Header: "^x-user: me$"}})
	if err != nil {
		t.Fatal(err)
	}
	r, w := io.Pipe()
	sifted := make(chan error, 1)
	var to net.Conn
	var answers sync.WaitGroup
	go func() {
		sifted <- Sift(func() (_ io.Writer, err error) {
			if to, err = net.Dial("tcp", localAddr.addr); err == nil {
				answers.Go(func() { _, _ = io.Copy(io.Discard, to) })
			}
			return to, err
		}, r, func(q *httpfilter.Request) bool { ok, _ := f.Match(q); return ok }, nil)
		_, _ = io.Copy(io.Discard, r)
	}()
	cc, err := grpc.NewClient("passthrough:///"+appAddr.addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			c, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
			return tee{c, w}, err
		}))
	if err != nil {
		t.Fatal(err)
	}
	c := pb.NewTestServiceClient(cc)
	me := metadata.AppendToOutgoingContext(t.Context(), "x-user", "me", "long", strings.Repeat("x", 20<<10))
	down(t.Context(), t, c, "app")
	down(me, t, c, "app")
	up(t.Context(), t, c, "app")
	refused(t.Context(), t, c, "app")
	upload(me, t, c, "app", 1<<10) // a copy can't wait until the server wants more than its first window
	both(me, t, c, "app")
	want := []string{"both", "down", "up"}
	eventually(t, func() bool { return len(local.got()) == len(want) })
	if got := slices.Sorted(slices.Values(local.got())); !slices.Equal(got, want) {
		t.Errorf("calls %q, want %q", got, want)
	}
	if n := len(app.got()); n != 6 {
		t.Errorf("the application had %d calls", n)
	}
	_ = cc.Close()
	if err := <-sifted; err != nil {
		t.Errorf("sifting: %v", err)
	}
	_ = to.Close()
	answers.Wait()
}
