package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/mirrord-go/mirrord/internal/cli/progress"
)

// without is the configuration of an agent that lacks capabilities.
func without(ephemeral bool, mode string, capabilities ...string) object {
	return object{
		"agent":   object{"ephemeral": ephemeral, "disabled_capabilities": capabilities},
		"feature": object{"network": object{"incoming": mode}},
	}
}

// TestDisabledCapabilities takes each capability from the agent: what needs it is refused with
// its name and with what to do, and all else works.
func TestDisabledCapabilities(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	port := freePort(t)
	s.deploy(t, web([]uint16{port})+"---"+client+"---"+
		strings.Replace(web([]uint16{port}, "securityContext: {runAsNonRoot: true, runAsUser: 65532}"), "name: web, ", "name: user, ", 1),
		"pod/web", "pod/user", "pod/client")
	ip, _ := s.ips(t, "web")
	const jobEnter = "opening the target's net namespace: "
	t.Run("refused", func(t *testing.T) {
		for _, test := range []struct {
			name   string
			target string
			config object
			says   []string
		}{
			{"SYS_ADMIN", "web", without(false, "off", "SYS_ADMIN"), []string{
				"needs CAP_SYS_ADMIN", "takes SYS_ADMIN away, with which the agent could enter the target's network namespace", `"agent.ephemeral": true does without`,
			}},
			{"SYS_PTRACE", "web", without(false, "off", "CAP_SYS_PTRACE"), []string{
				jobEnter, "(the agent has no CAP_SYS_PTRACE)", "takes SYS_PTRACE away, with which the agent could read the environment",
			}},
			{"SYS_PTRACE, ephemeral", "web", without(true, "off", "SYS_PTRACE"), []string{
				"error: reading the target's environment: open environ: permission denied (the agent has no CAP_SYS_PTRACE)",
				`"agent.disabled_capabilities" takes SYS_PTRACE from the agent`, `"feature": {"env": false}`,
			}},
			{"DAC_OVERRIDE, a target that is not root", "user", without(false, "off", "DAC_OVERRIDE"), []string{
				"(the agent has no CAP_DAC_OVERRIDE)", "DAC_OVERRIDE",
			}},
			{"NET_ADMIN, ephemeral", "web", without(true, "steal", "NET_ADMIN"), []string{
				"the agent can't steal the target's connections", "needs CAP_NET_ADMIN", `"agent.disabled_capabilities" takes NET_ADMIN from the agent`, "mirror or off",
			}},
			{"NET_ADMIN and BPF, ephemeral", "web", without(true, "steal", "NET_ADMIN", "BPF"), []string{
				"the agent can't steal the target's connections", "takes NET_ADMIN, BPF from the agent",
			}},
		} {
			t.Run(test.name, func(t *testing.T) {
				config := s.configFile(t, run{config: withTarget(test.config, "pod/"+test.target, s.ns)})
				s.mirrord(t, call{args: []string{"exec", "-f", config, "--", "true"}}).refused(t, 1, test.says...)
			})
		}
	})
	t.Run("warned", func(t *testing.T) {
		noEnv := without(true, "off", "SYS_PTRACE")
		noEnv["feature"].(object)["env"] = false
		noRaw := []string{"needs CAP_NET_RAW", `"agent.disabled_capabilities" takes NET_RAW from the agent`}
		for _, test := range []struct {
			name   string
			config object
			text   string
			says   []string
		}{
			{"NET_RAW", without(false, "mirror", "NET_RAW"), "can't mirror", noRaw},
			{"NET_RAW, ephemeral", without(true, "mirror", "NET_RAW"), "can't mirror", noRaw},
			// The target's resolv.conf and hosts are beyond reach.
			{"SYS_PTRACE without the environment", noEnv, "names can't be looked up in the target's place", []string{"(the agent has no CAP_SYS_PTRACE)"}},
		} {
			t.Run(test.name, func(t *testing.T) {
				se := s.start(t, run{config: withTarget(test.config, "pod/web", s.ns), command: []string{"cat"}, stdin: true})
				e := se.event("it was warned", func(l progress.Line) bool { return l.Level == "warning" && strings.Contains(l.Text, test.text) })
				for _, text := range test.says {
					if !strings.Contains(e.Text, text) {
						t.Errorf("the warning does not say %q: %s", text, e.Text)
					}
				}
				_ = se.stdin.Close()
				if code := se.wait(); code != 0 {
					t.Errorf("exit code %d", code)
				}
			})
		}
	})
	t.Run("works", func(t *testing.T) {
		for _, test := range []struct {
			name   string
			target string
			config object
		}{
			{"SYS_ADMIN, ephemeral", "web", without(true, "steal", "SYS_ADMIN")},
			{"DAC_OVERRIDE", "web", without(false, "steal", "DAC_OVERRIDE")},
			// What enters namespaces may load programs as well.
			{"NET_ADMIN", "web", without(false, "steal", "NET_ADMIN")},
			{"NET_ADMIN, mirrored", "web", without(false, "mirror", "NET_ADMIN")},
			{"NET_ADMIN, mirrored, ephemeral", "web", without(true, "mirror", "NET_ADMIN")},
			{"NET_RAW", "web", without(false, "steal", "NET_RAW")},
			{"BPF", "web", without(false, "steal", "BPF")},
			{"BPF, ephemeral", "web", without(true, "steal", "BPF")},
		} {
			t.Run(test.name, func(t *testing.T) {
				p := programs(t)[0]
				p.need(t)
				se := s.start(t, run{
					config:  withTarget(test.config, "pod/"+test.target, s.ns),
					command: p.command(fmt.Sprintf("listen %d laptop", port)),
				})
				se.subscribed(port)
				a := s.ask(t, url(ip, port))
				if test.config["feature"].(object)["network"].(object)["incoming"] == "mirror" {
					answeredBy(t, "during the session", "web", a)
					eventually(t, func() error { return mirrored(se, "laptop", []answer{a}, 0) })
				} else {
					answeredBy(t, "during the session", "laptop", a)
				}
				se.stop()
				answeredBy(t, "afterwards", "web", s.ask(t, url(ip, port)))
			})
		}
	})
}

func withTarget(config object, path, namespace string) object {
	config["target"] = object{"path": path, "namespace": namespace}
	return config
}
