{{/*
Where pods may go. Ports that URLs name: https://host:9000, in a query also with the colon as %3A.
*/}}
{{- define "deepgram-journal-backup.egress" -}}
{{- $ports := list 443 }}
{{- $urls := list .Values.aws.endpointUrl .Values.proxy.http .Values.proxy.https }}
{{- range .Values.sinks }}
{{- $urls = concat $urls (regexFindAll "[?&]endpoint=[^&]*" .url -1) }}
{{- end }}
{{- range compact $urls }}
{{- $url := . | replace "%3A" ":" | replace "%3a" ":" | replace "%2F" "/" | replace "%2f" "/" }}
{{- $authority := regexFind "https?://[^/?&#]+" $url }}
{{- $port := regexFind ":[0-9]+$" $authority | trimPrefix ":" }}
{{- if $port }}
{{- $ports = append $ports (int $port) }}
{{- else if hasPrefix "http://" $authority }}
{{- $ports = append $ports 80 }}
{{- end }}
{{- end }}
{{- range .Values.networkPolicy.apiServerPorts }}
{{- $ports = append $ports (int .) }}
{{- end -}}
# DNS; OpenShift's listens on 5353
- ports:
    {{- range list 53 5353 }}
    - {port: {{ . }}, protocol: UDP}
    - {port: {{ . }}, protocol: TCP}
    {{- end }}
- ports:
    {{- range $ports | uniq }}
    - {port: {{ . }}, protocol: TCP}
    {{- end }}
# where a pod gets its identity in a cloud: EC2, EKS Pod Identity, GKE
- to:
    - ipBlock: {cidr: 169.254.0.0/16}
  ports:
    - {port: 80, protocol: TCP}
    - {port: 988, protocol: TCP}
{{- with .Values.networkPolicy.extraEgress }}
{{ toYaml . }}
{{- end }}
{{- end }}
