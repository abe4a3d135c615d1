package world

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// Pod gives the attributes with which the pod's application is started: mounts and a host
// name of its own.
func Pod() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWUTS}
}

// clusterNames are the names that the cluster's name server knows.
func clusterNames() map[string]netip.Addr {
	svc := "." + Namespace + ".svc." + Domain
	return map[string]netip.Addr{
		"db" + svc:   DatabaseAddr,
		"shop" + svc: PodAddr,
		PartnerName:  PartnerAddr,
	}
}

// serveNames answers DNS queries at port 53 of addr in the calling thread's namespace.
func (w *World) serveNames(addr netip.Addr, names map[string]netip.Addr) error {
	at := netip.AddrPortFrom(addr, 53)
	pc, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
	if err != nil {
		return fmt.Errorf("starting a name server: %w", err)
	}
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
	if err != nil {
		return errors.Join(fmt.Errorf("starting a name server: %w", err), pc.Close())
	}
	h := dns.HandlerFunc(func(rw dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		m.Authoritative = true
		if len(q.Question) == 1 {
			name := strings.TrimSuffix(strings.ToLower(q.Question[0].Name), ".")
			ip, known := names[name]
			switch {
			case !known:
				m.Rcode = dns.RcodeNameError
			case q.Question[0].Qtype == dns.TypeA:
				m.Answer = []dns.RR{&dns.A{
					Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 5},
					A:   ip.AsSlice(),
				}}
			}
		}
		_ = rw.WriteMsg(m)
	})
	for _, s := range []*dns.Server{{PacketConn: pc, Handler: h}, {Listener: l, Handler: h}} {
		w.wg.Go(func() { _ = s.ActivateAndServe() })
	}
	w.closers = append(w.closers, pc, l)
	return nil
}

// serveEcho tells each TCP client and each UDP sender, for a line, who it talks to and
// which address it has: "database sees 10.77.0.10".
func (w *World) serveEcho(at netip.AddrPort, name string) error {
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
	if err != nil {
		return fmt.Errorf("starting the %s service: %w", name, err)
	}
	pc, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
	if err != nil {
		return errors.Join(fmt.Errorf("starting the %s service: %w", name, err), l.Close())
	}
	w.wg.Go(func() {
		for {
			c, err := l.AcceptTCP()
			if err != nil {
				return
			}
			w.wg.Go(func() {
				defer c.Close()
				if _, err := bufio.NewReader(c).ReadString('\n'); err == nil {
					fmt.Fprintf(c, "%s sees %s\n", name, c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap())
				}
			})
		}
	})
	w.wg.Go(func() {
		b := make([]byte, 1500)
		for {
			_, from, err := pc.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			_, _ = pc.WriteToUDPAddrPort(fmt.Appendf(nil, "%s sees %s\n", name, from.Addr().Unmap()), from)
		}
	})
	w.closers = append(w.closers, l, pc)
	return nil
}
