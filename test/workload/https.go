package main

import (
	"crypto/tls"
	"net"
	"net/http"
	"time"
)

// secureServer is HTTP inside of TLS.
type secureServer struct{ addr, cert, key string }

// serveHTTPS serves HTTP/1.1 and HTTP/2 inside of TLS, if there is an address.
func (s *server) serveHTTPS(c secureServer) error {
	if c.addr == "" {
		return nil
	}
	pair, err := tls.LoadX509KeyPair(c.cert, c.key)
	if err != nil {
		return err
	}
	srv := &http.Server{
		Handler: s.echoHandler(), ReadHeaderTimeout: time.Minute,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}},
	}
	srv.SetKeepAlivesEnabled(s.keepAlive)
	s.closers = append(s.closers, srv)
	s.listening.HTTPS, err = s.listen(c.addr, true, func(l net.Listener) {
		_ = srv.ServeTLS(l, "", "") // ends when the listener does
	})
	return err
}
