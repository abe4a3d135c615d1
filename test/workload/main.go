// Workload is what runs in the pods of the end-to-end tests, and beside them: servers that say who asked them and
// what exactly they received, and clients that say who answered.
//
//	workload serve        HTTP, TCP echo, UDP echo, bulk transfer, gRPC health; see -h
//	workload get URL      HTTP requests, one line of JSON for each
//	workload hold URL     one kept-alive connection, a request every 100 ms, until it is ended
//	workload load URL     a steady rate of requests, some of them marked; how long they took and who answered
//	workload tcp ADDRESS  connect, optionally send and receive; says which addresses or which error
//	workload udp ADDRESS  the same with datagrams
//	workload push ADDRESS | pull ADDRESS   bulk transfer to or from "serve", with checksums
//	workload dns NAME...  look names up, as programs do or by record type
//	workload sidecar      the proxy of a service mesh, behind rules that redirect connections to it
//	workload sleep        wait for a signal
//
// It is static and runs in an empty image. Every result is JSON on the standard output; the exit code is 1 when
// something failed, 2 for wrong usage.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// command runs until it has its result or ctx ends.
type command func(ctx context.Context, args []string, out io.Writer) error

func main() {
	commands := map[string]command{
		"serve": serve, "get": get, "hold": hold, "load": load, "tcp": tcpProbe, "udp": udpProbe, "push": push, "pull": pull, "dns": lookup, "sidecar": sidecar,
		"sleep": func(ctx context.Context, _ []string, _ io.Writer) error { <-ctx.Done(); return nil },
	}
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: workload serve|get|hold|load|tcp|udp|push|pull|dns|sidecar|sleep [-h] [ARGUMENT...]")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	err := commands[os.Args[1]](ctx, os.Args[2:], os.Stdout)
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errUsage):
		fmt.Fprintln(os.Stderr, "workload:", err)
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, "workload:", err)
		os.Exit(1)
	}
}

// errUsage marks errors of the command line.
var errUsage = errors.New("usage")

// parse parses the flags of a command, which needs at least count arguments after them.
func parse(flags *flag.FlagSet, args []string, count int) error {
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	if flags.NArg() < count {
		return fmt.Errorf("%w: workload %s [FLAG...] ARGUMENT", errUsage, flags.Name())
	}
	return nil
}

// report writes one line of JSON.
func report(out io.Writer, v any) error {
	return json.NewEncoder(out).Encode(v)
}

// podName is how this process calls itself: $POD_NAME, else the host name, which in a pod is the pod's.
func podName() string {
	if name := os.Getenv("POD_NAME"); name != "" {
		return name
	}
	name, err := os.Hostname()
	if err != nil {
		return "unknown"
	}
	return name
}

// errno is the name of the system error in err, such as ECONNREFUSED, or "".
func errno(err error) string {
	var e syscall.Errno
	if !errors.As(err, &e) {
		return ""
	}
	return errnoName(e)
}
