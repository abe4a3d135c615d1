package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/coder/websocket"
	"github.com/coder/websocket/wsjson"
)

// maxWebSocketMessage is the longest message of the echo, in bytes.
const maxWebSocketMessage = 1 << 20

// introduction is the first message of the WebSocket server.
type introduction struct{ Server, Peer string }

func serveWebSocket(ctx context.Context, name, addr string) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	s := &http.Server{
		ReadHeaderTimeout: patience,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c, err := websocket.Accept(w, r, nil)
			if err != nil {
				return // Accept has answered
			}
			defer c.CloseNow()
			c.SetReadLimit(maxWebSocketMessage)
			if wsjson.Write(r.Context(), c, introduction{name, r.RemoteAddr}) != nil {
				return
			}
			for {
				kind, message, err := c.Read(r.Context())
				if err != nil || c.Write(r.Context(), kind, message) != nil {
					return
				}
			}
		}),
	}
	return serveUntil(ctx, s.Close, func() error { return s.Serve(l) })
}

// serveUntil serves until ctx ends, then closes. An end by that is no error.
func serveUntil(ctx context.Context, closeServer, serve func() error) error {
	end := context.AfterFunc(ctx, func() { _ = closeServer() })
	defer end()
	if err := serve(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func askWebSocket(ctx context.Context, addr string) (*report, error) {
	r := &report{}
	c, _, err := websocket.Dial(ctx, "ws://"+addr+"/", nil)
	if err != nil {
		return r, err
	}
	defer c.CloseNow()
	c.SetReadLimit(maxWebSocketMessage)
	var in introduction
	if err := wsjson.Read(ctx, c, &in); err != nil {
		return r, err
	}
	r.Server, r.Peer = in.Server, in.Peer
	for size := 1; size <= maxWebSocketMessage; size *= 4 {
		sent := bytes.Repeat([]byte{byte('a' + size%26)}, size)
		for _, kind := range []websocket.MessageType{websocket.MessageText, websocket.MessageBinary} {
			if err := c.Write(ctx, kind, sent); err != nil {
				return r, err
			}
			got, message, err := c.Read(ctx)
			if err != nil {
				return r, err
			}
			if got != kind || !bytes.Equal(message, sent) {
				return r, fmt.Errorf("sent %d bytes, got %d others back", size, len(message))
			}
		}
	}
	r.did("messages")
	reading := c.CloseRead(ctx)
	for range 10 {
		if err := c.Ping(ctx); err != nil {
			return r, err
		}
		time.Sleep(20 * time.Millisecond) // an idle connection has to stay as well
	}
	r.did("ping")
	if err := c.Close(websocket.StatusNormalClosure, "enough"); err != nil {
		return r, err
	}
	<-reading.Done()
	r.did("close")
	return r, nil
}
