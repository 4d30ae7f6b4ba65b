package marathon

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func (l look) String() string { return []string{"nothing", "confirm", "at once", "everything"}[l] }

// told lets a fleet hear events, one a line, and gives what each makes us ask, and the services after all of them.
func told(t *testing.T, f *fleet, events string, now time.Time) (asked []string, services string) {
	t.Helper()
	for line := range strings.Lines(strings.TrimSpace(events)) {
		err := readEvents(bytes.NewReader([]byte("data: "+strings.TrimSpace(line)+"\n\n")), maxEvent, func(e event) {
			if e.matters() {
				asked = append(asked, f.hear(e, now).String())
			}
		})
		if err != io.EOF {
			t.Fatal(err)
		}
	}
	f.settle(now)
	return asked, canonical(f.board.all(), f.problems())
}

// fleetOf gives the fleet that follows from the answer to GET /v2/apps with these apps.
func fleetOf(t *testing.T, apps string, now time.Time) *fleet {
	t.Helper()
	f, _ := newFleet(Name, 1).renewed(list(t, apps, now), now)
	f.hosts = hosts()
	return f
}

func list(t *testing.T, apps string, asked time.Time) reading {
	t.Helper()
	list, problems, err := parseApps([]byte(`{"apps":[` + apps + `]}`))
	if err != nil {
		t.Fatal(err)
	}
	return reading{asked: asked, apps: list, problems: problems, versions: map[versionKey]versionAnswer{}, hosts: hosts()}
}

const (
	headA  = "8300/tcp a mode=tcp source=marathon\n"
	plainA = `{"id":"/a","version":"2016-01-02","ports":[8300],"versionInfo":{"lastConfigChangeAt":"2016-01-01T00:00:00Z"},"tasks":[
		{"id":"a.u1","host":"10.0.0.1","ports":[31000],"state":"TASK_RUNNING","version":"2016-01-02"}]}`
	checkedA = `{"id":"/a","version":"2016-01-02","ports":[8300],"healthChecks":[{}],"tasks":[
		{"id":"a.instance-u1._app.1","host":"10.0.0.1","ports":[31000],"state":"TASK_RUNNING","version":"2016-01-02","healthCheckResults":[{"alive":true}]},
		{"id":"a.instance-u2._app.1","host":"10.0.0.2","ports":[31000],"state":"TASK_RUNNING","version":"2016-01-02","healthCheckResults":[]}]}`
)

func start() time.Time { return time.Date(2016, 1, 2, 0, 0, 0, 0, time.UTC) }

func TestWhatAnEventTellsByItself(t *testing.T) {
	twoA := strings.Replace(plainA, `"tasks":[`, `"tasks":[{"id":"a.u2","host":"10.0.0.2","ports":[31000],"state":"TASK_RUNNING","version":"2016-01-02"},`, 1)
	twice := strings.Replace(checkedA, "[{}]", "[{},{}]", 1)
	ready := strings.Replace(plainA, `"tasks"`, `"readinessChecks":[{}],"tasks"`, 1)
	inContainer := strings.Replace(plainA, `"ports":[8300]`, `"networks":[{"mode":"container"}],"container":{"portMappings":[{"containerPort":80,"servicePort":8300}]}`, 1)
	status := func(state, more string) string {
		return `{"eventType":"status_update_event","appId":"/a","taskStatus":"` + state + `"` + more + "}\n"
	}
	u1, born := `,"taskId":"a.u1"`, `,"taskId":"a.u9","host":"10.0.0.9","ports":[31009],"version":"2016-01-02"`
	health := func(id, alive string) string {
		return `{"eventType":"health_status_changed_event","appId":"/a","instanceId":"a.instance-` + id + `","version":"2016-01-02","alive":` + alive + "}\n"
	}
	on1, on2 := "  10.0.0.1:31000 on-host\n", "  10.0.0.2:31000 on-host\n"
	plain1, plain9 := "  10.0.0.1:31000 check on-host\n", "  10.0.0.9:31009 check on-host\n"
	for _, c := range []struct{ name, apps, events, asked, want string }{
		{"a task that is killed", twoA, status("TASK_KILLING", u1) + status("TASK_KILLED", u1), "confirm nothing", headA + "  10.0.0.2:31000 check on-host\n"},
		{"the last one: it serves until it is gone", plainA, status("TASK_KILLING", u1), "at once", headA + plain1},
		{"and it is", plainA, status("TASK_KILLING", u1) + status("TASK_KILLED", u1), "at once confirm", headA},
		{"failed", plainA, status("TASK_FAILED", u1), "confirm", headA},
		{"unreachable", plainA, status("TASK_UNREACHABLE", u1), "confirm", headA},
		{"of a state that nobody knows", plainA, status("TASK_ODD", u1), "confirm", headA},
		{"without a state", plainA, status("", u1), "at once", headA + plain1},
		{"without a task", plainA, status("TASK_KILLED", ""), "at once", headA + plain1},
		{"that staging begins for", plainA, status("TASK_STAGING", born), "", headA + plain1},
		{"another task that is killed", plainA, status("TASK_KILLED", `,"taskId":"a.u7"`), "nothing", headA + plain1},
		{"a task of an app that is not known", plainA, strings.ReplaceAll(status("TASK_KILLED", u1), `"/a"`, `"/b"`), "nothing", headA + plain1},
		{"one that runs there", plainA, strings.ReplaceAll(status("TASK_RUNNING", born), `"/a"`, `"/b"`), "at once", headA + plain1},
		{"a task that runs", plainA, status("TASK_RUNNING", born), "confirm", headA + plain1 + plain9},
		{"told twice", plainA, status("TASK_RUNNING", born) + status("TASK_RUNNING", born), "confirm nothing", headA + plain1 + plain9},
		{"and is killed", plainA, status("TASK_RUNNING", born) + status("TASK_KILLED", born), "confirm confirm", headA + plain1},
		{"killed before it is said to run: the order means little", plainA, status("TASK_KILLED", born) + status("TASK_RUNNING", born), "nothing at once", headA + plain1},
		{"of the configuration that an older version began", plainA, status("TASK_RUNNING", strings.Replace(born, "01-02", "01-01", 1)), "at once", headA + plain1},
		{"of a newer version", plainA, status("TASK_RUNNING", strings.Replace(born, "01-02", "01-03", 1)), "at once", headA + plain1},
		{"on an agent whose address is known", plainA, status("TASK_RUNNING", strings.Replace(born, "10.0.0.9", "agent7", 1)), "confirm", headA + plain1 + "  10.0.0.7:31009 check on-host\n"},
		{"on an agent whose address is not known", plainA, status("TASK_RUNNING", strings.Replace(born, "10.0.0.9", "agent5", 1)), "at once", headA + plain1},
		{"on an agent that has none", plainA, status("TASK_RUNNING", strings.Replace(born, "10.0.0.9", "gone.domain", 1)), "at once", headA + plain1},
		{"with readiness checks", ready, status("TASK_RUNNING", born), "at once", headA + plain1},
		{"in a container that has no address yet", inContainer, status("TASK_RUNNING", born), "at once",
			headA + "! a.u1: port 0 of the task is left out: it has no host port, and the task has no address of its own yet\n"},
		{"in a container with an address", inContainer, status("TASK_RUNNING", born+`,"ipAddresses":[{"ipAddress":"192.168.0.9"}]`), "confirm",
			headA + "  192.168.0.9:80 check\n" + "! a.u1: port 0 of the task is left out: it has no host port, and the task has no address of its own yet\n"},
		{"with a check: it must be alive", checkedA, status("TASK_RUNNING", born), "confirm", headA + on1},
		{"and it is", checkedA, status("TASK_RUNNING", strings.Replace(born, "a.u9", "a.instance-u9._app.1", 1)) + health("u9", "true"), "confirm nothing",
			headA + on1 + "  10.0.0.9:31009 on-host\n"},
		{"a task that is dead", checkedA, health("u1", "false") + health("u1", "false"), "confirm nothing", headA},
		{"a task that is alive", checkedA, health("u2", "true"), "nothing", headA + on1 + on2},
		{"as it was before", checkedA, health("u1", "true"), "nothing", headA + on1},
		{"dead and alive again", checkedA, health("u1", "false") + health("u1", "true"), "confirm nothing", headA + on1},
		{"alive and not listed", checkedA, health("u5", "true"), "at once", headA + on1},
		{"alive by one of two checks", twice, health("u2", "true"), "at once", headA + on1},
		{"nobody knows", checkedA, strings.Replace(health("u1", "null"), "health_status", "instance_health", 1), "at once", headA + on1},
		{"as Mesos checks it", checkedA, `{"eventType":"instance_health_changed_event","runSpecId":"/a","instanceId":"a.instance-u1","healthy":false}`, "confirm", headA},
		{"an unhealthy task that will be killed", plainA, `{"eventType":"unhealthy_task_kill_event","appId":"/a","taskId":"a.u1"}`, "confirm", headA},
		{"an unhealthy instance that will be killed", checkedA, `{"eventType":"unhealthy_instance_kill_event","appId":"/a","taskId":"a.instance-u1._app.1","instanceId":"a.instance-u1"}`, "confirm", headA},
		{"an app that ended", plainA, `{"eventType":"app_terminated_event","appId":"/a"}` + "\n" + `{"eventType":"app_terminated_event","appId":"/b"}`, "confirm nothing", ""},
		{"an app that was changed", plainA, `{"eventType":"api_post_event","appDefinition":{"id":"/a","ports":[9000]}}`, "at once", headA + plain1},
		{"a check that was added", plainA, `{"eventType":"add_health_check_event","appId":"/a","version":"2016-01-02"}`, "at once", headA + plain1},
		{"a check that is known, after a failover", checkedA, `{"eventType":"add_health_check_event","appId":"/a","version":"2016-01-02"}`, "nothing", headA + on1},
		{"a check that was removed", checkedA, `{"eventType":"remove_health_check_event","appId":"/a"}`, "at once", headA + on1},
		{"a group", plainA, `{"eventType":"group_change_success","groupId":"/"}`, "everything", headA + plain1},
		{"a deployment of pods", plainA, `{"eventType":"deployment_success","plan":{"steps":[{"actions":[{"pod":"/p"}]}]}}`, "nothing", headA + plain1},
		{"a deployment of an app", plainA, `{"eventType":"deployment_success","plan":{"steps":[{"actions":[{"app":"/a"}]}]}}`, "at once", headA + plain1},
		{"what cannot be read", plainA, `{"eventType":"status_update_event","appId":"/a","taskStatus":7}`, "everything", headA + plain1},
	} {
		t.Run(c.name, func(t *testing.T) {
			asked, services := told(t, fleetOf(t, c.apps, start()), c.events, start())
			if diff := cmp.Diff(c.asked+"\n"+c.want, strings.Join(asked, " ")+"\n"+services); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestInstancesOfTasks(t *testing.T) {
	for task, want := range map[string]string{
		"a_b.5eed-11e5":            "a_b.marathon-5eed-11e5",
		"a.b.5eed":                 "a.b.marathon-5eed",
		"a.marathon-5eed":          "a.marathon-5eed",
		"a.instance-5eed._app.1":   "a.instance-5eed",
		"a.instance-5eed._app":     "a.instance-5eed",
		"a.instance-5eed.$anon.12": "a.instance-5eed",
		"a.instance-5eed":          "a.instance-5eed",
		"a._application.5eed":      "a._application.marathon-5eed",
		"nodot":                    "nodot",
		"":                         "",
	} {
		if got := instanceOf(task); got != want {
			t.Errorf("instance of %q: %q, want %q", task, got, want)
		}
	}
}
