package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Passed is what a sidecar says of each connection.
type Passed struct {
	Way   string `json:"way"` // inbound or outbound
	From  string `json:"from"`
	To    string `json:"to"` // where the connection was meant to go
	TLS   bool   `json:"tls"`
	Error string `json:"error,omitempty"`
}

// sidecarSource is the address from which a sidecar talks to its application, as Istio's does.
const sidecarSource = "127.0.0.6"

// sidecar is the proxy of a service mesh: rules in its pod redirect connections to it, and it carries them to where
// they were meant to go. Inbound TLS ends here, and the application gets what was in it.
func sidecar(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("sidecar", flag.ContinueOnError)
	inbound := flags.String("inbound", ":15006", "where the pod's incoming connections are redirected to")
	outbound := flags.String("outbound", ":15001", "where its outgoing ones are")
	if err := parse(flags, args, 0); err != nil {
		return err
	}
	certificate, err := selfSigned()
	if err != nil {
		return err
	}
	p := &proxy{tls: &tls.Config{Certificates: []tls.Certificate{certificate}}, out: out}
	var listeners []net.Listener
	for way, addr := range map[string]string{"inbound": *inbound, "outbound": *outbound} {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
		if err != nil {
			return err
		}
		listeners = append(listeners, l)
		go p.serve(ctx, way, l)
	}
	<-ctx.Done()
	for _, l := range listeners {
		l.Close()
	}
	return nil
}

type proxy struct {
	tls *tls.Config
	mu  sync.Mutex
	out io.Writer
}

func (p *proxy) serve(ctx context.Context, way string, l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go p.pass(ctx, way, conn.(*net.TCPConn))
	}
}

// pass carries one connection.
func (p *proxy) pass(ctx context.Context, way string, client *net.TCPConn) {
	defer client.Close()
	said := Passed{Way: way, From: client.RemoteAddr().String()}
	near, far, err := p.connect(ctx, &said, client)
	if err != nil {
		said.Error = err.Error()
	}
	p.mu.Lock()
	_ = report(p.out, said)
	p.mu.Unlock()
	if err != nil {
		return
	}
	defer far.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(far, near)
		_ = far.CloseWrite()
	}()
	_, _ = io.Copy(near, far)
	_ = near.CloseWrite()
	<-done
}

// halves is a connection whose sending direction can be ended.
type halves interface {
	io.ReadWriter
	CloseWrite() error
}

func (p *proxy) connect(ctx context.Context, said *Passed, client *net.TCPConn) (near halves, far *net.TCPConn, err error) {
	to, err := meantFor(client)
	if err != nil {
		return nil, nil, err
	}
	said.To = to.String()
	dialer := net.Dialer{Timeout: 10 * time.Second}
	near = client
	if said.Way == "inbound" {
		if to.Addr().Is4() {
			dialer.LocalAddr = &net.TCPAddr{IP: net.ParseIP(sidecarSource)}
		}
		peeked := bufio.NewReader(client)
		first, err := peeked.Peek(1)
		if err != nil {
			return nil, nil, fmt.Errorf("nothing arrived: %w", err)
		}
		replay := &replayed{TCPConn: client, from: peeked}
		near = replay
		if first[0] == 22 { // a TLS handshake, RFC 8446, section 5.1
			said.TLS = true
			near = tls.Server(replay, p.tls)
		}
	}
	conn, err := dialer.DialContext(ctx, "tcp", to.String())
	if err != nil {
		return nil, nil, err
	}
	return near, conn.(*net.TCPConn), nil
}

// replayed is a connection whose first bytes have been looked at.
type replayed struct {
	*net.TCPConn
	from io.Reader
}

func (r *replayed) Read(b []byte) (int, error) { return r.from.Read(b) }

// WriteTo keeps io.Copy from the connection itself.
func (r *replayed) WriteTo(w io.Writer) (int64, error) { return io.Copy(w, r.from) }

// meantFor is where a redirected connection was going (SO_ORIGINAL_DST, linux/netfilter_ipv4.h, the same number for IPv6).
func meantFor(c *net.TCPConn) (netip.AddrPort, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return netip.AddrPort{}, err
	}
	const originalDestination = 80
	level := unix.SOL_IP
	if c.LocalAddr().(*net.TCPAddr).IP.To4() == nil {
		level = unix.SOL_IPV6
	}
	var address [unix.SizeofSockaddrInet6]byte
	size := uint32(len(address))
	var failed error
	if err := raw.Control(func(fd uintptr) {
		if _, _, e := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, uintptr(level), originalDestination,
			uintptr(unsafe.Pointer(&address)), uintptr(unsafe.Pointer(&size)), 0); e != 0 {
			failed = e
		}
	}); err != nil || failed != nil {
		return netip.AddrPort{}, fmt.Errorf("asking where a connection was going: %w", errors.Join(err, failed))
	}
	port := binary.BigEndian.Uint16(address[2:])
	if level == unix.SOL_IP {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(address[4:8])), port), nil
	}
	return netip.AddrPortFrom(netip.AddrFrom16([16]byte(address[8:24])).Unmap(), port), nil
}

// selfSigned makes a certificate that nobody checks.
func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().AddDate(1, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
