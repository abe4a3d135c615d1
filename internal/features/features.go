// Package features translates between a configuration and the features of a session as the
// operator sees them.
//
// The client sends what its configuration became after the profile, and the operator checks
// it against the profile again. Both use this package, so that they judge the same values.
package features

import (
	"errors"
	"fmt"
	"slices"

	sessions "github.com/mirrord-go/mirrord/api/sessions/v1alpha"
	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/pattern"
)

// The sides of a filter.
const (
	sideLocal  = "local"
	sideRemote = "remote"
)

// FromConfig returns the features of a session with the configuration, which must be complete
// ([config.Finalize]).
func FromConfig(c *config.Config) sessions.Features {
	network := c.Feature.Network
	return sessions.Features{
		Incoming: sessions.Incoming{
			Mode:        string(network.Incoming.Mode),
			Ports:       convert[int32](network.Incoming.Ports),
			IgnorePorts: convert[int32](network.Incoming.IgnorePorts),
			Filter:      fromHTTPFilter(network.Incoming.HTTPFilter),
		},
		Outgoing: sessions.Outgoing{
			TCP: network.Outgoing.TCP, UDP: network.Outgoing.UDP,
			Filter:          fromFilter(network.Outgoing.Filter),
			UnixStreams:     slices.Clone(network.Outgoing.UnixStreams),
			IgnoreLocalhost: network.Outgoing.IgnoreLocalhost,
		},
		DNS: sessions.DNS{Enabled: network.DNS.Enabled, Filter: fromFilter(network.DNS.Filter)},
		Env: sessions.Env{
			Enabled: c.Feature.Env.Enabled,
			Include: slices.Clone(c.Feature.Env.Include), Exclude: slices.Clone(c.Feature.Env.Exclude),
		},
		Files: sessions.Files{Mode: string(c.Feature.FS.Mode), ReadWrite: slices.Clone(c.Feature.FS.ReadWrite)},
	}
}

// ToConfig returns a configuration with the features, and with zero values for all that
// features do not have. [FromConfig] of it returns the features again. The error has
// everything that no client of this version would send, joined.
func ToConfig(f sessions.Features) (*config.Config, error) {
	if err := Check(f); err != nil {
		return nil, err
	}
	c := &config.Config{}
	network := &c.Feature.Network
	network.Incoming.Mode = config.IncomingMode(f.Incoming.Mode)
	network.Incoming.Ports = convert[uint16](f.Incoming.Ports)
	network.Incoming.IgnorePorts = convert[uint16](f.Incoming.IgnorePorts)
	network.Incoming.HTTPFilter = toHTTPFilter(f.Incoming.Filter)
	network.Outgoing = config.Outgoing{
		TCP: f.Outgoing.TCP, UDP: f.Outgoing.UDP, IgnoreLocalhost: f.Outgoing.IgnoreLocalhost,
		Filter: toFilter(f.Outgoing.Filter), UnixStreams: slices.Clone(f.Outgoing.UnixStreams),
	}
	network.DNS = config.DNS{Enabled: f.DNS.Enabled, Filter: toFilter(f.DNS.Filter)}
	c.Feature.Env = config.Env{
		Enabled: f.Env.Enabled, Include: slices.Clone(f.Env.Include), Exclude: slices.Clone(f.Env.Exclude),
	}
	c.Feature.FS = config.FS{Mode: config.FSMode(f.Files.Mode), ReadWrite: slices.Clone(f.Files.ReadWrite)}
	return c, nil
}

// Check returns everything in the features that no client of this version would send, joined.
// Features come from a client and may be anything.
func Check(f sessions.Features) error {
	var problems []error
	fail := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	oneOf := func(path, value string, known ...string) {
		if !slices.Contains(known, value) {
			fail("%s: %q is none of %q", path, value, known)
		}
	}
	oneOf("incoming.mode", f.Incoming.Mode, string(config.IncomingOff), string(config.IncomingMirror), string(config.IncomingSteal))
	oneOf("files.mode", f.Files.Mode, string(config.FSRead), string(config.FSWrite), string(config.FSLocal), string(config.FSLocalWithOverrides))
	for _, list := range []struct {
		path  string
		ports []int32
	}{{"incoming.ports", f.Incoming.Ports}, {"incoming.ignorePorts", f.Incoming.IgnorePorts}} {
		for i, port := range list.ports {
			if port < 1 || port > 65535 {
				fail("%s[%d]: %d is no port", list.path, i, port)
			}
		}
	}
	for _, filter := range []struct {
		path  string
		value *sessions.Filter
		parse func(string) (config.FilterEntry, error)
	}{
		{"outgoing.filter", f.Outgoing.Filter, config.ParseOutgoingEntry},
		{"dns.filter", f.DNS.Filter, config.ParseDNSEntry},
	} {
		if filter.value == nil {
			continue
		}
		oneOf(filter.path+".side", filter.value.Side, sideLocal, sideRemote)
		for i, entry := range filter.value.Entries {
			if _, err := filter.parse(entry); err != nil {
				fail("%s.entries[%d]: %w", filter.path, i, err)
			}
		}
	}
	for i, text := range f.Files.ReadWrite {
		if _, err := pattern.Compile(text, pattern.IgnoreCase); err != nil {
			fail("files.readWrite[%d]: %w", i, err)
		}
	}
	if f.Incoming.Filter != nil {
		problems = append(problems, checkHTTPFilter("incoming.filter", f.Incoming.Filter)...)
	}
	return errors.Join(problems...)
}

func convert[To, From uint16 | int32](ports []From) []To {
	if ports == nil {
		return nil
	}
	converted := make([]To, len(ports))
	for i, port := range ports {
		converted[i] = To(port)
	}
	return converted
}

func fromFilter(f *config.Filter) *sessions.Filter {
	switch {
	case f == nil:
		return nil
	case f.Remote != nil:
		return &sessions.Filter{Side: sideRemote, Entries: slices.Clone(f.Remote)}
	}
	return &sessions.Filter{Side: sideLocal, Entries: slices.Clone(f.Local)}
}

func toFilter(f *sessions.Filter) *config.Filter {
	if f == nil {
		return nil
	}
	entries := slices.Clone(f.Entries)
	if entries == nil {
		entries = []string{}
	}
	if f.Side == sideRemote {
		return &config.Filter{Remote: entries}
	}
	return &config.Filter{Local: entries}
}
