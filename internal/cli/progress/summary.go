package progress

import (
	"fmt"
	"slices"
	"strings"

	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/config/origin"
)

// Summary is what a session does, and why.
type Summary struct {
	// Target as the user named it, and its namespace.
	Target    string `json:"target"`
	Namespace string `json:"namespace,omitempty"`
	// Pods are what it came down to at the beginning.
	Pods []Pod `json:"pods,omitempty"`
	// Operator is the name of the session at the operator; empty without one.
	Operator string `json:"operator,omitempty"`
	// Profile is the reference of the profile, Changes its adjustments in order.
	Profile string   `json:"profile,omitempty"`
	Changes []string `json:"changes,omitempty"`
	// Settings are the features.
	Settings []Setting `json:"settings"`
}

// Pod is one pod of a session's target.
type Pod struct {
	Pod       string `json:"pod,omitempty"`
	Container string `json:"container,omitempty"`
	Node      string `json:"node,omitempty"`
	// Agent says where the agent runs.
	Agent string `json:"agent,omitempty"`
}

// maxPods bounds how many pods a summary shows in text.
const maxPods = 4

// Setting is the value of one feature.
type Setting struct {
	// Name is the feature, Value what it does, Origin where that was said.
	Name   string        `json:"name"`
	Value  string        `json:"value"`
	Origin origin.Origin `json:"origin"`
}

// Settings describes the features of a configuration for people.
func Settings(c *config.Config) []Setting {
	n := c.Feature.Network
	list := []Setting{{"incoming", incoming(n.Incoming), c.Origin("feature.network.incoming.mode")}}
	if targetless(c) && n.Incoming.Mode != config.IncomingOff {
		list[0].Value = "nothing, for there is no target"
	}
	list = append(list, outgoing(c)...)
	return append(list,
		Setting{"dns", where(n.DNS.Enabled, "names resolve as in the target", "names resolve on this machine"), c.Origin("feature.network.dns.enabled")},
		env(c),
		files(c),
	)
}

func files(c *config.Config) Setting {
	fs := c.Feature.FS
	value := "local"
	switch {
	case targetless(c) && fs.Mode != config.FSLocal:
		value = "local, for there is no target"
	case fs.Mode == config.FSRead:
		value = "read from the target, written on this machine"
	case fs.Mode == config.FSWrite:
		value = "read and written in the target"
	case fs.Mode == config.FSLocalWithOverrides:
		value = "local, with exceptions"
	}
	if fs.Mode != config.FSLocal && len(fs.ReadWrite)+len(fs.ReadOnly)+len(fs.Local)+len(fs.NotFound)+len(fs.Mapping) > 0 {
		value += "; lists and mapping first"
	}
	return Setting{"files", value, c.Origin("feature.fs.mode")}
}

func incoming(in config.Incoming) string {
	var b strings.Builder
	switch in.Mode {
	case config.IncomingOff:
		return "off"
	case config.IncomingSteal:
		b.WriteString("steal")
	case config.IncomingMirror:
		b.WriteString("mirror")
	}
	switch {
	case in.Ports != nil && len(in.Ports) == 0:
		b.WriteString(" no port")
	case in.Ports != nil:
		b.WriteString(" " + ports(in.Ports) + " when the process listens")
	default:
		b.WriteString(" every port that the process listens on")
	}
	if len(in.IgnorePorts) > 0 {
		b.WriteString(" except " + ports(in.IgnorePorts))
	}
	for _, m := range in.PortMapping {
		fmt.Fprintf(&b, ", local %d is %d", m[0], m[1])
	}
	if in.IgnoreLocalhost {
		b.WriteString(", not on localhost")
	}
	if in.HTTPFilter.Spec() != nil {
		b.WriteString("; ")
		if only := in.HTTPFilter.Ports; len(only) > 0 {
			fmt.Fprintf(&b, "of %s ", ports(only))
		}
		fmt.Fprintf(&b, "only requests with %v", in.HTTPFilter)
	}
	return b.String()
}

func ports(list []uint16) string {
	var s []string
	for _, p := range slices.Sorted(slices.Values(list)) {
		s = append(s, fmt.Sprint(p))
	}
	return strings.Join(s, ", ")
}

// outgoing is one setting when both protocols agree.
func outgoing(c *config.Config) []Setting {
	o := c.Feature.Network.Outgoing
	tcp, udp := c.Origin("feature.network.outgoing.tcp"), c.Origin("feature.network.outgoing.udp")
	value := func(on bool) string {
		v := where(on, "from the target", "from this machine")
		if on && o.IgnoreLocalhost {
			v += ", localhost from this machine"
		}
		return v
	}
	if o.TCP == o.UDP && tcp == udp {
		return []Setting{{"outgoing", value(o.TCP), tcp}}
	}
	return []Setting{{"outgoing tcp", value(o.TCP), tcp}, {"outgoing udp", value(o.UDP), udp}}
}

func env(c *config.Config) Setting {
	s := Setting{Name: "env", Value: "the target's", Origin: c.Origin("feature.env")}
	switch e := c.Feature.Env; {
	case !e.Enabled, targetless(c):
		s.Value = "this machine's"
	case len(e.Include) > 0:
		s.Value, s.Origin = "from the target: "+strings.Join(e.Include, ", "), c.Origin("feature.env.include")
	case len(e.Exclude) > 0:
		s.Value, s.Origin = "the target's, without "+strings.Join(e.Exclude, ", "), c.Origin("feature.env.exclude")
	}
	return s
}

func targetless(c *config.Config) bool { return c.Target.Path.Kind == config.Targetless }

func where(on bool, yes, no string) string {
	if on {
		return yes
	}
	return no
}

func (p Pod) text() string {
	var parts []string
	for _, q := range []struct{ what, name string }{{"pod", p.Pod}, {"container", p.Container}, {"node", p.Node}} {
		if q.name != "" {
			parts = append(parts, q.what+" "+clean(q.name))
		}
	}
	return strings.Join(parts, ", ")
}

// text is the summary as a small table.
func (s Summary) text() string {
	var rows [][3]string
	target := clean(s.Target)
	if s.Namespace != "" {
		target += " in namespace " + clean(s.Namespace)
	}
	rows = append(rows, [3]string{"target", target})
	for i, p := range s.Pods {
		if i == maxPods {
			rows = append(rows, [3]string{"", fmt.Sprintf("and %d more pods", len(s.Pods)-i)})
			break
		}
		if text := p.text(); text != "" {
			rows = append(rows, [3]string{"", text})
		}
	}
	if s.Operator != "" {
		rows = append(rows, [3]string{"operator", "session " + clean(s.Operator)})
	}
	if s.Profile != "" {
		changes := "changes nothing"
		if len(s.Changes) > 0 {
			changes = strings.Join(s.Changes, ", ")
		}
		rows = append(rows, [3]string{"profile", clean(s.Profile + ": " + changes)})
	}
	for _, set := range s.Settings {
		rows = append(rows, [3]string{set.Name, clean(set.Value), clean(set.Origin.String())})
	}
	var width [2]int
	for _, r := range rows {
		width[0] = max(width[0], len([]rune(r[0])))
		if r[2] != "" {
			width[1] = max(width[1], len([]rune(r[1])))
		}
	}
	var b strings.Builder
	for _, r := range rows {
		line := fmt.Sprintf("  %-*s  %-*s", width[0], r[0], width[1], r[1])
		if r[2] != "" {
			line += "  (" + r[2] + ")"
		}
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	return b.String()
}
