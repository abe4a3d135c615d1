package incoming

import (
	"context"
	"errors"
	"io"
	"syscall"
	"time"

	"github.com/mirrord-go/mirrord/internal/intercept"
	"github.com/mirrord-go/mirrord/internal/pipe"
	"github.com/mirrord-go/mirrord/internal/tunnel"
	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

// mirrorLinger is how long the process may go on answering a mirrored connection after its
// client has ended it. Nobody reads those answers.
const mirrorLinger = time.Minute

// Serve brings one connection to the process and blocks until it has ended. It owns the
// stream. When nobody listens, a stolen connection goes on to the target.
func (p *Ports) Serve(ctx context.Context, st tunnel.Stream, in wire.Incoming) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(p.ctx, cancel)()

	child, err := p.dial(ctx, in.Local.Port(), in.Peer)
	if err != nil {
		p.log.Debug("the local process does not take a connection", "port", in.Local.Port(), "peer", in.Peer, "error", err)
		refuse(st, in.Mode, err)
		return
	}
	if in.TLS != nil {
		if child, err = p.wrap(ctx, child, in); err != nil {
			refuse(st, in.Mode, err)
			return
		}
	}
	var reply io.Writer = st
	if in.Mode == wire.Steal {
		// The agent has sent what there was to send: the answer goes with the process's.
		reply = tunnel.Later(st)
	}
	if err := wire.WriteIncomingReply(reply, wire.IncomingReply{}); err != nil {
		pipe.Reset(child)
		pipe.Reset(st)
		return
	}
	if in.Mode == wire.Mirror {
		mirror(ctx, st, child)
		return
	}
	defer p.stolen.Begin()()
	if r := pipe.Join(ctx, st, child); r.Err != nil {
		p.log.Debug("a stolen connection ended early", "port", in.Local.Port(), "peer", in.Peer, "error", r.Err)
	}
}

// wrap makes a connection to the process one for what was inside of TLS. After an error it is closed.
func (p *Ports) wrap(ctx context.Context, child intercept.Conn, in wire.Incoming) (intercept.Conn, error) {
	if p.opts.Delivery == nil {
		_ = child.Close()
		return nil, errors.New("TLS was to stay with the target")
	}
	c, err := p.opts.Delivery.Wrap(ctx, child, *in.TLS)
	if err == nil || ctx.Err() != nil {
		return c, err
	}
	remote := in.Local.Port()
	p.mu.Lock()
	first := !p.told[remote]
	p.told[remote] = true
	p.mu.Unlock()
	if first {
		p.report(Event{Kind: Undelivered, Mode: in.Mode, Remote: remote, Err: err})
	}
	return nil, err
}

func refuse(st tunnel.Stream, mode wire.Mode, err error) {
	if mode == wire.Mirror {
		_ = st.Reset()
		return
	}
	errno := syscall.ECONNREFUSED
	_ = errors.As(err, &errno)
	_ = wire.WriteIncomingReply(st, wire.IncomingReply{Errno: wire.Errno(errno)})
	_ = st.Close()
}

// mirror copies what the client sent to the process, whose answers nobody sees: they are
// read so that the process does not stop at a full buffer.
func mirror(ctx context.Context, st tunnel.Stream, child intercept.Conn) {
	defer context.AfterFunc(ctx, func() { pipe.Reset(st); pipe.Reset(child) })()
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		if _, err := pipe.Copy(io.Discard, child); err != nil {
			// The process has ended the connection: it wants no more.
			pipe.Reset(st)
		}
	}()
	_, err := pipe.Copy(child, st)
	if err == nil {
		err = child.CloseWrite()
	}
	if err != nil {
		// An incomplete copy must not look complete.
		pipe.Reset(child)
	} else {
		_ = child.SetReadDeadline(time.Now().Add(mirrorLinger))
	}
	_ = st.Close()
	<-answered
	_ = child.Close()
}
