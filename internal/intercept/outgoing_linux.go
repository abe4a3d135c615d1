//go:build amd64 || arm64

package intercept

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// attempt is one outgoing TCP connection of the child: from its connect until the connection
// has ended, or until the child has learnt why it failed.
type attempt struct {
	dst    netip.AddrPort
	cancel context.CancelFunc // gives up the dial

	// settled is closed when the outcome is known, by end.
	settled chan struct{}
	once    sync.Once

	// The rest is guarded by outgoing.mu; failure is final once settled.
	failure   unix.Errno // 0: connected
	inLimbo   bool       // the kernel knows of the connection
	answered  bool       // the far side is there: the child may find itself connected
	failing   bool       // the kernel's socket is being made to fail, or has failed
	told      bool       // SO_ERROR has handed the failure out
	settledAt time.Time
}

// outgoing knows the attempts by their socket. The zero value is ready.
type outgoing struct {
	mu       sync.Mutex
	bySocket map[uint64]*attempt
	failures int // attempts here that fail or have failed
}

// failureKept is how long a failure waits for the child to ask for it. It outlives any
// caller that is interested.
const failureKept = time.Minute

func (o *outgoing) get(cookie uint64) (*attempt, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	a, ok := o.bySocket[cookie]
	return a, ok
}

func (o *outgoing) add(cookie uint64, a *attempt) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.bySocket == nil {
		o.bySocket = make(map[uint64]*attempt)
	}
	o.bySocket[cookie] = a
}

// remove forgets an attempt, unless another has taken its place.
func (o *outgoing) remove(cookie uint64, a *attempt) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.bySocket[cookie] == a {
		o.drop(cookie, a)
	}
}

func (o *outgoing) drop(cookie uint64, a *attempt) {
	delete(o.bySocket, cookie)
	if a.failing {
		o.failures--
	}
}

// abandon forgets whatever the socket was doing, since the child has disconnected it.
func (o *outgoing) abandon(cookie uint64) {
	o.mu.Lock()
	a, ok := o.bySocket[cookie]
	if ok {
		o.drop(cookie, a)
	}
	o.mu.Unlock()
	if ok {
		a.cancel()
	}
}

// settle notes the outcome.
func (o *outgoing) settle(a *attempt, failure unix.Errno) {
	o.mu.Lock()
	a.failure, a.settledAt = failure, time.Now()
	o.mu.Unlock()
	a.end()
}

// end lets those go on who wait for the outcome.
func (a *attempt) end() { a.once.Do(func() { close(a.settled) }) }

// entered notes that the kernel's socket is a connection in progress.
func (o *outgoing) entered(a *attempt) {
	o.mu.Lock()
	defer o.mu.Unlock()
	a.inLimbo = true
}

// fails notes that the kernel's socket is about to fail: calls that ask for the outcome wait
// until it is settled. It reports false when the child has disconnected the socket.
func (o *outgoing) fails(cookie uint64, a *attempt) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.bySocket[cookie] != a {
		return false
	}
	a.failing = true
	o.failures++
	return true
}

// isFailing says whether the outcome is a failure that is about to be settled.
func (o *outgoing) isFailing(a *attempt) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return a.failing && !a.isSettled()
}

// waits says whether the attempt has no outcome yet, and is a connection in progress for the
// kernel too.
func (o *outgoing) waits(a *attempt) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return a.inLimbo && !a.failing && !a.isSettled()
}

// connected is where the socket is connected to, or is about to be.
func (o *outgoing) connected(cookie uint64) (netip.AddrPort, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	a, ok := o.bySocket[cookie]
	if !ok || !a.answered {
		return netip.AddrPort{}, false
	}
	return a.dst, true
}

// answers notes that the far side is there.
func (o *outgoing) answers(a *attempt) {
	o.mu.Lock()
	defer o.mu.Unlock()
	a.answered = true
}

func (a *attempt) isSettled() bool {
	select {
	case <-a.settled:
		return true
	default:
		return false
	}
}

// hasFailures is a cheap look before takeFailure.
func (o *outgoing) hasFailures() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.failures > 0
}

// takeFailure hands out a failure as SO_ERROR does: once.
func (o *outgoing) takeFailure(cookie uint64) (unix.Errno, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	a, ok := o.bySocket[cookie]
	if !ok || a.failure == 0 || a.told {
		return 0, false
	}
	a.told = true
	return a.failure, true
}

// endFailure hands out a failure as a second connect does, after which the socket is as new.
// A failure that SO_ERROR has told before comes as ECONNABORTED, like the kernel's.
func (o *outgoing) endFailure(cookie uint64, a *attempt) unix.Errno {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.bySocket[cookie] == a {
		o.drop(cookie, a)
	}
	if a.told {
		return unix.ECONNABORTED
	}
	return a.failure
}

// expire drops failures that nobody asked for.
func (o *outgoing) expire(now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.failures == 0 {
		return
	}
	for cookie, a := range o.bySocket {
		if a.failure != 0 && a.isSettled() && now.Sub(a.settledAt) > failureKept {
			o.drop(cookie, a)
		}
	}
}

// size counts the attempts.
func (o *outgoing) size() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.bySocket)
}
