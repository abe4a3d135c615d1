package config

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// FilterEntry is one destination of a [Filter]: a host name, an address, a network, or any,
// with a port or any. The zero value matches everything.
type FilterEntry struct {
	// Protocol is "tcp", "udp", or empty for any.
	Protocol string
	// Host is a name, or "*." and a name for all names below it; empty when the entry has none.
	Host string
	// Prefix is a network or, with all its bits, one address; invalid when the entry has none.
	Prefix netip.Prefix
	// Port is 0 for any.
	Port uint16
}

// ParseOutgoingEntry reads an entry of feature.network.outgoing.filter:
// [PROTOCOL://][HOST|IP|[IPV6]|CIDR][:PORT], where the protocol is any, tcp or udp. A missing
// port and port 0 are any port; the addresses 0.0.0.0 and :: are any address.
func ParseOutgoingEntry(s string) (FilterEntry, error) {
	protocol, rest, found := strings.Cut(s, "://")
	if !found {
		protocol, rest = "any", s
	}
	e, err := parseAddress(rest, found)
	if err != nil {
		return FilterEntry{}, err
	}
	switch strings.ToLower(protocol) {
	case "any":
	case "tcp", "udp":
		e.Protocol = strings.ToLower(protocol)
	default:
		return FilterEntry{}, fmt.Errorf("%q is no protocol; it is any, tcp or udp", protocol)
	}
	return e, nil
}

// ParseDNSEntry reads an entry of feature.network.dns.filter, which has no protocol.
func ParseDNSEntry(s string) (FilterEntry, error) {
	if strings.Contains(s, "://") {
		return FilterEntry{}, fmt.Errorf("a DNS filter has no protocols; leave %q out", s[:strings.Index(s, "://")+3])
	}
	return parseAddress(s, false)
}

// parseAddress reads [HOST|IP|[IPV6]|CIDR][:PORT]; it may be empty after a protocol.
func parseAddress(s string, mayBeEmpty bool) (FilterEntry, error) {
	var e FilterEntry
	if s == "" {
		if mayBeEmpty {
			return e, nil
		}
		return e, fmt.Errorf("it is empty; write a host name, an address, a network (10.0.0.0/8) or a port (:5432)")
	}
	host, rest, err := cutHost(s)
	if err != nil {
		return e, err
	}
	bits := ""
	if strings.HasPrefix(rest, "/") {
		bits, rest = rest[1:], ""
		if i := strings.IndexByte(bits, ':'); i >= 0 {
			bits, rest = bits[:i], bits[i:]
		}
		if bits == "" {
			return e, fmt.Errorf("the length of the network is missing after /")
		}
	}
	if rest != "" {
		port, err := strconv.ParseUint(strings.TrimPrefix(rest, ":"), 10, 16)
		if rest[0] != ':' || err != nil {
			return e, fmt.Errorf("%q is no port; a port is :1 to :65535", rest)
		}
		e.Port = uint16(port)
	}
	return e, e.setHost(host, bits)
}

// cutHost takes the part before a network length and a port.
func cutHost(s string) (host, rest string, err error) {
	if strings.HasPrefix(s, "[") {
		end := strings.IndexByte(s, ']')
		if end < 0 {
			return "", "", fmt.Errorf("the bracket of the IPv6 address is not closed")
		}
		if addr, err := netip.ParseAddr(s[1:end]); err != nil || !addr.Is6() || addr.Zone() != "" {
			return "", "", fmt.Errorf("%q is no IPv6 address", s[1:end])
		}
		return s[1:end], s[end+1:], nil
	}
	if strings.Count(s, ":") > 1 {
		return "", "", fmt.Errorf("an IPv6 address stands in brackets, as in [::1]:80")
	}
	i := strings.IndexAny(s, ":/")
	if i < 0 {
		i = len(s)
	}
	return s[:i], s[i:], nil
}

func (e *FilterEntry) setHost(host, bits string) error {
	addr, addrErr := netip.ParseAddr(host)
	switch {
	case bits != "":
		n, err := strconv.Atoi(bits)
		if addrErr != nil {
			return fmt.Errorf("%q is no address of a network", host)
		}
		if err != nil || n < 0 || n > addr.BitLen() || bits[0] == '+' {
			return fmt.Errorf("a network of this family has 0 to %d bits, not %q", addr.BitLen(), bits)
		}
		e.Prefix = netip.PrefixFrom(addr, n).Masked()
	case host == "":
	case addrErr == nil:
		if !addr.IsUnspecified() {
			e.Prefix = netip.PrefixFrom(addr, addr.BitLen())
		}
	default:
		return e.setName(host)
	}
	return nil
}

func (e *FilterEntry) setName(host string) error {
	name := strings.TrimPrefix(host, "*.")
	if name == "" {
		return errors.New("a name is missing after the wildcard")
	}
	for _, c := range name {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '.':
		case c == '*':
			return fmt.Errorf("a wildcard stands for the first parts of a name, as in *.svc.cluster.local")
		default:
			return fmt.Errorf("a host name has no %q", c)
		}
	}
	e.Host = host
	return nil
}
