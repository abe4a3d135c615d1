#!/bin/bash
# hack/test.sh unit|root|e2e: one part of the tests.
#
#   unit  as the user who calls, without root (-short leaves out what needs it)
#   root  the same packages with root: network namespaces, agents, whole sessions
#   e2e   on the real cluster, which is started when it does not run
set -euo pipefail

# A shell that runs this in the background has these signals ignored, and so would the programs of the tests: Ctrl-C, for one,
# would end none of them.
if [ -z "${TEST_SIGNALS:-}" ] && env --default-signal=INT true 2>/dev/null; then
  TEST_SIGNALS=default exec env --default-signal=INT,QUIT,PIPE "$0" "$@"
fi
cd "$(dirname "$0")/.."

# As the Makefile has them, so that what the checks compiled is not compiled again. Only the race detector needs cgo.
export CGO_ENABLED=0 GOFLAGS=${GOFLAGS:--trimpath}

need_root() {
  [ "$(id -u)" = 0 ] || { echo "hack/test.sh: the $1 tests make network namespaces: run this as root, or with sudo -E env PATH=\$PATH" >&2; exit 1; }
}

case ${1:-} in
  unit)
    CGO_ENABLED=1 go test -race -short $(go list ./... | grep -v /test/)
    ;;
  root)
    need_root root
    # With all processors, which -p 1 does not use to compile.
    CGO_ENABLED=1 go build -race $(go list -f '{{if ne .Name "main"}}{{.ImportPath}}{{end}}' ./internal/...)
    # Package by package: the tests share two things of the machine, its cores and its ports.
    CGO_ENABLED=1 go test -race -p 1 -timeout 30m $(go list ./... | grep -v -E '/test/(e2e|clustertest|bench)')
    for module in test/cluster test/chart test/protocols hack/images; do (cd "$module" && go test -timeout 30m ./...); done
    ;;
  e2e)
    need_root end-to-end
    (cd test/cluster && go run ./cmd/cluster up)
    # What stays of a cluster that does not end goes when the next one starts; it is no failure of the tests.
    stop() { [ -n "${KEEP_CLUSTER:-}" ] || (cd test/cluster && go run ./cmd/cluster down) || echo "hack/test.sh: the cluster was not removed" >&2; }
    trap stop EXIT
    MIRRORD_E2E=require go test -count=1 -p 1 -parallel 3 -timeout 75m -v ./test/clustertest ./test/e2e 2>&1 | hack/quiet.sh
    ;;
  *)
    echo "usage: hack/test.sh unit|root|e2e" >&2
    exit 2
    ;;
esac
