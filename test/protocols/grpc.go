package main

import (
	"context"
	"fmt"
	"net"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
)

// The headers in which the server says who it is and whom it sees.
const serverHeader, peerHeader = "protocols-server", "protocols-peer"

// serveGRPC serves inside of TLS when it has a certificate.
func serveGRPC(ctx context.Context, name, addr, cert, key string) error {
	var options []grpc.ServerOption
	if cert != "" {
		secure, err := credentials.NewServerTLSFromFile(cert, key)
		if err != nil {
			return err
		}
		options = append(options, grpc.Creds(secure))
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	introduce := func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
		p, _ := peer.FromContext(ctx)
		if err := grpc.SetHeader(ctx, metadata.Pairs(serverHeader, name, peerHeader, p.Addr.String())); err != nil {
			return nil, err
		}
		return handle(ctx, req)
	}
	s := grpc.NewServer(append(options, grpc.UnaryInterceptor(introduce))...)
	testgrpc.RegisterTestServiceServer(s, interop.NewTestServer())
	end := context.AfterFunc(ctx, s.Stop)
	defer end()
	return s.Serve(l)
}

// grpcOptions are for a client: the authority and the name of a server inside of TLS, and what to send with each
// call, as KEY=VALUE. The zero value is none of it.
type grpcOptions struct{ ca, serverName, metadata string }

func (o grpcOptions) dial(addr string) (*grpc.ClientConn, error) {
	secure := insecure.NewCredentials()
	if o.ca != "" {
		var err error
		if secure, err = credentials.NewClientTLSFromFile(o.ca, o.serverName); err != nil {
			return nil, err
		}
	}
	with := func(ctx context.Context) context.Context {
		if key, value, ok := strings.Cut(o.metadata, "="); ok {
			return metadata.AppendToOutgoingContext(ctx, key, value)
		}
		return ctx
	}
	return grpc.NewClient(addr, grpc.WithTransportCredentials(secure),
		grpc.WithUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			return invoke(with(ctx), method, req, reply, cc, opts...)
		}),
		grpc.WithStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, stream grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			return stream(with(ctx), desc, cc, method, opts...)
		}))
}

// askGRPC runs the interoperability cases of the gRPC project. They end the process when one fails.
func askGRPC(ctx context.Context, addr string, o grpcOptions) (*report, error) {
	r := &report{}
	conn, err := o.dial(addr)
	if err != nil {
		return r, err
	}
	defer conn.Close()
	client := testgrpc.NewTestServiceClient(conn)
	var header metadata.MD
	if _, err := client.EmptyCall(ctx, &testgrpc.Empty{}, grpc.Header(&header), grpc.WaitForReady(true)); err != nil {
		return r, err
	}
	if len(header.Get(serverHeader)) != 1 || len(header.Get(peerHeader)) != 1 {
		return r, fmt.Errorf("the server does not introduce itself: %v", header)
	}
	r.Server, r.Peer = header.Get(serverHeader)[0], header.Get(peerHeader)[0]
	for _, test := range []struct {
		name string
		run  func(context.Context, testgrpc.TestServiceClient, ...grpc.CallOption)
	}{
		{"unary", interop.DoLargeUnaryCall},
		{"client streaming", interop.DoClientStreaming},
		{"server streaming", interop.DoServerStreaming},
		{"both ways", interop.DoPingPong},
		{"metadata and trailers", interop.DoCustomMetadata},
		{"status", interop.DoStatusCodeAndMessage},
		{"timeout", interop.DoTimeoutOnSleepingServer},
		{"cancel", interop.DoCancelAfterFirstResponse},
	} {
		test.run(ctx, client)
		r.did(test.name)
	}
	return r, nil
}
