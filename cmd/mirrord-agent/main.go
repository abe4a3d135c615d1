//go:build linux

// Mirrord-agent stands beside a session's target and serves the session's client.
package main

import (
	"os"

	"github.com/mirrord-go/mirrord/internal/agent/node"
	"github.com/mirrord-go/mirrord/internal/timerslack"
)

func main() {
	_ = timerslack.Widen() // the agent does without, too
	os.Exit(node.Main(os.Args[1:], os.Stdout, os.Stderr))
}
