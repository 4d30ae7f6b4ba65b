package marathon

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meltwater/proxymatic/sources/catalog"
	"github.com/meltwater/proxymatic/sources/hostname"
)

// routeCase is an answer to GET /v2/apps and what it means. Lines of want that begin with ! are Problems.
type routeCase struct {
	name     string
	apps     string            // what stands in {"apps":[...]}
	versions map[string]string // "/app version" to the definition
	group    int
	want     string
}

// hosts is what the tests' name service says.
func hosts() map[string]hostname.Answer {
	return map[string]hostname.Answer{
		"agent7":      {Addr: netip.MustParseAddr("10.0.0.7")},
		"agent8":      {Addr: netip.MustParseAddr("10.0.0.8")},
		"agent6":      {Addr: netip.MustParseAddr("2001:db8::6")},
		"gone.domain": {Reason: `its host "gone.domain" has no address`},
	}
}

func (c routeCase) route(t *testing.T) string {
	t.Helper()
	apps, problems, err := parseApps([]byte(`{"apps":[` + c.apps + `]}`))
	if err != nil {
		t.Fatalf("parse %s: %v", c.apps, err)
	}
	w := world{source: Name, hosts: hosts(), groupSize: max(c.group, 1), versions: make(map[versionKey]versionAnswer)}
	for name, text := range c.versions {
		id, version, _ := strings.Cut(name, " ")
		d, err := parseDefinition([]byte(text))
		if err != nil {
			t.Fatalf("parse definition %s: %v", text, err)
		}
		w.versions[versionKey{id, version}] = versionAnswer{definition: d}
	}
	found, more := services(apps, w)
	return canonical(found, sortProblems(append(problems, more...)))
}

// services gives what a fleet of these apps offers.
func services(apps []app, w world) ([]*catalog.Service, []catalog.Problem) {
	f := newFleet(w.source, w.groupSize)
	f.versions, f.hosts = w.versions, w.hosts
	if w.beliefs != nil {
		f.beliefs = w.beliefs
	}
	for _, a := range apps {
		f.set(entry{app: a}, w.now)
	}
	f.beliefs.forget(w.now)
	return f.board.all(), f.problems()
}

func canonical(found []*catalog.Service, problems []catalog.Problem) string {
	text := catalog.Format(found)
	for _, p := range problems {
		text += fmt.Sprintf("! %s: %s\n", p.Subject, p.Reason)
	}
	return text
}

func checkRoutes(t *testing.T, cases []routeCase) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(strings.TrimLeft(c.want, "\n"), c.route(t)); diff != "" {
				t.Errorf("routes of %s (-want +got):\n%s", c.apps, diff)
			}
		})
	}
}

func TestEachGenerationsShapesAreRead(t *testing.T) {
	checkRoutes(t, []routeCase{
		{name: "0.8: no state, startedAt says that it runs, no versionInfo", apps: `
			{"id":"/shop/cart","version":"2015-06-02T09:14:07.331Z","ports":[8300,8301],"container":null,"healthChecks":[],"labels":{},
			 "tasks":[{"id":"shop_cart.1","host":"10.0.0.7","ports":[31002,31003],"startedAt":"2015-06-02T09:14:11.001Z",
			           "stagedAt":"2015-06-02T09:14:08Z","version":"2015-06-02T09:14:07.331Z"},
			          {"id":"shop_cart.2","host":"10.0.0.8","ports":[31002,31003],"startedAt":null,"stagedAt":"2015-06-02T09:14:08Z","version":"2015-06-02T09:14:07.331Z"},
			          {"id":"shop_cart.3","host":null,"ports":[],"startedAt":null,"stagedAt":null,"version":"1970-01-01T00:00:00.000Z"}]}`,
			want: `
8300/tcp cart.shop mode=tcp source=marathon
  10.0.0.7:31002 check on-host
8301/tcp cart.shop mode=tcp source=marathon
  10.0.0.7:31003 check on-host
`},
		{name: "0.11: bridge mappings under docker, agent by name", apps: `
			{"id":"/web","version":"v1","ports":[10000,10001],"container":{"type":"DOCKER","volumes":[],"docker":{"image":"i","network":"BRIDGE",
			 "portMappings":[{"containerPort":80,"hostPort":0,"servicePort":10000,"protocol":"tcp"},{"containerPort":53,"hostPort":0,"servicePort":10001,"protocol":"udp"}]}},
			 "healthChecks":[{"protocol":"HTTP"}],"tasks":[{"id":"web.1","host":"agent7","ports":[31000,31001],"startedAt":"2015-06-02T09:14:11.001Z","version":"v1",
			 "healthCheckResults":[{"alive":true,"consecutiveFailures":0,"firstSuccess":"x","lastFailure":null,"lastSuccess":"y","taskId":"web.1"}]}]}`,
			want: `
10000/tcp web mode=tcp source=marathon
  10.0.0.7:31000 on-host
10001/udp web mode=tcp source=marathon
  10.0.0.7:31001 on-host
`},
		{name: "0.8: bridge without portMappings takes the app's ports", apps: `
			{"id":"/web","version":"v1","ports":[10000],"container":{"docker":{"network":"BRIDGE","portMappings":null}},
			 "tasks":[{"id":"web.1","host":"agent7","ports":[31000],"startedAt":"x","version":"v1"}]}`,
			want: `
10000/tcp web mode=tcp source=marathon
  10.0.0.7:31000 check on-host
`},
		{name: "1.3: portDefinitions beside ports, a reserved task without version and ports", apps: `
			{"id":"/p/s/web","version":"v1","ports":[10000,10001],"portDefinitions":[{"port":10000,"protocol":"tcp","labels":{}},{"port":10001,"protocol":"udp","name":"dns","labels":{}}],
			 "ipAddress":null,"tasks":[{"id":"w.1","host":"10.0.0.7","ports":[31000,31001],"state":"TASK_RUNNING","startedAt":"x","version":"v1","slaveId":"s"},
			 {"id":"w.2","host":"10.0.0.8","slaveId":"s"}]}`,
			want: `
10000/tcp web.s.p mode=tcp source=marathon
  10.0.0.7:31000 check on-host
10001/udp web.s.p mode=tcp source=marathon
  10.0.0.7:31001 check on-host
`},
		{name: "1.3: IP per task without service ports is no problem", apps: `
			{"id":"/ip","version":"v1","ports":[],"portDefinitions":[],"ipAddress":{"groups":[],"discovery":{"ports":[{"number":80,"name":"http","protocol":"tcp"}]}},
			 "tasks":[{"id":"ip.1","host":"10.0.0.7","ports":[],"state":"TASK_RUNNING","version":"v1","ipAddresses":[{"ipAddress":"192.168.1.1","protocol":"IPv4"}]}]}`,
			want: ``},
		{name: "1.4: docker USER network, a mapping with and one without host port", apps: `
			{"id":"/u","version":"v1","ports":[10000,10001],"ipAddress":{"networkName":"n"},"container":{"docker":{"network":"USER",
			 "portMappings":[{"containerPort":80,"servicePort":10000,"protocol":"tcp"},{"containerPort":81,"hostPort":0,"servicePort":10001,"protocol":"tcp","name":"x","labels":{}}]}},
			 "tasks":[{"id":"u.1","host":"10.0.0.7","ports":[31000],"state":"TASK_RUNNING","version":"v1","ipAddresses":[{"ipAddress":"192.168.1.1"}]}]}`,
			want: `
10000/tcp u mode=tcp source=marathon
  192.168.1.1:80 check
10001/tcp u mode=tcp source=marathon
  10.0.0.7:31000 check on-host
`},
		{name: "1.5: networks host, no ports key", apps: `
			{"id":"/h","version":"v1","networks":[{"mode":"host"}],"portDefinitions":[{"port":10000,"protocol":"udp,tcp"}],
			 "tasks":[{"id":"h.1","host":"10.0.0.7","ports":[10000],"state":"TASK_RUNNING","version":"v1"}]}`,
			want: `
10000/tcp h mode=tcp source=marathon
  10.0.0.7:10000 check on-host
10000/udp h mode=tcp source=marathon
  10.0.0.7:10000 check on-host
`},
		{name: "1.8: bridge mappings without docker, own address never used", apps: `
			{"id":"/b","version":"v1","networks":[{"mode":"container/bridge"}],"container":{"type":"MESOS","portMappings":[{"containerPort":80,"servicePort":10000}]},
			 "tasks":[{"id":"b.instance-1._app.1","host":"agent6","ports":[31000],"state":"TASK_RUNNING","version":"v1","servicePorts":[],"healthCheckResults":[],
			 "ipAddresses":[{"ipAddress":"172.17.0.2","protocol":"IPv4"}],"localVolumes":[],"region":"r","zone":"z","role":"*"}]}`,
			want: `
10000/tcp b mode=tcp source=marathon
  [2001:db8::6]:31000 check on-host
`},
		{name: "1.8: container network, [none, 0] pairs the one host port with the second mapping", apps: `
			{"id":"/c","version":"v1","networks":[{"mode":"container","name":"n"}],"container":{"portMappings":[{"containerPort":80,"servicePort":10000},
			 {"containerPort":81,"hostPort":0,"servicePort":10001},{"containerPort":82,"hostPort":null,"servicePort":0}]},
			 "tasks":[{"id":"c.1","host":"agent7","ports":[31000],"state":"TASK_RUNNING","version":"v1",
			 "ipAddresses":[{"ipAddress":"2001:db8::1","protocol":"IPv6"},{"ipAddress":"192.168.1.1","protocol":"IPv4"},{"ipAddress":"192.168.1.0","protocol":"IPv4"}]},
			 {"id":"c.2","host":"agent7","ports":[31001],"state":"TASK_RUNNING","version":"v1","ipAddresses":[{"ipAddress":"2001:db8::1","protocol":"IPv6"}]},
			 {"id":"c.3","host":"agent7","ports":[31002],"state":"TASK_RUNNING","version":"v1"}]}`,
			want: `
10000/tcp c mode=tcp source=marathon
  192.168.1.1:80 check
  [2001:db8::1]:80 check
10001/tcp c mode=tcp source=marathon
  10.0.0.7:31000 check on-host
  10.0.0.7:31001 check on-host
  10.0.0.7:31002 check on-host
! c.3: port 0 of the task is left out: it has no host port, and the task has no address of its own yet
`},
		{name: "an older habit for both protocols: two mappings of one service port", apps: `
			{"id":"/dns","version":"v1","networks":[{"mode":"container/bridge"}],"container":{"docker":{"image":"i"},"portMappings":[
			 {"containerPort":53,"hostPort":0,"servicePort":53,"protocol":"udp"},{"containerPort":53,"hostPort":0,"servicePort":53,"protocol":"tcp"}]},
			 "tasks":[{"id":"d.1","host":"10.0.0.7","ports":[31000,31001],"state":"TASK_RUNNING","version":"v1"}]}`,
			want: `
53/tcp dns mode=tcp source=marathon
  10.0.0.7:31001 check on-host
53/udp dns mode=tcp source=marathon
  10.0.0.7:31000 check on-host
`},
	})
}

// oneTask is an app /a with a checked port 8300 and one task with the given fields beside the usual ones.
func oneTask(fields string) string {
	return `{"id":"/a","version":"v1","ports":[8300],"healthChecks":[{},{}],"tasks":[{"id":"a.1","host":"10.0.0.7","ports":[31000],"version":"v1"` + fields + `}]}`
}

func TestWhichTasksAreRoutable(t *testing.T) {
	const in = "\n8300/tcp a mode=tcp source=marathon\n  10.0.0.7:31000 on-host\n"
	const out = "\n8300/tcp a mode=tcp source=marathon\n"
	const alive = `,"healthCheckResults":[{"alive":true},{"alive":true}]`
	const running = `,"state":"TASK_RUNNING"`
	cases := []routeCase{
		{name: "running and alive", apps: oneTask(running + alive), want: in},
		{name: "no state, startedAt missing", apps: oneTask(alive), want: in},
		{name: "no state, started", apps: oneTask(`,"startedAt":"x"` + alive), want: in},
		{name: "no state, startedAt null", apps: oneTask(`,"startedAt":null` + alive), want: out},
		{name: "state null counts as missing", apps: oneTask(`,"state":null,"startedAt":null` + alive), want: out},
		{name: "running goes by the state alone", apps: oneTask(running + `,"startedAt":null` + alive), want: in},
		{name: "checks, no result", apps: oneTask(running), want: out},
		{name: "checks, results null", apps: oneTask(running + `,"healthCheckResults":null`), want: out},
		{name: "checks, results hold only null", apps: oneTask(running + `,"healthCheckResults":[null]`), want: out},
		{name: "some results missing, the others alive", apps: oneTask(running + `,"healthCheckResults":[{"alive":true}]`), want: in},
		{name: "one result null, the other alive", apps: oneTask(running + `,"healthCheckResults":[null,{"alive":true}]`), want: in},
		{name: "one dead, one alive", apps: oneTask(running + `,"healthCheckResults":[{"alive":true},{"alive":false}]`), want: out},
		{name: "grace period entry", apps: oneTask(running + `,"healthCheckResults":[{"alive":false,"consecutiveFailures":0}]`), want: out},
	}
	for _, state := range []string{"STAGING", "STARTING", "KILLING", "FINISHED", "FAILED", "KILLED", "ERROR", "LOST", "UNREACHABLE", "GONE",
		"GONE_BY_OPERATOR", "DROPPED", "UNKNOWN", "SOMETHING_NEW"} {
		cases = append(cases, routeCase{name: state, apps: oneTask(`,"state":"TASK_` + state + `"` + alive), want: out})
	}
	checkRoutes(t, cases)
}

func TestReadinessCountsWhenThereIsAResult(t *testing.T) {
	checkRoutes(t, []routeCase{{name: "not ready is out, no result and ready are in", apps: `
		{"id":"/a","version":"v1","ports":[8300],"readinessChecks":[{}],
		 "readinessCheckResults":[{"name":"r","taskId":"a.1","ready":false},{"name":"r","taskId":"a.2","ready":true},{"name":"r","taskId":"a.3"}],
		 "tasks":[{"id":"a.1","host":"10.0.0.1","ports":[31000],"version":"v1"},{"id":"a.2","host":"10.0.0.2","ports":[31000],"version":"v1"},
		          {"id":"a.3","host":"10.0.0.3","ports":[31000],"version":"v1"},{"id":"a.4","host":"10.0.0.4","ports":[31000],"version":"v1"}]}`,
		want: `
8300/tcp a mode=tcp source=marathon
  10.0.0.2:31000 check on-host
  10.0.0.3:31000 check on-host
  10.0.0.4:31000 check on-host
`}})
}

func TestTasksOfOlderVersions(t *testing.T) {
	const tasks = `"tasks":[
		{"id":"a.old","host":"10.0.0.1","ports":[31001],"state":"TASK_RUNNING","version":"2016-01-01T00:00:00.000Z","healthCheckResults":[{"alive":true}]},
		{"id":"a.new","host":"10.0.0.2","ports":[31002,31003],"state":"TASK_RUNNING","version":"2016-02-01T00:00:00.000Z"}]`
	const now = `{"id":"/a","version":"2016-02-02T00:00:00.000Z","ports":[9000,8300],"labels":{"com.meltwater.proxymatic.port.1.mode":"http"},
		"versionInfo":{"lastScalingAt":"2016-02-02T00:00:00.000Z","lastConfigChangeAt":"2016-02-01T00:00:00.000Z"},`
	const old = "/a 2016-01-01T00:00:00.000Z"
	checkRoutes(t, []routeCase{
		{name: "pair by their own definition; a scaling is no older version", apps: now + tasks + `}`,
			versions: map[string]string{old: `{"id":"/a","ports":[8300],"healthChecks":[{}],"labels":{"com.meltwater.proxymatic.port.0.weight":"7"}}`},
			want: `
8300/tcp a mode=http source=marathon
  10.0.0.1:31001 weight=7 on-host
  10.0.0.2:31003 check on-host
9000/tcp a mode=tcp source=marathon
  10.0.0.2:31002 check on-host
`},
		{name: "keep a service port that the current definition has no more", apps: now + tasks + `}`,
			versions: map[string]string{old: `{"id":"/a","ports":[7000]}`},
			want: `
7000/tcp a mode=tcp source=marathon
  10.0.0.1:31001 check on-host
8300/tcp a mode=http source=marathon
  10.0.0.2:31003 check on-host
9000/tcp a mode=tcp source=marathon
  10.0.0.2:31002 check on-host
`},
		{name: "obey their own checks and offer nothing when they are out", apps: now + strings.Replace(tasks, "true", "false", 1) + `}`,
			versions: map[string]string{old: `{"id":"/a","ports":[7000],"healthChecks":[{}]}`},
			want: `
8300/tcp a mode=http source=marathon
  10.0.0.2:31003 check on-host
9000/tcp a mode=tcp source=marathon
  10.0.0.2:31002 check on-host
`},
		{name: "are left out with a Problem when nobody knows the version", apps: now + tasks + `}`,
			want: `
8300/tcp a mode=http source=marathon
  10.0.0.2:31003 check on-host
9000/tcp a mode=tcp source=marathon
  10.0.0.2:31002 check on-host
! a.old: the task is left out: the definition of its version 2016-01-01T00:00:00.000Z has its ports, but it was not read
`},
		{name: "before 0.11 every other version is an older one", apps: `{"id":"/a","version":"v2","ports":[8300],
			"tasks":[{"id":"a.1","host":"10.0.0.1","ports":[31001,31002],"startedAt":"x","version":"v1"}]}`,
			versions: map[string]string{"/a v1": `{"id":"/a","ports":[9000,8300]}`},
			want: `
8300/tcp a mode=tcp source=marathon
  10.0.0.1:31002 check on-host
9000/tcp a mode=tcp source=marathon
  10.0.0.1:31001 check on-host
`},
		{name: "a current claim of another app goes before that of an older version", apps: `{"id":"/b","version":"v1","ports":[7000],"tasks":[]},` + now + tasks + `}`,
			versions: map[string]string{old: `{"id":"/a","ports":[7000]}`},
			want: `
7000/tcp b mode=tcp source=marathon
8300/tcp a mode=http source=marathon
  10.0.0.2:31003 check on-host
9000/tcp a mode=tcp source=marathon
  10.0.0.2:31002 check on-host
! /a: 7000/tcp is left out: app /b has that service port
`},
	})
}

func TestWhoOwnsAServicePort(t *testing.T) {
	const task = `"tasks":[{"id":"x","host":"10.0.0.1","ports":[31001],"version":"v1"}]`
	checkRoutes(t, []routeCase{
		{name: "the lowest app id, per protocol", apps: `{"id":"/b","version":"v1","portDefinitions":[{"port":8300,"protocol":"tcp,udp"}],` + task + `},
			{"id":"/a","version":"v1","ports":[8300],"tasks":[]}`,
			want: `
8300/tcp a mode=tcp source=marathon
8300/udp b mode=tcp source=marathon
  10.0.0.1:31001 check on-host
! /b: 8300/tcp is left out: app /a has that service port
`},
		{name: "the first of two ports of one app", apps: `{"id":"/a","version":"v1","ports":[8300,8300],"tasks":[{"id":"x","host":"10.0.0.1","ports":[31001,31002],"version":"v1"}]}`,
			want: `
8300/tcp a mode=tcp source=marathon
  10.0.0.1:31001 check on-host
! /a: port 1 is left out: the app claims 8300/tcp twice; its first port has it
`},
		{name: "the first of two entries of one app", apps: `{"id":"/a","version":"v1","ports":[8300]},{"id":"/a","version":"v1","ports":[8301]}`,
			want: `
8300/tcp a mode=tcp source=marathon
! /a: the app is listed twice; the first one is used
`},
		{name: "nobody, without a service port, with one out of range or of another protocol", apps: `{"id":"/a","version":"v1",
			"portDefinitions":[{"port":0},{"port":70000},{"port":-1},{"port":8300,"protocol":"sctp"},{"port":8301,"protocol":null}],
			"tasks":[{"id":"x","host":"10.0.0.1","ports":[31001,31002,31003,31004,31005],"version":"v1"}]}`,
			want: `
8301/tcp a mode=tcp source=marathon
  10.0.0.1:31005 check on-host
! /a: port 0 is left out: it has no service port
! /a: port 1 is left out: service port 70000: want 1 to 65535
! /a: port 2 is left out: service port -1: want 1 to 65535
! /a: port 3 is left out: protocol "sctp": want tcp, udp or udp,tcp
`},
	})
}

func TestAddressesOfTasks(t *testing.T) {
	task := func(fields string) string {
		return `{"id":"/a","version":"v1","ports":[8300],"tasks":[{"id":"a.1","version":"v1",` + fields + `}]}`
	}
	const none = "\n8300/tcp a mode=tcp source=marathon\n"
	checkRoutes(t, []routeCase{
		{name: "IPv4 in IPv6 is IPv4", apps: task(`"host":"::ffff:10.0.0.7","ports":[31000]`), want: none + "  10.0.0.7:31000 check on-host\n"},
		{name: "no such host", apps: task(`"host":"gone.domain","ports":[31000]`), want: none + `! a.1: port 0 of the task is left out: its host "gone.domain" has no address` + "\n"},
		{name: "host null", apps: task(`"host":null,"ports":[31000]`), want: none + `! a.1: port 0 of the task is left out: its host "" has no known address` + "\n"},
		{name: "any address", apps: task(`"host":"0.0.0.0","ports":[31000]`), want: none + `! a.1: port 0 of the task is left out: 0.0.0.0 is no address of a server` + "\n"},
		{name: "an interface of the agent", apps: task(`"host":"fe80::1%eth0","ports":[31000]`), want: none + `! a.1: port 0 of the task is left out: fe80::1%eth0 is no address of a server` + "\n"},
		{name: "host port 0", apps: task(`"host":"10.0.0.7","ports":[0]`), want: none + `! a.1: port 0 of the task is left out: port 0: want 1 to 65535` + "\n"},
		{name: "host port null", apps: task(`"host":"10.0.0.7","ports":[null]`), want: none + `! a.1: port 0 of the task is left out: port 0: want 1 to 65535` + "\n"},
		{name: "fewer ports than defined", apps: task(`"host":"10.0.0.7","ports":[]`),
			want: none + `! a.1: port 0 of the task is left out: the task has 0 ports, this is the host port 1 of its definition` + "\n"},
		{name: "more ports than defined", apps: task(`"host":"10.0.0.7","ports":[31000,31001]`), want: none + "  10.0.0.7:31000 check on-host\n"},
	})
}

func TestNames(t *testing.T) {
	long := strings.Repeat("é", 200)
	for id, want := range map[string]string{
		"/a/b/c":           "c.b.a",
		"a":                "a",
		"//a//b/":          "b.a",
		"/a.b/c":           "c.a.b",
		"/a b\n#;\\\u0085": `a b#;\`,
		"/" + long:         long[:256],
		"/x" + long:        "x" + long[:254],
	} {
		if got := serviceName(id); got != want {
			t.Errorf("serviceName(%q) = %q, want %q", id, got, want)
		}
	}
}

func TestWhatMustBeAskedBeforeRouting(t *testing.T) {
	apps, _, err := parseApps([]byte(`{"apps":[{"id":"/b","version":"v2","tasks":[
		{"id":"1","host":"agent8","ports":[1],"version":"v2"},{"id":"2","host":"agent7","ports":[1],"version":"v1"},{"id":"3","host":"agent7","ports":[1],"version":"v1"},
		{"id":"4","host":"10.0.0.1","ports":[1],"version":"v0"},{"id":"5","host":"dead","ports":[1],"version":"dead","startedAt":null},{"id":"6","host":"portless","ports":[],"version":"v2"},
		{"id":"7","host":"","ports":[1],"version":"v2"}]},
		{"id":"/a","version":"2016-03-01T00:00:00.000Z","versionInfo":{"lastConfigChangeAt":"2016-02-01T00:00:00.000Z"},"tasks":[
		{"id":"1","host":"::1","ports":[1],"version":"2016-02-01T00:00:00.000Z"},{"id":"2","host":"::1","ports":[1],"version":"2016-01-31T23:59:59.999Z"}]}]}`))
	if err != nil {
		t.Fatal(err)
	}
	wantVersions := []string{"{/a 2016-01-31T23:59:59.999Z}", "{/b v0}", "{/b v1}"}
	var got []string
	for _, key := range versionsNeeded(apps) {
		got = append(got, fmt.Sprint(key))
	}
	if diff := cmp.Diff(wantVersions, got); diff != "" {
		t.Errorf("versions (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"agent7", "agent8"}, hostsNeeded(apps)); diff != "" {
		t.Errorf("hosts (-want +got):\n%s", diff)
	}
}
