package main

import (
	"context"
	"fmt"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
)

// The headers in which the server says who it is and whom it sees.
const serverHeader, peerHeader = "protocols-server", "protocols-peer"

func serveGRPC(ctx context.Context, name, addr string) error {
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
	s := grpc.NewServer(grpc.UnaryInterceptor(introduce))
	testgrpc.RegisterTestServiceServer(s, interop.NewTestServer())
	end := context.AfterFunc(ctx, s.Stop)
	defer end()
	return s.Serve(l)
}

// askGRPC runs the interoperability cases of the gRPC project. They end the process when one fails.
func askGRPC(ctx context.Context, addr string) (*report, error) {
	r := &report{}
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
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
