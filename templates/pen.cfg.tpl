# {{.Name}}: written by proxymatic; what is changed here by hand is lost.
{{- if .HTTP}}
http
{{- end}}
{{range .Servers -}}
{{.Line}}
{{end -}}
