package integration

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"strconv"
	"testing"
	"time"
)

// editor is the client's side of the Debug Adapter Protocol, as much of it as a breakpoint needs.
type editor struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
	seq  int
	// kept came while something else was waited for.
	kept []dapMessage
}

type dapMessage struct {
	Seq        int    `json:"seq"`
	Type       string `json:"type"`
	RequestSeq int    `json:"request_seq"`
	Success    bool   `json:"success"`
	Message    string `json:"message"`
	Event      string `json:"event"`
	Body       dapBody
}

type dapBody struct {
	ThreadID    int    `json:"threadId"`
	Result      string `json:"result"`
	StackFrames []struct {
		ID   int    `json:"id"`
		Name string `json:"name"`
	} `json:"stackFrames"`
}

// newEditor connects as soon as somebody listens.
func newEditor(t *testing.T, address string) *editor {
	t.Helper()
	e := &editor{t: t}
	within(t, patience, func() (err error) {
		e.conn, err = net.Dial("tcp", address)
		return err
	})
	if e.conn == nil {
		t.FailNow()
	}
	t.Cleanup(func() { _ = e.conn.Close() })
	_ = e.conn.SetDeadline(time.Now().Add(2 * patience))
	e.in = bufio.NewReader(e.conn)
	return e
}

// send returns the number of the request.
func (e *editor) send(command string, arguments map[string]any) int {
	e.t.Helper()
	e.seq++
	b, err := json.Marshal(map[string]any{"seq": e.seq, "type": "request", "command": command, "arguments": arguments})
	if err == nil {
		_, err = fmt.Fprintf(e.conn, "Content-Length: %d\r\n\r\n%s", len(b), b)
	}
	if err != nil {
		e.t.Fatalf("%s: %v", command, err)
	}
	return e.seq
}

// ask sends a request and waits for the reply.
func (e *editor) ask(command string, arguments map[string]any) dapBody {
	e.t.Helper()
	return e.reply(e.send(command, arguments))
}

func (e *editor) reply(seq int) dapBody {
	e.t.Helper()
	m := e.await(fmt.Sprintf("reply to request %d", seq), func(m dapMessage) bool { return m.Type == "response" && m.RequestSeq == seq })
	if !m.Success {
		e.t.Fatalf("request %d failed: %s", seq, m.Message)
	}
	return m.Body
}

func (e *editor) event(name string) dapBody {
	e.t.Helper()
	return e.await("event "+name, func(m dapMessage) bool { return m.Type == "event" && m.Event == name }).Body
}

func (e *editor) await(what string, is func(dapMessage) bool) dapMessage {
	e.t.Helper()
	for i, m := range e.kept {
		if is(m) {
			e.kept = append(e.kept[:i], e.kept[i+1:]...)
			return m
		}
	}
	for {
		m, err := e.read()
		if err != nil {
			e.t.Fatalf("waiting for the %s: %v", what, err)
		}
		if is(m) {
			return m
		}
		e.kept = append(e.kept, m)
	}
}

func (e *editor) read() (m dapMessage, err error) {
	header, err := textproto.NewReader(e.in).ReadMIMEHeader()
	if err != nil {
		return m, err
	}
	size, err := strconv.Atoi(header.Get("Content-Length"))
	if err != nil {
		return m, err
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(e.in, b); err != nil {
		return m, err
	}
	return m, json.Unmarshal(b, &m)
}
