package options

import (
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

func TestFlags(t *testing.T) {
	for _, test := range []struct {
		args string
		says string // in the error; empty for none
	}{
		{"--agent-image a", ""},
		{"--agent-image a --grace-period 30s --agent-idle-timeout 5s --max-session-time 8h --max-sessions-per-user 0 --log-format text --log-level debug", ""},
		{"--agent-image a --tls-cert-file /tls/tls.crt --tls-private-key-file /tls/tls.key --api-service=", ""},
		{"", "--agent-image is missing"},
		{"--agent-image a --grace-period 0s", "--grace-period"},
		{"--agent-image a --grace-period 48h", "--grace-period"},
		{"--agent-image a --max-session-time -1s", "--max-session-time"},
		{"--agent-image a --max-sessions-per-user -1", "--max-sessions-per-user"},
		{"--agent-image a --agent-idle-timeout 0s", "--agent-idle-timeout"},
		{"--agent-image a --agent-start-timeout 1h", "--agent-start-timeout"},
		{"--agent-image a --log-level loud", "--log-level"},
		{"--agent-image a --log-format xml", "--log-format"},
		{"--agent-image a --tls-cert-file x", "go together"},
		{"--agent-image a --namespace Shop", "--namespace"},
		{"--agent-image a --listen-address=", "--listen-address"},
	} {
		o := New()
		fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
		o.AddFlags(fs)
		if err := fs.Parse(strings.Fields(test.args)); err != nil {
			t.Errorf("%q: %v", test.args, err)
			continue
		}
		switch err := o.Validate(); {
		case err == nil && test.says != "":
			t.Errorf("%q is valid, and should not be: %s", test.args, test.says)
		case err != nil && (test.says == "" || !strings.Contains(err.Error(), test.says)):
			t.Errorf("%q: %v, want %q", test.args, err, test.says)
		}
	}
}

// TestAllProblemsAtOnce: an administrator sees everything that is wrong.
func TestAllProblemsAtOnce(t *testing.T) {
	o := New()
	o.LogFormat, o.GracePeriod = "xml", 0
	err := o.Validate()
	for _, flag := range []string{"--agent-image", "--log-format", "--grace-period"} {
		if err == nil || !strings.Contains(err.Error(), flag) {
			t.Errorf("%v does not name %s", err, flag)
		}
	}
}
