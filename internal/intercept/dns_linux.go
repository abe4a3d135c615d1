//go:build amd64 || arm64

package intercept

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// How DNS over TCP is served (RFC 7766): queries of one connection are answered as the
// answers come, which need not be their order.
const (
	dnsIdle      = 2 * time.Minute
	dnsPipelined = 64
)

// serveDNS answers the queries of one connection to a name server until it ends.
func (s *supervisor) serveDNS(ctx context.Context, c net.Conn, server netip.AddrPort) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	var (
		wg      sync.WaitGroup
		writing sync.Mutex
	)
	slots := make(chan struct{}, dnsPipelined)
	for {
		_ = c.SetReadDeadline(time.Now().Add(dnsIdle))
		query, err := readDNS(c)
		if err != nil {
			break
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			answer, err := s.network.Exchange(ctx, true, server, query)
			if err != nil {
				s.log.Debug("a DNS query stays unanswered", "server", server, "error", err)
				return
			}
			writing.Lock()
			defer writing.Unlock()
			_ = writeDNS(c, answer)
		})
	}
	wg.Wait()
	stop()
	cancel()
	_ = c.Close()
}

// readDNS reads one message of a stream: two bytes of length, then the message.
func readDNS(r io.Reader) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err := io.ReadFull(r, b)
	return b, err
}

// writeDNS writes one message; one that does not fit the length is dropped.
func writeDNS(w io.Writer, b []byte) error {
	if len(b) > 1<<16-1 {
		return nil
	}
	_, err := w.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...))
	return err
}
