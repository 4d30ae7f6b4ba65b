{{- /* The built-in haproxy.cfg. What a template is given is documented in templates/haproxy.go and in the README. */ -}}
global
    maxconn {{.MaxConn}}
{{- with .User}}
    user {{.}}
{{- end}}
{{- with .Group}}
    group {{.}}
{{- end}}
    stats socket {{.Socket}} mode 600 level admin expose-fd listeners
    no strict-limits
    spread-checks 5
    # Old workers end by themselves when their last connection does, and at the latest after this time.
    hard-stop-after {{.HardStop}}

defaults
    mode tcp
    balance leastconn
    timeout connect 3s
    timeout client 300s
    timeout server 300s
    timeout tunnel 3600s
    timeout queue 30s
    timeout check 5s
    retries 3
    option redispatch 1
    option tcpka

{{range .Services}}{{template "service" .}}
{{end}}

{{- define "service"}}
listen {{.Name}}
    bind {{.Bind}}
    mode {{.Mode}}
    maxconn {{.MaxConn}}
{{- if .HTTP}}
    option forwardfor if-none
    timeout http-request 15s
    timeout http-keep-alive 60s
{{- end}}
{{- with .TimeoutClient}}
    timeout client {{.}}
{{- end}}
{{- with .TimeoutServer}}
    timeout server {{.}}
{{- end}}
{{- range .Servers}}
    {{.Line}}
{{- end}}
{{end}}
