// Gonet is the Go program of the end-to-end tests. It is built twice: static, with Go's own
// resolver, and dynamic, with that of the C library. See programs_test.go for its steps.
package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"
)

const patience = 2 * time.Minute

// resend is when a datagram is sent again: it may be lost.
const resend = 10 * time.Second

func main() {
	steps := map[string]struct {
		words int
		run   func([]string) (string, error)
	}{
		"listen": {2, listen}, "tcp": {2, tcp}, "udp": {2, udp}, "udpto": {2, udpto}, "resolve": {1, resolve}, "unix": {1, unix},
	}
	for args := os.Args[1:]; len(args) > 0; {
		step, ok := steps[args[0]]
		if !ok || len(args) <= step.words {
			fmt.Fprintln(os.Stderr, "gonet: what is", args)
			os.Exit(2)
		}
		words := args[:1+step.words]
		result, err := step.run(words[1:])
		if err != nil {
			result = name(err)
		}
		fmt.Printf("%s\t%s\n", strings.Join(words, " "), result)
		args = args[1+step.words:]
	}
}

// name is the name of the error as C has it.
func name(err error) string {
	for errno, name := range map[syscall.Errno]string{
		syscall.ECONNREFUSED: "ECONNREFUSED", syscall.EHOSTUNREACH: "EHOSTUNREACH", syscall.ENETUNREACH: "ENETUNREACH",
		syscall.ETIMEDOUT: "ETIMEDOUT", syscall.ECONNRESET: "ECONNRESET", syscall.ENOENT: "ENOENT",
	} {
		if errors.Is(err, errno) {
			return name
		}
	}
	var unknown *net.DNSError
	if errors.As(err, &unknown) && unknown.IsNotFound {
		return "nxdomain"
	}
	return err.Error()
}

func tcp(args []string) (string, error) { return get("tcp", net.JoinHostPort(args[0], args[1])) }

func unix(args []string) (string, error) { return get("unix", args[0]) }

func get(network, address string) (string, error) {
	c, err := net.DialTimeout(network, address, patience)
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		return "", err
	}
	b, err := io.ReadAll(c)
	if err != nil {
		return "", err
	}
	b = bytes.TrimSpace(b)
	return string(b[bytes.LastIndexByte(b, '\n')+1:]), nil
}

func udp(args []string) (string, error) {
	c, err := net.Dial("udp", net.JoinHostPort(args[0], args[1]))
	if err != nil {
		return "", err
	}
	defer c.Close()
	b := make([]byte, 1500)
	n, err := exchange(c, func() error { _, err := io.WriteString(c, "hello"); return err }, func() (int, error) { return c.Read(b) })
	return string(b[:n]), err
}

// exchange sends, and receives one answer.
func exchange(c net.Conn, send func() error, receive func() (int, error)) (n int, err error) {
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if err := send(); err != nil {
			return 0, err
		}
		_ = c.SetReadDeadline(time.Now().Add(resend))
		if n, err = receive(); !errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
	}
	return n, err
}

func udpto(args []string) (string, error) {
	to, err := net.ResolveUDPAddr("udp", net.JoinHostPort(args[0], args[1]))
	if err != nil {
		return "", err
	}
	c, err := net.ListenUDP("udp", nil)
	if err != nil {
		return "", err
	}
	defer c.Close()
	b := make([]byte, 1500)
	var from *net.UDPAddr
	n, err := exchange(c, func() error { _, err := c.WriteToUDP([]byte("hello"), to); return err },
		func() (n int, err error) { n, from, err = c.ReadFromUDP(b); return n, err })
	if err == nil && (!from.IP.Equal(to.IP) || from.Port != to.Port) {
		return "", fmt.Errorf("answer from %v", from)
	}
	return string(b[:n]), err
}

func resolve(args []string) (string, error) {
	addrs, err := net.LookupHost(args[0])
	return strings.Join(addrs, " "), err
}

// seen is what the server says about a request, to its client and on standard output.
type seen struct {
	Name   string `json:"name"`
	Peer   string `json:"peer"`
	Method string `json:"method"`
	Path   string `json:"path"`
	Agent  string `json:"agent"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

func listen(args []string) (string, error) {
	l, err := net.Listen("tcp", ":"+args[0])
	if err != nil {
		return "", err
	}
	fmt.Printf("listening %s %s\n", args[1], args[0])
	return "", http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sum := sha256.New()
		n, err := io.Copy(sum, r.Body)
		if err != nil {
			return
		}
		host, port, _ := net.SplitHostPort(r.RemoteAddr)
		line, _ := json.Marshal(seen{
			Name: args[1], Peer: "[" + host + "]:" + port, Method: r.Method, Path: r.URL.Path,
			Agent: r.UserAgent(), Size: n, SHA256: hex.EncodeToString(sum.Sum(nil)),
		})
		line = append(line, '\n')
		_, _ = os.Stdout.Write(line)
		_, _ = w.Write(line)
	}))
}
