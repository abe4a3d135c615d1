// Package charts holds the Helm chart of the operator, for the command that installs it without
// Helm.
package charts

import "embed"

// Operator is the folder "mirrord-operator" with the chart.
//
//go:embed all:mirrord-operator
var Operator embed.FS
