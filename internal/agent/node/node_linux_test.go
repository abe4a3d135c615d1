package node

import (
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/mirrord-go/mirrord/internal/agent/target"
)

func TestParse(t *testing.T) {
	key := []string{"--client-key", "sha256:" + strings.Repeat("ab", 32)}
	for name, tt := range map[string]struct {
		command string
		args    []string
		check   func(options) bool
		err     string
	}{
		"a target": {
			args: append(key, "--target-pod-uid", "uid", "--target-container-id", "containerd://id", "--session", "s"),
			check: func(o options) bool {
				return o.selector == target.Selector{PodUID: "uid", ContainerID: "containerd://id"} && o.session == "s"
			},
		},
		"defaults": {
			args: append(key, "--targetless"),
			check: func(o options) bool {
				return o.listen == "127.0.0.1:0" && o.timeout == 5*time.Minute && o.level == slog.LevelInfo && o.targetless && o.procRoot == "/proc"
			},
		},
		"in the target":      {args: append(key, "--in-target", "--target-pid", "7"), check: func(o options) bool { return o.inTarget && o.targetPID == 7 }},
		"ephemeral":          {args: append(key, "--in-target", "--target-container-id", "x"), check: func(o options) bool { return o.selector.ContainerID == "x" }},
		"rust's log level":   {args: append(key, "--targetless", "--log-level", "mirrord=debug,warn"), check: func(o options) bool { return o.level == slog.LevelDebug }},
		"worker":             {command: workerCommand, args: append(key, "--listener-fd", "3"), check: func(o options) bool { return o.listenerFD == 3 }},
		"no key":             {args: []string{"--targetless"}, err: "--client-key"},
		"bad key":            {args: []string{"--client-key", "ab", "--targetless"}, err: "fingerprint"},
		"no target":          {args: key, err: "no target"},
		"two kinds":          {args: append(key, "--targetless", "--in-target"), err: "excludes"},
		"targetless target":  {args: append(key, "--targetless", "--target-pod-uid", "x"), err: "excludes"},
		"pid without":        {args: append(key, "--target-pod-uid", "x", "--target-pid", "7"), err: "--in-target"},
		"negative pid":       {args: append(key, "--in-target", "--target-pid", "-7"), err: "--in-target"},
		"rest":               {args: append(key, "--targetless", "now"), err: "unexpected"},
		"no time":            {args: append(key, "--targetless", "--communication-timeout", "0s"), err: "above zero"},
		"the worker's flags": {args: append(key, "--targetless", "--listener-fd", "3"), err: "not defined"},
	} {
		t.Run(name, func(t *testing.T) {
			command := tt.command
			if command == "" {
				command = "serve"
			}
			o, err := parse(command, tt.args, io.Discard)
			switch {
			case tt.err == "" && (err != nil || !tt.check(o)):
				t.Errorf("parse(%q) = %+v, %v", tt.args, o, err)
			case tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)):
				t.Errorf("parse(%q): %v, want %q", tt.args, err, tt.err)
			}
		})
	}
}

func TestParseLevel(t *testing.T) {
	for in, want := range map[string]slog.Level{
		"": slog.LevelInfo, "debug": slog.LevelDebug, "WARN": slog.LevelWarn, "error": slog.LevelError, "trace": slog.LevelDebug,
		"mirrord=trace": slog.LevelDebug, "warn,mirrord=debug": slog.LevelDebug, "mirrord_agent=error,debug": slog.LevelError,
		"hyper=debug": slog.LevelInfo, "hyper=debug,warn": slog.LevelWarn, "loud": slog.LevelInfo, ",=,": slog.LevelInfo,
	} {
		if got := parseLevel(in); got != want {
			t.Errorf("parseLevel(%q) = %v, want %v", in, got, want)
		}
	}
}
