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
frontend {{.Name}}
    bind {{.Bind}}
    mode {{.Mode}}
{{- with .TimeoutClient}}
    timeout client {{.}}
{{- end}}
    use_backend {{.Name}}.b if { src 127.0.0.9 }
    default_backend {{.Name}}.a
backend {{.Name}}.a
    mode {{.Mode}}
{{- range .Servers}}
    server {{.Name}} {{.Address}} send-proxy weight {{.Weight}}{{with .MaxConn}} maxconn {{.}}{{end}}{{if .Check}} check inter 9s{{end}}
{{- end}}
backend {{.Name}}.b
    mode {{.Mode}}
{{- range .Servers}}
    server {{.Name}} {{.Address}}{{if .Check}} check{{end}}
{{- end}}
    server sorry 127.0.0.1:1 backup
{{end}}
