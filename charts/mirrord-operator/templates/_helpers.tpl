{{/*
Only the functions include, nindent, toYaml, quote, int, default, required and b64enc are used
here, besides those of Go's templates: "mirrord operator install" renders these templates without
Helm, and knows no others.
*/}}

{{- define "mirrord.labels" -}}
app.kubernetes.io/part-of: mirrord
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{/* Selects the operator's pods. These labels never change: a Deployment's selector can't. */}}
{{- define "mirrord.selector" -}}
app.kubernetes.io/name: mirrord-operator
app.kubernetes.io/part-of: mirrord
{{- end }}

{{- define "mirrord.operatorImage" -}}
{{- if .Values.operator.image -}}
{{ .Values.operator.image }}
{{- else -}}
{{ required "image.registry is missing: where the images mirrord-operator and mirrord-agent are; --set image.registry=registry.example.com/tools gives it" .Values.image.registry }}/mirrord-operator:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- define "mirrord.agentImage" -}}
{{- if .Values.agent.image -}}
{{ .Values.agent.image }}
{{- else -}}
{{ required "image.registry is missing: where the images mirrord-operator and mirrord-agent are; --set image.registry=registry.example.com/tools gives it" .Values.image.registry }}/mirrord-agent:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/* The Secret with a certificate that the operator did not make; empty when it makes its own. */}}
{{- define "mirrord.tlsSecret" -}}
{{- if .Values.tls.secret -}}
{{ .Values.tls.secret }}
{{- else if .Values.tls.certManager.enabled -}}
mirrord-operator-serving
{{- end -}}
{{- end }}

{{/* What users need in a namespace to run sessions there. No right on pods is among it. */}}
{{- define "mirrord.userRules" -}}
# See targets. To read a target is the right to attach to it: resourceNames, such as
# "deployment.shop", narrow it down.
- apiGroups: ["sessions.mirrord.metalbear.co"]
  resources: ["targets"]
  verbs: ["get", "list"]
# Run sessions, see them, and end them.
- apiGroups: ["sessions.mirrord.metalbear.co"]
  resources: ["sessions"]
  verbs: ["create", "get", "list", "watch", "delete"]
# Connect to one's own session.
- apiGroups: ["sessions.mirrord.metalbear.co"]
  resources: ["sessions/connect"]
  verbs: ["create", "get"]
# Use the profiles of the namespace.
- apiGroups: ["profiles.mirrord.metalbear.co"]
  resources: ["mirrordprofiles"]
  verbs: ["get", "list"]
{{- end }}

{{/* What users need of the whole cluster. */}}
{{- define "mirrord.userClusterRules" -}}
# Use the profiles of the cluster.
- apiGroups: ["profiles.mirrord.metalbear.co"]
  resources: ["mirrordclusterprofiles"]
  verbs: ["get", "list"]
{{- end }}
