// Command mirrord-operator serves sessions in a cluster and holds them to its policies.
package main

import (
	"context"
	"os"

	"github.com/mirrord-go/mirrord/internal/operator"
	"github.com/mirrord-go/mirrord/internal/timerslack"
)

func main() {
	_ = timerslack.Widen() // the operator does without, too
	os.Exit(operator.Main(context.Background(), os.Args[1:], os.Stderr))
}
