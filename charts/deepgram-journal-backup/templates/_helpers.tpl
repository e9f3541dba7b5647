{{/*
What every name begins with: each alias in an umbrella has its own, as .Chart.Name is the alias.
*/}}
{{- define "deepgram-journal-backup.namePrefix" -}}
{{- .Values.namePrefix | default (lower .Chart.Name) -}}
{{- end }}

{{/*
Create chart name and version as used by the chart label.
*/}}
{{- define "deepgram-journal-backup.chart" -}}
{{- printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/*
Labels that the user gives: the chart's own win over those that are shared with the Deepgram chart.
*/}}
{{- define "deepgram-journal-backup.userLabels" -}}
{{- toYaml (mergeOverwrite (dict) (deepCopy ((.Values.global).additionalLabels | default dict)) (.Values.additionalLabels | default dict)) }}
{{- end }}

{{/*
Common labels, of a component where one is named.
Usage: include "deepgram-journal-backup.labels" (dict "root" $ "component" "backup")
*/}}
{{- define "deepgram-journal-backup.labels" -}}
{{- $root := .root }}
{{- $labels := dict
      "app.kubernetes.io/name" "deepgram-journal-backup"
      "app.kubernetes.io/version" $root.Chart.AppVersion
      "app.kubernetes.io/managed-by" $root.Release.Service
      "helm.sh/chart" (include "deepgram-journal-backup.chart" $root) }}
{{- $labels = mergeOverwrite $labels (include "deepgram-journal-backup.userLabels" $root | fromYaml) }}
{{- $labels = mergeOverwrite $labels (include "deepgram-journal-backup.selectorLabels" $root | fromYaml) }}
{{- with .component }}
{{- $_ := set $labels "app.kubernetes.io/component" . }}
{{- end }}
{{- range $key, $val := $labels }}
{{- /* a number too, and not as 1e+06 */}}
{{ $key }}: {{ kindIs "string" $val | ternary $val (toJson $val) | quote }}
{{- end }}
{{- end }}

{{/*
Labels that select all pods of this chart, and none of another, nor of another alias.
*/}}
{{- define "deepgram-journal-backup.selectorLabels" -}}
app: {{ include "deepgram-journal-backup.namePrefix" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{/*
Labels of a pod. A sidecar would keep a Job from ending, so meshes are asked to leave it alone.
Usage: include "deepgram-journal-backup.podLabels" (dict "root" $ "component" "backup")
*/}}
{{- define "deepgram-journal-backup.podLabels" -}}
{{- $labels := dict "kuma.io/sidecar-injection" "disabled" "sidecar.istio.io/inject" "false" }}
{{- toYaml (mergeOverwrite $labels (include "deepgram-journal-backup.labels" . | fromYaml)) }}
{{- end }}

{{/*
Annotations of a pod, for the meshes that look there.
*/}}
{{- define "deepgram-journal-backup.podAnnotations" -}}
{{- $annotations := dict
      "consul.hashicorp.com/connect-inject" "false"
      "kuma.io/sidecar-injection" "disabled"
      "linkerd.io/inject" "disabled"
      "sidecar.istio.io/inject" "false" }}
{{- toYaml (mergeOverwrite $annotations (.Values.additionalAnnotations | default dict)) }}
{{- end }}

{{/*
A duration as the settings take it (90s, 5m, 24h, 7d), in seconds.
*/}}
{{- define "deepgram-journal-backup.seconds" -}}
{{- $units := dict "s" 1 "m" 60 "h" 3600 "d" 86400 }}
{{- mul (regexFind "^[0-9]+" .) (get $units (regexFind "[smhd]$" .)) }}
{{- end }}

{{/*
Name of a PVC that is given as `existingPvcName: <name>`, or by its name alone.
*/}}
{{- define "deepgram-journal-backup.claimName" -}}
{{- if kindIs "string" . }}{{ . }}{{ else }}{{ .existingPvcName }}{{ end }}
{{- end }}

{{/*
The shared PVC, by the Deepgram chart's own rules; empty where each billing pod has a PVC of its own.
*/}}
{{- define "deepgram-journal-backup.sharedClaim" -}}
{{- with .Values.billing.journal }}
{{- if .existingPvcName }}
{{- .existingPvcName }}
{{- else if .aws.efs.enabled }}
{{- .aws.efs.existingPvcName | default (printf "%s-aws-efs-pvc" .aws.efs.modelsNamePrefix) }}
{{- end }}
{{- end }}
{{- end }}

{{/*
The strategy: `direct` wherever it can be, since it needs no rights at all.
*/}}
{{- define "deepgram-journal-backup.strategy" -}}
{{- $strategy := .Values.strategy | default "auto" }}
{{- $many := eq .Values.billing.journal.accessMode "ReadWriteMany" }}
{{- if and (eq $strategy "auto") $many (include "deepgram-journal-backup.sharedClaim" .) -}}
direct
{{- else -}}
{{- $strategy -}}
{{- end -}}
{{- end }}

{{/*
Not empty if the backup asks the API server for anything.
*/}}
{{- define "deepgram-journal-backup.orchestrates" -}}
{{- if ne (include "deepgram-journal-backup.strategy" .) "direct" }}true{{ end }}
{{- end }}

{{/*
Not empty if the backup may scale billing down.
*/}}
{{- define "deepgram-journal-backup.mayScale" -}}
{{- $strategy := include "deepgram-journal-backup.strategy" . }}
{{- if or (eq $strategy "scale-down") (and (eq $strategy "auto") .Values.maxDowntime) }}true{{ end }}
{{- end }}

{{/*
How often a failed run is started again. The command itself repeats what may pass, so what is left
is a node or a pod that died, and for that once is enough. What asks the API server is not started
again: billing is not scaled down twice a night without anyone asking for it, and a worker whose pod
of billing moved is tried again by the same run.
*/}}
{{- define "deepgram-journal-backup.backoffLimit" -}}
{{- if kindIs "invalid" .Values.backoffLimit }}
{{- ternary 0 1 (eq (include "deepgram-journal-backup.orchestrates" .) "true") }}
{{- else }}
{{- .Values.backoffLimit }}
{{- end }}
{{- end }}

{{/*
The Lease that is the lock of a backup and the record of a scale-down: one for each billing, whoever
backs it up.
*/}}
{{- define "deepgram-journal-backup.lease" -}}
{{- printf "%s-journal-backup" .Values.billing.namePrefix }}
{{- end }}

{{/*
Service accounts: of pods with sinks (the cloud's identity hangs on it), and of those that only scale
billing back. Whoever brings the Roles brings one service account for all.
*/}}
{{- define "deepgram-journal-backup.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- .Values.serviceAccount.name | default (printf "%s-sa" (include "deepgram-journal-backup.namePrefix" .)) }}
{{- else }}
{{- .Values.serviceAccount.name | default "default" }}
{{- end }}
{{- end }}

{{- define "deepgram-journal-backup.guardServiceAccountName" -}}
{{- if .Values.rbac.create }}
{{- printf "%s-guard-sa" (include "deepgram-journal-backup.namePrefix" .) }}
{{- else }}
{{- include "deepgram-journal-backup.serviceAccountName" . }}
{{- end }}
{{- end }}

{{- define "deepgram-journal-backup.resumeServiceAccountName" -}}
{{- if .Values.rbac.create }}
{{- printf "%s-resume-sa" (include "deepgram-journal-backup.namePrefix" .) }}
{{- else }}
{{- include "deepgram-journal-backup.serviceAccountName" . }}
{{- end }}
{{- end }}

{{/*
The rights of a backup that is not `direct`: RULES of backup/cluster, and a test compares them.
To create an object, or to list, cannot be limited to a name.
*/}}
{{- define "deepgram-journal-backup.backupRules" -}}
- apiGroups: [""]
  resources: ["pods"]
  verbs: ["get", "list", "watch"{{ if include "deepgram-journal-backup.mayScale" . }}, "patch"{{ end }}]
- apiGroups: [""]
  resources: ["persistentvolumeclaims"]
  verbs: ["list"]
- apiGroups: [""]
  resources: ["events"]
  verbs: ["list"]
- apiGroups: ["apps"]
  resources: ["statefulsets"]
  resourceNames: [{{ .Values.billing.namePrefix | quote }}]
  verbs: ["get"]
- apiGroups: ["apps"]
  resources: ["statefulsets/scale"]
  resourceNames: [{{ .Values.billing.namePrefix | quote }}]
  verbs: ["get"{{ if include "deepgram-journal-backup.mayScale" . }}, "update"{{ end }}]
- apiGroups: ["batch"]
  resources: ["jobs"]
  verbs: ["create", "get", "list", "delete"]
- apiGroups: ["coordination.k8s.io"]
  resources: ["leases"]
  resourceNames: [{{ include "deepgram-journal-backup.lease" . | quote }}]
  verbs: ["get", "update"]
- apiGroups: ["coordination.k8s.io"]
  resources: ["leases"]
  verbs: ["create"]
{{- end }}

{{/*
The rights that it takes to scale billing back.
*/}}
{{- define "deepgram-journal-backup.resumeRules" -}}
- apiGroups: [""]
  resources: ["pods"]
  verbs: ["get"]
- apiGroups: ["apps"]
  resources: ["statefulsets/scale"]
  resourceNames: [{{ .Values.billing.namePrefix | quote }}]
  verbs: ["get", "update"]
- apiGroups: ["batch"]
  resources: ["jobs"]
  verbs: ["list", "delete"]
- apiGroups: ["coordination.k8s.io"]
  resources: ["leases"]
  resourceNames: [{{ include "deepgram-journal-backup.lease" . | quote }}]
  verbs: ["get", "update"]
{{- end }}

{{/*
What is not wrong, but may not be what is wanted; one line each.
*/}}
{{- define "deepgram-journal-backup.warnings" -}}
{{- $utc := list "" "Etc/UTC" "UTC" "Etc/GMT" "GMT" "Etc/Universal" "Etc/UCT" "Etc/Zulu" "Zulu" }}
{{- if not (has (.Values.timeZone | default "") $utc) }}
{{- range $name, $schedule := dict "schedule" .Values.schedule "verify.schedule" .Values.verify.schedule }}
{{- $fields := regexSplit "\\s+" (trim $schedule) -1 }}
{{- $hours := "" }}
{{- if gt (len $fields) 1 }}
{{- $hours = index $fields 1 }}
{{- end }}
{{- if or (regexMatch "(^|,)0?[0-3]($|[-,/])" $hours) (regexMatch "^@(daily|midnight|weekly|monthly|yearly|annually)$" (trim $schedule)) }}
{{ $name }} "{{ $schedule }}" is between 00:00 and 03:59 in {{ $.Values.timeZone }}: where clocks change, a night of the year is skipped or done twice. Take Etc/UTC, or a later hour.
{{- end }}
{{- end }}
{{- end }}
{{- end }}
