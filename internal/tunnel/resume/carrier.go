package resume

import (
	"net"
	"syscall"
	"time"

	"github.com/mirrord-go/mirrord/internal/gather"
)

// carrier is one carrier in use. Its fields belong to who holds the Conn's lock, in by who reads.
type carrier struct {
	net.Conn
	in inbound

	listening bool // somebody reads
	helped    bool // somebody reads acknowledgements, or is about to
	sending   bool // somebody writes, or is about to
	inline    bool // that is a call of Write
	users     int  // who reads and writes

	// Counts, to see whether something has happened since the last heartbeat.
	heard, said     int
	heardAt, saidAt int
	silent          int // heartbeats that were missed
	stuck           int // heartbeats during which one write went on
}

func newCarrier(c net.Conn) *carrier {
	if _, socket := c.(syscall.Conn); socket {
		c = gather.New(c, true)
	}
	return &carrier{Conn: c, in: inbound{r: c}}
}

func (cr *carrier) enter() { cr.users++ }

// leave says that a call on a carrier has returned.
func (c *Conn) leave(cr *carrier) {
	if cr.users--; cr.users == 0 && cr != c.carrier {
		c.broadcast()
	}
}

// tick is what happens with each heartbeat.
func (c *Conn) tick() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.err != nil {
		return
	}
	c.beat.Reset(c.opts.Heartbeat)
	now := time.Now()
	// The monotonic clock stands while a machine sleeps, the other one does not.
	asleep := now.Round(0).Sub(c.beatAt.Round(0))-now.Sub(c.beatAt) > c.opts.Heartbeat
	c.beatAt = now
	cr := c.carrier
	switch {
	case cr == nil || c.ended:
	case asleep:
		c.broken(cr, errAsleep)
	case cr.quiet():
		c.broken(cr, errSilent)
	case cr.choked():
		c.broken(cr, errStuck)
	case cr.said == cr.saidAt && !cr.sending:
		c.say(cr)
		cr.saidAt = cr.said + 1 // this is none of the owner's
	default:
		cr.saidAt = cr.said
	}
}

// quiet says whether nothing has come for too long, while somebody listened.
func (cr *carrier) quiet() bool {
	if !cr.listening || cr.heard != cr.heardAt {
		cr.heardAt, cr.silent = cr.heard, 0
		return false
	}
	cr.silent++
	return cr.silent >= silentBeats
}

// choked says whether the carrier has taken nothing for too long. Who reads may be waiting for that
// write, and then silence can't be told. A carrier that was only slow is replaced by one that is no worse.
func (cr *carrier) choked() bool {
	if !cr.sending || cr.said != cr.saidAt {
		cr.stuck = 0
		return false
	}
	cr.stuck++
	return cr.stuck >= stuckBeats
}

// discard closes a carrier that is not used any more, once those who still use it have left.
func (c *Conn) discard(cr *carrier) {
	_ = cr.SetDeadline(time.Unix(1, 0))
	c.work.Go(func() {
		// To close it at once would lift the deadline of some carriers, and leave them waiting.
		c.mu.Lock()
		for late := time.Now().Add(closeTime); cr.users > 0 && !passed(late); {
			c.wait(late)
		}
		c.mu.Unlock()
		_ = cr.Close()
	})
}
