#!/bin/sh
# Copies the CRDs into the chart as templates. Those that users make objects of can be left out,
# and stay when the operator is uninstalled; the operator's own comes and goes with it.
set -eu
cd "$(dirname "$0")/.."
out=charts/mirrord-operator/templates/crds
rm -rf "$out"
mkdir -p "$out"
labels='  labels:
    app.kubernetes.io/name: mirrord-operator
    {{- include "mirrord.labels" . | nindent 4 }}'

for f in config/crd/*.yaml; do
	{
		echo '{{- if .Values.crds.install }}'
		sed '/^---$/d; s|^  annotations:$|  annotations:\n    helm.sh/resource-policy: keep|' "$f" | awk -v labels="$labels" '/^spec:$/ {print labels} {print}'
		echo '{{- end }}'
	} >"$out/$(basename "$f")"
done
for f in config/crd/operator/*.yaml; do
	sed '/^---$/d' "$f" | awk -v labels="$labels" '/^spec:$/ {print labels} {print}' >"$out/$(basename "$f")"
done
