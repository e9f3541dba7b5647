{{/*
The image, by digest where there is one.
*/}}
{{- define "deepgram-journal-backup.image" -}}
{{- with .Values.image }}
{{- if .digest }}
{{- printf "%s@%s" .path .digest }}
{{- else }}
{{- printf "%s:%s" .path (.tag | default $.Chart.AppVersion) }}
{{- end }}
{{- end }}
{{- end }}

{{/*
The pod-level security context of what only talks to the API server: never root, whatever journals need.
*/}}
{{- define "deepgram-journal-backup.plainSecurityContext" -}}
{{- $context := deepCopy (.Values.securityContext | default dict) }}
{{- if and (hasKey $context "runAsUser") (eq (toString (get $context "runAsUser")) "0") }}
{{- $context = mergeOverwrite $context (dict "runAsNonRoot" true "runAsUser" 65532 "runAsGroup" 65532) }}
{{- end }}
{{- toYaml $context }}
{{- end }}

{{/*
The directory of a sink file://, as the command reads it.
*/}}
{{- define "deepgram-journal-backup.sinkDirectory" -}}
{{- regexReplaceAll "[?#].*$" (trimPrefix "file://" .) "" | trimSuffix "/" }}
{{- end }}

{{/*
The same with one name for one directory: `//`, `/./` and `/../` are gone.
*/}}
{{- define "deepgram-journal-backup.sinkPlace" -}}
{{- include "deepgram-journal-backup.sinkDirectory" . | clean }}
{{- end }}

{{/*
The environment of what talks to the API server.
*/}}
{{- define "deepgram-journal-backup.clusterEnv" -}}
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: POD_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
- name: NODE_NAME
  valueFrom:
    fieldRef:
      fieldPath: spec.nodeName
- name: BACKUP_STATEFULSET
  value: {{ .Values.billing.namePrefix | quote }}
- name: BACKUP_LOG_LEVEL
  value: {{ .Values.logLevel | quote }}
{{- end }}

{{/*
The environment of a backup, beside that.
*/}}
{{- define "deepgram-journal-backup.backupEnv" -}}
- name: BACKUP_STRATEGY
  value: {{ include "deepgram-journal-backup.strategy" . | quote }}
{{- with .Values.billing.replicas }}
- name: BACKUP_EXPECT_REPLICAS
  value: {{ . | quote }}
{{- end }}
- name: BACKUP_MODE
  value: {{ .Values.mode | quote }}
{{- if eq .Values.mode "incremental" }}
- name: BACKUP_FULL_EVERY
  value: {{ .Values.fullEvery | quote }}
{{- end }}
{{- if .Values.retention.prune }}
- name: BACKUP_PRUNE
  value: "true"
{{- end }}
{{- if include "deepgram-journal-backup.orchestrates" . }}
- name: BACKUP_WORKERS
  value: {{ .Values.workers | quote }}
- name: BACKUP_ALLOW_STOPPED
  value: {{ .Values.allowStopped | quote }}
{{- end }}
{{- if include "deepgram-journal-backup.mayScale" . }}
- name: BACKUP_MAX_DOWNTIME
  value: {{ .Values.maxDowntime | quote }}
{{- end }}
{{- end }}

{{/*
The rules of retention that are set, by the variable that tells of each.
*/}}
{{- define "deepgram-journal-backup.retentionRules" -}}
{{- with .Values.retention }}
{{- range $name, $value := dict
      "BACKUP_KEEP_LAST" .keepLast
      "BACKUP_KEEP_WITHIN" .keepWithin
      "BACKUP_KEEP_DAILY" .keepDaily
      "BACKUP_KEEP_WEEKLY" .keepWeekly
      "BACKUP_KEEP_MONTHLY" .keepMonthly }}
{{- with $value }}
{{ $name }}: {{ toString . | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/*
The environment of what uses sinks, without what the user adds to it.
*/}}
{{- define "deepgram-journal-backup.ownSinksEnv" -}}
{{- $urls := list }}
{{- range .Values.sinks }}
{{- $urls = append $urls .url }}
{{- end }}
- name: BACKUP_SINKS
  value: {{ join "," $urls | quote }}
{{- with .Values.site }}
- name: BACKUP_SITE
  value: {{ . | quote }}
{{- end }}
{{- /* also of a toolbox that prunes: what a run may be about to commit is no remains */}}
- name: BACKUP_DEADLINE
  value: {{ .Values.deadline | quote }}
{{- range $name, $value := include "deepgram-journal-backup.retentionRules" . | fromYaml }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
- name: BACKUP_KEEP_MIN
  value: {{ .Values.retention.keepMin | quote }}
{{- if or .Values.caBundle.configMapRef .Values.caBundle.secretRef }}
- name: BACKUP_CA_CERT_FILE
  value: /etc/journal-backup/ca/ca.crt
{{- end }}
{{- with .Values.aws.region }}
- name: AWS_REGION
  value: {{ . | quote }}
{{- end }}
{{- with .Values.aws.endpointUrl }}
- name: AWS_ENDPOINT_URL
  value: {{ . | quote }}
{{- end }}
{{- with .Values.aws.secretRef }}
{{- range $key := list "AWS_ACCESS_KEY_ID" "AWS_SECRET_ACCESS_KEY" }}
- name: {{ $key }}
  valueFrom:
    secretKeyRef:
      name: {{ $.Values.aws.secretRef | quote }}
      key: {{ $key }}
{{- end }}
{{- end }}
{{- if .Values.aws.configSecretRef }}
- name: AWS_CONFIG_FILE
  value: /etc/journal-backup/aws/config
{{- end }}
{{- if .Values.gcp.secretRef }}
- name: GOOGLE_APPLICATION_CREDENTIALS
  value: /etc/journal-backup/gcp/key.json
{{- end }}
{{- with .Values.proxy }}
{{- with .http }}
- name: HTTP_PROXY
  value: {{ . | quote }}
{{- end }}
{{- with .https }}
- name: HTTPS_PROXY
  value: {{ . | quote }}
{{- end }}
{{- if or .http .https .noProxy }}
{{- /* The API server, and where a pod in a cloud asks who it is: EC2, ECS, EKS, Google. */}}
{{- $direct := list "$(KUBERNETES_SERVICE_HOST)" ".svc" ".cluster.local" "localhost" "127.0.0.1" "169.254.169.254" "169.254.170.2" "169.254.170.23" "metadata.google.internal" }}
{{- with .noProxy }}
{{- $direct = append $direct . }}
{{- end }}
- name: NO_PROXY
  value: {{ join "," $direct | quote }}
{{- end }}
{{- end }}
{{- end }}

{{/*
And with it.
*/}}
{{- define "deepgram-journal-backup.sinksEnv" -}}
{{- include "deepgram-journal-backup.ownSinksEnv" . }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/*
Where what uses sinks mounts things.
Usage: include "deepgram-journal-backup.sinksMounts" (dict "root" $ "readOnly" false)
*/}}
{{- define "deepgram-journal-backup.sinksMounts" -}}
{{- $readOnly := .readOnly }}
{{- with .root.Values }}
{{- range $number, $sink := .sinks }}
{{- if or $sink.existingPvcName $sink.nfs }}
- name: sink-{{ $number }}
  mountPath: {{ include "deepgram-journal-backup.sinkDirectory" $sink.url | quote }}
  {{- with $sink.subPath }}
  subPath: {{ . | quote }}
  {{- end }}
  {{- if $readOnly }}
  readOnly: true
  {{- end }}
{{- end }}
{{- end }}
{{- if or .caBundle.configMapRef .caBundle.secretRef }}
- name: ca
  mountPath: /etc/journal-backup/ca
  readOnly: true
{{- end }}
{{- if .aws.configSecretRef }}
- name: aws-config
  mountPath: /etc/journal-backup/aws
  readOnly: true
{{- end }}
{{- if .gcp.secretRef }}
- name: gcp-key
  mountPath: /etc/journal-backup/gcp
  readOnly: true
{{- end }}
{{- with .extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}
{{- end }}

{{/*
And their volumes.
*/}}
{{- define "deepgram-journal-backup.sinksVolumes" -}}
{{- range $number, $sink := .Values.sinks }}
{{- if $sink.existingPvcName }}
- name: sink-{{ $number }}
  persistentVolumeClaim:
    claimName: {{ $sink.existingPvcName | quote }}
{{- else if $sink.nfs }}
- name: sink-{{ $number }}
  nfs:
    server: {{ $sink.nfs.server | quote }}
    path: {{ $sink.nfs.path | quote }}
{{- end }}
{{- end }}
{{- with .Values.caBundle }}
{{- if .configMapRef }}
- name: ca
  configMap:
    name: {{ .configMapRef | quote }}
    items:
      - key: {{ .key | quote }}
        path: ca.crt
{{- else if .secretRef }}
- name: ca
  secret:
    secretName: {{ .secretRef | quote }}
    items:
      - key: {{ .key | quote }}
        path: ca.crt
{{- end }}
{{- end }}
{{- with .Values.aws.configSecretRef }}
- name: aws-config
  secret:
    secretName: {{ . | quote }}
    items:
      - key: config
        path: config
{{- end }}
{{- with .Values.gcp.secretRef }}
- name: gcp-key
  secret:
    secretName: {{ . | quote }}
    items:
      - key: {{ $.Values.gcp.secretKey | quote }}
        path: key.json
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/*
What a backup mounts: sinks and, where it reads the journals itself, those.
*/}}
{{- define "deepgram-journal-backup.backupMounts" -}}
{{- if eq (include "deepgram-journal-backup.strategy" .) "direct" }}
- name: journals
  mountPath: /journals
  readOnly: true
{{- end }}
{{- with include "deepgram-journal-backup.sinksMounts" (dict "root" . "readOnly" false) | trim }}
{{ . }}
{{- end }}
{{- end }}

{{/*
And the volumes of that.
*/}}
{{- define "deepgram-journal-backup.backupVolumes" -}}
{{- if eq (include "deepgram-journal-backup.strategy" .) "direct" }}
# readOnly here as well: with the mount alone, a fsGroup would change owners and modes of
# billing's live journal.
- name: journals
  persistentVolumeClaim:
    claimName: {{ include "deepgram-journal-backup.sharedClaim" . | quote }}
    readOnly: true
{{- end }}
{{- with include "deepgram-journal-backup.sinksVolumes" . | trim }}
{{ . }}
{{- end }}
{{- end }}

{{/*
The spec of a pod, up to its containers: what all pods of this chart have in common.
Usage: include "deepgram-journal-backup.podSpec" (dict "root" $ "serviceAccountName" "…" "token" false "securityContext" "…")
*/}}
{{- define "deepgram-journal-backup.podSpec" -}}
serviceAccountName: {{ .serviceAccountName | quote }}
automountServiceAccountToken: {{ .token }}
enableServiceLinks: false
{{- with .root.Values }}
{{- $secrets := list }}
{{- range list (.global).pullSecretRef .pullSecretRef }}
{{- if . }}
{{- $secrets = append $secrets . }}
{{- end }}
{{- end }}
{{- with uniq $secrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .topologySpreadConstraints }}
topologySpreadConstraints:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- end }}
securityContext:
  {{- .securityContext | nindent 2 }}
{{- end }}

{{/*
A container, up to its arguments, environment and mounts.
*/}}
{{- define "deepgram-journal-backup.container" -}}
image: {{ include "deepgram-journal-backup.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  {{- toYaml (.Values.containerSecurityContext | default dict) | nindent 2 }}
resources:
  {{- toYaml (.Values.resources | default dict) | nindent 2 }}
{{- end }}

{{/*
The pod of what only scales billing back: no sinks, no journals.
Usage: include "deepgram-journal-backup.resumePod" (dict "root" $ "component" "guard" "serviceAccountName" "…" "args" (list "resume-billing"))
*/}}
{{- define "deepgram-journal-backup.resumePod" -}}
metadata:
  labels:
    {{- include "deepgram-journal-backup.podLabels" . | trim | nindent 4 }}
  annotations:
    {{- include "deepgram-journal-backup.podAnnotations" .root | nindent 4 }}
spec:
  {{- include "deepgram-journal-backup.podSpec" (dict "root" .root "serviceAccountName" .serviceAccountName "token" true "securityContext" (include "deepgram-journal-backup.plainSecurityContext" .root)) | nindent 2 }}
  restartPolicy: Never
  terminationGracePeriodSeconds: {{ .root.Values.terminationGracePeriodSeconds }}
  containers:
    - name: journal-backup
      {{- include "deepgram-journal-backup.container" .root | nindent 6 }}
      args: {{ toJson .args }}
      env:
        {{- include "deepgram-journal-backup.clusterEnv" .root | nindent 8 }}
{{- end }}
