package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// Lookup is the result for one name.
type Lookup struct {
	Name    string   `json:"name"`
	Answers []string `json:"answers,omitempty"` // addresses, or records as in a zone file without their TTL
	Rcode   string   `json:"rcode,omitempty"`   // NOERROR, NXDOMAIN, ... with -type
	Error   string   `json:"error,omitempty"`
	Absent  bool     `json:"absent,omitempty"` // the error says that there is no such name
}

// lookup looks names up: with the resolver of the Go library, or, with -type, by asking a DNS server. It fails when a
// name has no answer.
func lookup(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("dns", flag.ContinueOnError)
	network := flags.String("network", "ip", "ip, ip4 or ip6")
	kind := flags.String("type", "", "ask the DNS server for records of this type: A, AAAA, TXT, SRV, MX, PTR, ...")
	server := flags.String("server", "", "host:port (default the first one of /etc/resolv.conf)")
	overTCP := flags.Bool("tcp", false, "ask over TCP")
	timeout := flags.Duration("timeout", time.Minute, "of each name")
	if err := parse(flags, args, 1); err != nil {
		return err
	}
	var failed error
	for _, name := range flags.Args() {
		ctx, cancel := context.WithTimeout(ctx, *timeout)
		var l Lookup
		if *kind == "" {
			l = system(ctx, *network, name)
		} else {
			l = query(ctx, *server, *overTCP, *kind, name)
		}
		cancel()
		if err := report(out, l); err != nil {
			return err
		}
		if l.Error != "" || len(l.Answers) == 0 {
			failed = fmt.Errorf("%s has no answer", name)
		}
	}
	return failed
}

// system asks as a program does: hosts file, search domains and all.
func system(ctx context.Context, network, name string) Lookup {
	l := Lookup{Name: name}
	ips, err := net.DefaultResolver.LookupIP(ctx, network, name)
	if err != nil {
		l.Error = err.Error()
		var missing *net.DNSError
		l.Absent = errors.As(err, &missing) && missing.IsNotFound
	}
	for _, ip := range ips {
		l.Answers = append(l.Answers, ip.String())
	}
	return l
}

// exchange asks until there is an answer: datagrams may be lost.
func exchange(ctx context.Context, network string, question *dns.Msg, server string) (*dns.Msg, error) {
	for {
		answer, _, err := (&dns.Client{Net: network, Timeout: 5 * time.Second}).ExchangeContext(ctx, question, server)
		if late := net.Error(nil); err == nil || ctx.Err() != nil || !errors.As(err, &late) || !late.Timeout() {
			return answer, err
		}
	}
}

// query asks a server for the name as it is, and again over TCP when the answer did not fit.
func query(ctx context.Context, server string, overTCP bool, kind, name string) Lookup {
	l := Lookup{Name: name}
	fail := func(err error) Lookup { l.Error = err.Error(); return l }
	code, ok := dns.StringToType[strings.ToUpper(kind)]
	if !ok {
		return fail(fmt.Errorf("no record type %s", kind))
	}
	if server == "" {
		conf, err := dns.ClientConfigFromFile("/etc/resolv.conf")
		if err != nil {
			return fail(err)
		}
		if len(conf.Servers) == 0 {
			return fail(errors.New("/etc/resolv.conf names no server"))
		}
		server = net.JoinHostPort(conf.Servers[0], conf.Port)
	}
	question := new(dns.Msg).SetQuestion(dns.Fqdn(name), code)
	networks := []string{"udp", "tcp"}
	if overTCP {
		networks = networks[1:]
	}
	for _, network := range networks {
		answer, err := exchange(ctx, network, question, server)
		if err != nil {
			return fail(err)
		}
		if answer.Truncated {
			continue
		}
		l.Rcode = dns.RcodeToString[answer.Rcode]
		for _, rr := range answer.Answer {
			header := rr.Header().String()
			l.Answers = append(l.Answers, dns.TypeToString[rr.Header().Rrtype]+" "+strings.TrimPrefix(rr.String(), header))
		}
		return l
	}
	return fail(errors.New("the answer is truncated"))
}
