package demo

import (
	"fmt"
	"strings"

	profiles "github.com/mirrord-go/mirrord/api/profiles/v1alpha"
	"github.com/mirrord-go/mirrord/internal/demo/world"
)

// scene is one session: a profile of the examples, and the adjustments it shows.
type scene struct {
	profile string
	// config is the rest of the user's configuration, which the profile changes: always
	// the opposite of what is shown.
	config string
	shows  []profiles.Change
}

// scenes show each of the seven adjustments once.
func scenes() []scene {
	return []scene{
		{
			profile: "team-base",
			config:  `"incoming": "off", "outgoing": false, "dns": false`,
			shows:   []profiles.Change{profiles.IncomingSteal, profiles.OutgoingRemote, profiles.DNSRemote},
		},
		{
			profile: "observe",
			config:  `"incoming": "off", "outgoing": false, "dns": false`,
			shows:   []profiles.Change{profiles.IncomingMirror},
		},
		{
			profile: "only-outgoing",
			config:  `"incoming": "steal", "outgoing": false, "dns": false`,
			shows:   []profiles.Change{profiles.IncomingOff},
		},
		{
			profile: world.Namespace + "/watch-only",
			config:  `"incoming": "off", "outgoing": true, "dns": true`,
			shows:   []profiles.Change{profiles.OutgoingOff, profiles.DNSOff},
		},
	}
}

// outcome is what a scene's session and the pod's client saw.
type outcome struct {
	seen     Seen
	received []Report
	during   world.Answer
	after    world.Answer
}

// check compares an outcome with what an adjustment promises. The text says what was seen;
// ok whether it is as promised.
func (o outcome) check(change profiles.Change) (text string, ok bool) {
	pod, client := world.PodAddr.String(), world.ClientAddr.String()
	switch change {
	case profiles.IncomingSteal:
		text = fmt.Sprintf("a client of the pod was answered by the %s, which saw the client's address as %s; afterwards by the %s",
			o.during.By, o.during.Peer, o.after.By)
		return text, o.during.By == "laptop" && o.during.Peer == client && o.after.By == "pod"
	case profiles.IncomingMirror:
		same := len(o.received) == 1 && o.received[0].Received == string(o.during.Sent) && o.received[0].Peer == client
		return fmt.Sprintf("a client of the pod was answered by the %s; the laptop %s", o.during.By, o.copies(same)),
			o.during.By == "pod" && same
	case profiles.IncomingOff:
		return fmt.Sprintf("a client of the pod was answered by the %s; the laptop, which listens too, got %d lines", o.during.By, len(o.received)),
			o.during.By == "pod" && len(o.received) == 0 && o.seen.Listening == ""
	case profiles.OutgoingRemote:
		want := "database sees " + pod
		return fmt.Sprintf("TCP: %s; UDP: %s", o.seen.TCP, o.seen.UDP), o.seen.TCP.Text == want && o.seen.UDP.Text == want
	case profiles.OutgoingOff:
		return fmt.Sprintf("the cluster's database: %s; the laptop's own service: %s", o.seen.TCP, o.seen.Laptop),
			o.seen.TCP.Error != "" && o.seen.UDP.Error != "" && o.seen.Laptop.Text == "laptop sees 127.0.0.1"
	case profiles.DNSRemote:
		db, partner := world.DatabaseAddr.String(), world.PartnerAddr.String()
		n := o.seen.Names
		return o.names(), n[ShortName].Text == db && n[QualifiedName].Text == db && n[world.PartnerName].Text == partner && n[world.LaptopName].Error != ""
	case profiles.DNSOff:
		n := o.seen.Names
		return o.names(), n[ShortName].Error != "" && n[QualifiedName].Error != "" && n[world.PartnerName].Error != "" &&
			n[world.LaptopName].Text == world.LaptopAddr.String()
	}
	return fmt.Sprintf("this version can't show %q", change), false
}

func (o outcome) copies(same bool) string {
	if same {
		return "got the same bytes, from " + o.received[0].Peer
	}
	return fmt.Sprintf("got %d lines, not what the client sent", len(o.received))
}

func (o outcome) names() string {
	var texts []string
	for _, n := range []string{ShortName, QualifiedName, world.PartnerName, world.LaptopName} {
		texts = append(texts, n+" → "+o.seen.Names[n].String())
	}
	return strings.Join(texts, "; ")
}
