package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"strings"
	"time"
)

// Answer is what a client saw of one request.
type Answer struct {
	Status int    `json:"status,omitempty"`
	Local  string `json:"local,omitempty"`  // this end of the connection
	Remote string `json:"remote,omitempty"` // the other end
	Reused bool   `json:"reused"`           // an earlier request had the same connection
	Echo   *Echo  `json:"echo,omitempty"`   // when the answer was one
	Body   string `json:"body,omitempty"`   // when it was not
	Error  string `json:"error,omitempty"`
	Errno  string `json:"errno,omitempty"`
	Millis int64  `json:"millis"` // since the client started, at the end of the request
}

// httpClient makes requests and remembers when it started.
type httpClient struct {
	http  *http.Client
	start time.Time
}

func newHTTPClient(keepAlive bool, timeout time.Duration) *httpClient {
	transport := &http.Transport{
		DisableKeepAlives: !keepAlive, MaxIdleConnsPerHost: 1,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // servers of tests make their own certificates
	}
	return &httpClient{http: &http.Client{Transport: transport, Timeout: timeout}, start: time.Now()}
}

func (c *httpClient) do(ctx context.Context, method, url string, header []string, body string) (a Answer) {
	defer func() { a.Millis = time.Since(c.start).Milliseconds() }()
	fail := func(err error) Answer {
		a.Error, a.Errno = err.Error(), errno(err)
		return a
	}
	trace := &httptrace.ClientTrace{GotConn: func(g httptrace.GotConnInfo) {
		a.Local, a.Remote, a.Reused = g.Conn.LocalAddr().String(), g.Conn.RemoteAddr().String(), g.Reused
	}}
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, trace), method, url, strings.NewReader(body))
	if err != nil {
		return fail(err)
	}
	for _, h := range header {
		key, value, _ := strings.Cut(h, ":")
		req.Header.Add(key, strings.TrimSpace(value))
	}
	res, err := c.http.Do(req)
	if err != nil {
		return fail(err)
	}
	defer res.Body.Close()
	a.Status = res.StatusCode
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return fail(err)
	}
	var e Echo
	if json.Unmarshal(b, &e) == nil && e.Name != "" {
		a.Echo = &e
	} else {
		a.Body = string(b)
	}
	return a
}

// get makes requests one after the other and fails when one of them got no answer.
func get(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("get", flag.ContinueOnError)
	n := flags.Int("n", 1, "number of requests")
	keepAlive := flags.Bool("keepalive", false, "all on one connection")
	method := flags.String("method", http.MethodGet, "")
	body := flags.String("body", "", "")
	bodyFile := flags.String("body-file", "", "send this file")
	timeout := flags.Duration("timeout", 30*time.Second, "of each request")
	pause := flags.Duration("pause", 0, "between requests")
	var header []string
	flags.Func("header", "\"Name: value\", may be repeated", func(s string) error { header = append(header, s); return nil })
	if err := parse(flags, args, 1); err != nil {
		return err
	}
	if *bodyFile != "" {
		b, err := os.ReadFile(*bodyFile)
		if err != nil {
			return err
		}
		*body = string(b)
	}
	client, failed := newHTTPClient(*keepAlive, *timeout), 0
	defer client.http.CloseIdleConnections()
	for i := range *n {
		if i > 0 {
			select {
			case <-ctx.Done():
			case <-time.After(*pause):
			}
		}
		a := client.do(ctx, *method, flags.Arg(0), header, *body)
		if a.Error != "" {
			failed++
		}
		if err := report(out, a); err != nil {
			return err
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d requests failed", failed, *n)
	}
	return nil
}

// hold makes a request at every tick on one kept-alive connection, and goes on when one fails: the lines show when the
// answers changed, failed and came back.
func hold(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("hold", flag.ContinueOnError)
	every := flags.Duration("every", 100*time.Millisecond, "time between requests")
	timeout := flags.Duration("timeout", 5*time.Second, "of each request")
	if err := parse(flags, args, 1); err != nil {
		return err
	}
	client := newHTTPClient(true, *timeout)
	defer client.http.CloseIdleConnections()
	tick := time.NewTicker(*every)
	defer tick.Stop()
	for {
		a := client.do(ctx, http.MethodGet, flags.Arg(0), nil, "")
		if ctx.Err() != nil {
			return nil
		}
		if err := report(out, a); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Probe is the result of a connection attempt.
type Probe struct {
	Local  string `json:"local,omitempty"`
	Remote string `json:"remote,omitempty"`
	Answer string `json:"answer,omitempty"`
	Error  string `json:"error,omitempty"`
	Errno  string `json:"errno,omitempty"` // its name, such as ECONNREFUSED
}

func tcpProbe(ctx context.Context, args []string, out io.Writer) error {
	return probe(ctx, "tcp", args, out)
}

func udpProbe(ctx context.Context, args []string, out io.Writer) error {
	return probe(ctx, "udp", args, out)
}

// resendAfter is when a datagram without an answer is sent again.
const resendAfter = 10 * time.Second

// probe connects, sends, and waits for an answer of at least the sent length. It fails after it has reported.
func probe(ctx context.Context, network string, args []string, out io.Writer) error {
	flags := flag.NewFlagSet(network, flag.ContinueOnError)
	send := flags.String("send", "", "send this and wait for an answer")
	timeout := flags.Duration("timeout", time.Minute, "for all of it")
	from := flags.String("from", "", "local address to bind first")
	if err := parse(flags, args, 1); err != nil {
		return err
	}
	dialer := net.Dialer{Timeout: *timeout}
	if *from != "" {
		var err error
		if dialer.LocalAddr, err = resolveAddr(network, *from); err != nil {
			return fmt.Errorf("%w: -from: %w", errUsage, err)
		}
	}
	var p Probe
	err := func() error {
		conn, err := dialer.DialContext(ctx, network, flags.Arg(0))
		if err != nil {
			return err
		}
		defer conn.Close()
		p.Local, p.Remote = conn.LocalAddr().String(), conn.RemoteAddr().String()
		if *send == "" {
			return nil
		}
		if err := conn.SetDeadline(time.Now().Add(*timeout)); err != nil {
			return err
		}
		if _, err := io.WriteString(conn, *send); err != nil {
			return err
		}
		if network == "udp" {
			again := time.AfterFunc(resendAfter, func() { _, _ = io.WriteString(conn, *send) }) // it may be lost
			defer again.Stop()
		}
		buf := make([]byte, 65535)
		n, err := io.ReadAtLeast(conn, buf, len(*send))
		p.Answer = string(buf[:n])
		return err
	}()
	if err != nil {
		p.Error, p.Errno = err.Error(), errno(err)
	}
	return errors.Join(report(out, p), err)
}

func resolveAddr(network, addr string) (net.Addr, error) {
	if network == "udp" {
		return net.ResolveUDPAddr(network, addr)
	}
	return net.ResolveTCPAddr(network, addr)
}
