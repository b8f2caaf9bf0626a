{{- define "modelramp.labels" -}}
app.kubernetes.io/name: modelramp
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "modelramp.selector" -}}
app.kubernetes.io/name: modelramp
app.kubernetes.io/component: operator
{{- end }}

{{- define "modelramp.config" -}}
serverImage: {{ .Values.serverImage | quote }}
pollInterval: {{ .Values.pollInterval }}
lookInterval: {{ .Values.lookInterval }}
trafficTTL: {{ .Values.trafficTTL }}
scrape: {{ .Values.scrape }}
logFormat: {{ .Values.logFormat }}
watchNamespaces: {{ .Values.watchNamespaces | toJson }}
rollouts: {{ .Values.rollouts | toJson }}
freezes: {{ .Values.freezes | toJson }}
notifications: {{ .Values.notifications | toJson }}
approvals: {{ .Values.approvals | toJson }}
prometheus: {{ .Values.prometheus | toJson }}
registries:
  {{- .Values.registries | toYaml | nindent 2 }}
{{- end }}
