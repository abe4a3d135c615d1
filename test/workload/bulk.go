package main

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"time"
)

// Bulk is the result of a transfer, seen from one side.
type Bulk struct {
	Size    int64   `json:"size"`
	SHA256  string  `json:"sha256"`
	Peer    string  `json:"peer,omitempty"`
	Seconds float64 `json:"seconds,omitempty"`
}

// newStream is an endless stream of bytes that no compressor shortens, the same each time.
func newStream() io.Reader { return rand.NewChaCha8([32]byte{}) }

// sourceConn reads a size, 8 bytes with the highest first, and sends that much of the stream.
func sourceConn(c net.Conn) {
	var header [8]byte
	if _, err := io.ReadFull(c, header[:]); err != nil {
		return
	}
	_, _ = io.CopyN(c, newStream(), int64(binary.BigEndian.Uint64(header[:])&(1<<62-1))) // the client checks what it got
}

// sinkConn reads until the client ends its direction, and answers with a Bulk.
func sinkConn(c net.Conn) {
	h := sha256.New()
	n, err := io.Copy(h, c)
	if err != nil {
		return
	}
	_ = report(c, Bulk{Size: n, SHA256: hex.EncodeToString(h.Sum(nil)), Peer: c.RemoteAddr().String()}) // the client checks
}

// expected is the checksum of the first n bytes of the stream.
func expected(n int64) (string, error) {
	h := sha256.New()
	if _, err := io.CopyN(h, newStream(), n); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// bulkFlags parses the common flags and dials.
func bulkFlags(ctx context.Context, name string, args []string) (net.Conn, int64, error) {
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	size := flags.Int64("size", 1<<20, "number of bytes")
	timeout := flags.Duration("timeout", 5*time.Minute, "for all of it")
	if err := parse(flags, args, 1); err != nil {
		return nil, 0, err
	}
	conn, err := (&net.Dialer{Timeout: *timeout}).DialContext(ctx, "tcp", flags.Arg(0))
	if err != nil {
		return nil, 0, err
	}
	return conn, *size, conn.SetDeadline(time.Now().Add(*timeout))
}

// pull receives from a source and fails when the bytes are not those that it sends.
func pull(ctx context.Context, args []string, out io.Writer) error {
	conn, size, err := bulkFlags(ctx, "pull", args)
	if err != nil {
		return err
	}
	defer conn.Close()
	begin := time.Now()
	if _, err := conn.Write(binary.BigEndian.AppendUint64(nil, uint64(size))); err != nil {
		return err
	}
	h := sha256.New()
	n, err := io.Copy(h, conn)
	if err != nil {
		return fmt.Errorf("after %d of %d bytes: %w", n, size, err)
	}
	return check(out, Bulk{Size: n, SHA256: hex.EncodeToString(h.Sum(nil)), Seconds: time.Since(begin).Seconds()}, size)
}

// push sends to a sink and fails when other bytes arrived there.
func push(ctx context.Context, args []string, out io.Writer) error {
	conn, size, err := bulkFlags(ctx, "push", args)
	if err != nil {
		return err
	}
	defer conn.Close()
	begin := time.Now()
	if n, err := io.CopyN(conn, newStream(), size); err != nil {
		return fmt.Errorf("after %d of %d bytes: %w", n, size, err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	var arrived Bulk
	if err := json.NewDecoder(conn).Decode(&arrived); err != nil {
		return fmt.Errorf("answer of the sink: %w", err)
	}
	arrived.Seconds = time.Since(begin).Seconds()
	return check(out, arrived, size)
}

func check(out io.Writer, got Bulk, size int64) error {
	if err := report(out, got); err != nil {
		return err
	}
	want, err := expected(size)
	if err != nil {
		return err
	}
	if got.Size != size || got.SHA256 != want {
		return fmt.Errorf("%d bytes with checksum %s arrived, want %d with %s", got.Size, got.SHA256, size, want)
	}
	return nil
}
