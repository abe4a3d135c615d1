package session

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/tools/cache"

	recordsv1 "github.com/mirrord-go/mirrord/api/records/v1alpha"
	sessions "github.com/mirrord-go/mirrord/api/sessions/v1alpha"
	"github.com/mirrord-go/mirrord/internal/tunnel"
)

// Dial connects to the worker of an attachment, if u created the session. The cache is asked
// first; what it does not know may be only a moment old.
func (m *Manager) Dial(ctx context.Context, u user.Info, namespace, name, attachment string) (net.Conn, <-chan struct{}, error) {
	r := m.Records.Cached(namespace, name)
	if r == nil || find(r, attachment) == nil {
		var err error
		if r, err = m.Records.Get(ctx, namespace, name); err != nil {
			return nil, nil, translate(err, name)
		}
	}
	if r.Status.User != u.GetName() {
		return nil, nil, apierrors.NewForbidden(resource(), name, fmt.Errorf("%s created the session, and nobody else can connect to it", r.Status.User))
	}
	gone, err := m.goneOf(ctx, r)
	if err != nil {
		return nil, nil, err
	}
	conn, err := m.dial(ctx, r, attachment)
	if err != nil {
		// The cache may be behind by a new worker or agent.
		fresh, gerr := m.Records.Get(ctx, namespace, name)
		if gerr != nil {
			return nil, nil, translate(gerr, name)
		}
		if fresh.ResourceVersion == r.ResourceVersion {
			return nil, nil, err
		}
		if conn, err = m.dial(ctx, fresh, attachment); err != nil {
			return nil, nil, err
		}
	}
	return conn, gone, nil
}

// goneOf returns the channel that is closed when a session is gone. The record may be one of a moment
// ago, from a cache; when its end has been told already, nobody would close the channel, or forget it.
func (m *Manager) goneOf(ctx context.Context, r *recordsv1.SessionRecord) (<-chan struct{}, error) {
	gone := m.ends.of(r.UID)
	if c := m.Records.Cached(r.Namespace, r.Name); c != nil && c.UID == r.UID {
		return gone, nil // what happens to it will be told
	}
	// Either it is gone, or so new that the cache does not have it.
	_, err := m.Records.Get(ctx, r.Namespace, r.Name)
	if err != nil {
		if apierrors.IsNotFound(err) {
			m.ends.end(r.UID)
		}
		return nil, translate(err, r.Name)
	}
	return gone, nil
}

func (m *Manager) dial(ctx context.Context, r *recordsv1.SessionRecord, attachment string) (net.Conn, error) {
	if e := r.Status.End; e != nil {
		return nil, over(e.Text)
	}
	at := find(r, attachment)
	if at == nil {
		return nil, apierrors.NewNotFound(sessions.Resource("attachments"), attachment)
	}
	route := r.Routes[attachment]
	agent := m.Agents.Get(route.Agent)
	if agent == nil || agent.UID != route.AgentUID {
		return nil, apierrors.NewServiceUnavailable("the agent of node " + at.Node + " is being replaced")
	}
	key, err := tunnel.ParseFingerprint(at.AgentKey)
	if err != nil {
		return nil, apierrors.NewInternalError(fmt.Errorf("session %s, attachment %s: %w", r.Name, attachment, err))
	}
	conn, err := m.Agents.DialCarrier(ctx, agent, uint16(route.Port), key)
	if err != nil {
		return nil, apierrors.NewServiceUnavailable(err.Error())
	}
	return conn, nil
}

// over is the answer for a session that has ended.
func over(why string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusGone, Reason: metav1.StatusReasonGone, Message: why,
	}}
}

func find(r *recordsv1.SessionRecord, attachment string) *sessions.Attachment {
	i := slices.IndexFunc(r.Status.Attachments, func(a sessions.Attachment) bool { return a.Name == attachment })
	if i < 0 {
		return nil
	}
	return &r.Status.Attachments[i]
}

// ends says when sessions are gone, to who holds a carrier of one.
type ends struct {
	mu   sync.Mutex
	over map[types.UID]chan struct{}
}

func (e *ends) follow(informer cache.SharedIndexInformer) error {
	e.over = map[types.UID]chan struct{}{}
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		DeleteFunc: func(o any) {
			if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = gone.Obj
			}
			if r, ok := o.(*recordsv1.SessionRecord); ok {
				e.end(r.UID)
			}
		},
	})
	if err != nil {
		return fmt.Errorf("following sessions: %w", err)
	}
	return nil
}

// of returns a channel that is closed when the session's record is gone, for who knows that it is
// not gone yet.
func (e *ends) of(uid types.UID) <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := e.over[uid]
	if c == nil {
		c = make(chan struct{})
		e.over[uid] = c
	}
	return c
}

func (e *ends) end(uid types.UID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if c := e.over[uid]; c != nil {
		close(c)
		delete(e.over, uid)
	}
}
