// Protocols speaks the protocols that applications speak, as their servers and as their
// clients, with the libraries that people use for them. The end-to-end tests run it on both
// sides of a session:
//
//	protocols serve -name NAME -grpc ADDR -websocket ADDR -http3 ADDR -nats ADDR
//	protocols grpc|websocket|http3|nats|redis|postgres ADDR
//	protocols grpc -ca FILE -server-name NAME -metadata KEY=VALUE ADDR
//
// With -cert and -key, the server of gRPC is inside of TLS; so is its client with -ca.
//
// A client tries what its protocol is known for, one thing after another, and prints a
// [report] as one line of JSON. What fails is said on standard error, with exit code 1.
// PostgreSQL and Redis have real servers of their own, so they have only clients here.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "protocols:", err)
		os.Exit(1)
	}
}

// report is what a client found out.
type report struct {
	// Server is the name of the server that answered, where the protocol can say.
	Server string `json:"server,omitempty"`
	// Peer is the client's address as the server saw it, without port where the protocol has none.
	Peer string `json:"peer"`
	// Did are the things that worked, in order.
	Did []string `json:"did"`
}

// did notes what worked.
func (r *report) did(what string) { r.Did = append(r.Did, what) }

// patience is how long a client may take for all it does.
const patience = 5 * time.Minute

var clients = map[string]func(ctx context.Context, addr string) (*report, error){
	"grpc":      func(ctx context.Context, addr string) (*report, error) { return askGRPC(ctx, addr, grpcOptions{}) },
	"websocket": askWebSocket,
	"http3":     askHTTP3,
	"nats":      askNATS,
	"redis":     askRedis,
	"postgres":  askPostgres,
}

func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) > 0 && args[0] == "serve" {
		return serve(ctx, args[1:], out)
	}
	ask := func(ctx context.Context) (*report, error) { return clients[args[0]](ctx, args[1]) }
	if len(args) > 2 && args[0] == "grpc" {
		var o grpcOptions
		flags := flag.NewFlagSet("grpc", flag.ContinueOnError)
		flags.StringVar(&o.ca, "ca", "", "file of the authority that signed the server's certificate")
		flags.StringVar(&o.serverName, "server-name", "", "name in that certificate")
		flags.StringVar(&o.metadata, "metadata", "", "KEY=VALUE to send with each call")
		if err := flags.Parse(args[1:]); err != nil {
			return err
		}
		args = append([]string{"grpc"}, flags.Args()...)
		ask = func(ctx context.Context) (*report, error) { return askGRPC(ctx, args[1], o) }
	}
	if len(args) != 2 || clients[args[0]] == nil {
		return fmt.Errorf("want serve [flags], or one of %s and an address", strings.Join(slices.Sorted(maps.Keys(clients)), ", "))
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	r, err := ask(ctx)
	if err != nil {
		return fmt.Errorf("%s: after %q: %w", args[0], r.Did, err)
	}
	return json.NewEncoder(out).Encode(r)
}

// serve runs the servers that have an address, until the context ends or one of them fails.
func serve(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("serve", flag.ContinueOnError)
	name := flags.String("name", "server", "what the servers call themselves")
	cert := flags.String("cert", "", "file of a certificate, for gRPC inside of TLS")
	key := flags.String("key", "", "file of its key")
	servers := []struct {
		addr *string
		run  func(ctx context.Context, name, addr string) error
	}{
		{flags.String("grpc", "", "address of the gRPC interoperability service"), func(ctx context.Context, name, addr string) error {
			return serveGRPC(ctx, name, addr, *cert, *key)
		}},
		{flags.String("websocket", "", "address of the WebSocket echo"), serveWebSocket},
		{flags.String("http3", "", "UDP address of HTTP/3"), serveHTTP3},
		{flags.String("nats", "", "address of a NATS broker"), serveNATS},
	}
	if err := flags.Parse(args); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended, running := make(chan error), 0
	for _, s := range servers {
		if *s.addr == "" {
			continue
		}
		running++
		go func() { ended <- s.run(ctx, *name, *s.addr) }()
	}
	fmt.Fprintln(out, "serving as", *name)
	var problems []error
	for range running {
		problems = append(problems, <-ended)
		cancel()
	}
	return errors.Join(problems...)
}
