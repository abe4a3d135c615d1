package node

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/mirrord-go/mirrord/internal/agent/announce"
	"github.com/mirrord-go/mirrord/internal/agent/nodeapi"
	"github.com/mirrord-go/mirrord/internal/agent/target"
	"github.com/mirrord-go/mirrord/internal/tunnel"
	"github.com/mirrord-go/mirrord/internal/version"
)

const nodeCommand = "node"

// nodeOptions are the command line of the agent of a node.
type nodeOptions struct {
	operator    tunnel.Fingerprint
	address     string
	port        int
	idleTimeout time.Duration
	linger      time.Duration
	level       slog.Level
	procRoot    string
}

func parseNode(args []string, stderr io.Writer) (nodeOptions, error) {
	var o nodeOptions
	f := flag.NewFlagSet("mirrord-agent "+nodeCommand, flag.ContinueOnError)
	f.SetOutput(stderr)
	f.TextVar(&o.operator, "operator-key", tunnel.Fingerprint{}, "the only operator that is served, `sha256:...`")
	f.StringVar(&o.address, "address", "", "`address` to listen on (default all), here and for workers")
	f.IntVar(&o.port, "port", 7443, "`port` for the operator; 0 takes any")
	f.DurationVar(&o.idleTimeout, "idle-timeout", 10*time.Minute, "end after that long without a session; 0 means never")
	f.DurationVar(&o.linger, "worker-linger", 15*time.Second, "how long a worker without sessions stays")
	f.Func("log-level", "debug, info, warn or error (default info)", func(s string) error {
		o.level = parseLevel(s)
		return nil
	})
	f.StringVar(&o.procRoot, "proc", "/proc", "where processes are looked for")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	switch {
	case f.NArg() > 0:
		return o, fmt.Errorf("unexpected argument %q", f.Arg(0))
	case o.operator == tunnel.Fingerprint{}:
		return o, errors.New("--operator-key is needed: the agent of a node serves one operator, by its key")
	case o.port < 0 || o.port > 65535:
		return o, fmt.Errorf("--port %d is no port", o.port)
	case o.idleTimeout < 0 || o.linger < 0:
		return o, errors.New("--idle-timeout and --worker-linger can't be below zero")
	}
	return o, nil
}

// runNode is the program's command: the agent of a node, until a signal or until nobody has
// needed it for a while.
func runNode(args []string, stdout, stderr *os.File) int {
	o, err := parseNode(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return exitOK
	}
	fail := func(code int, err error) int {
		_ = announce.Write(stdout, announce.Announcement{Version: version.String(), Error: err.Error()})
		fmt.Fprintln(stderr, "mirrord-agent:", err)
		return code
	}
	if err != nil {
		return fail(exitUsage, err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer stop()
	log := slog.New(slog.NewJSONHandler(stderr, &slog.HandlerOptions{Level: o.level}))
	slog.SetDefault(log) // for what the libraries say
	if err := serveNode(ctx, log, o, stdout); err != nil {
		return fail(exitFailure, err)
	}
	return exitOK
}

// serveNode serves the operator until ctx ends or the agent has been idle for long enough.
func serveNode(ctx context.Context, log *slog.Logger, o nodeOptions, stdout io.Writer) error {
	id, err := tunnel.NewIdentity()
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", net.JoinHostPort(o.address, strconv.Itoa(o.port)))
	if err != nil {
		return fmt.Errorf("listening for the operator: %w", err)
	}
	address, err := reachable(l.Addr().(*net.TCPAddr).AddrPort())
	if err != nil {
		_ = l.Close()
		return err
	}
	a := newAgent(log, o)
	// The sessions end first, so that the operator hears of it.
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServing()
	served := make(chan error, 1)
	go func() { served <- nodeapi.Serve(serving, log, l, id, o.operator, a) }()
	key := id.Fingerprint()
	err = announce.Write(stdout, announce.Announcement{Address: address.String(), Key: &key, Version: version.String()})
	if err != nil {
		err = fmt.Errorf("announcing the agent: %w", err)
	} else {
		log.Info("the agent is ready", "address", address, "version", version.String())
		select {
		case <-ctx.Done():
			log.Info("the agent is being stopped")
		case <-a.idle():
			log.Info("nobody needed the agent", "for", o.idleTimeout)
		case err = <-served:
			served <- err
		}
	}
	a.close()
	stopServing()
	return errors.Join(err, <-served)
}

// reachable is an address of this network at which a listener on all of them can be reached.
func reachable(a netip.AddrPort) (netip.AddrPort, error) {
	if !a.Addr().IsUnspecified() {
		return a, nil
	}
	addrs, err := target.Addresses()
	if err != nil || len(addrs) == 0 {
		return netip.AddrPortFrom(netip.IPv6Loopback(), a.Port()), err
	}
	return netip.AddrPortFrom(addrs[0], a.Port()), nil
}
