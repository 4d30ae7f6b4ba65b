package fakeregistrator

import (
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestEntries(t *testing.T) {
	tcp := func(exposed ...uint16) []Port {
		var out []Port
		for _, e := range exposed {
			out = append(out, Port{Exposed: e, Addr: "10.0.0.1:31000"})
		}
		return out
	}
	for _, c := range []struct {
		rule string
		in   Container
		want []string
	}{
		{"the image names a service", Container{Name: "one", Image: "registry:5000/example/webapp:1.2", Ports: tcp(80)}, []string{"webapp/vm:one:80"}},
		{"so does SERVICE_NAME", Container{Name: "named", Image: "webapp", Env: map[string]string{"SERVICE_NAME": "web"}, Ports: tcp(80)}, []string{"web/vm:named:80"}},
		{"several ports append theirs", Container{Name: "m", Image: "webapp", Ports: tcp(443, 80)}, []string{"webapp-80/vm:m:80", "webapp-443/vm:m:443"}},
		{"but not to a port's own name", Container{Name: "m", Env: map[string]string{"SERVICE_NAME": "x", "SERVICE_80_NAME": "front"}, Ports: tcp(80, 443)},
			[]string{"front/vm:m:80", "x-443/vm:m:443"}},
		{"one port number in both protocols", Container{Name: "both", Image: "dns", Ports: []Port{{53, false, "10.0.0.1:1"}, {53, true, "10.0.0.1:2"}}},
			[]string{"dns-53/vm:both:53", "dns-53/vm:both:53:udp"}},
		{"an ignored port counts", Container{Name: "m", Image: "webapp", Env: map[string]string{"SERVICE_9000_IGNORE": "1"}, Ports: tcp(80, 9000)},
			[]string{"webapp-80/vm:m:80"}},
		{"SERVICE_IGNORE", Container{Name: "m", Image: "webapp", Env: map[string]string{"SERVICE_IGNORE": "no"}, Ports: tcp(80)}, nil},
		{"SERVICE_ID is all of the ID", Container{Name: "m", Image: "idd", Env: map[string]string{"SERVICE_ID": "custom"}, Ports: []Port{{53, true, "10.0.0.1:1"}}},
			[]string{"idd/custom"}},
	} {
		var got []string
		for _, e := range entries("vm", c.in) {
			got = append(got, e.service+"/"+e.id)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: -want +got\n%s", c.rule, diff)
		}
	}
}

// oneNamed gives a container that publishes one port under a name.
func oneNamed(container, service string, exposed uint16, addr string) Container {
	return Container{Name: container, Env: map[string]string{"SERVICE_NAME": service}, Ports: []Port{{Exposed: exposed, Addr: addr}}}
}

func keys(entries map[string]string) []string { return slices.Sorted(maps.Keys(entries)) }
