package e2e

import (
	"testing"
)

// TestKilledCLILeavesNothing: what a session has in the cluster goes at once when its CLI is killed,
// although a client whose connection broke would be waited for much longer.
func TestKilledCLILeavesNothing(t *testing.T) {
	s := newStage(t)
	s.deploy(t, shop, "deployment/shop")
	se := s.start(t, run{
		config: object{
			"agent":   object{"communication_timeout": 3600},
			"feature": object{"network": object{"incoming": "steal"}},
		},
		command: []string{built.workload, "serve", "-http", ":8080", "-name", "laptop"},
	})
	se.subscribed(8080)
	must(t, se.cmd.Process.Kill())
	se.wait()
	s.nothingRemains(t)
}
