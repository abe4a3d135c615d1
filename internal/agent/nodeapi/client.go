package nodeapi

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/mirrord-go/mirrord/internal/tunnel"
)

const (
	// answerTimeout bounds how long an agent may take to answer; it may have to look
	// through all processes of a node and to start one of its own.
	answerTimeout = 30 * time.Second
	// silence ends a stream of events: several heartbeats did not come.
	silence = 35 * time.Second
	// maxEvent bounds one line of events, in bytes: all ports of a session twice.
	maxEvent = 1 << 20
)

// Client speaks to the agent of one node. It is safe for concurrent use. Its errors wrap an
// [*Error] when the agent has answered with one, a [*tunnel.PeerError] when somebody else has.
type Client struct {
	http *http.Client
}

// NewClient returns a client of the agent at addr ("HOST:PORT"). It connects when it is
// asked for something.
func NewClient(addr string, own *tunnel.Identity, agent tunnel.Fingerprint) *Client {
	return &Client{http: &http.Client{
		Transport: &http.Transport{
			DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				c, _, err := dial(ctx, addr, own, agent, apiProtocol)
				if err != nil {
					return nil, err
				}
				return c, nil
			},
			ResponseHeaderTimeout:  answerTimeout,
			IdleConnTimeout:        time.Minute,
			MaxResponseHeaderBytes: maxHeader,
			DisableCompression:     true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Close hangs up. Calls that are under way go on.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Register registers a session at the pod that r names, or changes its registration. When it
// fails with anything but an [*Error], the session may have been registered all the same.
func (c *Client) Register(ctx context.Context, session string, r Registration) (Registered, error) {
	var out Registered
	if !validName(session) {
		return out, invalid("%q is no session's ID", session)
	}
	if err := r.Check(); err != nil {
		return out, invalid("%v", err)
	}
	err := c.do(ctx, http.MethodPut, "/v1/sessions/"+session+"/pods/"+r.Pod.Attachment(), r, &out)
	if err != nil {
		return out, fmt.Errorf("registering session %s: %w", session, err)
	}
	return out, nil
}

// End ends a session at all pods of the node, telling its client why. A session that is not
// there is no error.
func (c *Client) End(ctx context.Context, session, reason string) error {
	if !validName(session) {
		return invalid("%q is no session's ID", session)
	}
	if err := c.do(ctx, http.MethodDelete, "/v1/sessions/"+session, End{Reason: reason}, nil); err != nil {
		return fmt.Errorf("ending session %s: %w", session, err)
	}
	return nil
}

// State asks what runs on the node.
func (c *Client) State(ctx context.Context) (State, error) {
	var out State
	if err := c.do(ctx, http.MethodGet, "/v1/sessions", nil, &out); err != nil {
		return out, fmt.Errorf("asking the agent for its sessions: %w", err)
	}
	return out, nil
}

// Events calls f for every event, the present state first, until ctx ends, f returns an error or
// the agent is gone. It returns why, never nil. An agent that has said nothing for half a
// minute is gone.
func (c *Client) Events(ctx context.Context, f func(Event) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watchdog := time.AfterFunc(silence, func() { cancel(errSilence) })
	defer watchdog.Stop()
	err := c.events(ctx, func() { watchdog.Reset(silence) }, f)
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	return fmt.Errorf("watching the agent: %w", err)
}

var errSilence = fmt.Errorf("it has said nothing for %v", silence)

func (c *Client) events(ctx context.Context, alive func(), f func(Event) error) error {
	resp, err := c.send(ctx, http.MethodGet, "/v1/events", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxEvent)
	for lines.Scan() {
		alive()
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		var e Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return fmt.Errorf("reading an event: %w", err)
		}
		if err := f(e); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	return io.ErrUnexpectedEOF
}

// do sends in, unless it is nil, and reads the answer into out, unless that is nil.
func (c *Client) do(ctx context.Context, method, path string, in, out any) error {
	resp, err := c.send(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return fmt.Errorf("reading the agent's answer: %w", err)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("reading the agent's answer: %w", err)
	}
	return nil
}

// send returns the answer to a request if it is a good one. The caller closes its body.
func (c *Client) send(ctx context.Context, method, path string, in any) (*http.Response, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("encoding the request: %w", err)
		}
		body = bytes.NewReader(b)
	}
	// The host is for the header only: a client has one agent.
	req, err := http.NewRequestWithContext(ctx, method, "https://agent"+path, body)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return nil, fmt.Errorf("reading the agent's answer: %w", err)
	}
	var e Error
	if json.Unmarshal(b, &e) != nil || e.Code == "" {
		return nil, errors.New("the agent answered " + resp.Status)
	}
	return nil, &e
}
