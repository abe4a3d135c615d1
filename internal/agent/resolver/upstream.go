package resolver

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"github.com/miekg/dns"
)

// ednsSize is the UDP payload size that we offer to name servers (RFC 9715).
const ednsSize = 1232

// ask puts m to the name servers in turn, as glibc's res_send does, until one has an
// answer: NOERROR, NXDOMAIN, or anything that is not a failure of that server. When all
// have failed it returns a failure that was answered (SERVFAIL, REFUSED), if any, and an
// error that wraps a syscall.Errno otherwise. First is the server to begin with.
func (c *config) ask(ctx context.Context, m *dns.Msg, first int) (*dns.Msg, error) {
	var failed *dns.Msg
	var lastErr error
	for range c.attempts {
		silent := false
		for i := range c.servers {
			server := c.servers[(first+i)%len(c.servers)]
			resp, err := c.askOne(ctx, server, m)
			if ctx.Err() != nil {
				return nil, fmt.Errorf("asking the target's name servers: %w", context.Cause(ctx))
			}
			switch {
			case err != nil:
				silent = true
				lastErr = fmt.Errorf("name server %s: %w", server, err)
			case serverFailed(resp):
				failed = resp
			default:
				return resp, nil
			}
		}
		if !silent {
			break
		}
	}
	if failed != nil {
		return failed, nil
	}
	return nil, lastErr
}

func serverFailed(m *dns.Msg) bool {
	switch m.Rcode {
	case dns.RcodeServerFailure, dns.RcodeNotImplemented, dns.RcodeRefused, dns.RcodeFormatError:
		return true
	}
	return false
}

// askOne asks one server once: over UDP, and again over TCP when the answer did not fit; a
// server that does not know EDNS is asked without (RFC 6891, section 7).
func (c *config) askOne(ctx context.Context, server netip.AddrPort, m *dns.Msg) (*dns.Msg, error) {
	resp, err := c.exchange(ctx, server, m)
	if err != nil || m.IsEdns0() == nil || resp.Rcode != dns.RcodeFormatError && resp.Rcode != dns.RcodeNotImplemented {
		return resp, err
	}
	plain := m.Copy()
	plain.Extra = nil
	return c.exchange(ctx, server, plain)
}

func (c *config) exchange(ctx context.Context, server netip.AddrPort, m *dns.Msg) (*dns.Msg, error) {
	if !c.useVC {
		resp, truncated, err := c.attempt(ctx, "udp", server, m)
		if err != nil || !truncated {
			return resp, err
		}
	}
	resp, _, err := c.attempt(ctx, "tcp", server, m)
	return resp, err
}

func (c *config) attempt(ctx context.Context, network string, server netip.AddrPort, m *dns.Msg) (resp *dns.Msg, truncated bool, err error) {
	m = m.Copy()
	m.Id = dns.Id()
	query, err := m.Pack()
	if err != nil {
		return nil, false, fmt.Errorf("encoding the query: %w", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, c.timeout, syscall.ETIMEDOUT)
	defer cancel()
	var d net.Dialer
	d.SetMultipathTCP(false)
	conn, err := d.DialContext(ctx, network, server.String())
	if err != nil {
		return nil, false, timedOut(ctx, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if network == "tcp" {
		resp, err = exchangeTCP(conn, query, m)
	} else {
		resp, truncated, err = exchangeUDP(conn, query, m)
	}
	return resp, truncated, timedOut(ctx, err)
}

// timedOut turns the end of an attempt's time into ETIMEDOUT.
func timedOut(ctx context.Context, err error) error {
	if err != nil && errors.Is(context.Cause(ctx), syscall.ETIMEDOUT) {
		return syscall.ETIMEDOUT
	}
	return err
}

func exchangeUDP(conn net.Conn, query []byte, m *dns.Msg) (resp *dns.Msg, truncated bool, err error) {
	if _, err := conn.Write(query); err != nil {
		return nil, false, err
	}
	buf := make([]byte, dns.MaxMsgSize)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return nil, false, err
		}
		// What is not the answer to this query is somebody's late or forged one. A
		// truncated answer may end in the middle of a record.
		resp, err := answerTo(m, buf[:n])
		if resp != nil && resp.Truncated {
			return resp, true, nil
		}
		if resp != nil && err == nil {
			return resp, false, nil
		}
	}
}

func exchangeTCP(conn net.Conn, query []byte, m *dns.Msg) (*dns.Msg, error) {
	if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(query))), query...)); err != nil {
		return nil, err
	}
	var l [2]byte
	if _, err := io.ReadFull(conn, l[:]); err != nil {
		return nil, reset(err)
	}
	buf := make([]byte, binary.BigEndian.Uint16(l[:]))
	if _, err := io.ReadFull(conn, buf); err != nil {
		return nil, reset(err)
	}
	resp, err := answerTo(m, buf)
	if err == nil && resp == nil {
		err = errors.New("the answer is to another question")
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", syscall.EPROTO, err)
	}
	return resp, nil
}

// reset says that a server which hangs up before it has answered has reset the connection.
func reset(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return syscall.ECONNRESET
	}
	return err
}

// answerTo decodes b if it answers m, and returns nil if it doesn't. When only its end is
// malformed it returns both what could be decoded and the error.
func answerTo(m *dns.Msg, b []byte) (*dns.Msg, error) {
	var resp dns.Msg
	err := resp.Unpack(b)
	if !resp.Response || resp.Id != m.Id || resp.Opcode != m.Opcode {
		return nil, err
	}
	// Some servers leave the question out of a failure.
	if len(resp.Question) == 0 && resp.Rcode != dns.RcodeSuccess {
		return &resp, err
	}
	if len(resp.Question) != 1 {
		return nil, err
	}
	got, want := resp.Question[0], m.Question[0]
	if got.Qtype != want.Qtype || got.Qclass != want.Qclass || !strings.EqualFold(got.Name, want.Name) {
		return nil, err
	}
	return &resp, err
}
