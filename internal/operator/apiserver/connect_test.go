package apiserver

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// carry asks for a carrier and returns it, or the answer's code. Bytes of early are sent with
// the request.
func (l *lab) carry(attachment, protocol, early string) (net.Conn, int) {
	l.Helper()
	conn, err := tls.Dial("tcp", l.addr, &tls.Config{
		InsecureSkipVerify: true, Certificates: l.proxy.client("front-proxy"), NextProtos: []string{"http/1.1"},
	})
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		l.Fatal(err)
	}
	fmt.Fprintf(conn, "GET %s/namespaces/shop/sessions/s-1/connect?attachment=%s HTTP/1.1\r\nHost: x\r\nX-Remote-User: alice\r\nConnection: keep-alive, Upgrade\r\nUpgrade: %s\r\n\r\n%s", api, attachment, protocol, early)
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		l.Fatal(err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		resp.Body.Close()
		return nil, resp.StatusCode
	}
	return begun(conn, r), resp.StatusCode
}

func (l *lab) reads(c net.Conn, want string) {
	l.Helper()
	if err := c.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		l.Fatal(err)
	}
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
		l.Fatalf("read %q, %v; want %q", got, err, want)
	}
}

func TestACarrierIsBytesBothWays(t *testing.T) {
	l := newLab(t)
	client, code := l.carry("pod", UpgradeProtocol, "early ")
	if code != http.StatusSwitchingProtocols {
		t.Fatalf("answer %d", code)
	}
	defer l.agent.Close()
	fmt.Fprint(client, "and late")
	l.reads(l.agent, "early and late")
	fmt.Fprint(l.agent, "answer")
	l.reads(client, "answer")

	// One direction ends; the other goes on.
	if err := (halfCloser{client}).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.agent.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the agent reads %v, want an end of data", err)
	}
	fmt.Fprint(l.agent, "still here")
	l.reads(client, "still here")
	l.agent.Close()
	if _, err := client.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the client reads %v, want an end of data", err)
	}
}

func TestACarrierEnds(t *testing.T) {
	for name, end := range map[string]func(*lab){
		"with its session":  func(l *lab) { close(l.over) },
		"with the operator": func(l *lab) { l.stop() },
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			client, code := l.carry("pod", UpgradeProtocol, "")
			if code != http.StatusSwitchingProtocols {
				t.Fatalf("answer %d", code)
			}
			defer l.agent.Close()
			fmt.Fprint(client, "x")
			l.reads(l.agent, "x")
			end(l)
			if n, err := client.Read(make([]byte, 1)); err == nil {
				t.Errorf("the client reads %d bytes", n)
			}
			if n, err := l.agent.Read(make([]byte, 1)); err == nil {
				t.Errorf("the agent reads %d bytes", n)
			}
		})
	}
}

// TestCarriersOfOthers: requests for carriers of a session by somebody who did not create it keep its creator from
// nothing, however many there are.
func TestCarriersOfOthers(t *testing.T) {
	l := newLab(t)
	for range maxCarriers {
		if !l.serve.connect.take(opener{"mallory", "shop/s-1"}) {
			t.Fatal("no place")
		}
	}
	if _, code := l.carry("pod", UpgradeProtocol, ""); code != http.StatusSwitchingProtocols {
		t.Fatalf("the creator: answer %d", code)
	}
	defer l.agent.Close()
	for l.serve.connect.take(opener{"alice", "shop/s-1"}) {
	}
	if _, code := l.carry("pod", UpgradeProtocol, ""); code != http.StatusTooManyRequests {
		t.Errorf("one carrier more than a session may have: answer %d", code)
	}
}

func TestCarriersThatAreNone(t *testing.T) {
	l := newLab(t)
	for name, test := range map[string]struct {
		attachment, protocol string
		want                 int
	}{
		"another protocol":   {"pod", "websocket", http.StatusUpgradeRequired},
		"no attachment":      {"", UpgradeProtocol, http.StatusBadRequest},
		"what is not theirs": {"other", UpgradeProtocol, http.StatusForbidden},
	} {
		if _, code := l.carry(test.attachment, test.protocol, ""); code != test.want {
			t.Errorf("%s: answer %d, want %d", name, code, test.want)
		}
	}
	if code, _ := l.do(l.client("front-proxy"), http.MethodGet, api+"/namespaces/shop/sessions/s-1/connect?attachment=pod", ""); code != http.StatusUpgradeRequired {
		t.Errorf("without an upgrade: answer %d", code)
	}
}
