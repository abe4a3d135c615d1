package node

import (
	"encoding/json"
	"net"
	"sync"

	"github.com/mirrord-go/mirrord/internal/agent/nodeapi"
)

// order is what the agent of a node says to one of its workers, over a socket that both
// inherited: one JSON object after the other. Exactly one of the pointers is set, and every
// order is answered.
type order struct {
	ID       uint64         `json:"id"`
	Register *registerOrder `json:"register,omitempty"`
	End      *endOrder      `json:"end,omitempty"`
}

type registerOrder struct {
	Session      string               `json:"session"`
	Registration nodeapi.Registration `json:"registration"`
}

type endOrder struct {
	Session string `json:"session"`
	Reason  string `json:"reason"`
}

// message is what a worker says: Ready once and first, then answers and events.
type message struct {
	Ready  *nodeapi.Registered `json:"ready,omitempty"`
	Answer *answer             `json:"answer,omitempty"`
	Event  *nodeapi.Event      `json:"event,omitempty"`
}

// answer is the answer to the order with that ID. Without an error it was carried out.
type answer struct {
	ID    uint64         `json:"id"`
	Error *nodeapi.Error `json:"error,omitempty"`
}

// line is one end of the socket.
type line struct {
	conn net.Conn
	dec  *json.Decoder

	mu  sync.Mutex // one object at a time
	enc *json.Encoder
}

func newLine(c net.Conn) *line {
	l := &line{conn: c, dec: json.NewDecoder(c), enc: json.NewEncoder(c)}
	l.dec.DisallowUnknownFields() // both ends are the same program
	return l
}

func (l *line) send(v any) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.enc.Encode(v)
}

// receive reads the next object. One goroutine may call it.
func (l *line) receive(v any) error { return l.dec.Decode(v) }

// hangUp ends this side's direction: the other end reads the end, and can still say something.
func (l *line) hangUp() {
	if c, ok := l.conn.(*net.UnixConn); ok {
		_ = c.CloseWrite()
	}
}

func (l *line) close() { _ = l.conn.Close() }
