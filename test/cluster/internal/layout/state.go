package layout

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Record is state.json: what there is to know about a cluster that runs, or that a killed command left behind.
// test/clustertest reads Kubeconfig, Tool and the addresses.
type Record struct {
	Name       string `json:"name"`
	Slot       int    `json:"slot"`
	IPv6       bool   `json:"ipv6"`
	Ready      bool   `json:"ready"`      // it was complete once; false while it starts
	PID        int    `json:"pid"`        // the node's first process, as the machine numbers it; 0 before it starts
	Started    uint64 `json:"started"`    // its start time, which tells it from a later process of the same number
	Version    string `json:"version"`    // of the programs and the configuration that run
	Kubeconfig string `json:"kubeconfig"` // path, administrator
	Kubectl    string `json:"kubectl"`    // path
	Tool       string `json:"tool"`       // path of the cluster command
	MachineIP  string `json:"machineIP"`  // where pods reach the machine
	MachineIP6 string `json:"machineIP6,omitempty"`
	NodeIP     string `json:"nodeIP"`
	NodeIP6    string `json:"nodeIP6,omitempty"`
}

// Ranges are the addresses of the recorded cluster.
func (r Record) Ranges() Ranges { return Ranges{Slot: r.Slot, IPv6: r.IPv6} }

// ReadRecord returns the record of the cluster in the folder state; ok is false when there is none.
func ReadRecord(state string) (r Record, ok bool, err error) {
	path := filepath.Join(state, "state.json")
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Record{}, false, nil
	}
	if err != nil {
		return Record{}, false, fmt.Errorf("record of the cluster: %w", err)
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return Record{}, false, fmt.Errorf("record of the cluster: %s: %w", path, err)
	}
	return r, true, nil
}

// WriteRecord replaces the record in the folder state as a whole: a reader sees the old one or the new one.
func WriteRecord(state string, r Record) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("record of the cluster: %w", err)
	}
	path := filepath.Join(state, "state.json")
	if err := os.WriteFile(path+".new", append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("record of the cluster: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("record of the cluster: %w", err)
	}
	return nil
}
