package worker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/mirrord-go/mirrord/internal/agent/nodeapi"
	"github.com/mirrord-go/mirrord/internal/agent/steal"
	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

// errRecalled ends connections that come back to be served in another way.
var errRecalled = errors.New("the port's subscriptions have changed")

func (in *incoming) startSteal(sub *subscription) (moved int, err error) {
	other, filtered := in.takers(sub.port)
	if sub.filter != nil && (other != nil || len(filtered) > 0) {
		in.keep(sub)
		if other != nil && other.link == sub.link {
			other = nil // the caller ends it
		}
		return in.recall(other), nil
	}
	if other != nil && other.link != sub.link {
		if sub.link.session.rules.Load().onSteal != nodeapi.StealOverride {
			return 0, &TakenError{Port: sub.port, Session: other.link.session.id, User: other.link.session.user}
		}
		return in.override(other, sub), nil
	}
	s, err := in.stealer()
	if err != nil {
		return 0, err
	}
	in.keep(sub) // before the first connection comes
	if err := s.Steal(sub.port); err != nil {
		return 0, alone(err, sub)
	}
	moved, err = in.flush(s, sub)
	if err != nil {
		in.log.Warn("the target keeps the connections that it had", "port", sub.port, "err", err)
		sub.link.control.notify(wire.Notice{
			Level: "warning", Port: sub.port,
			Text: fmt.Sprintf("connections that clients had open before stay with the target: %v", err),
		})
	}
	return moved, nil
}

// alone says why a filter does not help against another agent that has the port.
func alone(err error, sub *subscription) error {
	if _, taken := errors.AsType[*steal.TakenError](err); taken && sub.filter != nil {
		return fmt.Errorf("%w; each of you has an agent of your own, and agents can't share a port, with filters neither: sessions through the operator can", err)
	}
	return err
}

// flush ends the connections that the target has, so that they come back to the session. On a
// port with probes, those from where the kubelet is may be probes that are under way, and
// ending one may cost the target its container; they have some time to finish.
func (in *incoming) flush(s stealer, sub *subscription) (moved int, err error) {
	if len(sub.probes) == 0 {
		return s.Flush(sub.port, nil)
	}
	sub.later = time.AfterFunc(probeTime, func() {
		in.ops.Lock()
		defer in.ops.Unlock()
		if now := in.had(sub.link, sub.port); now == nil || now.later != sub.later || in.steal != s {
			return
		}
		if _, err := s.Flush(sub.port, nil); err != nil {
			in.log.Warn("connections that may have been probes stay with the target", "port", sub.port, "err", err)
		}
	})
	return s.Flush(sub.port, sub.sources.Contains)
}

// recall ends the connections of a session that takes a whole port, so that they come back and are
// split: from now on there are filters. They are none when sub is nil.
func (in *incoming) recall(sub *subscription) (moved int) {
	if sub == nil {
		return 0
	}
	next := *sub
	next.ctx, next.cancel = context.WithCancelCause(sub.link.ctx)
	next.active = new(atomic.Int64)
	in.keep(&next)
	moved = int(sub.active.Load())
	sub.cancel(errRecalled)
	return moved
}

// override gives the port of one session to another. The connections that the first one has end, so
// that they come back to the second.
func (in *incoming) override(other, sub *subscription) (moved int) {
	other.stopLater()
	in.keep(sub)
	moved = int(other.active.Load())
	other.cancel(errOverridden)
	by := sub.link.session
	in.log.Info("a session has taken another one's port", "port", sub.port, "from", other.link.session.id, "by", by.id)
	other.link.control.notify(wire.Notice{
		Level: "warning", Port: sub.port,
		Text: fmt.Sprintf("port %d is now stolen by session %s of %s, and this session has it no more", sub.port, by.id, by.user),
	})
	// The other's client can't be gone altogether while it has the port, and reporting takes
	// the lock that the caller holds.
	other.link.streams.Go(other.link.session.report)
	return moved
}

// giveBack ends the taking of a port. When that fails for the port alone, it ends for all:
// better no session than a target that can't be reached. The caller holds ops.
func (in *incoming) giveBack(sub *subscription) {
	in.restSoon()
	if sub.mode == wire.Mirror {
		if in.mirror != nil {
			in.mirror.Remove(sub.port, sub.link)
		}
		return
	}
	if thief, filtered := in.takers(sub.port); in.steal == nil || thief != nil || len(filtered) > 0 {
		return
	}
	if err := in.steal.Release(sub.port); err != nil {
		in.logFailure("giving a port back", err)
		in.closeSteal()
		in.mu.Lock()
		lost := slices.Collect(maps.Values(in.stolen))
		for _, list := range in.filtered {
			lost = append(lost, list...)
		}
		clear(in.stolen)
		clear(in.filtered)
		in.mu.Unlock()
		for _, other := range lost {
			other.link.control.notify(wire.Notice{
				Level: "warning", Port: other.port,
				Text: fmt.Sprintf("port %d is the target's again: another port could not be given back alone, so that all were (%v)", other.port, err),
			})
		}
	}
}
