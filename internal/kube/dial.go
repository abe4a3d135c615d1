package kube

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync/atomic"
	"time"

	"github.com/mirrord-go/mirrord/internal/gather"
	"github.com/mirrord-go/mirrord/internal/kube/portforward"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	clientportforward "k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/websocket"
)

// ErrAgentGone is what [Agent.Dial] returns, wrapped, when the agent's container does not
// run any more: dialling again can't help.
var ErrAgentGone = errors.New("the agent is gone")

// Dial connects to the agent through the API server. The connection carries bytes only:
// it is up to the caller to prove the agent's key on it. Dial returns as soon as the API
// server has agreed; that nothing listens in the pod shows at the first read, and then
// [Agent.Fate] may know why.
func (a *Agent) Dial(ctx context.Context) (net.Conn, error) {
	conn, err := a.c.forward(ctx, portforward.Addr{Namespace: a.namespace, Pod: a.pod, Port: a.port})
	if err == nil {
		return conn, nil
	}
	// The API server is right about a pod that does not exist; the node answers with
	// errors of its own kind.
	if status := apierrors.APIStatus(nil); errors.As(err, &status) {
		if fate := a.Fate(ctx); fate != nil {
			return nil, fmt.Errorf("connecting to the agent: %w: %w", ErrAgentGone, fate)
		}
	}
	return nil, a.c.explain(ctx, err, "connecting to the agent in pod "+a.pod,
		Rule{Verb: "create", Resource: "pods/portforward", Namespace: a.namespace})
}

// upgradeTimeout bounds how long a server may think about an upgrade.
const upgradeTimeout = 15 * time.Second

// forward opens a port-forward over a bare SPDY upgrade, and inside WebSocket when the
// server, or a proxy before it, does not take the former. SPDY comes first because it is
// faster: docs/design/port-forward.md has the measurement. What worked is tried first the
// next time.
func (c *Cluster) forward(ctx context.Context, addr portforward.Addr) (*portforward.Conn, error) {
	target := c.core().Post().Namespace(addr.Namespace).Resource(pods.name).Name(addr.Pod).
		SubResource("portforward").URL()
	ways := []func(context.Context, *url.URL) (io.ReadWriteCloser, error){c.upgradeSPDY, c.upgradeWebSocket}
	if c.webSocket.Load() {
		slices.Reverse(ways)
	}
	var first error
	for i, upgrade := range ways {
		rwc, err := within(ctx, upgradeTimeout, target, upgrade)
		if err == nil {
			if i > 0 {
				c.webSocket.Store(!c.webSocket.Load())
			}
			return portforward.New(rwc, addr)
		}
		c.log.DebugContext(ctx, "port-forward refused", "way", i, "error", err)
		first = cmp.Or(first, err)
		if ctx.Err() != nil || final(err) {
			break
		}
	}
	return nil, first
}

func within(ctx context.Context, d time.Duration, target *url.URL, upgrade func(context.Context, *url.URL) (io.ReadWriteCloser, error)) (io.ReadWriteCloser, error) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	return upgrade(ctx, target)
}

// final says that another way to ask would be answered alike. A refusal may not be: the
// two ways are different verbs to RBAC before Kubernetes 1.35.
func final(err error) bool {
	var op *net.OpError
	return apierrors.IsNotFound(err) || apierrors.IsUnauthorized(err) || errors.As(err, &op) && op.Op == "dial"
}

// spdyInWebSocket is the WebSocket subprotocol of KEP-4006.
const spdyInWebSocket = "SPDY/3.1+" + portforward.Protocol

func (c *Cluster) upgradeWebSocket(ctx context.Context, target *url.URL) (io.ReadWriteCloser, error) {
	transport, holder, err := websocket.RoundTripperFor(c.config)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return nil, err
	}
	conn, err := websocket.Negotiate(transport, holder, req, spdyInWebSocket)
	if err != nil {
		return nil, err
	}
	return clientportforward.NewTunnelingConnection("mirrord", conn), nil
}

// upgradeSPDY is a POST whose connection becomes SPDY.
func (c *Cluster) upgradeSPDY(ctx context.Context, target *url.URL) (io.ReadWriteCloser, error) {
	return c.upgrade(ctx, http.MethodPost, target, http.Header{
		"Upgrade": {"SPDY/3.1"}, "X-Stream-Protocol-Version": {portforward.Protocol},
	})
}

// upgrade makes a request whose connection becomes something else than HTTP.
func (c *Cluster) upgrade(ctx context.Context, method string, target *url.URL, header http.Header) (*upgraded, error) {
	config := rest.CopyConfig(c.config)
	config.NextProtos = []string{"http/1.1"} // HTTP/2 has no upgrade
	dial := config.Dial
	var below atomic.Pointer[gather.Conn]
	config.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		g := gather.New(conn, true)
		below.Store(g)
		return g, nil
	}
	transport, err := rest.TransportFor(config)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, target.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header = header
	req.Header.Set("Connection", "Upgrade")
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		defer func() { _ = resp.Body.Close() }()
		return nil, answer(resp)
	}
	rwc, ok := resp.Body.(io.ReadWriteCloser)
	if !ok {
		return nil, errors.Join(errors.New("the upgraded connection can't be written to"), resp.Body.Close())
	}
	return &upgraded{ReadWriteCloser: rwc, below: below.Load()}, nil
}

// upgraded is what a connection became, with the deadlines of the connection below TLS. Each
// Write is one write to the network.
type upgraded struct {
	io.ReadWriteCloser
	below *gather.Conn
}

func (u *upgraded) Write(p []byte) (int, error) {
	u.below.Hold()
	n, err := u.ReadWriteCloser.Write(p)
	if rerr := u.below.Release(); rerr != nil {
		return 0, rerr
	}
	return n, err
}

func (u *upgraded) SetReadDeadline(t time.Time) error  { return u.below.SetReadDeadline(t) }
func (u *upgraded) SetWriteDeadline(t time.Time) error { return u.below.SetWriteDeadline(t) }

// maxAnswer bounds what is read of a refusal.
const maxAnswer = 64 << 10

// answer is the API server's refusal as an error.
func answer(resp *http.Response) error {
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("reading the answer %q: %w", resp.Status, err)
	}
	var status metav1.Status
	if json.Unmarshal(body, &status) == nil && status.Kind == "Status" {
		return &apierrors.StatusError{ErrStatus: status}
	}
	return apierrors.NewGenericServerResponse(resp.StatusCode, "port-forward",
		pods.gv.WithResource(pods.name).GroupResource(), "", string(body), 0, true)
}
