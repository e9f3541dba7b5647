{{/*
Variables that values set, and by which. What has no value here is nobody's to set.
*/}}
{{- define "deepgram-journal-backup.variables" -}}
AWS_ACCESS_KEY_ID: aws.secretRef
AWS_CONFIG_FILE: aws.configSecretRef
AWS_ENDPOINT_URL: aws.endpointUrl
AWS_REGION: aws.region
AWS_SECRET_ACCESS_KEY: aws.secretRef
BACKUP_ALLOW_STOPPED: allowStopped
BACKUP_CA_CERT_FILE: caBundle
BACKUP_DEADLINE: deadline
BACKUP_EXPECT_REPLICAS: billing.replicas
BACKUP_FULL_EVERY: fullEvery
BACKUP_KEEP_DAILY: retention.keepDaily
BACKUP_KEEP_LAST: retention.keepLast
BACKUP_KEEP_MIN: retention.keepMin
BACKUP_KEEP_MONTHLY: retention.keepMonthly
BACKUP_KEEP_WEEKLY: retention.keepWeekly
BACKUP_KEEP_WITHIN: retention.keepWithin
BACKUP_LOG_LEVEL: logLevel
BACKUP_MAX_DOWNTIME: maxDowntime
BACKUP_MODE: mode
BACKUP_PRUNE: retention.prune
BACKUP_SINKS: sinks
BACKUP_SITE: site
BACKUP_STATEFULSET: billing.namePrefix
BACKUP_STRATEGY: strategy
BACKUP_WORKERS: workers
GOOGLE_APPLICATION_CREDENTIALS: gcp.secretRef
HTTP_PROXY: proxy.http
HTTPS_PROXY: proxy.https
NO_PROXY: proxy.noProxy
{{- end }}

{{/*
Everything that is wrong with the values, at once.
*/}}
{{- define "deepgram-journal-backup.validate" -}}
{{- $problems := list }}
{{- $prefix := include "deepgram-journal-backup.namePrefix" . }}
{{- $strategy := include "deepgram-journal-backup.strategy" . }}
{{- $shared := include "deepgram-journal-backup.sharedClaim" . }}
{{- $accessMode := .Values.billing.journal.accessMode }}

{{- /* the kubeVersion of a subchart is not enforced */}}
{{- if semverCompare "<1.28.0-0" .Capabilities.KubeVersion.Version }}
{{- $problems = append $problems (printf "Kubernetes %s is too old: 1.28 is the least" .Capabilities.KubeVersion.Version) }}
{{- end }}

{{- /* a condition that is false keeps these templates from being rendered */}}
{{- if eq (toString .Values.enabled) "false" }}
{{- $problems = append $problems (printf "`enabled` is false, and no `condition` of a dependency heeds it: in the Chart.yaml of the umbrella, set `condition: %s.enabled` (with an alias, `<alias>.enabled`); without an umbrella, set `suspend: true`, or uninstall the release" .Chart.Name) }}
{{- end }}

{{- /* what an example leaves to be set */}}
{{- range toYaml .Values | splitList "\n" }}
{{- if contains "REPLACE_ME" . }}
{{- $problems = append $problems (printf "`%s` is the example's: set it to what this site has" (trim . | trimPrefix "- ")) }}
{{- end }}
{{- end }}

{{- /* names */}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $prefix) }}
{{- $problems = append $problems (printf "%q cannot begin the names of objects: set `namePrefix` to lowercase letters, digits and dashes" $prefix) }}
{{- end }}
{{- if gt (len $prefix) 44 }}
{{- $problems = append $problems (printf "%q is too long to begin the names of objects: set `namePrefix` to 44 characters at most" $prefix) }}
{{- end }}
{{- if has $prefix (list .Values.billing.namePrefix "deepgram-api" "deepgram-billing" "deepgram-engine" "deepgram-license-proxy") }}
{{- $problems = append $problems (printf "`namePrefix` must not be %q, a name of the Deepgram chart's: its Service would send requests to our pods" $prefix) }}
{{- end }}

{{- /* labels */}}
{{- range $source, $labels := dict "additionalLabels" .Values.additionalLabels "global.additionalLabels" (.Values.global).additionalLabels }}
{{- range $key := list "app" "app.kubernetes.io/instance" }}
{{- if hasKey ($labels | default dict) $key }}
{{- $problems = append $problems (printf "`%s` must not set %q: Services and StatefulSets, billing's above all, select pods by it" $source $key) }}
{{- end }}
{{- end }}
{{- end }}

{{- /* strategy and volumes */}}
{{- if eq $strategy "direct" }}
{{- if not $shared }}
{{- $problems = append $problems "strategy `direct` needs a shared PVC, and `billing.journal` names none: take `auto` or `colocated`" }}
{{- else if ne $accessMode "ReadWriteMany" }}
{{- $problems = append $problems (printf "strategy `direct` needs `ReadWriteMany`, and `billing.journal.accessMode` is %q: take `auto`" $accessMode) }}
{{- end }}
{{- if not .Values.billing.replicas }}
{{- $problems = append $problems "Missing number of billing replicas - see `billing.replicas`. Strategy `direct` cannot ask the cluster how many journals there have to be." }}
{{- end }}
{{- end }}
{{- if and (has .Values.strategy (list "direct" "colocated")) .Values.maxDowntime }}
{{- $problems = append $problems (printf "`maxDowntime` is for what scales billing down, and strategy `%s` never does: leave one of them out" .Values.strategy) }}
{{- else if and (eq $strategy "direct") .Values.maxDowntime }}
{{- $problems = append $problems "`maxDowntime` is for what scales billing down, and strategy `direct`, which a PVC with `ReadWriteMany` has, never does: leave it out, or set `billing.journal.accessMode` to that of the PVC, or `strategy`" }}
{{- end }}
{{- if and (eq $strategy "scale-down") (not .Values.maxDowntime) }}
{{- $problems = append $problems "strategy `scale-down` stops billing: say for how long it may, with `maxDowntime`" }}
{{- end }}
{{- if and $shared (eq $accessMode "ReadWriteOncePod") }}
{{- if eq $strategy "colocated" }}
{{- $problems = append $problems "strategy `colocated` cannot read a PVC that is `ReadWriteOncePod`, which no second pod may mount: take `scale-down`, with `maxDowntime`" }}
{{- else if and (eq $strategy "auto") (not .Values.maxDowntime) }}
{{- $problems = append $problems "a PVC that is `ReadWriteOncePod` can be read only while billing is down: say for how long it may be, with `maxDowntime`" }}
{{- end }}
{{- end }}
{{- /* REMOVAL_SECONDS and CLEANUP_SECONDS of backup/cluster, and some to spare: a test compares them */}}
{{- $grace := int .Values.terminationGracePeriodSeconds }}
{{- if and (include "deepgram-journal-backup.mayScale" .) (lt $grace 75) }}
{{- $problems = append $problems (printf "`terminationGracePeriodSeconds` is %d, and a run that is told to stop may take 70 s to bring billing back: set it to 75 at least" $grace) }}
{{- end }}

{{- /* schedules */}}
{{- range $name, $schedule := dict "schedule" .Values.schedule "guard.schedule" .Values.guard.schedule "verify.schedule" .Values.verify.schedule }}
{{- if contains "TZ=" $schedule }}
{{- $problems = append $problems (printf "`%s` must not name a time zone: set `timeZone`" $name) }}
{{- end }}
{{- end }}

{{- /* sinks */}}
{{- if not .Values.sinks }}
{{- $problems = append $problems "Missing the place that backups go to - see `sinks`" }}
{{- end }}
{{- $mounts := list }}
{{- range .Values.extraVolumeMounts }}
{{- $mounts = append $mounts (clean .mountPath) }}
{{- end }}
{{- $reserved := dict
      "/journals" "the journals are mounted"
      "/restored" "the toolbox has its scratch volume"
      "/targets" "the toolbox has what it restores to"
      "/etc/journal-backup" "certificates and keys are mounted" }}
{{- $places := dict }}
{{- $urls := list }}
{{- range .Values.sinks }}
{{- if has .url $urls }}
{{- $problems = append $problems (printf "`sinks` has %q twice" .url) }}
{{- end }}
{{- $isNew := not (has .url $urls) }}
{{- $urls = append $urls .url }}
{{- if and .existingPvcName .nfs }}
{{- $problems = append $problems (printf "the sink %q has both `existingPvcName` and `nfs`: leave one out" .url) }}
{{- end }}
{{- if hasPrefix "file://" .url }}
{{- $directory := include "deepgram-journal-backup.sinkDirectory" .url }}
{{- $place := include "deepgram-journal-backup.sinkPlace" .url }}
{{- $mounted := or .existingPvcName .nfs }}
{{- if and $mounted (has $place $mounts) }}
{{- $problems = append $problems (printf "the sink %q has a volume of its own, and `extraVolumeMounts` mounts another one there: leave one out" .url) }}
{{- end }}
{{- range $mounts }}
{{- if or (eq $place .) (hasPrefix (printf "%s/" .) $place) }}
{{- $mounted = true }}
{{- end }}
{{- end }}
{{- if not $mounted }}
{{- $problems = append $problems (printf "the sink %q lies on no volume: give it `existingPvcName` or `nfs`, or mount one there with `extraVolumes` and `extraVolumeMounts`" .url) }}
{{- end }}
{{- if or (contains "%" $directory) (not (regexMatch "^/[^/]" $directory)) (eq $place "/") }}
{{- $problems = append $problems (printf "the sink %q has no directory that a volume can be mounted at: take one like file:///sinks/archive" .url) }}
{{- else }}
{{- $url := .url }}
{{- range $path, $what := $reserved }}
{{- if or (eq $place $path) (hasPrefix (printf "%s/" $path) $place) (hasPrefix (printf "%s/" $place) $path) }}
{{- $problems = append $problems (printf "the sink %q lies where %s: take one like file:///sinks/archive" $url $what) }}
{{- end }}
{{- end }}
{{- with get $places $place }}
{{- if $isNew }}
{{- $problems = append $problems (printf "the sinks %q and %q lie in one directory: give each its own" . $url) }}
{{- end }}
{{- end }}
{{- $_ := set $places $place $url }}
{{- end }}
{{- else if or .existingPvcName .nfs .subPath }}
{{- $problems = append $problems (printf "the sink %q has a volume, which only sinks file:// have" .url) }}
{{- end }}
{{- end }}

{{- /* the rest */}}
{{- if and .Values.retention.prune (not (include "deepgram-journal-backup.retentionRules" . | trim)) }}
{{- $problems = append $problems "`retention.prune` is true, and nothing says what to keep: set `keepLast`, `keepWithin`, `keepDaily`, `keepWeekly` or `keepMonthly` beside it" }}
{{- end }}
{{- if and .Values.caBundle.configMapRef .Values.caBundle.secretRef }}
{{- $problems = append $problems "`caBundle` has both `configMapRef` and `secretRef`: leave one out" }}
{{- end }}
{{- range $name, $proxy := dict "proxy.http" .Values.proxy.http "proxy.https" .Values.proxy.https }}
{{- if contains "@" ($proxy | default "") }}
{{- $problems = append $problems (printf "`%s` holds a password, and values are no place for one: put the URL into a Secret, and name that in `extraEnv`" $name) }}
{{- end }}
{{- end }}
{{- $own := list }}
{{- $env := printf "%s\n%s\n%s" (include "deepgram-journal-backup.clusterEnv" .) (include "deepgram-journal-backup.backupEnv" .) (include "deepgram-journal-backup.ownSinksEnv" .) }}
{{- range fromYamlArray $env }}
{{- $own = append $own .name }}
{{- end }}
{{- $variables := include "deepgram-journal-backup.variables" . | fromYaml }}
{{- range .Values.extraEnv }}
{{- $value := get $variables .name }}
{{- if and $value (or (hasPrefix "BACKUP_" .name) (has .name $own)) }}
{{- $problems = append $problems (printf "`extraEnv` sets %s: set `%s` instead" .name $value) }}
{{- else if has .name $own }}
{{- $problems = append $problems (printf "`extraEnv` sets %s, which this chart sets itself: leave it out" .name) }}
{{- end }}
{{- end }}
{{- range .Values.extraVolumes }}
{{- if regexMatch "^(journals|restored|ca|aws-config|gcp-key|(sink|target)-[0-9]+)$" .name }}
{{- $problems = append $problems (printf "`extraVolumes` has a volume %q, which is a name of this chart's own volumes: take another" .name) }}
{{- end }}
{{- end }}
{{- if .Values.prometheusRule.enabled }}
{{- range $name, $ends := dict "failedJobsHistoryLimit" "raises" "successfulJobsHistoryLimit" "ends" }}
{{- if not (get $.Values $name) }}
{{- $problems = append $problems (printf "with `prometheusRule.enabled`, set `%s` to 1 at least: a Job that is not kept %s no alert" $name $ends) }}
{{- end }}
{{- end }}
{{- end }}
{{- $user := toString (.Values.securityContext).runAsUser }}
{{- if and (.Values.securityContext).runAsNonRoot (eq $user "0") }}
{{- $problems = append $problems "`securityContext.runAsUser` is 0, which `runAsNonRoot: true` does not let start: set `securityContext.runAsNonRoot` to false as well" }}
{{- end }}
{{- $needsRights := or (include "deepgram-journal-backup.orchestrates" .) .Values.hooks.enabled }}
{{- if and (not .Values.rbac.create) $needsRights }}
{{- if or .Values.serviceAccount.create (not .Values.serviceAccount.name) }}
{{- $problems = append $problems "with `rbac.create: false`, set `serviceAccount.create` to false, and `serviceAccount.name` to the service account that has the rights" }}
{{- end }}
{{- else if and (include "deepgram-journal-backup.orchestrates" .) (not .Values.serviceAccount.create) (not .Values.serviceAccount.name) }}
{{- $problems = append $problems "Missing name of the service account, which gets rights in this namespace - see `serviceAccount.name`" }}
{{- end }}

{{- if $problems }}
{{- fail (printf "%s: %d problem(s) with the values:\n- %s" .Chart.Name (len $problems) (join "\n- " $problems)) }}
{{- end }}
{{- end }}
