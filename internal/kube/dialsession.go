package kube

import (
	"context"
	"net"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// tunnelProtocol is what a request for a session's carrier upgrades to.
const tunnelProtocol = "mirrord-tunnel"

// DialSession connects to the agent of one of a session's attachments, through the API
// server and the operator. The connection carries bytes only: it is up to the caller to
// prove the agent's key on it. A session or attachment that is gone is an [*Error] with
// [ReasonNotFound].
func (c *Cluster) DialSession(ctx context.Context, namespace, session, attachment string) (net.Conn, error) {
	target := c.sessionsAPI().Get().AbsPath(sessionPath(namespace, session)+"/connect").Param("attachment", attachment).URL()
	ctx, cancel := context.WithTimeout(ctx, upgradeTimeout)
	defer cancel()
	u, err := c.upgrade(ctx, http.MethodGet, target, http.Header{"Upgrade": {tunnelProtocol}})
	if err == nil {
		return &carrier{u}, nil
	}
	doing := "connecting to the session's agent through the operator"
	rule := sessionRule("get", namespace)
	rule.Resource = "sessions/connect"
	if apierrors.IsServiceUnavailable(err) {
		return nil, &OperatorDownError{Why: bare(err), Err: err}
	}
	return nil, c.explain(ctx, err, doing, rule)
}

// carrier is an upgraded connection as a [net.Conn].
type carrier struct{ *upgraded }

// LocalAddr is that of the connection to the API server, like RemoteAddr.
func (c *carrier) LocalAddr() net.Addr  { return c.below.LocalAddr() }
func (c *carrier) RemoteAddr() net.Addr { return c.below.RemoteAddr() }

func (c *carrier) SetDeadline(t time.Time) error { return c.below.SetDeadline(t) }
