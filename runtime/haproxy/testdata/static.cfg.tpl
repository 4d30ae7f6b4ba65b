global
    maxconn {{.MaxConn}}
    stats socket {{.Socket}} mode 600 level admin
defaults
    timeout client 30s
    timeout server 30s
    timeout connect 3s
{{range .Services}}{{template "service" .}}
{{end}}
{{- define "service"}}
listen {{.Name}}
    bind {{.Bind}}
    mode {{.Mode}}
{{- if eq .Mode "tcp"}}
    balance source
{{- end}}
{{- with .TimeoutClient}}
    timeout client {{.}}
{{- end}}
{{- range .Servers}}
    server {{.Name}} {{.Address}} weight {{.Weight}}{{with .MaxConn}} maxconn {{.}}{{end}}{{if .Check}} check{{end}}
{{- end}}
{{end}}
