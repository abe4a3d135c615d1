package route

import (
	"net/netip"
	"strings"

	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/intercept"
)

// filter is one of the configuration's lists: its entries go to one side, all else to the
// other. A nil filter sends everything to the target.
type filter struct {
	remote  bool // where the entries go
	entries []config.FilterEntry
}

// newFilter reads a list whose entries the configuration has checked.
func newFilter(f *config.Filter, parse func(string) (config.FilterEntry, error)) (*filter, error) {
	if f == nil {
		return nil, nil
	}
	out, list := &filter{remote: f.Local == nil}, f.Local
	if out.remote {
		list = f.Remote
	}
	for _, text := range list {
		e, err := parse(text)
		if err != nil {
			return nil, err
		}
		out.entries = append(out.entries, e)
	}
	return out, nil
}

// connection says whether a connection goes to the target. Names are what its address was
// resolved from.
func (f *filter) connection(p intercept.Protocol, dst netip.AddrPort, names []string) bool {
	if f == nil {
		return true
	}
	for _, e := range f.entries {
		if hasProtocol(e, p) && (e.Port == 0 || e.Port == dst.Port()) && hasAddress(e, dst.Addr(), names) {
			return f.remote
		}
	}
	return !f.remote
}

func hasProtocol(e config.FilterEntry, p intercept.Protocol) bool {
	switch e.Protocol {
	case "tcp":
		return p == intercept.TCP
	case "udp":
		return p == intercept.UDP
	}
	return true
}

func hasAddress(e config.FilterEntry, addr netip.Addr, names []string) bool {
	switch {
	case e.Host != "":
		for _, n := range names {
			if matchName(e.Host, n) {
				return true
			}
		}
		return false
	case e.Prefix.IsValid():
		return e.Prefix.Contains(addr.WithZone(""))
	}
	return true
}

// name says whether a name is resolved at the target. It has no port yet, so an entry's does not
// count; and entries with only an address or a port match no name.
func (f *filter) name(name string) bool {
	if f == nil {
		return true
	}
	for _, e := range f.entries {
		if e.Host != "" && matchName(e.Host, name) || e == (config.FilterEntry{}) {
			return f.remote
		}
	}
	return !f.remote
}

// hasNames says whether a host name decides about any destination.
func (f *filter) hasNames() bool {
	if f == nil {
		return false
	}
	for _, e := range f.entries {
		if e.Host != "" {
			return true
		}
	}
	return false
}

// matchName compares a name with an entry's: whole, without regard to case (RFC 4343) and to
// the dot that ends a complete name. "*.example" stands for all names below example.
func matchName(entry, name string) bool {
	entry, name = strings.TrimSuffix(entry, "."), strings.TrimSuffix(name, ".")
	below, ok := strings.CutPrefix(entry, "*")
	if !ok {
		return strings.EqualFold(entry, name)
	}
	return len(name) > len(below) && strings.EqualFold(name[len(name)-len(below):], below)
}
