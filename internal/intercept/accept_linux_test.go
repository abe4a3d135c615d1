//go:build amd64 || arm64

package intercept

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const pythonServer = `
import socket, sys
l = socket.create_server(("0.0.0.0", 0)); print("listening", l.getsockname()[1], flush=True)
while True:
    c, a = l.accept(); print("client", "%s:%d" % a, "%s:%d" % c.getpeername(), flush=True); c.sendall(b"hello"); c.close()
`

const pythonAsyncServer = `
import asyncio
async def on(r, w):
    print("client", "%s:%d" % w.get_extra_info("peername")[:2], flush=True); w.write(b"hello"); await w.drain(); w.close()
async def main():
    s = await asyncio.start_server(on, "127.0.0.1", 0); print("listening", s.sockets[0].getsockname()[1], flush=True); await s.serve_forever()
asyncio.run(main())
`

const nodeServer = `
const s = require('net').createServer(c => { console.log('client', c.remoteAddress + ':' + c.remotePort); c.end('hello'); });
s.listen(0, () => console.log('listening', s.address().port));
`

var listeningLine = regexp.MustCompile(`(?m)^listening (\d+)$`)

// port waits until the program says on which port it listens.
func (r *run) port() uint16 {
	r.t.Helper()
	var port uint64
	eventually(r.t, "the program listens", func() bool {
		m := listeningLine.FindStringSubmatch(r.out.String())
		if m != nil {
			port, _ = strconv.ParseUint(m[1], 10, 16)
		}
		return m != nil
	})
	return uint16(port)
}

// deliver connects to the program for a client, and reads its greeting.
func (r *run) deliver(listener, client netip.AddrPort) {
	r.t.Helper()
	c, err := r.DialChild(r.t.Context(), listener, client)
	if err != nil {
		r.t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(testTime))
	b := make([]byte, 5)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "hello" {
		r.t.Errorf("greeting %q, %v", b, err)
	}
}

func TestServersSeeTheClient(t *testing.T) {
	v4, v6 := netip.MustParseAddrPort("203.0.113.7:4711"), netip.MustParseAddrPort("[2001:db8:7::7]:4712")
	tests := []struct {
		name     string
		argv     func(*testing.T) []string
		bound    string // as the network is told
		client   netip.AddrPort
		want     string
		listener string // of the host, when another than bound
	}{
		{
			name: "go dual stack", argv: func(t *testing.T) []string { return []string{goChild(t), "serve", "tcp", ":0"} },
			bound: "::", client: v4, want: "client 203.0.113.7:4711",
		},
		{
			name: "go dual stack, IPv6 client", argv: func(t *testing.T) []string { return []string{goChild(t), "serve", "tcp", ":0"} },
			bound: "::", client: v6, want: "client [2001:db8:7::7]:4712",
		},
		{
			name: "go IPv6 only", argv: func(t *testing.T) []string { return []string{goChild(t), "serve", "tcp6", "[::]:0"} },
			bound: "::", client: v6, want: "client [2001:db8:7::7]:4712",
		},
		{
			name: "go IPv6 only, IPv4 client", argv: func(t *testing.T) []string { return []string{goChild(t), "serve", "tcp6", "[::]:0"} },
			bound: "::", client: v4, want: "client [::1]:",
		},
		{
			name: "go IPv4, IPv6 client", argv: func(t *testing.T) []string { return []string{goChild(t), "serve", "tcp4", "127.0.0.1:0"} },
			bound: "127.0.0.1", client: v6, want: "client 127.0.0.1:",
		},
		{
			name: "go laptop address", argv: func(t *testing.T) []string { return []string{goChild(t), "serve", "tcp4", laptopAddr + ":0"} },
			bound: laptopAddr, client: v4, want: "client 203.0.113.7:4711",
		},
		{
			name: "python", argv: func(*testing.T) []string { return []string{"python3", "-c", pythonServer} },
			bound: "0.0.0.0", client: v4, want: "client 203.0.113.7:4711 203.0.113.7:4711",
		},
		{
			name: "asyncio", argv: func(*testing.T) []string { return []string{"python3", "-c", pythonAsyncServer} },
			bound: "127.0.0.1", client: v4, want: "client 203.0.113.7:4711",
		},
		{
			name: "node", argv: func(*testing.T) []string { return []string{"node", "-e", nodeServer} },
			bound: "::", client: v4, want: "client ::ffff:203.0.113.7:4711",
		},
		{
			name: "java", argv: func(t *testing.T) []string { return []string{"java", "-cp", javaChild(t), "Child", "serve"} },
			bound: "::", client: v4, want: "client /203.0.113.7:4711",
		},
		{
			name: "java nio", argv: func(t *testing.T) []string { return []string{"java", "-cp", javaChild(t), "Child", "nioserve"} },
			bound: "::ffff:127.0.0.1", client: v4, want: "client /203.0.113.7:4711",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			needNamespace(t)
			n := &fakeTarget{}
			r := launch(t, n, nil, tt.argv(t)...)
			port := r.port()
			bound := netip.AddrPortFrom(netip.MustParseAddr(tt.bound).Unmap(), port)
			n.mu.Lock()
			if len(n.listening) != 1 || n.listening[0] != bound {
				t.Errorf("the network was told of %v, want %v", n.listening, bound)
			}
			n.mu.Unlock()
			for range 3 {
				r.deliver(bound, tt.client)
			}
			eventually(t, tt.want, func() bool { return strings.Count(r.out.String(), tt.want) == 3 })

			// The child's own localhost is as ever.
			local := netip.AddrPortFrom(loopbackLike(bound.Addr()), port)
			if bound.Addr().String() == laptopAddr {
				local = bound
			}
			c, err := net.Dial("tcp", local.String())
			if err != nil {
				t.Fatal(err)
			}
			self := c.LocalAddr().(*net.TCPAddr).AddrPort()
			eventually(t, "a local client is shown as it is", func() bool {
				return strings.Contains(r.out.String(), ":"+strconv.Itoa(int(self.Port())))
			})
			_ = c.Close()
		})
	}
}

func TestDialChildRefused(t *testing.T) {
	r := launch(t, &fakeTarget{}, nil, goChild(t), "serve", "tcp4", "127.0.0.1:0")
	listener := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), r.port())
	_ = r.Signal(syscall.SIGKILL)
	if _, err := r.Wait(); err != nil {
		t.Fatal(err)
	}
	_, err := r.DialChild(t.Context(), listener, netip.MustParseAddrPort("203.0.113.7:4711"))
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("error %v, want ECONNREFUSED", err)
	}
}

func TestWithoutTranslation(t *testing.T) {
	r := launch(t, &fakeTarget{}, func(o *Options, _ *times) { o.TranslatePeers = false }, "python3", "-c", pythonServer)
	r.deliver(netip.AddrPortFrom(netip.IPv4Unspecified(), r.port()), netip.MustParseAddrPort("203.0.113.7:4711"))
	r.expect("client 127.0.0.1:")
}

// The program's listen returns after the network knows.
func TestListenWaitsForTheNetwork(t *testing.T) {
	release := make(chan struct{})
	done := sync.OnceFunc(func() { close(release) })
	defer done() // before the program is closed, which waits for the network
	n := &fakeTarget{onListen: func(netip.AddrPort) { <-release }}
	r := launch(t, n, func(_ *Options, tm *times) { tm.announce = testTime }, "python3", "-c", pythonServer)
	eventually(t, "the network is told", func() bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		return len(n.listening) == 1
	})
	if strings.Contains(r.out.String(), "listening") {
		t.Error("listen returned before the network was done")
	}
	done()
	r.port()
}

func TestListenDoesNotWaitForever(t *testing.T) {
	release := make(chan struct{})
	defer close(release) // before the program is closed, which waits for the network
	n := &fakeTarget{onListen: func(netip.AddrPort) { <-release }}
	r := launch(t, n, func(_ *Options, tm *times) { tm.announce = 10 * time.Millisecond }, "python3", "-c", pythonServer)
	r.port()
}

// Clients that come at the same time, to several processes of one listener.
func TestPreforkServer(t *testing.T) {
	const prefork = `
import os, socket, sys, signal
l = socket.create_server(("127.0.0.1", 0), backlog=512); print("listening", l.getsockname()[1], flush=True)
signal.signal(signal.SIGALRM, lambda *a: None)
for _ in range(4):
    if os.fork() == 0:
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
        while True:
            c, a = l.accept(); c.sendall(("%s:%d" % a).encode()); c.close()
signal.pause()
`
	r := launch(t, &fakeTarget{}, nil, "python3", "-c", prefork)
	listener := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), r.port())
	var wg sync.WaitGroup
	slots := make(chan struct{}, 50)
	for i := range 400 {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			client := netip.AddrPortFrom(netip.MustParseAddr("203.0.113.7"), uint16(1000+i))
			c, err := r.DialChild(t.Context(), listener, client)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(testTime))
			b, err := io.ReadAll(c)
			if err != nil || !bytes.Equal(b, []byte(client.String())) {
				t.Errorf("the server saw %q, %v; want %v", b, err, client)
			}
		})
	}
	wg.Wait()
}
