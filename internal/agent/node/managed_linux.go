package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"

	"github.com/mirrord-go/mirrord/internal/agent/nodeapi"
	"github.com/mirrord-go/mirrord/internal/agent/target"
	"github.com/mirrord-go/mirrord/internal/agent/worker"
	"github.com/mirrord-go/mirrord/internal/tunnel"
	"github.com/mirrord-go/mirrord/internal/version"
)

// workManaged is a worker whose sessions the agent of the node sends. It ends when the agent
// hangs up, which it also does by dying.
func workManaged(ctx context.Context, log *slog.Logger, o options) (int, error) {
	l, err := inheritListener(o.listenerFD)
	if err != nil {
		return exitFailure, err
	}
	control, err := inheritLine(o.controlFD)
	if err != nil {
		_ = l.Close()
		return exitFailure, err
	}
	defer control.close()
	id, err := tunnel.NewIdentity()
	if err != nil {
		_ = l.Close()
		return exitFailure, err
	}
	port := uint16(l.Addr().(*net.TCPAddr).Port)
	w, err := worker.Start(log, worker.Config{
		Listener: nodeapi.ListenCarriers(log, l, id, o.operator), Identity: id,
		Targetless: o.targetless, Version: version.String(),
		Find: func(containerID string) (*target.Process, error) {
			return target.Find(log, o.procRoot, target.Selector{ContainerID: containerID})
		},
		Report: func(e nodeapi.Event) {
			if err := control.send(message{Event: &e}); err != nil {
				log.Debug("nobody hears about a session", "err", err)
			}
		},
	})
	if err != nil {
		return exitFailure, err
	}
	m := &managed{log: log, worker: w, control: control, last: map[string]chan struct{}{}}
	defer m.orders.Wait() // those that are being carried out
	defer w.Close()
	stop := context.AfterFunc(ctx, control.close)
	defer stop()
	ready := nodeapi.Registered{Port: port, Key: id.Fingerprint(), Version: version.String()}
	if err := control.send(message{Ready: &ready}); err != nil {
		return exitFailure, fmt.Errorf("telling the agent of the node: %w", err)
	}
	log.Info("the worker is ready", "port", port)
	for {
		var o order
		if err := control.receive(&o); err != nil {
			log.Info("the worker ends", "err", err)
			return exitOK, nil
		}
		m.queue(o)
	}
}

// managed carries out the orders of the agent of the node.
type managed struct {
	log     *slog.Logger
	worker  *worker.Worker
	control *line
	orders  sync.WaitGroup

	mu   sync.Mutex
	last map[string]chan struct{} // by session: closed when its last order is carried out
}

// queue carries an order out behind those about the same session.
func (m *managed) queue(o order) {
	session := ""
	switch {
	case o.Register != nil:
		session = o.Register.Session
	case o.End != nil:
		session = o.End.Session
	}
	done := make(chan struct{})
	m.mu.Lock()
	before := m.last[session]
	m.last[session] = done
	m.mu.Unlock()
	m.orders.Go(func() {
		if before != nil {
			<-before
		}
		m.carryOut(o)
		m.mu.Lock()
		defer m.mu.Unlock()
		close(done)
		if m.last[session] == done {
			delete(m.last, session)
		}
	})
}

func (m *managed) carryOut(o order) {
	a := answer{ID: o.ID}
	switch {
	case o.Register != nil:
		a.Error = asError(m.worker.Register(worker.Session{ID: o.Register.Session, Registration: o.Register.Registration}))
	case o.End != nil:
		m.worker.End(o.End.Session, o.End.Reason) // one that has ended is fine
	default:
		a.Error = &nodeapi.Error{Code: nodeapi.CodeFailed, Message: "an order that the worker does not know"}
	}
	if err := m.control.send(message{Answer: &a}); err != nil {
		m.log.Debug("nobody hears an answer", "err", err)
	}
}

// asError is the answer to the operator that says what err says.
func asError(err error) *nodeapi.Error {
	if err == nil {
		return nil
	}
	e := &nodeapi.Error{Code: nodeapi.CodeFailed, Message: err.Error()}
	switch {
	case errors.Is(err, target.ErrNotFound):
		e.Code = nodeapi.CodeTargetGone
	case errors.Is(err, worker.ErrKeyTaken):
		e.Code = nodeapi.CodeConflict
	case errors.Is(err, worker.ErrClosed):
		e.Code = nodeapi.CodeStopping
	}
	return e
}

func inheritLine(fd int) (*line, error) {
	f := inherit(fd, "control")
	defer f.Close()
	return fileLine(f)
}

func fileLine(f *os.File) (*line, error) {
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("the socket between the agent and its worker: %w", err)
	}
	return newLine(c), nil
}
