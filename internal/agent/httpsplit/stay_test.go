package httpsplit

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestStayHTTP1(t *testing.T) {
	for name, tt := range map[string]struct{ in, want string }{
		"of Java":          {"Connection: Upgrade, HTTP2-Settings\r\nContent-Length: 0\r\nHost: a\r\nHTTP2-Settings: AAEA\r\nUpgrade: h2c\r\nX:  y \r\n", "Content-Length: 0\r\nHost: a\r\nX:  y \r\n"},
		"of curl":          {"Host: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEA\r\n", "Host: a\r\n"},
		"in other letters": {"connection:keep-alive,UPGRADE,http2-settings\r\nUPGRADE:H2C\r\nhttp2-settings:\r\n", "connection: keep-alive\r\n"},
		"beside others":    {"Connection: Upgrade\r\nUpgrade: h2c, websocket\r\n", "Connection: Upgrade\r\nUpgrade: websocket\r\n"},
		"in two lines":     {"Connection: Upgrade\r\nUpgrade: h2c\r\nUpgrade: x/1\r\n", "Connection: Upgrade\r\nUpgrade: x/1\r\n"},
		"twice":            {"Upgrade: h2c\r\nUpgrade: h2c\r\nConnection: close\r\nConnection: upgrade\r\n", "Connection: close\r\n"},
		"alone":            {"Upgrade: h2c\r\n", ""},
		"none":             {"Connection:  Upgrade ,x\r\nUpgrade:websocket \r\nHTTP2-Settings: x\r\n", "Connection:  Upgrade ,x\r\nUpgrade:websocket \r\nHTTP2-Settings: x\r\n"},
		"several others":   {"Connection:upgrade\r\nUpgrade: a,b \r\nHTTP2-Settings: x\r\n", "Connection:upgrade\r\nUpgrade: a,b \r\nHTTP2-Settings: x\r\n"},
		"another header":   {"X-Upgrade: h2c\r\n", "X-Upgrade: h2c\r\n"},
	} {
		const start = "GET / HTTP/1.1\r\n"
		h, err := readRequest(bufio.NewReader(strings.NewReader(start + tt.in + "\r\n")))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if diff := cmp.Diff(start+tt.want+"\r\n", string(h.raw)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		again, err := readRequest(bufio.NewReader(strings.NewReader(string(h.raw))))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if diff := cmp.Diff(again.lines, h.lines); diff != "" && len(again.lines)+len(h.lines) > 0 {
			t.Errorf("%s: a filter sees other lines (-passed on +seen):\n%s", name, diff)
		}
	}
}

// TestOfferOfHTTP2: who accepts it would get all that follows on the connection.
func TestOfferOfHTTP2(t *testing.T) {
	taker := func(name string) *address {
		return listen(t, func(c *net.TCPConn) {
			r := bufio.NewReader(c)
			for {
				q, err := http.ReadRequest(r)
				if err != nil {
					return
				}
				if q.Header.Get("Upgrade") != "" {
					_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
					_, _ = io.Copy(io.Discard, r)
					return
				}
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n"+name)
			}
		})
	}
	const offer = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAA\r\n"
	c := dial(t, split(t, taker("app"), taker("loc")))
	for range 2 {
		c.send(offer + "X-User: me\r\n\r\n")
		c.wants("GET", "loc")
		c.send(offer + "\r\n")
		c.wants("GET", "app")
		c.send("GET / HTTP/1.1\r\nHost: a\r\nX-User: me\r\n\r\n")
		c.wants("GET", "loc")
	}
}
