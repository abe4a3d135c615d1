package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// Listening is the first line that serve prints: the addresses on which it listens, by service.
type Listening struct {
	Name   string   `json:"name"`
	Admin  string   `json:"admin,omitempty"`
	HTTP   []string `json:"http,omitempty"`
	HTTPS  string   `json:"https,omitempty"`
	TCP    string   `json:"tcp,omitempty"`
	UDP    string   `json:"udp,omitempty"`
	Source string   `json:"source,omitempty"`
	Sink   string   `json:"sink,omitempty"`
	GRPC   string   `json:"grpc,omitempty"`
	Unix   []string `json:"unix,omitempty"`
}

// server is everything that "serve" runs. Its services end together.
type server struct {
	name      string
	keepAlive bool
	delay     time.Duration
	record    *record
	listening Listening
	closers   []io.Closer
	running   sync.WaitGroup
}

// serve listens on every address given, on IPv4 and IPv6 where the address has no host.
func serve(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("serve", flag.ContinueOnError)
	s := &server{record: newRecord()}
	flags.StringVar(&s.name, "name", podName(), "how the answers call this server")
	flags.BoolVar(&s.keepAlive, "keepalive", true, "keep HTTP connections open")
	flags.DurationVar(&s.delay, "delay", 0, "wait this long before each HTTP answer")
	httpAddrs := flags.String("http", ":8080", "HTTP echo, several separated by commas")
	var secure secureServer
	flags.StringVar(&secure.addr, "https", "", "HTTP echo inside of TLS")
	flags.StringVar(&secure.cert, "cert", "", "the PEM file of the certificate for -https")
	flags.StringVar(&secure.key, "key", "", "the PEM file of its key")
	admin := flags.String("admin", "", "HTTP without a record: /count, /raw, /reset, /env")
	tcp := flags.String("tcp", "", "TCP echo")
	udp := flags.String("udp", "", "UDP echo, of the peer's address and the datagram")
	source := flags.String("source", "", "bulk data for \"pull\"")
	sink := flags.String("sink", "", "bulk data from \"push\"")
	grpcAddr := flags.String("grpc", "", "gRPC health service")
	unixNames := flags.String("unix", "", "HTTP echo on Unix sockets, several separated by commas; @NAME is an abstract one, and packets:NAME answers messages with the name and the message")
	if err := parse(flags, args, 0); err != nil {
		return err
	}
	defer s.running.Wait()
	defer s.close()
	s.listening.Name = s.name
	for addr := range strings.SplitSeq(*httpAddrs, ",") {
		if addr == "" {
			continue
		}
		bound, err := s.listen(addr, true, s.serveHTTP(s.echoHandler()))
		if err != nil {
			return err
		}
		s.listening.HTTP = append(s.listening.HTTP, bound)
	}
	if err := s.serveHTTPS(secure); err != nil {
		return err
	}
	for _, l := range []struct {
		addr     string
		recorded bool
		serve    func(net.Listener)
		bound    *string
	}{
		{*admin, false, s.serveHTTP(s.adminHandler()), &s.listening.Admin},
		{*tcp, true, s.eachConn(func(c net.Conn) { _, _ = io.Copy(c, c) }), &s.listening.TCP},
		{*source, false, s.eachConn(sourceConn), &s.listening.Source},
		{*sink, false, s.eachConn(sinkConn), &s.listening.Sink},
		{*grpcAddr, true, s.serveGRPC, &s.listening.GRPC},
	} {
		if l.addr == "" {
			continue
		}
		bound, err := s.listen(l.addr, l.recorded, l.serve)
		if err != nil {
			return err
		}
		*l.bound = bound
	}
	if *unixNames != "" {
		if err := s.serveUnix(*unixNames); err != nil {
			return err
		}
	}
	if *udp != "" {
		if err := s.serveUDP(*udp); err != nil {
			return err
		}
	}
	if err := report(out, s.listening); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// listen starts a service on addr and returns the address that it got.
func (s *server) listen(addr string, recorded bool, run func(net.Listener)) (string, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return "", err
	}
	s.closers = append(s.closers, l)
	bound := l.Addr().String()
	if recorded {
		l = s.record.wrap(l)
	}
	s.running.Go(func() { run(l) })
	return bound, nil
}

func (s *server) close() {
	for _, c := range s.closers {
		c.Close()
	}
}

// eachConn handles every connection of a listener on its own, until the listener is closed.
func (s *server) eachConn(handle func(net.Conn)) func(net.Listener) {
	return func(l net.Listener) {
		for {
			c, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				fmt.Fprintln(os.Stderr, "workload: accept:", err)
				time.Sleep(10 * time.Millisecond) // out of descriptors, most likely
				continue
			}
			go func() {
				defer c.Close()
				handle(c)
			}()
		}
	}
}

func (s *server) serveHTTP(handler http.Handler) func(net.Listener) {
	srv := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute, Protocols: new(http.Protocols)}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetUnencryptedHTTP2(true)
	srv.SetKeepAlivesEnabled(s.keepAlive)
	s.closers = append(s.closers, srv)
	return func(l net.Listener) {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			fmt.Fprintln(os.Stderr, "workload: http:", err)
		}
	}
}

// serveGRPC answers gRPC health checks, as the kubelet's gRPC probes make them: always SERVING.
func (s *server) serveGRPC(l net.Listener) {
	srv := grpc.NewServer()
	healthpb.RegisterHealthServer(srv, health.NewServer())
	s.closers = append(s.closers, closerFunc(srv.Stop))
	if err := srv.Serve(l); err != nil && !errors.Is(err, net.ErrClosed) {
		fmt.Fprintln(os.Stderr, "workload: grpc:", err)
	}
}

type closerFunc func()

func (f closerFunc) Close() error { f(); return nil }

// serveUnix listens on Unix sockets.
func (s *server) serveUnix(names string) error {
	for name := range strings.SplitSeq(names, ",") {
		network, run := "unix", s.serveHTTP(s.echoHandler())
		if path, ok := strings.CutPrefix(name, "packets:"); ok {
			network, name, run = "unixpacket", path, s.eachConn(s.answerPackets)
		}
		l, err := net.Listen(network, name)
		if err != nil {
			return err
		}
		s.closers = append(s.closers, l)
		s.listening.Unix = append(s.listening.Unix, name)
		s.running.Go(func() { run(l) })
	}
	return nil
}

// answerPackets answers each message with the server's name and the message.
func (s *server) answerPackets(c net.Conn) {
	b := make([]byte, 64<<10)
	for {
		n, err := c.Read(b)
		if err != nil || n == 0 {
			return
		}
		if _, err := c.Write(append([]byte(s.name+" "), b[:n]...)); err != nil {
			return
		}
	}
}

// serveUDP answers each datagram with "NAME PEER " and the datagram.
func (s *server) serveUDP(addr string) error {
	conn, err := net.ListenPacket("udp", addr)
	if err != nil {
		return err
	}
	s.closers = append(s.closers, conn)
	s.listening.UDP = conn.LocalAddr().String()
	s.running.Go(func() {
		buf := make([]byte, 65535)
		for {
			n, peer, err := conn.ReadFrom(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil { // an ICMP error about an earlier answer, for one
				continue
			}
			s.record.datagram(peer, buf[:n])
			answer := append([]byte(s.name+" "+peer.String()+" "), buf[:n]...)
			if _, err := conn.WriteTo(answer, peer); err != nil {
				fmt.Fprintln(os.Stderr, "workload: udp:", err)
			}
		}
	})
	return nil
}
