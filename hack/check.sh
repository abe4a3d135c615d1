#!/bin/bash
# Format, vet, lint, generated code, and builds for the other systems. Changes nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
# As the Makefile has them.
export CGO_ENABLED=${CGO_ENABLED:-0} GOFLAGS=${GOFLAGS:--trimpath}
step() { printf '%s: %s\n' check "$1"; }

step format
bad=$(gofmt -l $(git ls-files '*.go'))
[ -z "$bad" ] || { printf 'not formatted (make fmt):\n%s\n' "$bad" >&2; exit 1; }

step vet
go vet ./...
for module in test/cluster test/chart test/protocols hack/images; do (cd "$module" && go vet ./...); done

step "lint (the linter is built the first time)"
go tool -modfile=hack/lint/go.mod golangci-lint run ./...

step "generated code"
before=$(git status --porcelain; git diff | sha256sum)
hack/generate.sh
[ "$before" = "$(git status --porcelain; git diff | sha256sum)" ] || { git --no-pager diff --stat; echo "generated files are not current: make generate, and commit" >&2; exit 1; }

step "go.mod"
go mod tidy -diff
for module in test/cluster test/chart test/protocols hack/images; do (cd "$module" && go mod tidy -diff); done

step "builds for other systems"
for t in darwin/arm64 windows/amd64; do
  GOOS=${t%/*} GOARCH=${t#*/} go build -o /dev/null ./cmd/mirrord
done
GOOS=linux GOARCH=arm64 go build -o /dev/null ./cmd/mirrord-agent
GOOS=linux GOARCH=arm64 go build ./internal/intercept/...
