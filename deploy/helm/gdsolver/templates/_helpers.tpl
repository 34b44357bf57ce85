{{- /* Names, labels and what all pods share. */ -}}

{{- define "gdsolver.name" -}}
{{- if contains "gdsolver" .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-gdsolver" .Release.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end -}}

{{- /* What tells one release's pods of a part from all others: (list $ "gateway"). */ -}}
{{- define "gdsolver.selector" -}}
app.kubernetes.io/name: gdsolver
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "gdsolver.labels" -}}
{{ include "gdsolver.selector" . }}
app.kubernetes.io/version: {{ (index . 0).Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ (index . 0).Release.Service }}
helm.sh/chart: {{ printf "%s-%s" (index . 0).Chart.Name (index . 0).Chart.Version }}
{{- end -}}

{{- define "gdsolver.image" -}}
{{- $values := (index . 0).Values.image -}}
{{ with $values.registry }}{{ trimSuffix "/" . }}/{{ end }}gdsolver-{{ index . 1 }}:{{ $values.tag | default (index . 0).Chart.AppVersion }}
{{- end -}}

{{- define "gdsolver.secret" -}}
{{ .Values.auth.existingSecret | default (include "gdsolver.name" .) }}
{{- end -}}

{{- /* Without enableServiceLinks: false a Service called gdsolver would set GDSOLVER_PORT to tcp://... */ -}}
{{- define "gdsolver.pod" -}}
enableServiceLinks: false
automountServiceAccountToken: false
{{- with (index . 0).Values.image.pullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
{{- $part := index (index . 0).Values (index . 1) }}
{{- with $part.nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with $part.tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "gdsolver.confined" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "gdsolver.env" -}}
- name: GDSOLVER_REDIS_URL
  valueFrom: {secretKeyRef: {name: {{ include "gdsolver.secret" . }}, key: GDSOLVER_REDIS_URL}}
{{- range $name, $value := .Values.settings }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end -}}
