// Package announce is how an agent tells the one who started it that it is ready: one line
// of JSON among its output, which reaches the client through the container's log.
//
// The line carries the agent's public key. The log comes from the API server over the
// user's authenticated connection, so a client that pins this key knows whom it talks to,
// and no secret ever stands in a pod's specification.
package announce

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/mirrord-go/mirrord/internal/tunnel"
)

// Announcement is one line of an agent's output.
type Announcement struct {
	// Agent is the version of this format, 1. Lines without it are something else.
	Agent int `json:"mirrordAgent"`
	// Address is where the agent accepts its client: "127.0.0.1:PORT" or a Unix
	// socket's path.
	Address string `json:"address,omitempty"`
	// Key is the agent's public key.
	Key *tunnel.Fingerprint `json:"key,omitempty"`
	// Version is the agent's build.
	Version string `json:"version,omitempty"`
	// Error is set instead of the rest when the agent can't serve; it is for the user.
	Error string `json:"error,omitempty"`
}

// Write writes a as one line.
func Write(w io.Writer, a Announcement) error {
	a.Agent = 1
	b, err := json.Marshal(a)
	if err != nil {
		return fmt.Errorf("encoding the announcement: %w", err)
	}
	_, err = w.Write(append(b, '\n'))
	return err
}

// Parse returns the announcement in one line of output. The second result is false for
// every other line.
func Parse(line []byte) (Announcement, bool) {
	var a Announcement
	if json.Unmarshal(line, &a) != nil || a.Agent != 1 {
		return Announcement{}, false
	}
	if a.Error == "" && (a.Key == nil || a.Address == "") {
		return Announcement{}, false
	}
	return a, true
}
