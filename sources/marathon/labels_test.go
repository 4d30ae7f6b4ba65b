package marathon

import "testing"

func TestLabelsOfAPort(t *testing.T) {
	app := func(labels string) string {
		return `{"id":"/a","version":"v1","portDefinitions":[{"port":8300},{"port":8301,"protocol":"udp"}],"labels":{` + labels + `},
			"tasks":[{"id":"a.1","host":"10.0.0.7","ports":[31000,31001],"version":"v1"}]}`
	}
	const p0, p1 = `"com.meltwater.proxymatic.port.0.`, `"com.meltwater.proxymatic.port.1.`
	const second = "8301/udp a mode=tcp source=marathon\n  10.0.0.7:31001 check on-host\n"
	const plain = "\n8300/tcp a mode=tcp source=marathon\n  10.0.0.7:31000 check on-host\n" + second
	bad := func(name, label, want string) routeCase {
		return routeCase{name: name, apps: app(p0 + label), want: plain + "! /a: label com.meltwater.proxymatic.port.0." + want + "; the default is used\n"}
	}
	checkRoutes(t, []routeCase{
		{name: "all of them", apps: app(p0 + `servicePort":"80",` + p0 + `weight":"1",` + p0 + `maxconn":" 10 ",` + p0 + `mode":"http",` +
			p0 + `timeout.client":"1.5",` + p0 + `timeout.server":"3600"`),
			want: "\n80/tcp a mode=http source=marathon timeout.client=1.5s timeout.server=1h0m0s\n  10.0.0.7:31000 weight=1 maxconn=10 check on-host\n" + second},
		{name: "numbers are taken, null and empty are missing", apps: app(p0 + `weight":1000,` + p0 + `maxconn":null,` + p0 + `mode":"","other":{"x":[1]}`),
			want: "\n8300/tcp a mode=tcp source=marathon\n  10.0.0.7:31000 weight=1000 check on-host\n" + second},
		{name: "maxconn is shared by the group, rounded up", group: 4, apps: app(p0 + `maxconn":"10",` + p1 + `maxconn":"1"`),
			want: "\n8300/tcp a mode=tcp source=marathon\n  10.0.0.7:31000 maxconn=3 check on-host\n" +
				"8301/udp a mode=tcp source=marathon\n  10.0.0.7:31001 maxconn=1 check on-host\n"},
		{name: "http on udp", apps: app(p1 + `mode":"http"`),
			want: plain + `! /a: label com.meltwater.proxymatic.port.1.mode is "http": a udp port cannot be proxied as http; the default is used` + "\n"},
		bad("service port 0", `servicePort":"0"`, `servicePort is "0": want a number from 1 to 65535`),
		bad("service port no number", `servicePort":"http"`, `servicePort is "http": want a number from 1 to 65535`),
		bad("weight 0", `weight":"0"`, `weight is "0": want a number from 1 to 1000`),
		bad("weight 1001", `weight":"1001"`, `weight is "1001": want a number from 1 to 1000`),
		bad("maxconn 0", `maxconn":"0"`, `maxconn is "0": want a number from 1 to 2147483647`),
		bad("maxconn hostile", `maxconn":"1\nserver x"`, `maxconn is "1\nserver x": want a number from 1 to 2147483647`),
		bad("mode", `mode":"HTTP/2"`, `mode is "HTTP/2": want tcp or http`),
		bad("timeout of another unit", `timeout.client":"60s"`, `timeout.client is "60s": want seconds from 0.001 to 2147483`),
		bad("timeout NaN", `timeout.server":"NaN"`, `timeout.server is "NaN": want seconds from 0.001 to 2147483`),
		bad("timeout an object", `timeout.server":{"a":1}`, `timeout.server is "{\"a\":1}": want seconds from 0.001 to 2147483`),
	})
}

func TestAServicePortLabelServesAppsWithAnAddressPerTask(t *testing.T) {
	checkRoutes(t, []routeCase{{name: "label", apps: `{"id":"/ip","version":"v1","networks":[{"mode":"container"}],
		"container":{"portMappings":[{"containerPort":80,"servicePort":0},{"containerPort":0,"servicePort":8301}]},"labels":{"com.meltwater.proxymatic.port.0.servicePort":"8300"},
		"tasks":[{"id":"ip.1","host":"10.0.0.7","ports":[],"state":"TASK_RUNNING","version":"v1","ipAddresses":[null,{"ipAddress":"junk"},{"ipAddress":"192.168.1.1"}]}]}`,
		want: `
8300/tcp ip mode=tcp source=marathon
  192.168.1.1:80 check
8301/tcp ip mode=tcp source=marathon
! ip.1: port 1 of the task is left out: port 0: want 1 to 65535
`}})
}
