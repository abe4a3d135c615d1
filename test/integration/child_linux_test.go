package integration

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// childEnv says that the test binary is one of the programs below.
const childEnv = "MIRRORD_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) == "" {
		goleak.VerifyTestMain(m)
		return
	}
	if err := child(os.Args[1], os.Args[2:]); err != nil {
		fmt.Println("error:", explain(err))
		os.Exit(1)
	}
}

// child is the local process (or the pod's): it does one thing and prints what it saw.
func child(what string, args []string) error {
	switch what {
	case "pod":
		return runPod(args[0])
	case "tcp", "udp":
		c, err := net.DialTimeout(what, args[0], patience)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		if _, err := c.Write([]byte("hello\n")); err != nil {
			return err
		}
		s, err := bufio.NewReader(c).ReadString('\n')
		fmt.Print(s)
		return err
	case "last-words":
		// Writes, and is gone before anything can have arrived.
		c, err := net.DialTimeout(args[0], args[1], patience)
		if err != nil {
			return err
		}
		n, err := strconv.Atoi(args[2])
		if err != nil {
			return err
		}
		_, err = c.Write(bytes.Repeat([]byte("x"), n))
		return err
	case "sendto":
		return sendTo(args[0])
	case "lookup":
		r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			if len(args) > 2 {
				network = args[2]
			}
			var d net.Dialer
			return d.DialContext(ctx, network, args[1])
		}}
		ips, err := r.LookupNetIP(context.Background(), "ip", args[0])
		for _, ip := range ips {
			fmt.Println(ip.Unmap())
		}
		return err
	case "env":
		for _, kv := range slices.Sorted(slices.Values(os.Environ())) {
			fmt.Println(kv)
		}
		return nil
	case "large-datagrams":
		return largeDatagrams(args[0])
	case "control-data":
		return controlData(args[0])
	case "to-everybody":
		return toEverybody(args[0])
	case "dnssec":
		return dnssec(args[0])
	case "serve":
		return serve(args)
	}
	return fmt.Errorf("unknown program %q", what)
}

// sendTo uses a UDP socket that is not connected.
func sendTo(addr string) error {
	c, err := net.ListenUDP("udp", nil)
	if err != nil {
		return err
	}
	defer c.Close()
	dst, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		return err
	}
	b := make([]byte, 1000)
	n, from, err := repeated(c, func() error { _, err := c.WriteTo([]byte("hello"), dst); return err }, b, func(int) bool { return true })
	if err != nil {
		return err
	}
	fmt.Printf("%s from %s\n", strings.TrimSpace(string(b[:n])), netip.AddrPortFrom(from.Addr().Unmap(), from.Port()))
	return nil
}

// serve listens on an address and answers as the pod's application does. Each line that it
// hears is printed; "close" ends it at once.
func serve(args []string) error {
	l, err := net.Listen("tcp", args[0])
	if err != nil {
		return err
	}
	fmt.Println("listening")
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			fmt.Println("connection from", host(c.RemoteAddr()))
			for s := bufio.NewScanner(c); s.Scan(); {
				fmt.Println("heard", s.Text())
				fmt.Fprintf(c, "local saw %s: %s\n", host(c.RemoteAddr()), s.Text())
				if s.Text() == "close" {
					_ = l.Close()
				}
			}
		}()
	}
}

// explain names an error by its errno, which is what a test compares.
func explain(err error) string {
	var errno syscall.Errno
	var notFound *net.DNSError
	switch {
	case errors.As(err, &errno):
		return errno.Error()
	case errors.As(err, &notFound) && notFound.IsNotFound:
		return "no such host"
	}
	return err.Error()
}
