package resume

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// recorder keeps what both sides say on a carrier.
type recorder struct {
	net.Conn
	mu   sync.Mutex
	said bytes.Buffer
}

func (r *recorder) Write(p []byte) (int, error) {
	r.mu.Lock()
	r.said.Write(p)
	r.mu.Unlock()
	return r.Conn.Write(p)
}

// resumed makes a connection that was resumed once, and returns what its client said to do so.
func resumed(t *testing.T, w *world) (client, server *Conn, said []byte) {
	t.Helper()
	var rec *recorder
	w.cut = func(n int, a, b net.Conn) (net.Conn, net.Conn) {
		if n == 1 {
			rec = &recorder{Conn: a}
			return rec, b
		}
		return a, b
	}
	done := make(chan struct{}, 9)
	client, server = w.connect(Options{Resumed: func(time.Duration) { done <- struct{}{} }})
	for _, c := range []*Conn{client, server} {
		go func() { _, _ = io.Copy(io.Discard, c) }()
	}
	_ = w.last().Close()
	<-done
	synctest.Wait()
	rec.mu.Lock()
	defer rec.mu.Unlock()
	return client, server, bytes.Clone(rec.said.Bytes()[:requestSize+statementSize])
}

// Who has seen all that was said can neither take a connection over nor disturb it.
func TestReplay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Options{})
		client, server, said := resumed(t, w)
		carriers := len(w.made)
		for name, stranger := range map[string]func(net.Conn) error{
			"replays all": func(c net.Conn) error { return say(c, said) },
			"replays the beginning and hangs up": func(c net.Conn) error {
				return errors.Join(say(c, said[:requestSize]), c.Close())
			},
			"guesses": func(c net.Conn) error {
				return say(c, append(bytes.Clone(said[:requestSize]), make([]byte, statementSize)...))
			},
		} {
			x, y := net.Pipe()
			go func() { _ = stranger(x) }()
			if c, err := w.server.Accept(t.Context(), y); c != nil || err == nil {
				t.Errorf("a stranger who %s: %v, %v", name, c, err)
			}
			_ = x.Close()
		}
		synctest.Wait()
		for _, c := range []*Conn{client, server} {
			if since, _ := c.Paused(); !since.IsZero() {
				t.Error("the connection is paused")
			}
		}
		if len(w.made) != carriers {
			t.Error("the client had to make another carrier")
		}
	})
}

// say says the client's part while it reads what the server says.
func say(c net.Conn, b []byte) error {
	if _, err := c.Write(b[:min(len(b), requestSize)]); err != nil {
		return err
	}
	if len(b) <= requestSize {
		return nil
	}
	if _, err := io.ReadFull(c, make([]byte, offerSize)); err != nil {
		return err
	}
	_, err := c.Write(b[requestSize:])
	return err
}

// A stranger who answers in place of the server is not believed.
func TestFalseServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Options{})
		strangers := 0
		client, server := w.connect(Options{})
		for _, c := range []*Conn{client, server} {
			go func() { _, _ = io.Copy(io.Discard, c) }()
		}
		dial := client.dial
		client.dial = func(ctx context.Context) (net.Conn, error) {
			if strangers++; strangers > 4 {
				return dial(ctx)
			}
			x, y := net.Pipe()
			go func() {
				defer y.Close()
				_, _ = io.ReadFull(y, make([]byte, requestSize))
				if strangers%2 == 0 {
					_, _ = y.Write(appendHello(nil, answerUnknown))
					return
				}
				_, _ = y.Write(append(appendHello(nil, answerOK), make([]byte, nonceSize)...))
				_, _ = io.ReadFull(y, make([]byte, statementSize))
				_, _ = y.Write(make([]byte, statementSize))
			}()
			return x, nil
		}
		_ = w.last().Close()
		time.Sleep(time.Minute)
		if since, _ := client.Paused(); !since.IsZero() || client.err != nil {
			t.Errorf("the connection did not survive: %v", client.err)
		}
		if strangers != 5 {
			t.Errorf("%d attempts were made", strangers)
		}
	})
}

// Strangers who connect and say nothing take no memory that grows, and keep nobody out.
func TestManyStrangers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Options{})
		var all sync.WaitGroup
		var far []net.Conn
		for range 10 * defaultHandshakes {
			x, y := net.Pipe()
			far = append(far, x)
			all.Go(func() {
				if _, err := w.server.Accept(context.Background(), y); err == nil {
					t.Error("a silent stranger was accepted")
				}
			})
			synctest.Wait()
			if n := len(w.server.pending); n > defaultHandshakes {
				t.Fatalf("%d are pending", n)
			}
		}
		client, server := w.connect(Options{})
		_, _ = client.Close(), server.Close()
		all.Wait()
		for _, c := range far {
			_ = c.Close()
		}
		if n := len(w.server.pending); n > 0 {
			t.Errorf("%d are pending in the end", n)
		}
	})
}

// The client comes back before the server has noticed that it was away.
func TestComesBackUnnoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Options{})
		client, server := w.connect(Options{})
		got := make(chan string, 1)
		go func() { b := make([]byte, 9); n, _ := server.Read(b); got <- string(b[:n]) }()
		go func() { _, _ = client.Read(make([]byte, 1)) }()
		synctest.Wait()
		client.mu.Lock()
		client.broken(client.carrier, errors.New("this side alone knows"))
		client.mu.Unlock()
		if _, err := client.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		if s := <-got; s != "hello" {
			t.Errorf("read %q", s)
		}
	})
}
