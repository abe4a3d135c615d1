#!/bin/sh
# Generates what follows from the Go types in api/: deep copies, scheme registration and
# the CRDs in config/crd. The results are committed; CI runs this and refuses a difference.
set -eu
cd "$(dirname "$0")/.."

tool() {
	name=$1
	shift
	go tool -modfile=hack/tools/go.mod "$name" "$@"
}

tool controller-gen object paths=./api/...
for types in api/*/v*; do
	tool register-gen --output-file zz_generated.register.go "./$types"
done
tool controller-gen crd paths=./api/profiles/... output:crd:dir=config/crd
tool controller-gen crd paths=./api/records/... output:crd:dir=config/crd/operator
