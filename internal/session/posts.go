package session

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/mirrord-go/mirrord/internal/session/fleet"
	"github.com/mirrord-go/mirrord/internal/session/incoming"
	"github.com/mirrord-go/mirrord/internal/session/remote"
	"github.com/mirrord-go/mirrord/internal/tunnel"
	"github.com/mirrord-go/mirrord/internal/tunnel/wire"
)

// post is one attachment and the session's tunnel to its agent.
type post struct {
	Attachment
	first bool // of the first list

	opened chan struct{} // closed when client or err is set
	client *remote.Client
	err    error
	left   chan struct{} // closed when the list has it no longer

	cause error // why the tunnel was lost; guarded by the session's mu
}

// attach opens the tunnels of the first list, and begins to follow the lists. It blocks
// until all of the first have been tried; one that works is enough.
func (s *session) attach(ctx context.Context) error {
	first, err := s.firstList(ctx)
	if err != nil {
		return err
	}
	text := "opening the tunnel to " + first.Attachments[0].Agent.Describe()
	if n := len(first.Attachments); n > 1 {
		text = fmt.Sprintf("opening the tunnels to the agents of %d pods", n)
	}
	end := s.o.Observer.Phase("tunnel", text)
	base, stop := context.WithCancel(context.WithoutCancel(ctx))
	s.stop = stop
	err = s.settled(ctx, s.arrange(base, first))
	end(err)
	if err != nil {
		return err
	}
	s.workers.Go(func() { s.follow(base) })
	s.workers.Go(func() { s.insist(base) })
	return nil
}

// firstList waits for a list with a pod.
func (s *session) firstList(ctx context.Context) (u Update, err error) {
	if u, err = s.o.Attachments.Next(ctx); err != nil || len(u.Attachments) > 0 {
		return u, err
	}
	end := s.o.Observer.Phase("pod", "waiting for a pod of the target, which has none that is ready")
	defer func() { end(err) }()
	for {
		s.tell(u.Notices)
		if u, err = s.o.Attachments.Next(ctx); err != nil || len(u.Attachments) > 0 {
			return u, err
		}
	}
}

// settled waits until each of the first posts has been tried.
func (s *session) settled(ctx context.Context, posts []*post) error {
	var failed []*post
	for _, p := range posts {
		select {
		case <-p.opened:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if p.err != nil {
			failed = append(failed, p)
		}
	}
	if len(failed) == len(posts) {
		return failed[0].err
	}
	for _, p := range failed {
		s.o.Observer.Event(s.without(p))
	}
	s.mu.Lock()
	s.began = true
	s.mu.Unlock()
	return nil
}

// without says that the session goes on without a pod that it should have.
func (s *session) without(p *post) Event {
	return Event{Kind: "pod-left", Warning: true, Text: fmt.Sprintf("%s is not part of the session: %v", p.Title(), p.err)}
}

// follow keeps to the lists until the session is over.
func (s *session) follow(ctx context.Context) {
	for {
		u, err := s.o.Attachments.Next(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			s.end(err)
			return
		}
		s.arrange(ctx, u)
	}
}

// end says why the session is over. The first reason counts.
func (s *session) end(why error) {
	s.ending.Do(func() {
		s.overErr = why
		close(s.over)
	})
}

// arrange makes the posts what the list says, and returns the new ones.
func (s *session) arrange(ctx context.Context, u Update) []*post {
	s.tell(u.Notices)
	names := make([]string, len(u.Attachments))
	listed := make(map[string]Attachment, len(u.Attachments))
	for i, a := range u.Attachments {
		names[i], listed[a.Name] = a.Name, a
	}
	s.fleet.Order(names)
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, p := range s.posts {
		if a, ok := listed[name]; !ok || a.Agent != p.Agent {
			delete(s.posts, name)
			close(p.left)
			s.sayLeft(p)
		}
	}
	var added []*post
	for _, a := range u.Attachments {
		if s.posts[a.Name] == nil {
			p := &post{Attachment: a, first: !s.began, opened: make(chan struct{}), left: make(chan struct{})}
			s.posts[a.Name] = p
			added = append(added, p)
			s.workers.Go(func() { s.serve(ctx, p) })
		}
	}
	s.names = names
	if len(names) == 0 && s.began && !s.waiting {
		s.waiting = true
		s.o.Observer.Event(Event{
			Kind: "waiting", Warning: true,
			Text: "the target has no pod at the moment: nothing arrives, and what the process wants of the network waits for one",
		})
	}
	return added
}

func (s *session) tell(notices []Event) {
	for _, n := range notices {
		s.o.Observer.Event(n)
	}
}

// sayLeft tells of a post that was part of the session.
func (s *session) sayLeft(p *post) {
	select {
	case <-p.opened:
	default:
		return
	}
	if p.err != nil {
		return
	}
	text := p.Title() + " has left the session"
	if p.cause != nil {
		text += ": " + p.cause.Error()
	}
	s.o.Observer.Event(Event{Kind: "pod-left", Text: text})
}

// serve is with one agent from the beginning to the end.
func (s *session) serve(ctx context.Context, p *post) {
	p.client, p.err = s.open(ctx, p)
	close(p.opened)
	if p.err == nil {
		s.join(ctx, p)
		s.stay(ctx, p)
	} else if ctx.Err() == nil {
		s.log.Debug("an agent can't be reached", "attachment", p.Title(), "error", p.err)
		s.o.Attachments.Lost(p.Attachment, p.err)
	}
	select {
	case <-p.left:
	case <-ctx.Done():
	}
	if p.client != nil {
		if err := s.part(ctx, p); err != nil {
			s.log.Debug("closing the tunnel", "attachment", p.Title(), "error", err)
		}
	}
	s.removeAgent(ctx, p.Agent)
}

// part ends the session with an agent.
func (s *session) part(ctx context.Context, p *post) error {
	if p.Shared && ctx.Err() == nil {
		return p.client.Hangup()
	}
	return p.client.Close("the session has ended")
}

// open opens the tunnel of a post and introduces the session. A client that is returned with
// an error is of no use, but has to be closed.
func (s *session) open(ctx context.Context, p *post) (*remote.Client, error) {
	sess, err := s.openTunnel(ctx, p)
	if err != nil {
		return nil, err
	}
	client, err := remote.Start(ctx, s.log, sess, remote.Options{
		Build: s.o.Build, SessionID: s.o.ID, Notice: s.notice, Incoming: s.incoming,
	})
	if err != nil {
		return nil, err
	}
	s.prepared.Do(func() { s.prepare(client.Welcome()) })
	return client, s.able(client.Welcome())
}

// join makes a post part of what the process uses.
func (s *session) join(ctx context.Context, p *post) {
	s.fleet.Join(ctx, fleet.Member{Name: p.Name, Client: p.client, Probes: p.Probes, ProbeSources: p.ProbeSources})
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.first || s.posts[p.Name] != p || p.client.Err() != nil {
		return
	}
	text := p.Title() + " has joined the session"
	if s.waiting {
		text += ", which goes on"
	}
	s.waiting = false
	s.o.Observer.Event(Event{Kind: "pod-joined", Text: text})
}

// stay blocks until the session has left the post, or lost it.
func (s *session) stay(ctx context.Context, p *post) {
	defer s.fleet.Leave(p.Name)
	select {
	case <-p.client.Done():
		s.mu.Lock()
		p.cause = p.client.Err()
		s.mu.Unlock()
		if ctx.Err() == nil {
			s.o.Attachments.Lost(p.Attachment, p.client.Err())
		}
	case <-p.left:
	case <-ctx.Done():
	}
}

// removeAgent has its own time, like closeAttachments.
func (s *session) removeAgent(ctx context.Context, a Agent) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	if err := a.Close(ctx); err != nil {
		s.o.Observer.Event(Event{Kind: "notice", Warning: true, Text: fmt.Sprintf("removing %s: %v", a.Describe(), err)})
	}
}

// leave ends all posts at once and waits for them.
func (s *session) leave() {
	if s.stop != nil {
		s.stop()
	}
	s.workers.Wait()
}

// attached are the posts that work, in the order of the list.
func (s *session) attached() []Attachment {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []Attachment
	for _, name := range s.names {
		p := s.posts[name]
		select {
		case <-p.opened:
			if p.err == nil {
				list = append(list, p.Attachment)
			}
		default:
		}
	}
	return list
}

// insist asks again for ports that some pods of several keep: another session may have
// ended.
func (s *session) insist(ctx context.Context) {
	t := time.NewTicker(insistPause)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		s.mu.Lock()
		var ports []uint16
		for port, taken := range s.kept {
			if taken {
				ports = append(ports, port)
			}
		}
		s.mu.Unlock()
		for _, port := range ports {
			settled, taken := s.fleet.Settle(ctx, port)
			if !settled {
				continue
			}
			s.mu.Lock()
			delete(s.kept, port)
			s.mu.Unlock()
			if taken {
				s.o.Observer.Event(Event{Kind: "port-subscribed", Port: port, Text: fmt.Sprintf("port %d comes from all pods now", port)})
			}
		}
	}
}

// refused tells the user that one pod of several keeps a port.
func (s *session) refused(name string, sub wire.Subscribe, err error) {
	title, taken := name, errors.Is(err, syscall.EADDRINUSE)
	s.mu.Lock()
	s.kept[sub.Port] = s.kept[sub.Port] || taken
	if p := s.posts[name]; p != nil {
		title = p.Title()
	}
	s.mu.Unlock()
	text := fmt.Sprintf("port %d of %s can't be taken: %v", sub.Port, title, err)
	if taken {
		text += "; it comes when it is free"
	}
	s.o.Observer.Event(Event{Kind: "port-failed", Warning: true, Port: sub.Port, Text: text})
}

func (s *session) notice(n wire.Notice) {
	if n.Refused && s.o.AbortRefused {
		s.end(&AbortError{Text: n.Text, Otherwise: "without --abort-on-refusal, only the call fails"})
		return
	}
	s.o.Observer.Event(Event{Kind: "notice", Warning: n.Level != "info", Text: n.Text, Port: n.Port})
}

// reported passes on what became of a port that the process listens on.
func (s *session) reported(e incoming.Event, said Event) {
	if s.o.AbortTaken && e.Kind == incoming.Failed && errors.Is(e.Err, syscall.EADDRINUSE) {
		s.end(&AbortError{
			Text:      fmt.Sprintf("port %d of the target can't be taken: %v", e.Remote, e.Err),
			Otherwise: `with "on_concurrent_steal" "continue", the session goes on without the port until it is free, and "override" takes it`,
		})
		return
	}
	s.o.Observer.Event(said)
}

func (s *session) incoming(ctx context.Context, st tunnel.Stream, in wire.Incoming) {
	select {
	case <-s.ready:
		s.ports.Serve(ctx, st, in)
	case <-ctx.Done():
		_ = st.Reset()
	}
}
