package fakeregistrator

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meltwater/proxymatic/testenv/etcd"
)

// The files in testdata are what etcd 3.4 had, or told, when real registrators wrote on a host named vm.

// treeContainers are the containers of v2-tree.json, in the order in which they were started.
func treeContainers() []Container {
	local := func(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }
	return []Container{
		{Name: "web1", Image: "web", Ports: []Port{{80, false, local(24101)}}},
		{Name: "web2", Image: "web", Ports: []Port{{80, false, local(24102)}}},
		oneNamed("api1", "api", 80, local(24103)),
		{Name: "multi", Env: map[string]string{"SERVICE_NAME": "shop"},
			Ports: []Port{{8080, false, local(24104)}, {8443, false, local(24105)}, {53, true, local(24106)}}},
		oneNamed("ov", "mysvc.@24900", 80, local(24107)),
		oneNamed("ov2", "mysvc@24901", 81, local(24108)),
		{Name: "ovm", Env: map[string]string{"SERVICE_NAME": "grp@24902"}, Ports: []Port{{82, false, local(24109)}, {83, false, local(24110)}}},
		{Name: "ovp", Env: map[string]string{"SERVICE_84_NAME": "one@24903", "SERVICE_85_NAME": "two@24904"},
			Ports: []Port{{84, false, local(24111)}, {85, false, local(24112)}}},
		oneNamed("slash", "a/b", 86, local(24113)),
		{Name: "id", Env: map[string]string{"SERVICE_NAME": "idd", "SERVICE_ID": "custom"}, Ports: []Port{{80, false, local(24114)}}},
		{Name: "both", Env: map[string]string{"SERVICE_NAME": "dns"}, Ports: []Port{{53, false, local(24115)}, {5353, true, local(24116)}}},
		oneNamed("hostexp", "hx", 24117, local(24117)),
	}
}

func recorded(t *testing.T, name string) string {
	t.Helper()
	raw, err := os.ReadFile("testdata/" + name)
	must(t, err)
	return strings.TrimSpace(string(raw))
}

func TestTreeV2IsTheRecordedOne(t *testing.T) {
	c := cluster(t, 1)
	r := &Registrator{Host: "vm", Store: V2(c.Addrs()), Prefix: "/services"}
	for _, container := range treeContainers() {
		must(t, r.Add(hurry(t), container))
	}
	got := ask(t, http.MethodGet, c.Members[0].URL()+"/v2/keys/services?recursive=true&sorted=true", "")
	if diff := cmp.Diff(recorded(t, "v2-tree.json"), got); diff != "" {
		t.Errorf("-recorded +got\n%s", diff)
	}
}

// The fork writes the same keys and values as upstream's.
func TestTreeV3HasTheSameKeys(t *testing.T) {
	c := cluster(t, 1)
	r := &Registrator{Host: "vm", Store: V3(c.Addrs()), Prefix: "/services"}
	for _, container := range treeContainers() {
		must(t, r.Add(hurry(t), container))
	}
	var tree struct{ Node nodeV2 }
	must(t, json.Unmarshal([]byte(recorded(t, "v2-tree.json")), &tree))
	want := map[string]string{}
	for _, n := range tree.Node.leaves() {
		want[n.Key] = n.Value
	}
	got, _ := readV3(t, c)
	wantValues(t, "v3 tree", want, got)
}

func TestRestartOfContainersV2IsTheRecordedOne(t *testing.T) {
	c := cluster(t, 1)
	r := &Registrator{Host: "vm", Store: V2(c.Addrs()), Prefix: "/services"}
	udp := Container{Name: "one-udp", Image: "example/webapp:1.2", Ports: []Port{{53, true, "127.0.0.1:24102"}}}
	rnd := oneNamed("random", "rnd", 8080, "127.0.0.1:32768")
	must(t, r.Add(hurry(t), udp))
	must(t, r.Add(hurry(t), rnd))
	next, err := readIndex(t, c)
	must(t, err)
	for _, container := range []Container{udp, oneNamed("random", "rnd", 8080, "127.0.0.1:32769")} {
		must(t, r.Remove(hurry(t), container.Name))
		must(t, r.Add(hurry(t), container))
	}
	indices := regexp.MustCompile(`,"modifiedIndex":\d+,"createdIndex":\d+`)
	var got []string
	for range 4 {
		next++
		event := ask(t, http.MethodGet, fmt.Sprintf("%s/v2/keys/services?wait=true&recursive=true&waitIndex=%d", c.Members[0].URL(), next), "")
		got = append(got, indices.ReplaceAllString(event, ""))
	}
	want := strings.Split(indices.ReplaceAllString(recorded(t, "v2-restart.json"), ""), "\n")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-recorded +got\n%s", diff)
	}
}

// readIndex gives the index of the newest key.
func readIndex(t *testing.T, c *etcd.Cluster) (newest int, err error) {
	t.Helper()
	_, version := readV2(t, c)
	for _, v := range version {
		var index int
		if _, err := fmt.Sscan(v, &index); err != nil {
			return 0, err
		}
		newest = max(newest, index)
	}
	return newest, nil
}

// watch gives a function that waits for so many events below /services/, in the words of `etcdctl watch`.
func watch(t *testing.T, c *etcd.Cluster) func(n int) []string {
	t.Helper()
	question, err := json.Marshal(map[string]keyRange{"create_request": {[]byte("/services/"), []byte("/services0")}})
	must(t, err)
	stream := json.NewDecoder(open(t, http.MethodPost, c.Members[0].URL()+"/v3/watch", string(question)))
	type answer struct {
		Result struct {
			Events []struct {
				Type string
				Kv   kvV3
			}
		}
	}
	must(t, stream.Decode(new(answer))) // says that the watch is there
	var events []string
	return func(n int) []string {
		t.Helper()
		for len(events) < n {
			var a answer
			must(t, stream.Decode(&a))
			for _, e := range a.Result.Events {
				kind := e.Type
				if kind == "" {
					kind = "PUT"
				}
				events = append(events, strings.Join([]string{kind, string(e.Kv.Key), string(e.Kv.Value)}, " "))
			}
		}
		out := events[:n]
		events = events[n:]
		return out
	}
}

func recordedWatch(t *testing.T) []string {
	t.Helper()
	raw, err := os.Open("testdata/v3-watch.txt")
	must(t, err)
	defer raw.Close()
	var lines, events []string
	for s := bufio.NewScanner(raw); s.Scan(); {
		if lines = append(lines, s.Text()); len(lines) == 3 {
			events = append(events, strings.Join(lines, " "))
			lines = nil
		}
	}
	return events
}

// The whole stream, step by step. In a step that writes several keys the fork has no order, which is Go's of maps.
func TestStreamV3IsTheRecordedOne(t *testing.T) {
	c := cluster(t, 1)
	r := &Registrator{Host: "vm", Store: V3(c.Addrs()), Prefix: "/services", TTL: time.Minute}
	ctx, events, rest := hurry(t), watch(t, c), recordedWatch(t)
	local := func(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }
	udp := Container{Name: "one-udp", Image: "example/webapp:1.2", Ports: []Port{{53, true, local(24102)}}}
	add := func(containers ...Container) func() error {
		return func() error {
			for _, container := range containers {
				if err := r.Add(ctx, container); err != nil {
					return err
				}
			}
			return nil
		}
	}
	refresh := func() error { return r.refresh(ctx) }
	remove := func(name string) func() error { return func() error { return r.Remove(ctx, name) } }
	for _, step := range []struct {
		does   string
		events int
		do     func() error
	}{
		{"start one", 1, add(Container{Name: "one-tcp", Image: "example/webapp:1.2", Ports: []Port{{80, false, local(24101)}}})},
		{"refresh one", 1, refresh},
		{"start the others", 9, add(udp,
			Container{Name: "multinamed", Env: map[string]string{"SERVICE_NAME": "shop"}, Ports: []Port{{80, false, local(24107)}, {443, false, local(24108)}}},
			Container{Name: "bothproto", Env: map[string]string{"SERVICE_NAME": "dns"}, Ports: []Port{{53, false, local(24119)}, {53, true, local(24120)}}},
			Container{Name: "portnamed", Env: map[string]string{"SERVICE_80_NAME": "front", "SERVICE_443_NAME": "secure", "SERVICE_9000_IGNORE": "1"},
				Ports: []Port{{80, false, local(24109)}, {443, false, local(24110)}, {9000, false, local(24111)}}},
			oneNamed("hostnet", "hn", 24121, local(24121)),
			oneNamed("override", "myservice.@24900", 80, local(24114)))},
		{"refresh all", 10, refresh},
		{"restart one: stop", 1, remove("one-udp")},
		{"restart one: start", 1, add(udp)},
		{"stop one", 1, remove("one-tcp")},
		{"refresh all but the stopped one", 9, refresh},
		{"refresh them again", 9, func() error { r.TTL = time.Second; return refresh() }}, // which is what is waited for below
	} {
		must(t, step.do())
		got, want := slices.Sorted(slices.Values(events(step.events))), slices.Sorted(slices.Values(rest[:step.events]))
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("%s: -recorded +got\n%s", step.does, diff)
		}
		rest = rest[step.events:]
	}
	r.Crash()
	if diff := cmp.Diff(slices.Sorted(slices.Values(rest)), slices.Sorted(slices.Values(events(len(rest))))); diff != "" {
		t.Errorf("killed, and leases expired: -recorded +got\n%s", diff)
	}
}
