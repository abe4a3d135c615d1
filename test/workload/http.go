package main

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// Echo is the answer of the HTTP echo service.
type Echo struct {
	Name    string      `json:"name"`    // of the server
	Peer    string      `json:"peer"`    // address and port that the server sees
	Local   string      `json:"local"`   // address and port on which the server was reached
	Method  string      `json:"method"`  //
	Path    string      `json:"path"`    // with the query
	Host    string      `json:"host"`    //
	Header  http.Header `json:"header"`  //
	Size    int64       `json:"size"`    // of the body, in bytes
	SHA256  string      `json:"sha256"`  // of the body
	Request int64       `json:"request"` // number of this request, counted over all ports
}

// echoHandler answers with an Echo on every path but these:
//
//	/env               the environment, a JSON object
//	/slow?for=2s       an Echo after that time
//	/status?code=503   an Echo with that status
//	/bytes?n=1000000   that many bytes
//	/drip?n=10&every=1s  that many lines, one at a time
//	/upgrade           101, then a TCP echo on the same connection
func (s *server) echoHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { s.echo(w, r, http.StatusOK) })
	mux.HandleFunc("/env", writeEnv)
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		d, err := time.ParseDuration(r.FormValue("for"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if sleep(r, d) {
			s.echo(w, r, http.StatusOK)
		}
	})
	mux.HandleFunc("/status", func(w http.ResponseWriter, r *http.Request) {
		code, err := strconv.Atoi(r.FormValue("code"))
		if err != nil || code < 200 || code > 999 {
			http.Error(w, "code: 200 to 999", http.StatusBadRequest)
			return
		}
		s.echo(w, r, code)
	})
	mux.HandleFunc("/bytes", func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.ParseInt(r.FormValue("n"), 10, 64)
		if err != nil || n < 0 {
			http.Error(w, "n: a number of bytes", http.StatusBadRequest)
			return
		}
		s.record.request()
		w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
		_, _ = io.CopyN(w, newStream(), n) // the client may have gone
	})
	mux.HandleFunc("/drip", s.drip)
	mux.HandleFunc("/upgrade", s.upgrade)
	return mux
}

func (s *server) echo(w http.ResponseWriter, r *http.Request, code int) {
	number := s.record.request()
	h := sha256.New()
	size, err := io.Copy(h, r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if !sleep(r, s.delay) {
		return
	}
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = report(w, Echo{ // the client may have gone
		Name: s.name, Peer: r.RemoteAddr, Local: local.String(), Method: r.Method, Path: r.URL.RequestURI(), Host: r.Host,
		Header: r.Header, Size: size, SHA256: hex.EncodeToString(h.Sum(nil)), Request: number,
	})
}

// drip writes lines one at a time, so that a test sees whether they arrive one at a time.
func (s *server) drip(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.Atoi(r.FormValue("n"))
	every, err2 := time.ParseDuration(r.FormValue("every"))
	if err != nil || err2 != nil {
		http.Error(w, "n: a number, every: a duration", http.StatusBadRequest)
		return
	}
	s.record.request()
	out := http.NewResponseController(w)
	for i := range n {
		if _, err := io.WriteString(w, strconv.Itoa(i)+"\n"); err != nil || out.Flush() != nil || !sleep(r, every) {
			return
		}
	}
}

// upgrade leaves HTTP and echoes what comes, as WebSocket servers and others do.
func (s *server) upgrade(w http.ResponseWriter, r *http.Request) {
	s.record.request()
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"); err != nil {
		return
	}
	_, _ = io.Copy(conn, buffered) // until the client ends it
}

// adminHandler serves what was recorded, on a port that is not recorded itself.
func (s *server) adminHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/env", writeEnv)
	mux.HandleFunc("/count", func(w http.ResponseWriter, _ *http.Request) { _ = report(w, s.record.counts()) })
	mux.HandleFunc("/raw", func(w http.ResponseWriter, _ *http.Request) { _ = report(w, s.record.received()) })
	mux.HandleFunc("/reset", func(http.ResponseWriter, *http.Request) { s.record.reset() })
	return mux
}

func writeEnv(w http.ResponseWriter, _ *http.Request) {
	env := map[string]string{}
	for _, kv := range os.Environ() {
		key, value, _ := strings.Cut(kv, "=")
		env[key] = value
	}
	_ = report(w, env)
}

// sleep waits, and reports false when the client has gone meanwhile.
func sleep(r *http.Request, d time.Duration) bool {
	if d == 0 {
		return true
	}
	select {
	case <-r.Context().Done():
		return false
	case <-time.After(d):
		return true
	}
}
