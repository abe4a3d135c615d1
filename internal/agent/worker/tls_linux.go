package worker

import (
	"context"
	"fmt"
	"syscall"
	"time"

	"github.com/mirrord-go/mirrord/internal/agent/httpsplit"
	"github.com/mirrord-go/mirrord/internal/agent/tlssteal"
	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

// readTLS reads how TLS ends on the port, and the target's files for that.
func (sub *subscription) readTLS(req wire.Subscribe) error {
	sub.takesTLS = req.TLS != nil
	if !sub.takesTLS || req.TLS.Port == nil || sub.filter == nil || sub.mode != wire.Steal {
		return nil
	}
	if req.TLS.Port.Port != sub.port {
		return fmt.Errorf("%w: the TLS configuration is for port %d", syscall.EINVAL, req.TLS.Port.Port)
	}
	process := sub.link.session.place.process
	if process == nil {
		return fmt.Errorf("%w: the target's process can't be seen from here, and so neither the files for its TLS", syscall.EPERM)
	}
	var err error
	sub.tls, err = tlssteal.New(sub.link.log, *req.TLS.Port, process)
	return err
}

// tlsSilence is how long a client may say nothing on a port where TLS ends: no server speaks first there, so
// that nobody waits for anything meanwhile, and what comes late can be split too.
const tlsSilence = 30 * time.Second

// serve splits a connection. Where a session knows how TLS ends, what is inside of TLS is split
// in its place.
func (sp *splitting) serve(ctx context.Context, port *tlssteal.Port, o httpsplit.Options) error {
	if port == nil {
		return httpsplit.Serve(ctx, sp.in.log, sp.client, o)
	}
	plain, info, err := port.Accept(ctx, sp.client, max(o.DetectTimeout, tlsSilence))
	if err != nil {
		_ = sp.client.Close()
		return err
	}
	if info != nil {
		sp.tls = &wire.TLSInfo{ServerName: info.ServerName, ALPN: info.ALPN}
		sp.way = port.App(sp.way, *info)
		o.App = sp.way
	}
	return httpsplit.Serve(ctx, sp.in.log, plain, o)
}

// tlsOf is how TLS ends for those with a filter, as the first of them says.
func tlsOf(filtered []*subscription) *tlssteal.Port {
	for _, sub := range filtered {
		if sub.tls != nil {
			return sub.tls
		}
	}
	return nil
}

// tellSealed tells those with a filter that it can't look into TLS.
func tellSealed(filtered []*subscription) {
	for _, sub := range filtered {
		if sub.tls == nil && sub.notices.sealed.allow() {
			sub.link.control.notify(wire.Notice{
				Level: "warning", Port: sub.port,
				Text: fmt.Sprintf("a connection to port %d is encrypted by TLS, which the target ends itself, so the filter can't choose among its requests: all stay with the target. "+
					"A MirrordTlsStealConfig in the cluster changes that", sub.port),
			})
		}
	}
}
