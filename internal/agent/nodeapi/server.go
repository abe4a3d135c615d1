package nodeapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/mirrord-go/mirrord/internal/tunnel"
)

const (
	// maxBody bounds a request's or answer's body, in bytes. A grant may hold the rules of
	// many policies; each of them is an object of etcd's, of 1.5 MiB at most.
	maxBody = 8 << 20
	// headerTimeout and bodyTimeout bound how long a request may take to arrive.
	headerTimeout = 10 * time.Second
	bodyTimeout   = 30 * time.Second
	// writeTimeout bounds how long an answer, or one line of the events, may stay unread.
	writeTimeout = 30 * time.Second
	// heartbeat is how often a stream of events says something, if only an empty line.
	heartbeat = 10 * time.Second
	// stopTimeout is how long requests may go on when the server ends.
	stopTimeout = 5 * time.Second
	// maxHeader bounds a request's header, in bytes.
	maxHeader = 16 << 10
)

// Agent is what [Serve] asks. Its methods are called from many goroutines at once. Errors that are
// an [*Error] are answered with their code, others as [CodeFailed].
type Agent interface {
	// Register carries out a registration that has passed [Registration.Check].
	Register(ctx context.Context, session string, r Registration) (Registered, error)
	// End ends a session at all pods, and waits for it. A session that is not there has
	// ended.
	End(ctx context.Context, session string, e End) error
	// State says what runs.
	State() State
	// Watch returns the present state and the events since, in order. The channel is
	// closed by the agent when the reader is too slow, and when the agent ends; stop ends
	// it from the reader's side.
	Watch() (now State, events <-chan Event, stop func())
}

// Serve answers the operator on l until ctx ends, and closes l. It returns when nothing of it
// is left, with nil after the end of ctx.
func Serve(ctx context.Context, log *slog.Logger, l net.Listener, own *tunnel.Identity, operator tunnel.Fingerprint, a Agent) error {
	secure := listen(log, l, own, operator, apiProtocol)
	secure.loops.Go(secure.run)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	srv := &http.Server{
		Handler:           handler(log, a),
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		// Streams of events end with it.
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		if srv.Shutdown(ctx) != nil {
			_ = srv.Close()
		}
	})
	err := srv.Serve(secure)
	if stop() {
		_ = srv.Close()
	} else {
		<-stopped
		err = nil
	}
	_ = secure.Close()
	if err != nil {
		return fmt.Errorf("serving the operator: %w", err)
	}
	return nil
}

func handler(log *slog.Logger, a Agent) http.Handler {
	s := &server{log: log, agent: a}
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /v1/sessions/{session}/pods/{pod}", s.answer(s.register))
	mux.HandleFunc("DELETE /v1/sessions/{session}", s.answer(s.end))
	mux.HandleFunc("GET /v1/sessions", s.answer(func(*http.Request) (any, error) { return a.State(), nil }))
	mux.HandleFunc("GET /v1/events", s.events)
	return mux
}

type server struct {
	log   *slog.Logger
	agent Agent
}

// answer makes a handler of a function from a request to what is answered as JSON; nil is no
// content.
func (s *server) answer(f func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		_ = rc.SetReadDeadline(time.Now().Add(bodyTimeout))
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		v, err := f(r)
		_ = rc.SetReadDeadline(time.Time{}) // of the connection's next request
		_ = rc.SetWriteDeadline(time.Now().Add(writeTimeout))
		defer func() { _ = rc.SetWriteDeadline(time.Time{}) }()
		if err != nil {
			s.log.Warn("a request of the operator failed", "method", r.Method, "path", r.URL.Path, "err", err)
			var e *Error
			if !errors.As(err, &e) {
				e = &Error{Code: CodeFailed}
			}
			write(w, status(e.Code), Error{Code: e.Code, Message: err.Error()})
			return
		}
		if v == nil {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		write(w, http.StatusOK, v)
	}
}

func write(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // a client that does not read misses it
}

func status(code string) int {
	switch code {
	case CodeInvalid:
		return http.StatusBadRequest
	case CodeTargetGone:
		return http.StatusNotFound
	case CodeConflict:
		return http.StatusConflict
	case CodeStopping:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

func invalid(format string, args ...any) error {
	return &Error{Code: CodeInvalid, Message: fmt.Sprintf(format, args...)}
}

func (s *server) register(r *http.Request) (any, error) {
	var reg Registration
	if err := read(r.Body, &reg); err != nil {
		return nil, err
	}
	id, pod := r.PathValue("session"), r.PathValue("pod")
	switch {
	case !validName(id):
		return nil, invalid("%q is no session's ID", id)
	case pod != reg.Pod.Attachment():
		return nil, invalid("the path is about the pod %q, the registration about %q", pod, reg.Pod.Attachment())
	}
	if err := reg.Check(); err != nil {
		return nil, invalid("%v", err)
	}
	return s.agent.Register(r.Context(), id, reg)
}

func (s *server) end(r *http.Request) (any, error) {
	var e End
	if err := read(r.Body, &e); err != nil {
		return nil, err
	}
	id := r.PathValue("session")
	if !validName(id) {
		return nil, invalid("%q is no session's ID", id)
	}
	return nil, s.agent.End(r.Context(), id, e)
}

func read(body io.Reader, v any) error {
	b, err := io.ReadAll(body)
	if err != nil {
		return invalid("reading the request: %v", err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return invalid("the request is no valid JSON: %v", err)
	}
	return nil
}

func (s *server) events(w http.ResponseWriter, r *http.Request) {
	now, events, stop := s.agent.Watch()
	defer stop()
	w.Header().Set("Content-Type", "application/jsonl")
	rc := http.NewResponseController(w)
	enc := json.NewEncoder(w)
	send := func(e Event) error {
		_ = rc.SetWriteDeadline(time.Now().Add(writeTimeout))
		return enc.Encode(e)
	}
	for i := range now.Sessions {
		if send(Event{Type: EventState, Session: &now.Sessions[i]}) != nil {
			return
		}
	}
	if send(Event{Type: EventSynced}) != nil {
		return
	}
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	for rc.Flush() == nil {
		select {
		case e, ok := <-events:
			if !ok || send(e) != nil {
				return
			}
		case <-beat.C:
			_ = rc.SetWriteDeadline(time.Now().Add(writeTimeout))
			if _, err := io.WriteString(w, "\n"); err != nil {
				return
			}
		case <-r.Context().Done():
			return
		}
	}
}
