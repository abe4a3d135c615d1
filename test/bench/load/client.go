package load

import (
	"bufio"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// Kind is what a [Job] measures.
type Kind string

// The kinds.
const (
	// Connect makes connections, has one byte echoed over each, and closes it.
	Connect Kind = "connect"
	// HTTP makes requests, each client over one connection.
	HTTP Kind = "http"
	// Down and Up move bytes, each client over one connection that is made before the clock runs.
	Down Kind = "down"
	Up   Kind = "up"
	// Hold opens a connection for each client, all at once, has a byte echoed over each, and
	// leaves them open until Release.
	Hold    Kind = "hold"
	Release Kind = "release"
	// Run runs a program to its end. It is a child of the client, and so in the session that the client is in.
	Run Kind = "run"
)

// Job is one measurement.
type Job struct {
	Kind Kind
	// Addr is host:port of the server's TCP port, or of its HTTP port for HTTP.
	Addr string
	// Clients work at the same time.
	Clients int
	// For is how long connect and http go on.
	For time.Duration
	// Max ends them earlier, after so many in all.
	Max int
	// Bytes are moved in all by down and up.
	Bytes int64
	// Command is what run runs: a program and its arguments.
	Command []string `json:",omitempty"`
	// Patience bounds what can hang in a job, beyond its own time; the default is a minute.
	Patience time.Duration
}

// Result is what came of a [Job].
type Result struct {
	// Count of connections or requests, or of the lines that a program wrote.
	Count int
	// Seconds that the job took, from the first to the last of its work.
	Seconds float64
	// P50 and P99 are of one connection or request, in seconds.
	P50, P99 float64
	// Error is of the first that failed; the rest of the job was given up then.
	Error string `json:",omitempty"`
}

// Client carries out jobs, one after the other, until the end of in.
func Client(in io.Reader, out io.Writer) error {
	lines, results := bufio.NewScanner(in), json.NewEncoder(out)
	var held []net.Conn
	defer func() { closeAll(held) }()
	for lines.Scan() {
		var j Job
		if err := json.Unmarshal(lines.Bytes(), &j); err != nil {
			return err
		}
		j.Patience = cmp.Or(j.Patience, time.Minute)
		var (
			r   Result
			err error
		)
		switch j.Kind {
		case Connect:
			r, err = j.repeat(func() (func() error, func()) { return j.connect, func() {} })
		case HTTP:
			r, err = j.repeat(j.http)
		case Down, Up:
			r, err = j.bulk()
		case Hold:
			held, r, err = j.hold()
		case Release:
			closeAll(held)
			held = nil
		case Run:
			r, err = j.run()
		default:
			err = fmt.Errorf("no job %q", j.Kind)
		}
		if err != nil {
			r.Error = err.Error()
		}
		if err := results.Encode(r); err != nil {
			return err
		}
	}
	return lines.Err()
}

func closeAll(conns []net.Conn) {
	for _, c := range conns {
		_ = c.Close()
	}
}

// repeat lets each client do something again and again, and takes the time of each. begin
// returns what one client does, and what it does at its end.
func (j Job) repeat(begin func() (do func() error, end func())) (Result, error) {
	var (
		all   = make([][]time.Duration, j.Clients)
		errs  = make([]error, j.Clients)
		share = max(1, j.Max/j.Clients)
		wg    sync.WaitGroup
	)
	began := time.Now()
	for i := range j.Clients {
		wg.Go(func() {
			do, end := begin()
			defer end()
			for len(all[i]) < share && time.Since(began) < j.For {
				t := time.Now()
				if errs[i] = do(); errs[i] != nil {
					return
				}
				all[i] = append(all[i], time.Since(t))
			}
		})
	}
	wg.Wait()
	took := time.Since(began)
	times := slices.Concat(all...)
	slices.Sort(times)
	r := Result{Count: len(times), Seconds: took.Seconds()}
	if len(times) > 0 {
		r.P50, r.P99 = times[len(times)/2].Seconds(), times[len(times)*99/100].Seconds()
	}
	return r, errors.Join(errs...)
}

// dial connects, with a deadline for all that follows.
func (j Job) dial() (net.Conn, error) {
	d := net.Dialer{Timeout: j.Patience}
	d.SetMultipathTCP(false)
	c, err := d.Dial("tcp", j.Addr)
	if err != nil {
		return nil, err
	}
	return c, c.SetDeadline(time.Now().Add(j.Patience))
}

// connect makes a connection, has one byte echoed, and closes it.
func (j Job) connect() error {
	c, err := j.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	return echo(c)
}

func echo(c net.Conn) error {
	b := []byte{opEcho}
	if _, err := c.Write(b); err != nil {
		return err
	}
	_, err := io.ReadFull(c, b)
	return err
}

// http makes requests on one connection.
func (j Job) http() (do func() error, end func()) {
	t := &http.Transport{MaxIdleConnsPerHost: 1, MaxConnsPerHost: 1, DisableCompression: true}
	c := &http.Client{Transport: t, Timeout: j.Patience}
	do = func() error {
		req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://"+j.Addr+"/", http.NoBody)
		if err != nil {
			return err
		}
		res, err := c.Do(req)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if n, err := io.Copy(io.Discard, res.Body); err != nil || n != int64(len(answer)) {
			return cmp.Or(err, fmt.Errorf("an answer of %d bytes, want %d", n, len(answer)))
		}
		return nil
	}
	return do, t.CloseIdleConnections
}

// bulk moves bytes over several connections. The connections are made before the clock runs.
func (j Job) bulk() (Result, error) {
	conns := make([]net.Conn, 0, j.Clients)
	defer func() { closeAll(conns) }()
	for range j.Clients {
		c, err := j.dial()
		if err != nil {
			return Result{}, err
		}
		conns = append(conns, c)
	}
	var (
		errs = make([]error, j.Clients)
		size = j.Bytes / int64(j.Clients)
		wg   sync.WaitGroup
	)
	began := time.Now()
	for i, c := range conns {
		wg.Go(func() { errs[i] = j.transfer(c, size) })
	}
	wg.Wait()
	return Result{Count: j.Clients, Seconds: time.Since(began).Seconds()}, errors.Join(errs...)
}

func (j Job) transfer(c net.Conn, size int64) error {
	op := byte(opDown)
	if j.Kind == Up {
		op = opUp
	}
	if _, err := c.Write(binary.BigEndian.AppendUint64([]byte{op}, uint64(size))); err != nil {
		return err
	}
	if op == opDown {
		return receive(c, size)
	}
	if err := send(c, size); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, 1))
	return err
}

// hold opens connections at once, exchanges a byte over each, and leaves them open.
func (j Job) hold() ([]net.Conn, Result, error) {
	var (
		conns = make([]net.Conn, j.Clients)
		errs  = make([]error, j.Clients)
		wg    sync.WaitGroup
	)
	began := time.Now()
	for i := range conns {
		wg.Go(func() {
			c, err := j.dial()
			if err == nil {
				conns[i] = c
				err = echo(c)
			}
			errs[i] = err
		})
	}
	wg.Wait()
	r := Result{Seconds: time.Since(began).Seconds()}
	conns = slices.DeleteFunc(conns, func(c net.Conn) bool { return c == nil })
	r.Count = len(conns)
	return conns, r, errors.Join(errs...)
}
