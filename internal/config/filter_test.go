package config

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestParseOutgoingEntry(t *testing.T) {
	prefix := netip.MustParsePrefix
	tests := map[string]FilterEntry{
		"tcp://1.2.3.0/24:7777":                {Protocol: "tcp", Prefix: prefix("1.2.3.0/24"), Port: 7777},
		"1.2.3.4/24":                           {Prefix: prefix("1.2.3.0/24")},
		"tcp://[2800:3f0:4001:81e::2004]:7777": {Protocol: "tcp", Prefix: prefix("2800:3f0:4001:81e::2004/128"), Port: 7777},
		"[fd00::]/8":                           {Prefix: prefix("fd00::/8")},
		"[fd00::]/8:80":                        {Prefix: prefix("fd00::/8"), Port: 80},
		"tcp://":                               {Protocol: "tcp"},
		"ANY://":                               {},
		"udp://:7777":                          {Protocol: "udp", Port: 7777},
		":7777":                                {Port: 7777},
		":0":                                   {},
		"0.0.0.0":                              {},
		"0.0.0.0:53":                           {Port: 53},
		"[::]:53":                              {Port: 53},
		"tcp://google.com:7777":                {Protocol: "tcp", Host: "google.com", Port: 7777},
		"rust-lang.org":                        {Host: "rust-lang.org"},
		"localhost":                            {Host: "localhost"},
		"my_db":                                {Host: "my_db"},
		"1.2.3.4":                              {Prefix: prefix("1.2.3.4/32")},
		"0.0.0.0/0":                            {Prefix: prefix("0.0.0.0/0")},
	}
	for in, want := range tests {
		got, err := ParseOutgoingEntry(in)
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
			t.Errorf("%s: %s", in, diff)
		}
	}
	for in, want := range map[string]string{
		"":                         "empty",
		"tcp://google.com/24:7777": "no address of a network",
		":7777udp://":              "no protocol",
		"meow://":                  "no protocol",
		"a:b":                      "no port",
		"a:":                       "no port",
		"a:65536":                  "no port",
		"a:+5":                     "no port",
		"1.2.3.4/33":               "0 to 32 bits",
		"1.2.3.4/+8":               "0 to 32 bits",
		"[::1]/129":                "0 to 128 bits",
		"::1":                      "in brackets",
		"[1.2.3.4]":                "no IPv6 address",
		"[fe80::1%eth0]":           "no IPv6 address",
		"[::1":                     "not closed",
		"[::1]x":                   "no port",
		"a.*.com":                  "first parts of a name",
		"db*":                      "first parts of a name",
		"*.":                       "a name is missing",
		"a b":                      "has no ' '",
		"ü.de":                     "has no 'ü'",
	} {
		if got, err := ParseOutgoingEntry(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %+v and %v, want %q", in, got, err, want)
		}
	}
}

func TestParseDNSEntry(t *testing.T) {
	if got, err := ParseDNSEntry("db.internal:5432"); err != nil || got.Host != "db.internal" || got.Port != 5432 {
		t.Errorf("got %+v and %v", got, err)
	}
	if _, err := ParseDNSEntry("tcp://db"); err == nil || !strings.Contains(err.Error(), "no protocols") {
		t.Errorf("got %v", err)
	}
}

func FuzzFilterEntry(f *testing.F) {
	for _, seed := range []string{"tcp://1.2.3.0/24:7777", "[::1]:80", "host", ":5", "udp://", "a/b", "["} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if e, err := ParseOutgoingEntry(s); err == nil {
			if e.Host != "" && e.Prefix.IsValid() {
				t.Errorf("%q is a name and a network", s)
			}
			if _, err := ParseDNSEntry(s); err != nil && !strings.Contains(s, "://") {
				t.Errorf("%q is an entry of an outgoing filter and none of a DNS filter: %v", s, err)
			}
		}
	})
}
