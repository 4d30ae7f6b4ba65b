package main

import (
	"strings"
	"testing"
)

// original is the Options part of the Python original's --help, blanks aside.
const original = `
-h, --help show this help message and exit
-r REGISTRATOR, --registrator=REGISTRATOR URL where registrator publishes services, e.g. "etcd://localhost:4001/services"
-m MARATHON, --marathon=MARATHON Marathon URL to query, e.g. "http://localhost:8080/"
-c CALLBACK, --marathon-callback=CALLBACK URL to listen for Marathon HTTP callbacks
-v, --verbose Increase verbosity
-i INTERVAL, --refresh-interval=INTERVAL Polling interval when using non-event capable backends [default: 60]
-e, --expose-host Expose services running in net=host mode. May cause port collisions when this container is also run in net=host mode [default: False]
--pen-template=PENTEMPLATE Template pen proxy config file [default: /etc/pen/pen.cfg.tpl]
--pen-servers=PENSERVERS Max number of backend servers for each pen service [default: 32]
--pen-clients=PENCLIENTS Max number of pen client connections [default: 8192]
--pen-user=PENUSER User to run pen proxy as [default: pen]
--haproxy Use HAproxy for TCP services [default: False]
--haproxy-start=HAPROXYSTART Command to start HAproxy [default: /etc/init.d/haproxy start]
--haproxy-reload=HAPROXYRELOAD Command to reload HAproxy [default: /etc/init.d/haproxy reload]
--haproxy-config=HAPROXYCONFIG HAproxy config file to write [default: /etc/haproxy/haproxy.cfg]
--haproxy-template=HAPROXYTEMPLATE Template HAproxy config file [default: /etc/haproxy/haproxy.cfg.tpl]
`

func TestHelpHasTheOriginalsOptionsInItsWordsAndOrder(t *testing.T) {
	rest := strings.Join(strings.Fields(helpText()), " ")
	for line := range strings.Lines(strings.TrimSpace(original)) {
		_, after, found := strings.Cut(rest, strings.TrimSpace(line))
		if !found {
			t.Fatalf("not in the help, or not in the original's order: %s", line)
		}
		rest = after
	}
}

func TestHelpFitsATerminalAndHasEveryOption(t *testing.T) {
	help := helpText()
	for line := range strings.Lines(help) {
		if len(strings.TrimRight(line, "\n")) > 80 {
			t.Errorf("longer than 80: %s", line)
		}
	}
	for _, o := range options() {
		if !strings.Contains(help, "--"+o.name) || !strings.Contains(help, o.env) {
			t.Errorf("--%s or its environment %q is missing", o.name, o.env)
		}
	}
	for name := range (program{}).commands() {
		if !strings.Contains(help, "\n  "+name) {
			t.Errorf("the command %s is missing", name)
		}
	}
}
