package attach

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/mirrord-go/mirrord/api/sessions/v1alpha"
	"github.com/mirrord-go/mirrord/internal/kube"
	"github.com/mirrord-go/mirrord/internal/session"
	"github.com/mirrord-go/mirrord/internal/tunnel"
)

// redialPause is how long an agent that was lost is left alone, the first time.
const redialPause = time.Second

// API is what a session needs of the operator; *[kube.Cluster] implements it.
type API interface {
	FollowSession(ctx context.Context, namespace, name string, see func(*v1alpha.Session)) error
	DialSession(ctx context.Context, namespace, session, attachment string) (net.Conn, error)
	DeleteSession(ctx context.Context, namespace, name string) error
}

// operator is the attachments of a session of the operator.
type operator struct {
	log   *slog.Logger
	api   API
	s     *v1alpha.Session // as it was made
	stop  context.CancelFunc
	tasks sync.WaitGroup

	mu      sync.Mutex
	changed chan struct{} // holds one when there is something for Next
	status  v1alpha.SessionStatus
	agents  map[string]*operatorAgent // by attachment
	told    map[string]bool           // notices
	over    error
}

// Operator follows a session that was created at the operator. It does not block.
func Operator(ctx context.Context, log *slog.Logger, api API, s *v1alpha.Session) session.Attachments {
	o := &operator{
		log: log, api: api, s: s,
		changed: make(chan struct{}, 1), agents: make(map[string]*operatorAgent), told: make(map[string]bool),
	}
	ctx, o.stop = context.WithCancel(context.WithoutCancel(ctx))
	o.see(s)
	o.tasks.Go(func() {
		err := api.FollowSession(ctx, s.Namespace, s.Name, o.see)
		if err != nil && ctx.Err() == nil {
			o.gone(err)
		}
	})
	return o
}

// see takes over what the operator says now.
func (o *operator) see(s *v1alpha.Session) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.status = s.Status
	if e := s.Status.End; e != nil && o.over == nil {
		o.over = ended(e)
	}
	listed := map[string]bool{}
	for _, a := range s.Status.Attachments {
		listed[a.Name] = true
		if old := o.agents[a.Name]; old == nil || old.attachment.AgentKey != a.AgentKey {
			o.agents[a.Name] = &operatorAgent{o: o, attachment: a, pause: redialPause}
		}
	}
	for name := range o.agents {
		if !listed[name] {
			delete(o.agents, name)
		}
	}
	o.wake()
}

// ended is the operator's word about the end of a session.
func ended(e *v1alpha.SessionEnd) error {
	if e.Reason == "Deleted" {
		return &session.EndedError{By: e.By} // the text says the same
	}
	return &session.EndedError{By: "the " + e.By, Text: e.Text}
}

// gone ends a session that is no more, and of which the operator has not said why.
func (o *operator) gone(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if e, ok := errors.AsType[*kube.Error](err); ok && e.Reason == kube.ReasonNotFound {
		err = &session.EndedError{By: "the operator", Text: "it no longer knows session " + o.s.Name}
	}
	if o.over == nil {
		o.over = err
	}
	o.wake()
}

// wake tells Next; o.mu is held.
func (o *operator) wake() {
	select {
	case o.changed <- struct{}{}:
	default:
	}
}

// Next implements [session.Attachments].
func (o *operator) Next(ctx context.Context) (session.Update, error) {
	select {
	case <-o.changed:
	case <-ctx.Done():
		return session.Update{}, context.Cause(ctx)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.over != nil {
		return session.Update{}, o.over
	}
	var u session.Update
	for _, n := range o.status.Notices {
		if key := n.Time.String() + n.Text; !o.told[key] {
			o.told[key] = true
			u.Notices = append(u.Notices, session.Event{Kind: "notice", Warning: n.Level != "info", Text: n.Text})
		}
	}
	for _, a := range o.status.Attachments {
		u.Attachments = append(u.Attachments, session.Attachment{
			Name: a.Name, Pod: a.Pod, Container: a.Container, Node: a.Node, HostNetwork: a.HostNetwork,
			Agent: o.agents[a.Name], Shared: true,
		})
	}
	return u, nil
}

// Lost implements [session.Attachments]. The operator says when a pod or its agent is gone;
// until then the agent is tried again, later and later.
func (o *operator) Lost(a session.Attachment, cause error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	agent := o.agents[a.Name]
	if agent == nil || session.Agent(agent) != a.Agent || agent.resting {
		return
	}
	o.log.Debug("an agent of the operator was lost", "attachment", a.Name, "pod", a.Pod, "error", cause)
	agent.resting = true
	time.AfterFunc(agent.pause, func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		if o.agents[a.Name] == agent {
			o.agents[a.Name] = &operatorAgent{o: o, attachment: agent.attachment, pause: min(2*agent.pause, longestPause)}
			o.wake()
		}
	})
}

// Close implements [session.Attachments]: it ends the session, unless that has happened.
func (o *operator) Close(ctx context.Context) error {
	o.stop()
	o.tasks.Wait()
	o.mu.Lock()
	_, ended := errors.AsType[*session.EndedError](o.over)
	o.mu.Unlock()
	if ended {
		return nil
	}
	return o.api.DeleteSession(ctx, o.s.Namespace, o.s.Name)
}

// operatorAgent is the agent of one attachment.
type operatorAgent struct {
	o          *operator
	attachment v1alpha.Attachment
	pause      time.Duration // before it is tried again
	resting    bool          // guarded by o.mu
}

// Key implements [session.Agent]. A key that is malformed is nobody's.
func (a *operatorAgent) Key() tunnel.Fingerprint {
	key := a.attachment.AgentKey
	if !strings.Contains(key, ":") {
		key = "sha256:" + key
	}
	f, err := tunnel.ParseFingerprint(key)
	if err != nil {
		a.o.log.Debug("the operator names a key that is none", "attachment", a.attachment.Name, "error", err)
	}
	return f
}

// Dial implements [session.Agent].
func (a *operatorAgent) Dial(ctx context.Context) (net.Conn, error) {
	return a.o.api.DialSession(ctx, a.o.s.Namespace, a.o.s.Name, a.attachment.Name)
}

// Describe implements [session.Agent].
func (a *operatorAgent) Describe() string {
	if a.attachment.Node == "" {
		return "an agent of the operator"
	}
	return fmt.Sprintf("the operator's agent on node %s", a.attachment.Node)
}

// Fate says why a tunnel that broke can't be resumed, if the operator has said so.
func (a *operatorAgent) Fate(context.Context) error {
	a.o.mu.Lock()
	defer a.o.mu.Unlock()
	switch {
	case a.o.over != nil:
		return a.o.over
	case a.o.agents[a.attachment.Name] != a:
		return errors.New("the operator has taken it out of the session")
	}
	return nil
}

// Close implements [session.Agent]: the agent is the operator's.
func (a *operatorAgent) Close(context.Context) error { return nil }

// Finder looks for an operator; *[kube.Cluster] implements it.
type Finder interface {
	HasOperator(ctx context.Context) (bool, error)
}

// UseOperator decides by the field "operator" of a configuration whether a session goes
// through the operator: true must, false does not, and nil does where one is installed. An
// operator that is installed is never passed by in silence, also when it does not answer or
// refuses the user: its policies would have no effect.
func UseOperator(ctx context.Context, f Finder, wanted *bool) (bool, error) {
	if wanted != nil && !*wanted {
		return false, nil
	}
	there, err := f.HasOperator(ctx)
	if err == nil && !there && wanted != nil {
		return false, &kube.Error{
			Reason: kube.ReasonNotFound, Doing: "looking for the operator",
			Why:  "\"operator\" is true, and none is installed in the cluster",
			Next: "Someone who administers the cluster can install it with \"mirrord operator install\". Without the field, a session starts agents with your own rights.",
		}
	}
	return there, err
}
