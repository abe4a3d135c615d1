package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

func serveNATS(ctx context.Context, name, addr string) error {
	host, portText, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	port, err := strconv.Atoi(portText)
	if err != nil {
		return err
	}
	s, err := server.NewServer(&server.Options{ServerName: name, Host: host, Port: port, NoSigs: true, NoLog: true})
	if err != nil {
		return err
	}
	s.Start()
	if !s.ReadyForConnections(patience) {
		return errors.New("the NATS broker does not start")
	}
	<-ctx.Done()
	s.Shutdown()
	s.WaitForShutdown()
	return nil
}

// natsMessages are sent to each of two subscribers.
const natsMessages = 200

func askNATS(ctx context.Context, addr string) (*report, error) {
	r := &report{}
	conn, err := nats.Connect("nats://"+addr, nats.Timeout(patience))
	if err != nil {
		return r, err
	}
	defer conn.Close()
	r.Server = conn.ConnectedServerName()
	peer, err := conn.GetClientIP()
	if err != nil {
		return r, err
	}
	r.Peer = peer.String()

	var subscribers []*nats.Subscription
	for _, subject := range []string{"orders.*", "orders.>"} {
		s, err := conn.SubscribeSync(subject)
		if err != nil {
			return r, err
		}
		subscribers = append(subscribers, s)
	}
	for i := range natsMessages {
		if err := conn.Publish("orders.new", fmt.Appendf(nil, "order %d", i)); err != nil {
			return r, err
		}
	}
	for _, s := range subscribers {
		for i := range natsMessages {
			m, err := s.NextMsgWithContext(ctx)
			if err != nil {
				return r, err
			}
			if want := fmt.Sprintf("order %d", i); string(m.Data) != want {
				return r, fmt.Errorf("got %q, want %q", m.Data, want)
			}
		}
	}
	r.did("publish and subscribe")

	answer := func(m *nats.Msg) { _ = m.Respond(append([]byte("re: "), m.Data...)) }
	if _, err := conn.Subscribe("stock", answer); err != nil {
		return r, err
	}
	m, err := conn.Request("stock", []byte("how much?"), patience)
	if err != nil {
		return r, err
	}
	if string(m.Data) != "re: how much?" {
		return r, fmt.Errorf("answer %q", m.Data)
	}
	r.did("request and reply")
	if rtt, err := conn.RTT(); err != nil || rtt > time.Minute {
		return r, fmt.Errorf("round trip %s: %w", rtt, err)
	}
	return r, conn.Drain()
}
