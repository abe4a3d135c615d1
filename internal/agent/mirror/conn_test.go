package mirror

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// TestReadDeadline: who waits for a client that is gone can stop waiting, and go on later.
func TestReadDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newConn(netip.AddrPort{}, netip.AddrPort{}, 1<<20, &budget{limit: 1 << 20})
		b, start := make([]byte, 10), time.Now()
		wants := func(data string, want error, after time.Duration) {
			t.Helper()
			n, err := c.Read(b)
			if took := time.Since(start); string(b[:n]) != data || !errors.Is(err, want) || took != after {
				t.Errorf("%q, %v after %v, want %q, %v after %v", b[:n], err, took, data, want, after)
			}
		}
		_ = c.SetReadDeadline(start.Add(time.Second))
		wants("", os.ErrDeadlineExceeded, time.Second)
		wants("", os.ErrDeadlineExceeded, time.Second)
		c.add([]byte("one"))
		wants("one", nil, time.Second) // what is there is not late
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		_ = c.SetReadDeadline(time.Time{})
		time.AfterFunc(time.Minute, func() { c.add([]byte("two")) })
		wants("two", nil, time.Second+time.Minute)
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		_ = c.SetReadDeadline(time.Now().Add(time.Hour))
		time.AfterFunc(time.Minute, func() { c.end(io.EOF) })
		wants("", io.EOF, time.Second+2*time.Minute)
		_ = c.Close()
		wants("", net.ErrClosed, time.Second+2*time.Minute)
	})
}
