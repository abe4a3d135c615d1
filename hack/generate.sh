#!/bin/sh
# Generates what follows from the Go types in api/: deep copies, scheme registration and
# the CRDs in config/crd, and the OpenAPI definitions of what the operator serves itself.
# The results are committed; CI runs this and refuses a difference.
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
tool controller-gen crd paths=./api/profiles/... paths=./api/policies/... paths=./api/tlssteal/... output:crd:dir=config/crd
tool controller-gen crd paths=./api/records/... output:crd:dir=config/crd/operator
hack/chart-crds.sh
tool openapi-gen --output-dir internal/operator/apiserver/openapi \
	--output-pkg github.com/mirrord-go/mirrord/internal/operator/apiserver/openapi \
	--output-file zz_generated.openapi.go --output-model-name-file zz_generated.model_name.go \
	--readonly-pkg k8s.io/apimachinery/pkg/apis/meta/v1 --readonly-pkg k8s.io/apimachinery/pkg/runtime \
	--readonly-pkg k8s.io/apimachinery/pkg/version --report-filename /dev/null \
	k8s.io/apimachinery/pkg/apis/meta/v1 k8s.io/apimachinery/pkg/runtime k8s.io/apimachinery/pkg/version \
	./api/sessions/v1alpha
