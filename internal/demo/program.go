package demo

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/mirrord-go/mirrord/internal/demo/world"
)

// Report is one line of the local program's output.
type Report struct {
	// Received is a line that came to the program's port; Peer is who sent it.
	Received string `json:"received,omitempty"`
	Peer     string `json:"peer,omitempty"`
	// Seen is what the program found out by itself; it comes once.
	Seen *Seen `json:"seen,omitempty"`
}

// Seen is what the local program found out by itself.
type Seen struct {
	// Listening is empty when the program listens on the pod's port, else the error.
	Listening string `json:"listening,omitempty"`
	// TCP, UDP and Laptop are the answers of the database and of the laptop's service, or
	// errors.
	TCP    Reply `json:"tcp"`
	UDP    Reply `json:"udp"`
	Laptop Reply `json:"laptop"`
	// Names are what each name resolved to.
	Names map[string]Reply `json:"names"`
}

// Reply is the text of an answer or the error instead of one.
type Reply struct {
	Text  string `json:"text,omitempty"`
	Error string `json:"error,omitempty"`
}

// String returns the text or the error.
func (r Reply) String() string {
	if r.Error != "" {
		return r.Error
	}
	return r.Text
}

// ShortName is a name as only a program in the pod can use it.
const ShortName = "db"

// QualifiedName is the same with its namespace.
const QualifiedName = "db." + world.Namespace + ".svc." + world.Domain

// Program is the local program: an ordinary network program that knows nothing of
// sessions. It listens on the pod's port, asks the database and the name server, writes
// [Report] lines to out, and serves until in ends.
func Program(ctx context.Context, in io.Reader, out io.Writer) error {
	var mu sync.Mutex
	say := func(r Report) {
		mu.Lock()
		defer mu.Unlock()
		_ = json.NewEncoder(out).Encode(r)
	}
	var seen Seen
	l, err := net.Listen("tcp", ":"+strconv.Itoa(world.PodPort))
	if err != nil {
		seen.Listening = err.Error()
	} else {
		defer l.Close()
		go func() {
			_ = world.ServeLines(l, "laptop", func(peer net.Addr, line []byte) {
				say(Report{Received: string(line), Peer: host(peer)})
			})
		}()
	}
	db := netip.AddrPortFrom(world.DatabaseAddr, world.DatabasePort).String()
	seen.TCP = ask(ctx, "tcp", db)
	seen.UDP = ask(ctx, "udp", db)
	seen.Laptop = ask(ctx, "tcp", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), world.LaptopPort).String())
	seen.Names = map[string]Reply{}
	for _, name := range []string{ShortName, QualifiedName, world.PartnerName, world.LaptopName} {
		seen.Names[name] = lookUp(ctx, name)
	}
	say(Report{Seen: &seen})
	_, err = io.Copy(io.Discard, in)
	return err
}

func host(a net.Addr) string {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return a.String()
	}
	return ap.Addr().Unmap().String()
}

func ask(ctx context.Context, network, addr string) Reply {
	d := net.Dialer{Timeout: world.AnswerTime}
	c, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return failed(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(world.AnswerTime))
	if _, err := fmt.Fprintln(c, "hello"); err != nil {
		return failed(err)
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return failed(err)
	}
	return Reply{Text: strings.TrimSpace(line)}
}

func lookUp(ctx context.Context, name string) Reply {
	ctx, cancel := context.WithTimeout(ctx, world.AnswerTime)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip4", name)
	if err != nil {
		return failed(err)
	}
	var texts []string
	for _, a := range addrs {
		texts = append(texts, a.Unmap().String())
	}
	return Reply{Text: strings.Join(texts, " ")}
}

// failed keeps the end of an error: what went wrong, without the addresses that a reader
// of the demo sees anyway.
func failed(err error) Reply {
	text := err.Error()
	if i := strings.LastIndex(text, ": "); i >= 0 {
		text = text[i+2:]
	}
	return Reply{Error: text}
}
