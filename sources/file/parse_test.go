package file

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// text gives what was parsed in the form that the tables below are written in.
func text(services []*catalog.Service, problems []catalog.Problem, err error) string {
	out := catalog.Format(services)
	for _, p := range problems {
		out += fmt.Sprintf("! %s: %s: %s\n", p.Source, p.Subject, p.Reason)
	}
	if err != nil {
		out += "error: " + err.Error() + "\n"
	}
	return out
}

const wantKeys = "want name, port, protocol, mode, source, timeouts, servers"

func TestParse(t *testing.T) {
	for _, c := range []struct{ rule, in, want string }{
		{"a list", "- name: web\n  port: 80\n  servers:\n  - ip: 10.0.0.1\n    port: 31000\n",
			"80/tcp web mode=tcp source=file\n  10.0.0.1:31000 check\n"},
		{"everything that can be said", "- {name: web, port: 80, protocol: tcp, mode: http, source: marathon, timeouts: {client: 5, server: 1.5}, servers: [{ip: '2001:db8::1', port: 1, weight: 7, maxconn: 9}]}",
			"80/tcp web mode=http source=file timeout.client=5s timeout.server=1.5s\n  [2001:db8::1]:1 weight=7 maxconn=9 check\n"},
		{"a list under services, problems beside it", `{"services":[{"name":"web","port":80,"servers":[]}],"problems":[{"source":"x"}]}`,
			"80/tcp web mode=tcp source=file\n"},
		{"JSON with tabs", "[\n\t{\n\t\t\"name\":\t\"web\",\n\t\t\"port\": 80\n\t}\n]\n", "80/tcp web mode=tcp source=file\n"},
		{"canonical order", "- {name: b, port: 2}\n- {name: u, port: 1, protocol: udp}\n- {name: a, port: 1, servers: [{ip: 10.0.0.2, port: 1}, {ip: 10.0.0.1, port: 1}]}",
			"1/tcp a mode=tcp source=file\n  10.0.0.1:1 check\n  10.0.0.2:1 check\n1/udp u mode=tcp source=file\n2/tcp b mode=tcp source=file\n"},
		{"anchors and merges", "- &w {name: a, port: 1}\n- {<<: *w, port: 2}", "1/tcp a mode=tcp source=file\n2/tcp a mode=tcp source=file\n"},
		{"no services", "[]", ""},
		{"no services under the key", "services: []\n", ""},

		{"zero bytes", "", "error: the file is empty; write [] for no services\n"},
		{"a comment only", "# later\n", "error: the file is empty; write [] for no services\n"},
		{"null under the key", "services:\n", "error: want a list of services, or a list under the key services\n"},
		{"a word", "web", "error: want a list of services, or a list under the key services\n"},
		{"another key", "service: []", "error: unknown key \"service\": want services\n"},
		{"services twice", "services: []\nservices: []\n", "error: the key services is there twice\n"},
		{"no services key", "problems: []", "error: the key services is missing\n"},
		{"two documents", "[]\n---\n[]\n", "error: want one YAML document, not several\n"},
		{"half a document", `[{"name":"web","port":80`, "error: yaml: line 1: did not find expected ',' or '}'\n"},

		{"a broken entry costs only itself", "- {name: a, port: 1}\n- {name: b, port: 70000}\n- {name: c, port: 3}",
			"1/tcp a mode=tcp source=file\n3/tcp c mode=tcp source=file\n! file: services[1]: port 70000: want 1 to 65535\n"},
		{"an unknown key", "- {name: a, port: 1, prot: udp}", "! file: services[0]: unknown key \"prot\": " + wantKeys + "\n"},
		{"an unknown key of a server", "- {name: a, port: 1, servers: [{ip: 10.0.0.1, port: 1}, {ip: 10.0.0.1, port: 1, wait: 1}]}",
			"! file: services[0]: servers[1]: unknown key \"wait\": want ip, port, weight, maxconn\n"},
		{"an unknown key of timeouts", "- {name: a, port: 1, timeouts: {connect: 1}}",
			"! file: services[0]: timeouts: unknown key \"connect\": want client, server\n"},
		{"keys are case-sensitive", "- {name: a, Port: 1}", "! file: services[0]: unknown key \"Port\": " + wantKeys + "\n"},
		{"no name", "- {port: 1}", "! file: services[0]: name is missing\n"},
		{"a name with a line break", `- {name: "a\nb", port: 1}`, "! file: services[0]: name \"a\\nb\": has a character that cannot be printed\n"},
		{"an entry that is a word", "- web", "! file: services[0]: want a service: keys and values such as name, port and servers\n"},
		{"an empty entry", "-", "! file: services[0]: name is missing\n"},
		{"a port that is text", `- {name: a, port: "80"}`, "! file: services[0]: yaml: unmarshal errors:\n  line 1: cannot unmarshal !!str `80` into int\n"},
		{"a host name for an address", "- {name: a, port: 1, servers: [{ip: localhost, port: 1}]}",
			"! file: services[0]: servers[0]: ip \"localhost\": want the IPv4 or IPv6 address of a host\n"},
		{"a timeout without end", "- {name: a, port: 1, timeouts: {client: .nan}}", "! file: services[0]: timeouts: want seconds, from 0 to 2147483\n"},
		{"http over udp", "- {name: a, port: 1, protocol: udp, mode: http}", "! file: services[0]: mode http: want tcp for protocol udp\n"},
		{"of two on one port the first stays", "- {name: b, port: 1}\n- {name: a, port: 1}\n- {name: a, port: 1, protocol: udp}",
			"1/tcp b mode=tcp source=file\n1/udp a mode=tcp source=file\n! file: services[1]: port 1/tcp is taken by services[0]; give one of them another port\n"},
	} {
		t.Run(c.rule, func(t *testing.T) {
			if got := text(parse([]byte(c.in))); got != c.want {
				t.Errorf("parse(%q)\ngot\n%s\nwant\n%s", c.in, got, c.want)
			}
		})
	}
}

// What `services --output json` prints on one host can be the services file of another.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{"[]", "services: []", "- {name: a, port: 1, servers: [{ip: '::1', port: 1, weight: 3}]}",
		`[{"name":"a","port":1,"timeouts":{"client":1e9}}]`, "- &a {name: a, port: 1}\n- *a", "- {<<: {name: a}, port: 0x10}",
		"- {name: a, port: 1, timeouts: {client: .nan, server: -.inf}}", "a: &a [*a]", "---\n...\n---", "\t[]"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		before := bytes.Clone(in)
		services, problems, err := parse(in)
		if !bytes.Equal(before, in) {
			t.Fatal("the input was written to")
		}
		if err != nil && (services != nil || problems != nil) {
			t.Fatalf("an error with services: %v", err)
		}
		for _, p := range problems {
			if !strings.HasPrefix(p.Subject, "services[") || p.Reason == "" {
				t.Fatalf("problem %+v: want the place and a reason", p)
			}
		}
		printed, jsonErr := json.Marshal(catalog.ListJSON(services))
		if jsonErr != nil {
			t.Fatal(jsonErr)
		}
		again, problems, err2 := parse(printed)
		if err == nil && (err2 != nil || len(problems) != 0 || !reflect.DeepEqual(again, services)) {
			t.Fatalf("printed %s\nread back as\n%swant\n%s", printed, text(again, problems, err2), text(services, nil, nil))
		}
	})
}
