package apiserver

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/registry/rest"

	sessions "github.com/mirrord-go/mirrord/api/sessions/v1alpha"
	"github.com/mirrord-go/mirrord/internal/gather"
	"github.com/mirrord-go/mirrord/internal/pipe"
)

// UpgradeProtocol is what a request for a carrier upgrades to: bytes, both ways.
const UpgradeProtocol = "mirrord-tunnel"

// Carriers reaches the agents of sessions. It is safe for concurrent use.
type Carriers interface {
	// Dial connects to the agent that serves an attachment of a session, if u is who created
	// it. The connection's end belongs to the caller, who closes it when over is closed:
	// then the session has ended.
	Dial(ctx context.Context, u user.Info, namespace, session, attachment string) (conn net.Conn, over <-chan struct{}, err error)
}

// Counter counts carriers. It is safe for concurrent use.
type Counter interface {
	CarrierOpened()
	// CarrierClosed is told how many bytes went each way.
	CarrierClosed(toAgent, toClient int64)
}

// noCounter counts nothing.
type noCounter struct{}

func (noCounter) CarrierOpened()             {}
func (noCounter) CarrierClosed(int64, int64) {}

// maxCarriers is how many carriers of one session a replica keeps. A client needs one for each
// pod of its target, and a new one before an old one's death is noticed.
const maxCarriers = 256

// connectREST is the subresource sessions/connect.
type connectREST struct {
	carriers Carriers
	counter  Counter
	log      *slog.Logger

	ctx   context.Context //nolint:containedctx // of all carriers; ends with close
	close context.CancelFunc

	mu   sync.Mutex
	open map[opener]int // carriers by session
}

// opener is who opens carriers of a session. That of another user takes no place from its creator's: whose it is, is
// known only later.
type opener struct{ user, session string }

// What sessions/connect can do.
var (
	_ rest.Storage   = &connectREST{}
	_ rest.Connecter = &connectREST{}
)

func newConnectREST(c Carriers, counter Counter, log *slog.Logger) *connectREST {
	if counter == nil {
		counter = noCounter{}
	}
	r := &connectREST{carriers: c, counter: counter, log: log, open: map[opener]int{}}
	r.ctx, r.close = context.WithCancel(context.Background())
	return r
}

func (*connectREST) New() runtime.Object { return &sessions.Session{} }
func (*connectREST) Destroy()            {}

// NewConnectOptions implements rest.Connecter.
func (*connectREST) NewConnectOptions() (runtime.Object, bool, string) {
	return &sessions.ConnectOptions{}, false, ""
}

// ConnectMethods implements rest.Connecter.
func (*connectREST) ConnectMethods() []string { return []string{http.MethodGet, http.MethodPost} }

// Connect implements rest.Connecter.
func (r *connectREST) Connect(ctx context.Context, name string, opts runtime.Object, respond rest.Responder) (http.Handler, error) {
	o, ok := opts.(*sessions.ConnectOptions)
	if !ok || o.Attachment == "" {
		return nil, apierrors.NewBadRequest(`the parameter "attachment" is missing: it names one of the session's attachments`)
	}
	u, namespace, err := who(ctx)
	if err != nil {
		return nil, err
	}
	audit.AddAuditAnnotations(ctx, auditPrefix+"session", namespace+"/"+name, auditPrefix+"attachment", o.Attachment)
	return &carrier{
		r: r, u: u, namespace: namespace, name: name, attachment: o.Attachment, respond: respond,
	}, nil
}

// take counts a carrier in; give counts it out.
func (r *connectREST) take(key opener) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.open[key] >= maxCarriers {
		return false
	}
	r.open[key]++
	return true
}

func (r *connectREST) give(key opener) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.open[key]--; r.open[key] <= 0 {
		delete(r.open, key)
	}
}

// carrier serves one request for a carrier.
type carrier struct {
	r                           *connectREST
	u                           user.Info
	namespace, name, attachment string
	respond                     rest.Responder
}

// ServeHTTP implements http.Handler.
func (c *carrier) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	hijacker, ok := w.(http.Hijacker)
	if !ok || req.ProtoMajor != 1 || !wants(req.Header, "Connection", "upgrade") || !wants(req.Header, "Upgrade", UpgradeProtocol) {
		w.Header().Set("Upgrade", UpgradeProtocol)
		c.respond.Error(&apierrors.StatusError{ErrStatus: *upgradeRequired()})
		return
	}
	key := c.namespace + "/" + c.name
	if c.r.ctx.Err() != nil {
		c.respond.Error(apierrors.NewServiceUnavailable("this replica of the operator is stopping"))
		return
	}
	by := opener{c.u.GetName(), key}
	if !c.r.take(by) {
		c.respond.Error(apierrors.NewTooManyRequests(fmt.Sprintf("session %s has %d carriers here already", c.name, maxCarriers), 1))
		return
	}
	defer c.r.give(by)
	agent, over, err := c.r.carriers.Dial(req.Context(), c.u, c.namespace, c.name, c.attachment)
	if err != nil {
		c.respond.Error(err)
		return
	}
	defer func() { _ = agent.Close() }()
	client, err := upgrade(hijacker)
	if err != nil {
		c.r.log.Warn("a carrier could not be upgraded", "session", key, "user", c.u.GetName(), "error", err)
		return
	}
	c.join(key, client, agent, over)
}

// join carries bytes until one of the ends, the session or the server does.
func (c *carrier) join(key string, client, agent net.Conn, over <-chan struct{}) {
	log := c.r.log.With("session", key, "user", c.u.GetName(), "attachment", c.attachment)
	log.Info("carrier opened")
	c.r.counter.CarrierOpened()
	start := time.Now()
	ctx, cancel := context.WithCancelCause(c.r.ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-over:
			cancel(errSessionOver)
		case <-ctx.Done():
		}
	}()
	result := pipe.Join(ctx, halfCloser{client}, halfCloser{agent})
	c.r.counter.CarrierClosed(result.AToB, result.BToA)
	log.Info("carrier closed", "toAgent", result.AToB, "toClient", result.BToA, "after", time.Since(start).Round(time.Millisecond), "error", result.Err)
}

var errSessionOver = errors.New("the session has ended")

// halfCloser ends one direction where the connection can.
type halfCloser struct{ net.Conn }

func (h halfCloser) CloseWrite() error {
	if c, ok := h.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return nil
}

// switching is the answer to a request for a carrier.
const switching = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + UpgradeProtocol + "\r\n\r\n"

// upgradeTimeout bounds how long the answer may take to be written.
const upgradeTimeout = 10 * time.Second

// upgrade makes of a request its connection.
func upgrade(h http.Hijacker) (net.Conn, error) {
	conn, buffered, err := h.Hijack()
	if err != nil {
		return nil, fmt.Errorf("taking over the connection: %w", err)
	}
	if err := errors.Join(conn.SetDeadline(time.Now().Add(upgradeTimeout)), write(conn, switching), conn.SetDeadline(time.Time{})); err != nil {
		return nil, errors.Join(fmt.Errorf("answering the upgrade: %w", err), conn.Close())
	}
	return begun(gathered(conn), buffered.Reader), nil
}

// gathered is conn with few large reads and writes. The API server, at its other end, is Go's TLS.
func gathered(conn net.Conn) net.Conn {
	if secure, ok := conn.(*tls.Conn); ok {
		if below, ok := secure.NetConn().(*gather.Conn); ok {
			return gather.Over(secure, below)
		}
	}
	return conn
}

func write(w io.Writer, s string) error {
	_, err := io.WriteString(w, s)
	return err
}

// begun is conn with what has been read of it already in front.
func begun(conn net.Conn, r *bufio.Reader) net.Conn {
	n := r.Buffered()
	if n == 0 {
		return conn
	}
	head, _ := r.Peek(n) // it is there
	return &withHead{Conn: conn, head: append([]byte(nil), head...)}
}

// withHead reads head first.
type withHead struct {
	net.Conn
	head []byte
}

func (c *withHead) Read(p []byte) (int, error) {
	if len(c.head) > 0 {
		n := copy(p, c.head)
		c.head = c.head[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

func (c *withHead) CloseWrite() error { return halfCloser{c.Conn}.CloseWrite() }

// wants looks for a token in a header that is a list of them.
func wants(h http.Header, name, token string) bool {
	for _, line := range h.Values(name) {
		for t := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(t), token) {
				return true
			}
		}
	}
	return false
}
