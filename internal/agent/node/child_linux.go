package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mirrord-go/mirrord/internal/agent/nodeapi"
	"github.com/mirrord-go/mirrord/internal/agent/target"
)

// readyTimeout bounds how long a worker may take to start.
const readyTimeout = 20 * time.Second

// errDied is the answer to an order whose worker ended first.
var errDied = errors.New("the worker of the pod has ended")

// child is the worker process of one pod, seen from the agent of the node.
type child struct {
	log  *slog.Logger
	pod  string // its attachment
	line *line
	kill context.CancelFunc

	ready  chan struct{} // closed when it is
	exited chan struct{} // closed when it has, and all that it said was heard
	heard  chan struct{}
	buried chan struct{} // closed when the agent knows of that
	event  func(*child, nodeapi.Event)

	mu      sync.Mutex
	address nodeapi.Registered // once it is ready
	err     error              // why it exited; nil before
	last    uint64             // order
	waiting map[uint64]chan *nodeapi.Error
}

// startChild starts a worker in the network of a container, or, without a container, in the
// agent's own. Event is called for what it reports, from one goroutine.
func startChild(log *slog.Logger, o nodeOptions, pod nodeapi.Pod, event func(*child, nodeapi.Event)) (*child, error) {
	var process *target.Process
	if !pod.Targetless {
		var err error
		if process, err = target.Find(log, o.procRoot, target.Selector{ContainerID: pod.ContainerID}); err != nil {
			return nil, err
		}
	}
	closeProcess := func() {
		if process != nil {
			_ = process.Close()
		}
	}
	c, err := prepareChild(log, pod, event)
	if err != nil {
		closeProcess()
		return nil, err
	}
	listener, err := listenCarriers(o.address)
	if err != nil {
		closeProcess()
		_ = c.theirs.Close()
		c.line.close()
		<-c.heard
		return nil, err
	}
	release := sync.OnceFunc(func() {
		_ = listener.Close()
		_ = c.theirs.Close()
	})
	theirs := c.theirs
	ctx, kill := context.WithCancel(context.Background())
	c.kill = kill
	go func() {
		defer kill()
		defer closeProcess()
		state, err := spawn(ctx, spawning{
			args: c.args(o, pod), process: process, files: []*os.File{listener, theirs},
			stdout: os.Stderr, stderr: os.Stderr, // no word of it is an announcement
			started: release,
		})
		release()
		if err == nil {
			err = fmt.Errorf("%w: %s", errDied, state)
		}
		c.end(err)
	}()
	return c.child, nil
}

// listenCarriers opens a listener in the agent's network, for a worker to inherit.
func listenCarriers(address string) (*os.File, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
	if err != nil {
		return nil, fmt.Errorf("listening for the operator's carriers: %w", err)
	}
	defer l.Close()
	return l.(*net.TCPListener).File()
}

// unborn is a child before its process.
type unborn struct {
	*child
	theirs *os.File // the other end of the line
}

func prepareChild(log *slog.Logger, pod nodeapi.Pod, event func(*child, nodeapi.Event)) (*unborn, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("making a socket for the worker: %w", os.NewSyscallError("socketpair", err))
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "worker"), os.NewFile(uintptr(fds[1]), "control")
	defer ours.Close()
	l, err := fileLine(ours)
	if err != nil {
		_ = theirs.Close()
		return nil, err
	}
	c := &child{
		log: log, pod: pod.Attachment(), line: l, event: event,
		ready: make(chan struct{}), exited: make(chan struct{}), heard: make(chan struct{}), buried: make(chan struct{}), waiting: map[uint64]chan *nodeapi.Error{},
	}
	go c.listen()
	return &unborn{c, theirs}, nil
}

func (c *unborn) args(o nodeOptions, pod nodeapi.Pod) []string {
	return []string{
		workerCommand,
		"--operator-key", o.operator.String(),
		"--log-level", o.level.String(),
		"--pod", podName(pod),
		"--proc", o.procRoot,
		"--targetless=" + strconv.FormatBool(pod.Targetless),
		"--listener-fd", strconv.Itoa(firstFD),
		"--control-fd", strconv.Itoa(firstFD + 1),
	}
}

func podName(p nodeapi.Pod) string {
	if p.Targetless {
		return nodeapi.Targetless
	}
	return p.Namespace + "/" + p.Name
}

// listen takes in what the worker says.
func (c *child) listen() {
	defer close(c.heard)
	for {
		var m message
		if c.line.receive(&m) != nil {
			return
		}
		switch {
		case m.Ready != nil:
			c.mu.Lock()
			c.address = *m.Ready
			c.mu.Unlock()
			close(c.ready)
		case m.Answer != nil:
			c.mu.Lock()
			w := c.waiting[m.Answer.ID]
			delete(c.waiting, m.Answer.ID)
			c.mu.Unlock()
			if w != nil {
				w <- m.Answer.Error
			}
		case m.Event != nil && m.Event.Session != nil:
			m.Event.Session.Worker = c.address
			c.event(c, *m.Event)
		}
	}
}

// end is what happens when the process has.
func (c *child) end(err error) {
	<-c.heard
	c.line.close()
	c.mu.Lock()
	c.err = err
	c.mu.Unlock()
	close(c.exited)
}

// await waits until the worker is ready.
func (c *child) await(ctx context.Context) (nodeapi.Registered, error) {
	t := time.NewTimer(readyTimeout)
	defer t.Stop()
	select {
	case <-c.ready:
		return c.address, nil
	case <-c.exited:
		return nodeapi.Registered{}, c.err
	case <-ctx.Done():
		return nodeapi.Registered{}, ctx.Err()
	case <-t.C:
		c.kill()
		return nodeapi.Registered{}, fmt.Errorf("the worker did not start within %v", readyTimeout)
	}
}

// tell gives an order. The result waits for its answer. Orders about one session are carried
// out in the order in which they were given.
func (c *child) tell(o order) (await func(ctx context.Context) error) {
	w := make(chan *nodeapi.Error, 1)
	c.mu.Lock()
	c.last++
	o.ID = c.last
	c.waiting[o.ID] = w
	c.mu.Unlock()
	sent := c.line.send(o)
	return func(ctx context.Context) error {
		defer func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			delete(c.waiting, o.ID)
		}()
		return c.answer(ctx, sent, w)
	}
}

// answer waits for the answer to an order.
func (c *child) answer(ctx context.Context, sent error, w <-chan *nodeapi.Error) error {
	if sent != nil {
		// Nothing else closes the other end.
		select {
		case <-c.exited:
		case <-ctx.Done():
		}
		return fmt.Errorf("%w: %w", errDied, sent)
	}
	select {
	case e := <-w:
		if e != nil {
			return e
		}
		return nil
	case <-c.exited:
		return errDied
	case <-ctx.Done():
		return ctx.Err()
	}
}

// stop ends the worker, which tells its clients, and waits for it.
func (c *child) stop() {
	c.line.hangUp()
	t := time.NewTimer(stopTimeout)
	defer t.Stop()
	select {
	case <-c.exited:
	case <-t.C:
		c.log.Warn("the worker does not end, killing it", "pod", c.pod)
		c.kill()
		<-c.exited
	}
}
