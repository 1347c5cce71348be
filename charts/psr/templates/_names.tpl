{{/* What names of the release's objects begin with; 40 characters leave room for what follows. */}}
{{- define "psr.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains "psr" .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-psr" (.Release.Name | trunc 36 | trimSuffix "-") -}}
{{- end -}}
{{- end -}}

{{/* The operator's objects, its Lease included: releases with namespaces of their own live side by side. */}}
{{- define "psr.operator" -}}
{{- include "psr.fullname" . }}-operator
{{- end -}}

{{/* What belongs to the whole cluster, or stands in namespaces of others. */}}
{{- define "psr.role" -}}
{{- include "psr.operator" . }}-{{ .Release.Namespace | trunc 180 | trimSuffix "-" }}
{{- end -}}

{{- define "psr.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "psr.operator" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{/* What a pod of the operator is known by. It never changes: a Deployment's selector cannot. */}}
{{- define "psr.selector" -}}
app.kubernetes.io/name: psr
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{/* Labels of the release's objects. `managed-by: psr` is kept for what the operator makes. */}}
{{- define "psr.labels" -}}
app.kubernetes.io/name: psr
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* An image: {image: {repository, tag, digest}, version: used where there is no tag}. */}}
{{- define "psr.image" -}}
{{- if .image.digest -}}
{{- printf "%s@%s" .image.repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" .image.repository (.image.tag | default .version) -}}
{{- end -}}
{{- end -}}

{{/* JSON list of the service accounts that manifests may name. */}}
{{- define "psr.allowedServiceAccounts" -}}
{{- $names := .Values.allowedServiceAccounts -}}
{{- range .Values.stageServiceAccounts -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- $names | uniq | sortAlpha | toJson -}}
{{- end -}}

{{/* The series of this release's operator. */}}
{{- define "psr.series" -}}
namespace={{ .Release.Namespace | quote }},job={{ include "psr.operator" . | quote }}
{{- end -}}
