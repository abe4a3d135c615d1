package outgoing

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/mirrord-go/mirrord/internal/pipe"
	"github.com/mirrord-go/mirrord/internal/tunnel"
	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

// ServeDatagrams carries out a datagrams stream: one UDP socket per address family, made
// when the first datagram needs it, for as long as the client keeps the stream open. It
// owns the stream, and returns when the client has ended it or ctx has ended.
//
// A datagram that the kernel refuses (EMSGSIZE, ENETUNREACH…) and one that the network
// reports as undeliverable (ICMP) come back as error frames with their destination. The
// latter include the transient ones that a connected socket sees only with IP_RECVERR:
// EHOSTUNREACH, ENETUNREACH. What arrives while the client does not read is dropped by the
// kernel when the socket's buffer is full, as for any slow receiver.
//
// Each destination is asked about with may, unless that is nil; a datagram to one that may
// refuses comes back with EACCES.
func ServeDatagrams(ctx context.Context, log *slog.Logger, s tunnel.Stream, may func(netip.AddrPort) error) error {
	ctx, cancel := context.WithCancel(ctx)
	a := &association{log: log, stream: s, may: may, fail: cancel}
	stop := context.AfterFunc(ctx, func() { pipe.Reset(s) })
	err := a.run()
	a.close()
	if !stop() && errors.Is(err, errTunnel) {
		err = nil // ended by us, or the socket's reader said why already
	}
	cancel()
	_ = s.Close()
	return err
}

var errTunnel = errors.New("the tunnel failed")

// association is one datagrams stream with its sockets.
type association struct {
	log    *slog.Logger
	stream tunnel.Stream
	may    func(netip.AddrPort) error
	fail   func() // ends the association

	write sync.Mutex // held while a frame is written
	// The sockets belong to the goroutine that reads the stream.
	v4, v6  *socket
	readers sync.WaitGroup
}

// run sends what the client wants sent, until the end of the stream.
func (a *association) run() error {
	r := bufio.NewReader(a.stream)
	for {
		d, err := wire.ReadDatagram(r)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, wire.ErrMalformed):
			_ = a.stream.Reset()
			return err
		case err != nil:
			return fmt.Errorf("%w: %w", errTunnel, err)
		case d.Type != wire.DatagramData:
			_ = a.stream.Reset()
			return fmt.Errorf("%w: an error frame from the client", wire.ErrMalformed)
		}
		if err := a.send(d); err != nil {
			return err
		}
	}
}

func (a *association) send(d wire.Datagram) error {
	if a.may != nil && a.may(d.Addr) != nil {
		return a.frame(wire.Datagram{Type: wire.DatagramError, Addr: d.Addr, Errno: wire.Errno(syscall.EACCES)})
	}
	sock, err := a.socket(d.Addr.Addr())
	if err != nil {
		a.log.Debug("no UDP socket", "err", err)
		return a.frame(wire.Datagram{Type: wire.DatagramError, Addr: d.Addr, Errno: Errno(err)})
	}
	reports, err := sock.send(d.Payload, d.Addr)
	if err != nil {
		reports = append(reports, report{addr: d.Addr, errno: Errno(err)})
	}
	return a.reports(reports)
}

// socket returns the family's socket, with a goroutine that reads from it.
func (a *association) socket(dst netip.Addr) (*socket, error) {
	sock, network := &a.v6, "udp6"
	if dst.Is4() {
		sock, network = &a.v4, "udp4"
	}
	if *sock == nil {
		made, err := openSocket(network)
		if err != nil {
			return nil, err
		}
		*sock = made
		a.readers.Go(func() {
			if err := made.receive(a.deliver, a.reports); err != nil {
				a.log.Debug("a UDP socket ended", "err", err)
				a.fail()
			}
		})
	}
	return *sock, nil
}

func (a *association) deliver(payload []byte, from netip.AddrPort) error {
	return a.frame(wire.Datagram{Type: wire.DatagramData, Addr: from, Payload: payload})
}

func (a *association) reports(rs []report) error {
	for _, r := range rs {
		if err := a.frame(wire.Datagram{Type: wire.DatagramError, Addr: r.addr, Errno: r.errno}); err != nil {
			return err
		}
	}
	return nil
}

func (a *association) frame(d wire.Datagram) error {
	a.write.Lock()
	defer a.write.Unlock()
	if err := wire.WriteDatagram(a.stream, d); err != nil {
		return fmt.Errorf("%w: %w", errTunnel, err)
	}
	return nil
}

// close ends the sockets and waits for their readers, one of which may be blocked in writing
// to a client that does not read.
func (a *association) close() {
	for _, s := range []*socket{a.v4, a.v6} {
		if s != nil {
			s.close()
		}
	}
	_ = a.stream.SetWriteDeadline(time.Unix(1, 0))
	a.readers.Wait()
}
