//go:build linux

// Mirrord-agent stands beside a session's target and serves the session's client.
package main

import (
	"os"

	"github.com/mirrord-go/mirrord/internal/agent/node"
)

func main() { os.Exit(node.Main(os.Args[1:], os.Stdout, os.Stderr)) }
