package worker

import (
	"errors"
	"io"
	"syscall"
	"testing"

	"github.com/miekg/dns"

	"github.com/mirrord-go/mirrord/internal/grant"
	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

// TestUndeclared: a session that said that it does nothing gets neither names nor Unix sockets,
// whatever its client asks for.
func TestUndeclared(t *testing.T) {
	w := share(t, withoutRights)
	c := w.visit(t, "eve", func(s *Session) { s.Grant = grant.Grant{Features: &grant.Features{Incoming: grant.Off}} })
	const eacces = wire.Errno(syscall.EACCES)

	q, _ := new(dns.Msg).SetQuestion("localhost.", dns.TypeA).Pack()
	st := c.open(t)
	if err := wire.WriteQuery(st, wire.Query{Transport: wire.UDP, Message: q}); err != nil {
		t.Fatal(err)
	}
	if a, err := wire.ReadAnswer(st); err != nil || a.Errno != eacces || len(a.Message) > 0 {
		t.Errorf("a name: %+v, %v", a, err)
	}
	c.notice(t, "resolving names in the target")

	st = c.open(t)
	if err := wire.WriteUnix(st, wire.Unix{Type: wire.UnixStream, Name: "/run/docker.sock"}); err != nil {
		t.Fatal(err)
	}
	if r, err := wire.ReadUnixReply(st); err != nil || r.Errno != eacces {
		t.Errorf("a socket: %+v, %v", r, err)
	}
	if _, err := st.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("after the refusal: %v", err)
	}
	c.notice(t, "/run/docker.sock")
}
