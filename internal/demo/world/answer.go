package world

import (
	"bufio"
	"bytes"
	"encoding/json"
	"net"
	"net/netip"
	"time"
)

// AnswerTime is how long an answer may take, which takes milliseconds on a machine that has time.
const AnswerTime = 10 * time.Second

// Answer is what a client of the pod got.
type Answer struct {
	// By names who answered: "pod" or "laptop".
	By string `json:"by"`
	// Peer is the client's address as the one who answered saw it.
	Peer string `json:"peer"`
	// Sent is what the client sent, byte for byte.
	Sent []byte `json:"-"`
}

// ServeLines answers each line of each connection with an [Answer] of the given name, until
// the listener is closed. Received, when not nil, is called with each line and its sender
// before the answer.
func ServeLines(l net.Listener, name string, received func(peer net.Addr, line []byte)) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			peer := c.RemoteAddr().String()
			if ap, err := netip.ParseAddrPort(peer); err == nil {
				peer = ap.Addr().Unmap().String()
			}
			s := bufio.NewScanner(c)
			for s.Scan() {
				line := append(bytes.Clone(s.Bytes()), '\n')
				if received != nil {
					received(c.RemoteAddr(), line)
				}
				b, _ := json.Marshal(Answer{By: name, Peer: peer})
				if _, err := c.Write(append(b, '\n')); err != nil {
					return
				}
			}
		}()
	}
}
