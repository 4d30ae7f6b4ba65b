package marathon

import (
	"testing"
	"unsafe"
)

func TestMalformedEntriesCostOnlyThemselves(t *testing.T) {
	const good = `{"id":"/good","version":"v1","ports":[8300],"tasks":[{"id":"g.1","host":"10.0.0.7","ports":[31000],"version":"v1"}]}`
	const served = "\n8300/tcp good mode=tcp source=marathon\n  10.0.0.7:31000 check on-host\n"
	checkRoutes(t, []routeCase{
		{name: "an app that is null", apps: `null,` + good, want: served + "! an app: its id \"\" names nothing\n"},
		{name: "an app that is a string", apps: `"x",` + good, want: served + "! apps[0]: a JSON object is wanted, not a string\n"},
		{name: "an app with ports of strings", apps: good + `,{"id":"/bad","ports":["8301"]}`, want: served + "! /bad: ports cannot be of type string\n"},
		{name: "an app with an id that is a number", apps: good + `,{"id":7,"ports":[8301]}`, want: served + "! 7: id cannot be of type number\n"},
		{name: "an app with tasks of another type", apps: good + `,{"id":"/bad","tasks":{}}`, want: served + "! /bad: tasks cannot be of type object\n"},
		{name: "an app that names nothing", apps: good + `,{"id":"//\u0001"}`, want: served + "! an app: its id \"//\\x01\" names nothing\n"},
		{name: "a port out of all ranges", apps: good + `,{"id":"/bad","ports":[99999999999999999999]}`, want: served + "! /bad: ports cannot be of type number 99999999999999999999\n"},
		{name: "tasks beside a good one", apps: `{"id":"/good","version":"v1","ports":[8300],"tasks":[null,7,{"id":"g.0","ports":"x"},
			{"id":"g.2","healthCheckResults":[{"alive":"yes"}]},{"id":"g.1","host":"10.0.0.7","ports":[31000],"version":"v1"}]}`,
			want: served + `! /good: a task without an id is left out
! /good tasks[1]: a JSON object is wanted, not a number
! g.0: ports cannot be of type string
! g.2: healthCheckResults.alive cannot be of type string
`},
		{name: "fields that are null", apps: `{"id":"/good","version":"v1","ports":null,"portDefinitions":[{"port":8300,"protocol":null}],"labels":null,"container":null,"networks":null,
			"ipAddress":null,"healthChecks":null,"versionInfo":null,"readinessCheckResults":null,"tasks":[{"id":"g.1","host":"10.0.0.7","ports":[31000],"version":null,"ipAddresses":null,
			"healthCheckResults":null,"state":null}]},{"id":"/none","tasks":null,"ports":null}`, want: served},
	})
}

func TestEqualTextsOfTasksAreShared(t *testing.T) {
	const task = `"host":"10.0.0.7","state":"TASK_RUNNING","version":"v1","ipAddresses":[{"ipAddress":"172.17.0.2"}]}`
	const good = `{"apps":[{"id":"/a","tasks":[{"id":"a.1",` + task + `]},{"id":"/b","tasks":[{"id":"b.1",` + task + `]}`
	for _, text := range []string{good + `]}`, good + `,7]}`} {
		apps, _, err := parseApps([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		a, b := apps[0].tasks[0], apps[1].tasks[0]
		for name, pair := range map[string][2]string{"host": {a.Host, b.Host}, "state": {a.State, b.State}, "version": {a.Version, b.Version},
			"address": {a.Addresses[0].IPAddress, b.Addresses[0].IPAddress}} {
			if unsafe.StringData(pair[0]) != unsafe.StringData(pair[1]) {
				t.Errorf("the %s of two tasks is there twice", name)
			}
		}
	}
}

func TestAnswersThatAreNone(t *testing.T) {
	for _, text := range []string{``, `x`, `{}`, `[]`, `null`, `{"apps":null}`, `{"apps":{}}`, `{"tasks":[]}`, `{"message":"busy"}`, `{"apps":[]`, `<html>`, `{"apps":[{"id":"/a"}`} {
		if apps, _, err := parseApps([]byte(text)); err == nil {
			t.Errorf("parseApps(%q) = %v without an error", text, apps)
		}
	}
	if _, _, err := parseApps([]byte(`{"apps":[]}`)); err != nil {
		t.Errorf("an empty cluster is an answer, got %v", err)
	}
}
