#!/bin/bash
# hack/bench.sh [-rounds N] [-o text|json] [-check] [-against DIR] [-only NAME] [-starts N] [-operator=false] [-sessions N] [-files N] [-load N]
#
# Prints ratios of sessions and of kubectl port-forward to direct connections, all measured in
# turn on the test cluster, which is started when it does not run, and ended again then.
# docs/performance.md says what the figures mean.
set -euo pipefail
cd "$(dirname "$0")/.."

[ "$(id -u)" = 0 ] || { echo "hack/bench.sh: the test cluster needs root: run this as root, or with sudo -E env PATH=\$PATH" >&2; exit 1; }

if [ -z "${KUBECONFIG:-}" ] && ! (cd test/cluster && go run ./cmd/cluster status) >/dev/null 2>&1; then
  (cd test/cluster && go run ./cmd/cluster up) >&2
  stop() { [ -n "${KEEP_CLUSTER:-}" ] || (cd test/cluster && go run ./cmd/cluster down) >&2; }
  trap stop EXIT
fi

# Not "go run": that passes no signal on, and the benchmark cleans up when it is interrupted.
dir=$(mktemp -d)
trap 'rm -rf "$dir"; if declare -F stop >/dev/null; then stop; fi' EXIT
CGO_ENABLED=0 go build -o "$dir/bench" ./test/bench
trap : INT # the benchmark gets it as well, and ends in good order
"$dir/bench" "$@"
