package progress_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mirrord-go/mirrord/internal/cli/progress"
	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/config/origin"
)

// story is what a session says, in bubble time.
func story(r *progress.Reporter) {
	end := r.Phase("target", "finding deployment/shop")
	time.Sleep(120 * time.Millisecond)
	end(nil)
	end = r.Phase("agent", "starting the agent")
	time.Sleep(4500 * time.Millisecond)
	end(nil)
	r.Warning("the agent's version differs")
	r.Summary(progress.Summary{Target: "deployment/shop", Namespace: "default", Pods: []progress.Pod{{Pod: "shop-1"}}, Settings: []progress.Setting{
		{Name: "incoming", Value: "off", Origin: origin.Origin{Kind: origin.Flag, Name: "--no-incoming"}},
	}})
	end = r.Phase("start", "starting ./server")
	end(errors.New("exec format error"))
	r.Started(4711)
	r.Event("port-subscribed", false, "stealing port 80", 80)
	r.Event("notice", true, "dropped\x1b[2J one\nthing", 0)
	r.Exit(3)
}

func TestText(t *testing.T) {
	const summary = "  target    deployment/shop in namespace default\n" +
		"            pod shop-1\n" +
		"  incoming  off  (--no-incoming)\n"
	for _, tt := range []struct {
		name     string
		mode     progress.Mode
		terminal bool
		want     string
	}{
		{"plain", progress.Plain, true, "✓ finding deployment/shop (120 ms)\n" +
			"• starting the agent …\n✓ starting the agent (4.5 s)\n" +
			"! the agent's version differs\n" + summary + "✗ starting ./server (0 ms)\n" +
			"mirrord: stealing port 80\nmirrord: dropped?[2J one; thing\n"},
		{"auto without terminal", progress.Auto, false, "✓ finding deployment/shop (120 ms)\n" +
			"• starting the agent …\n✓ starting the agent (4.5 s)\n" +
			"! the agent's version differs\n" + summary + "✗ starting ./server (0 ms)\n" +
			"mirrord: stealing port 80\nmirrord: dropped?[2J one; thing\n"},
		{"auto on a terminal", progress.Auto, true, "• finding deployment/shop …\r\x1b[K✓ finding deployment/shop (120 ms)\n" +
			"• starting the agent …\r\x1b[K✓ starting the agent (4.5 s)\n" +
			"! the agent's version differs\n" + summary + "• starting ./server …\r\x1b[K✗ starting ./server (0 ms)\n" +
			"mirrord: stealing port 80\r\nmirrord: dropped?[2J one; thing\r\n"},
		{"off", progress.Off, true, "! the agent's version differs\nmirrord: dropped?[2J one; thing\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var b bytes.Buffer
				story(progress.New(&b, tt.mode, tt.terminal))
				if diff := cmp.Diff(tt.want, b.String()); diff != "" {
					t.Errorf("output (-want +got):\n%s", diff)
				}
			})
		})
	}
}

func TestJSON(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		story(progress.New(&b, progress.JSON, true))
		var got []string
		for line := range strings.Lines(b.String()) {
			var l map[string]any
			if err := json.Unmarshal([]byte(line), &l); err != nil {
				t.Fatalf("line %q: %v", line, err)
			}
			if _, err := time.Parse(time.RFC3339Nano, l["time"].(string)); err != nil {
				t.Error(err)
			}
			delete(l, "time")
			again, _ := json.Marshal(l)
			got = append(got, string(again))
		}
		want := []string{
			`{"event":"phase","name":"target","state":"started","text":"finding deployment/shop"}`,
			`{"event":"phase","name":"target","seconds":0.12,"state":"done"}`,
			`{"event":"phase","name":"agent","state":"started","text":"starting the agent"}`,
			`{"event":"phase","name":"agent","seconds":4.5,"state":"done"}`,
			`{"event":"warning","level":"warning","text":"the agent's version differs"}`,
			`{"event":"summary","summary":{"namespace":"default","pods":[{"pod":"shop-1"}],"settings":[{"name":"incoming","origin":{"kind":"flag","name":"--no-incoming"},"value":"off"}],"target":"deployment/shop"}}`,
			`{"event":"phase","name":"start","state":"started","text":"starting ./server"}`,
			`{"error":"exec format error","event":"phase","name":"start","seconds":0,"state":"failed"}`,
			`{"event":"started","pid":4711,"seconds":4.62}`,
			`{"event":"port-subscribed","level":"info","port":80,"text":"stealing port 80"}`,
			`{"event":"notice","level":"warning","text":"dropped?[2J one; thing"}`,
			`{"code":3,"event":"exit"}`,
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("lines (-want +got):\n%s", diff)
		}
	})
}

func TestParseMode(t *testing.T) {
	for _, m := range []string{"auto", "plain", "json", "off"} {
		if got, err := progress.ParseMode(m); err != nil || string(got) != m {
			t.Errorf("%s: %v, %v", m, got, err)
		}
	}
	if _, err := progress.ParseMode("loud"); err == nil || !strings.Contains(err.Error(), "json") {
		t.Errorf("error %v should list the choices", err)
	}
}

func TestSettings(t *testing.T) {
	var c config.Config
	c.Target.Path = config.TargetPath{Kind: config.Pod, Name: "shop"}
	c.Feature.Network = config.Network{
		Incoming: config.Incoming{
			Mode: config.IncomingSteal, Ports: []uint16{90, 80}, PortMapping: [][2]uint16{{8080, 80}}, IgnoreLocalhost: true,
		},
		Outgoing: config.Outgoing{TCP: true, IgnoreLocalhost: true},
		DNS:      config.DNS{Enabled: true},
	}
	c.Feature.Env = config.Env{Enabled: true, Exclude: []string{"A*"}}
	profile := origin.Origin{Kind: origin.Profile, Name: "base", Adjustment: 2}
	c.SetOrigin("feature.network.dns.enabled", profile)
	want := []progress.Setting{
		{Name: "incoming", Value: "steal 80, 90 when the process listens, local 8080 is 80, not on localhost"},
		{Name: "outgoing tcp", Value: "from the target, localhost from this machine"},
		{Name: "outgoing udp", Value: "from this machine"},
		{Name: "dns", Value: "names resolve as in the target", Origin: profile},
		{Name: "env", Value: "the target's, without A*"},
		{Name: "files", Value: "local"},
	}
	if diff := cmp.Diff(want, progress.Settings(&c)); diff != "" {
		t.Errorf("settings (-want +got):\n%s", diff)
	}

	c.Feature.Network.Incoming = config.Incoming{Mode: config.IncomingMirror, IgnorePorts: []uint16{9000}}
	c.Feature.Network.Outgoing = config.Outgoing{}
	c.Feature.Env = config.Env{}
	got := progress.Settings(&c)
	if got[0].Value != "mirror every port that the process listens on except 9000" || got[1].Name != "outgoing" || got[1].Value != "from this machine" {
		t.Errorf("settings %+v", got)
	}

	c.Feature.Network.Incoming.HTTPFilter = &config.HTTPFilter{AllOf: []config.HTTPRule{{Path: "^/api"}, {Method: "GET"}}, Ports: []uint16{80}}
	if got := progress.Settings(&c)[0].Value; got != "mirror every port that the process listens on except 9000; of 80 only requests with path ^/api and method GET" {
		t.Errorf("with a filter: %s", got)
	}

	c.Target.Path = config.TargetPath{}
	c.Feature.Env = config.Env{Enabled: true}
	got = progress.Settings(&c)
	if got[0].Value != "nothing, for there is no target" || got[3].Value != "this machine's" {
		t.Errorf("settings without a target %+v", got)
	}
}
