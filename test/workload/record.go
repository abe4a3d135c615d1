package main

import (
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"net"
	"sync"
	"sync/atomic"
)

// Bounds of what is kept. The counts and checksums go on beyond them.
const (
	maxConnections = 4096
	maxBytes       = 64 << 10 // of each connection
)

// Received is what one connection, or one UDP peer, has sent.
type Received struct {
	Network string `json:"network"` // tcp or udp
	Peer    string `json:"peer"`
	Local   string `json:"local"`
	Size    int64  `json:"size"`
	SHA256  string `json:"sha256"` // of all of it
	Bytes   []byte `json:"bytes"`  // the first 64 KiB
	Closed  bool   `json:"closed"` // the server has closed its end
}

// Counts are totals since the start or the last reset.
type Counts struct {
	Name        string `json:"name,omitempty"`
	Requests    int64  `json:"requests"`    // HTTP
	Connections int64  `json:"connections"` // TCP, on all recorded ports
	Datagrams   int64  `json:"datagrams"`
}

// record keeps the raw bytes that arrive on the recorded listeners.
type record struct {
	requests, connections, datagrams atomic.Int64

	mu   sync.Mutex
	all  []*entry
	peer map[string]*entry // of UDP
}

// entry is a Received in the making; mu of the record guards it.
type entry struct {
	Received
	sum hash.Hash
}

func newRecord() *record { return &record{peer: map[string]*entry{}} }

func (r *record) request() int64 { return r.requests.Add(1) }

func (r *record) counts() Counts {
	return Counts{Name: podName(), Requests: r.requests.Load(), Connections: r.connections.Load(), Datagrams: r.datagrams.Load()}
}

func (r *record) received() []Received {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]Received, 0, len(r.all))
	for _, e := range r.all {
		one := e.Received
		one.SHA256 = hex.EncodeToString(e.sum.Sum(nil))
		one.Bytes = append([]byte{}, e.Bytes...)
		list = append(list, one)
	}
	return list
}

func (r *record) reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all, r.peer = nil, map[string]*entry{}
	r.requests.Store(0)
	r.connections.Store(0)
	r.datagrams.Store(0)
}

func (r *record) add(network, peer, local string) *entry {
	e := &entry{Received: Received{Network: network, Peer: peer, Local: local}, sum: sha256.New()}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.all) < maxConnections {
		r.all = append(r.all, e)
	}
	return e
}

func (r *record) took(e *entry, b []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e.Size += int64(len(b))
	e.sum.Write(b)
	e.Bytes = append(e.Bytes, b[:min(len(b), maxBytes-len(e.Bytes))]...)
}

func (r *record) datagram(peer net.Addr, b []byte) {
	r.datagrams.Add(1)
	r.mu.Lock()
	e, known := r.peer[peer.String()]
	r.mu.Unlock()
	if !known { // only one goroutine reads datagrams
		e = r.add("udp", peer.String(), "")
		r.mu.Lock()
		if len(r.peer) < maxConnections {
			r.peer[peer.String()] = e
		}
		r.mu.Unlock()
	}
	r.took(e, b)
}

// wrap records every connection that l accepts.
func (r *record) wrap(l net.Listener) net.Listener { return recordedListener{l, r} }

type recordedListener struct {
	net.Listener
	record *record
}

func (l recordedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.record.connections.Add(1)
	return &recordedConn{Conn: c, record: l.record, entry: l.record.add("tcp", c.RemoteAddr().String(), c.LocalAddr().String())}, nil
}

type recordedConn struct {
	net.Conn
	record *record
	entry  *entry
}

func (c *recordedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.record.took(c.entry, b[:n])
	return n, err
}

func (c *recordedConn) Close() error {
	c.record.mu.Lock()
	c.entry.Closed = true
	c.record.mu.Unlock()
	return c.Conn.Close()
}

// CloseWrite lets the HTTP server end its direction first, as it does on a plain connection.
func (c *recordedConn) CloseWrite() error {
	if h, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return nil
}
