package incoming

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"testing"

	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

// reluctant is an agent that does not take a port back at once.
type reluctant struct{ asked int }

func (*reluctant) Subscribe(context.Context, wire.Subscribe) (int, error) { return 0, nil }

func (r *reluctant) Unsubscribe(context.Context, uint16) error {
	if r.asked++; r.asked == 1 {
		return errors.New("not now")
	}
	return nil
}

// A connection that finds nobody after the process has ended, on a port that the agent still has.
func TestGiveBackAfterTheEnd(t *testing.T) {
	a := &reluctant{}
	p := New(slog.New(slog.DiscardHandler), a, Options{Config: config.Incoming{Mode: config.IncomingSteal}})
	defer p.Close()
	p.Listening(netip.MustParseAddrPort("127.0.0.1:8080"))
	q := p.port(8080)
	_, seen := q.snapshot()
	p.release(q) // as when the process has ended
	p.giveBack(q, seen)
	if q.active || a.asked != 2 {
		t.Errorf("active %v after %d attempts", q.active, a.asked)
	}
}
