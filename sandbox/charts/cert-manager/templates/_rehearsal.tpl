{{- define "rehearsal.annotations" -}}
prefect-linkerd.dev/rehearsal: "true"
{{- end -}}
