{{- /* An object of manifests/, in the namespace of the release: (dict "root" $ "file" NAME). */ -}}
{{- define "weir.object" -}}
{{- $object := .root.Files.Get (printf "manifests/%s.yaml" .file) | fromYaml -}}
{{- if $object.metadata.namespace -}}
{{- $_ := set $object.metadata "namespace" .root.Release.Namespace -}}
{{- end -}}
{{- range $object.subjects -}}
{{- $_ := set . "namespace" $.root.Release.Namespace -}}
{{- end -}}
{{- toYaml $object -}}
{{- end -}}

{{- /* The full name of an image: (dict "root" $ "name" NAME). */ -}}
{{- define "weir.image" -}}
{{- $image := .root.Values.image -}}
{{- if $image.registry }}{{ trimSuffix "/" $image.registry }}/{{ end }}{{ .name }}:{{ $image.tag | default .root.Chart.AppVersion -}}
{{- end -}}

{{- /* A webhook configuration whose service is in the namespace of the release: (dict "root" $ "file" NAME "values" VALUES). */ -}}
{{- define "weir.webhook" -}}
{{- $object := include "weir.object" . | fromYaml -}}
{{- range $object.webhooks -}}
{{- $_ := set .clientConfig.service "namespace" $.root.Release.Namespace -}}
{{- $_ := set . "timeoutSeconds" $.values.timeoutSeconds -}}
{{- end -}}
{{- toYaml $object -}}
{{- end -}}
