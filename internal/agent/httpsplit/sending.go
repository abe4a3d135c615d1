package httpsplit

import (
	"errors"
	"io"

	"github.com/mirrord-go/mirrord/internal/pipe"
)

// sending is a request's body on its way, while the response comes.
type sending struct {
	done chan struct{} // closed when the body has been sent, or err is set
	err  error
	// raw is closed when where the body ends can't be told any more, and all that the client sends goes on
	// to the application.
	raw chan struct{}
}

// nothing is a body that was sent before it began.
var nothing = func() *sending {
	b := &sending{done: make(chan struct{})}
	close(b.done)
	return b
}()

func (b *sending) finished() bool {
	select {
	case <-b.done:
		return true
	default:
		return false
	}
}

// unclear says that the body could not be followed, and was for somebody else than the application.
func (b *sending) unclear() bool { return b.finished() && errors.Is(b.err, errUnclear) }

// forward sends a request's body.
func (s *splitter) forward(u *upstream, req *head) *sending {
	if req.body == noBody {
		return nothing
	}
	b := &sending{done: make(chan struct{}), raw: make(chan struct{})}
	go func() {
		dst := &noting{Writer: u}
		b.err = s.sendBody(dst, u.dst, req, b.raw)
		close(b.done)
		switch {
		case b.err == nil, dst.failed, late(b.err):
			// Who does not want the rest of a request may have answered it.
		case errors.Is(b.err, io.EOF), errors.Is(b.err, io.ErrUnexpectedEOF):
			_ = u.CloseWrite()
		default:
			pipe.Reset(u.Conn) // half a request, and no more of it
		}
	}()
	return b
}

// sendBody returns [io.EOF] when the client has ended its half.
func (s *splitter) sendBody(dst io.Writer, to Destination, req *head, raw chan<- struct{}) error {
	err := copyBody(dst, s.in, req)
	if !errors.Is(err, errUnclear) || to != s.o.App {
		return err
	}
	close(raw)
	if _, err = pipe.Copy(dst, &buffered{Conn: s.client, r: s.in}); err == nil {
		err = io.EOF
	}
	return err
}

// wait returns when the body has been sent, or reports true when all that the client sends is under way to the
// application.
func (b *sending) wait() (raw bool) {
	select {
	case <-b.done:
	case <-b.raw:
	}
	select {
	case <-b.raw:
		return true
	default:
		return false
	}
}

// noting is a writer that knows whether it has failed.
type noting struct {
	io.Writer
	failed bool
}

func (n *noting) Write(p []byte) (int, error) {
	w, err := n.Writer.Write(p)
	n.failed = n.failed || err != nil
	return w, err
}

// stop ends the sending of a body that nobody wants.
func (s *splitter) stop(u *upstream, body *sending) {
	if body.finished() {
		return
	}
	_ = s.client.SetReadDeadline(past())
	_ = u.SetDeadline(past())
	<-body.done
	s.log.Debug("the rest of a request was not read", "err", body.err)
}

// join goes on without HTTP.
func (s *splitter) join(u *upstream, body *sending) error {
	if body.wait() { // Its bytes come first.
		return s.rest(u, body)
	}
	if body.err != nil {
		return body.err
	}
	return s.raw(u, nil)
}

// rest goes on without HTTP where all that the client sends is under way to the application already.
func (s *splitter) rest(u *upstream, body *sending) error {
	if _, err := pipe.Copy(s.client, &buffered{Conn: u.Conn, r: u.in}); err != nil {
		pipe.Reset(s.client)
		pipe.Reset(u.Conn)
	} else {
		_ = s.client.CloseWrite()
	}
	<-body.done
	return nil
}

// lastWords passes on all that a destination says, as nobody knows where its response ends. The client
// may know, and use the connection again: that is its end, as what comes may be for somebody else.
func (s *splitter) lastWords(u *upstream, body *sending) error {
	watching := make(chan struct{})
	go func() {
		defer close(watching)
		<-body.done
		if _, err := s.in.Peek(1); !errors.Is(err, io.EOF) {
			_ = u.SetReadDeadline(past())
		}
	}()
	_, err := pipe.Copy(s.client, &buffered{Conn: u.Conn, r: u.in})
	if err == nil {
		_ = s.client.CloseWrite()
	}
	_ = s.client.SetReadDeadline(past())
	_ = u.SetDeadline(past())
	<-watching
	s.drop(u)
	switch {
	case err == nil:
		s.linger()
	case !late(err):
		pipe.Reset(s.client)
	}
	return nil
}
