package marathon

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
	"unicode"

	"github.com/meltwater/proxymatic/sources/catalog"
	"github.com/meltwater/proxymatic/sources/hostname"
)

// FuzzParse sends bytes the whole pure way, from an answer of Marathon to services.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		`{"apps":[{"id":"/a/b","version":"v2","ports":[8300,0],"healthChecks":[{}],"labels":{"com.meltwater.proxymatic.port.0.weight":"7","com.meltwater.proxymatic.port.0.maxconn":9,
			"com.meltwater.proxymatic.port.1.servicePort":"81","com.meltwater.proxymatic.port.1.timeout.client":"1e3","com.meltwater.proxymatic.port.0.mode":"http"},
			"tasks":[{"id":"t","host":"agent7","ports":[31000,31001],"version":"v1","healthCheckResults":[{"alive":true},null]},{"id":"u","host":"::1","ports":[1],"version":"v2","startedAt":null}]}]}`,
		`{"apps":[{"id":"/c","networks":[{"mode":"container"}],"container":{"portMappings":[{"containerPort":80,"servicePort":10000,"protocol":"udp,tcp"},{"containerPort":81,"hostPort":0,"servicePort":10001}]},
			"readinessCheckResults":[{"taskId":"t","ready":false}],"versionInfo":{"lastConfigChangeAt":"2016-02-01T00:00:00.000Z"},
			"tasks":[{"id":"t","state":"TASK_RUNNING","host":"10.0.0.1","ports":[31000],"version":"2016-01-01T00:00:00.000Z","ipAddresses":[{"ipAddress":"fe80::1%x"},{"ipAddress":"192.168.0.1"}]}]}]}`,
		`{"apps":[null,"x",{"id":7},{"id":"/x","ports":["1"]},{"id":"/d","container":{"docker":{"network":"BRIDGE","portMappings":null}},"ipAddress":{},"portDefinitions":[{"port":-1,"protocol":"sctp"}],"tasks":[7,{}]}]}`,
		`{"id":"/a/b","ports":[8300]}`,
	} {
		f.Add([]byte(seed), byte(1))
	}
	f.Fuzz(func(t *testing.T, data []byte, group byte) {
		text, found, problems := wholeWay(data, group)
		again, _, _ := wholeWay(data, group)
		if text != again {
			t.Fatalf("one input, two outputs:\n%s\nand\n%s", text, again)
		}
		checkServices(t, found)
		for _, p := range problems {
			checkText(t, p.Subject)
			checkText(t, p.Reason)
		}
	})
}

// wholeWay answers every question that the input raises: each older version is the first app's definition, or the input
// itself where that is one, and every host has an address.
func wholeWay(data []byte, group byte) (string, []*catalog.Service, []catalog.Problem) {
	own, err := parseDefinition(data)
	apps, problems, _ := parseApps(data)
	if err != nil && len(apps) > 0 {
		own = apps[0].definition
	}
	w := world{source: Name, versions: make(map[versionKey]versionAnswer), hosts: make(map[string]hostname.Answer), groupSize: int(group) + 1}
	for _, key := range versionsNeeded(apps) {
		w.versions[key] = versionAnswer{definition: own}
	}
	for i, host := range hostsNeeded(apps) {
		w.hosts[host] = hostname.Answer{Addr: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})}
	}
	found, more := services(append(apps, app{definition: own}), w)
	problems = sortProblems(append(problems, more...))
	return canonical(found, problems), found, problems
}

func checkServices(t *testing.T, found []*catalog.Service) {
	t.Helper()
	seen := make(map[catalog.Key]bool)
	for _, s := range found {
		switch {
		case s.Port == 0, s.Proto != catalog.TCP && s.Proto != catalog.UDP, seen[s.Key]:
			t.Fatalf("bad or repeated key %s", s.Key)
		case s.Mode != catalog.ModeTCP && (s.Mode != catalog.ModeHTTP || s.Proto != catalog.TCP):
			t.Fatalf("bad mode %q of %s", s.Mode, s.Key)
		case s.Timeouts.Client < 0 || s.Timeouts.Server < 0:
			t.Fatalf("bad timeouts %v of %s", s.Timeouts, s.Key)
		}
		seen[s.Key] = true
		checkText(t, s.Name)
		for _, v := range s.Servers {
			if !v.Addr.IsValid() || v.Addr.Port() == 0 || v.Addr.Addr().Zone() != "" || v.Addr.Addr().Is4In6() || v.Addr.Addr().IsUnspecified() ||
				v.Weight < 1 || v.Weight > catalog.MaxWeight || v.MaxConn < 0 {
				t.Fatalf("bad server %+v of %s", v, s.Key)
			}
		}
	}
}

func checkText(t *testing.T, s string) {
	t.Helper()
	if len(s) > 256 || strings.ContainsFunc(s, unicode.IsControl) {
		t.Fatalf("text of others' making comes through: %q", s)
	}
}

// FuzzEvents reads any bytes as a stream. However they are cut into packets, the same events come out.
func FuzzEvents(f *testing.F) {
	f.Add([]byte("event: status_update_event\r\ndata: {\"eventType\":\"status_update_event\"}{\"eventType\":\"x\"}\r\n\r\n\r\n: c\rdata\n\ndata:1\ndata:2\n\n"), uint8(3))
	f.Fuzz(func(t *testing.T, data []byte, size uint8) {
		whole := eventsOf(bytes.NewReader(data), 1000)
		cut := eventsOf(&packets{data: data, size: int(size%7) + 1}, 1000)
		if whole != cut {
			t.Fatalf("read at once: %s\nread in pieces: %s", whole, cut)
		}
	})
}
