package resume

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var quiet = slog.New(slog.DiscardHandler)

// secret stands for what a handshake above has given both sides.
var secret = bytes.Repeat([]byte("secret"), 8)

// world is a server and a way to it, which tests break.
type world struct {
	t      testing.TB
	server *Server
	conns  chan *Conn
	// pair makes a carrier.
	pair func() (client, server net.Conn, err error)
	// cut, when set, sees each carrier before it is used, with its number.
	cut func(n int, client, server net.Conn) (net.Conn, net.Conn)

	mu     sync.Mutex
	made   []net.Conn // the server's ends
	down   error      // why nothing can be dialled
	serves sync.WaitGroup
}

func newWorld(t testing.TB, o Options) *world {
	w := &world{t: t, server: NewServer(quiet, o), conns: make(chan *Conn, 64), pair: pipes}
	t.Cleanup(w.serves.Wait)
	return w
}

func pipes() (net.Conn, net.Conn, error) {
	a, b := net.Pipe()
	return a, b, nil
}

// loopback makes real connections.
func loopback(t testing.TB) func() (net.Conn, net.Conn, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return func() (net.Conn, net.Conn, error) {
		a, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			return nil, nil, err
		}
		b, err := l.Accept()
		return a, b, err
	}
}

func (w *world) dial(context.Context) (net.Conn, error) {
	w.mu.Lock()
	n, down := len(w.made), w.down
	w.mu.Unlock()
	if down != nil {
		return nil, down
	}
	a, b, err := w.pair()
	if err != nil {
		return nil, err
	}
	if w.cut != nil {
		a, b = w.cut(n, a, b)
	}
	w.mu.Lock()
	w.made = append(w.made, b)
	w.mu.Unlock()
	w.serves.Go(func() {
		if c, _ := w.server.Accept(context.Background(), b); c != nil {
			w.conns <- c
		}
	})
	return a, nil
}

// setDown makes dialling fail, or work again with nil.
func (w *world) setDown(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down = err
}

// last is the server's end of the last carrier.
func (w *world) last() net.Conn {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.made[len(w.made)-1]
}

// connect makes both ends of a connection and binds them.
func (w *world) connect(o Options) (client, server *Conn) {
	w.t.Helper()
	client, server = w.connectUnbound(o)
	if err := errors.Join(client.Bind(secret), server.Bind(secret)); err != nil {
		w.t.Fatal(err)
	}
	return client, server
}

func (w *world) connectUnbound(o Options) (client, server *Conn) {
	w.t.Helper()
	client, err := Dial(w.t.Context(), quiet, w.dial, o)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { client.Close() })
	// What authenticates the peers says something both ways.
	go func() { _, _ = client.Write([]byte("?")) }()
	select {
	case server = <-w.conns:
	case <-time.After(time.Minute):
		w.t.Fatal("the server has no connection")
	}
	w.t.Cleanup(func() { server.Close() })
	b := make([]byte, 1)
	if _, err := server.Read(b); err != nil {
		w.t.Fatal(err)
	}
	go func() { _, _ = server.Write([]byte("!")) }()
	if _, err := client.Read(b); err != nil {
		w.t.Fatal(err)
	}
	return client, server
}
