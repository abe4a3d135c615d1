// Command mirrord-operator serves sessions in a cluster and holds them to its policies.
package main

import (
	"context"
	"os"

	"github.com/mirrord-go/mirrord/internal/operator"
)

func main() { os.Exit(operator.Main(context.Background(), os.Args[1:], os.Stderr)) }
