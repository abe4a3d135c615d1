package main

import (
	"context"
	"net"
	"slices"
	"strconv"
	"testing"
	"time"
)

// freeAddress returns a loopback address whose port nobody uses.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(l.Addr().(*net.TCPAddr).Port))
}

// TestWithoutSession: the programs work with each other, so that what fails in a session fails
// because of it.
func TestWithoutSession(t *testing.T) {
	for _, protocol := range []string{"grpc", "websocket", "http3", "nats"} {
		t.Run(protocol, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			addr := freeAddress(t)
			serving, stop := context.WithCancel(ctx)
			ended := make(chan error, 1)
			start := func() { ended <- serve(serving, []string{"-name", "here", "-" + protocol, addr}, t.Output()) }
			go start()
			var r *report
			for {
				var err error
				if r, err = clients[protocol](ctx, addr); err == nil {
					break
				}
				select {
				case <-time.After(20 * time.Millisecond): // until the server listens
				case err := <-ended:
					t.Logf("somebody else has taken the port: %v", err)
					addr = freeAddress(t)
					go start()
				case <-ctx.Done():
					t.Fatal(err)
				}
			}
			if r.Server != "here" || len(r.Did) == 0 || slices.Contains(r.Did, "") {
				t.Errorf("report %+v", r)
			}
			stop()
			if err := <-ended; err != nil {
				t.Errorf("the server ended with %v", err)
			}
		})
	}
	if err := run(t.Context(), []string{"telnet", "127.0.0.1:1"}, t.Output()); err == nil {
		t.Error("an unknown protocol is accepted")
	}
}
