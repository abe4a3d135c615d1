// Package load is what the benchmark measures with: a server that costs as little as it can, for pods and local
// processes, and a client that measures connections to it.
package load

import (
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"
)

// What a client asks of a connection with its first byte.
const (
	// opEcho returns this byte and all that follow.
	opEcho = 'e'
	// opLine is the first byte of the names of sessions, with which lines of test/sessionload begin. It is
	// like opEcho.
	opLine = 's'
	// opDown is followed by a size of 8 bytes; that many bytes come back.
	opDown = 'd'
	// opUp is followed by a size of 8 bytes and that many bytes; one byte comes back.
	opUp = 'u'
)

// blockSize is how much is read and written at a time, at both ends.
const blockSize = 256 << 10

// answer is what the HTTP server says: as much as a short JSON answer.
const answer = `{"name":"bench","status":"ok","items":["one","two","three","four","five"],"total":5,"next":""}` + "\n"

// Serve listens until the process is ended. Its arguments are flags.
func Serve(args []string, out io.Writer) error {
	flags := flag.NewFlagSet("serve", flag.ContinueOnError)
	tcp := flags.String("tcp", ":7000", "echo and bulk")
	web := flags.String("http", ":7001", "HTTP")
	if err := flags.Parse(args); err != nil {
		return err
	}
	raw, err := net.Listen("tcp", *tcp)
	if err != nil {
		return err
	}
	h, err := net.Listen("tcp", *web)
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "ready")
	failed := make(chan error, 2)
	go func() { failed <- acceptAll(raw) }()
	go func() {
		srv := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, answer)
		})}
		failed <- srv.Serve(h)
	}()
	return <-failed
}

func acceptAll(l net.Listener) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			if err := handle(c); err != nil {
				fmt.Fprintln(os.Stderr, "loader:", err)
			}
		}()
	}
}

// handle serves one connection. A client that goes away is no error.
func handle(c net.Conn) error {
	var head [9]byte
	if _, err := io.ReadFull(c, head[:1]); err != nil {
		return nil //nolint:nilerr // the client did not want anything
	}
	if head[0] == opEcho || head[0] == opLine {
		if _, err := c.Write(head[:1]); err == nil {
			_, _ = io.Copy(c, c)
		}
		return nil
	}
	if _, err := io.ReadFull(c, head[1:]); err != nil {
		return nil //nolint:nilerr // as above
	}
	size := int64(binary.BigEndian.Uint64(head[1:]) & (1<<62 - 1))
	switch head[0] {
	case opDown:
		_ = send(c, size)
	case opUp:
		if receive(c, size) == nil {
			_, _ = c.Write(head[:1])
		}
	default:
		return fmt.Errorf("%v asks for %q", c.RemoteAddr(), head[0])
	}
	return nil
}

// send writes size bytes.
func send(w io.Writer, size int64) error {
	block := make([]byte, blockSize)
	for size > 0 {
		n, err := w.Write(block[:min(size, blockSize)])
		if err != nil {
			return err
		}
		size -= int64(n)
	}
	return nil
}

// receive reads size bytes.
func receive(r io.Reader, size int64) error {
	block := make([]byte, blockSize)
	for size > 0 {
		n, err := r.Read(block[:min(size, blockSize)])
		size -= int64(n)
		if err != nil && size > 0 {
			return err
		}
	}
	return nil
}
