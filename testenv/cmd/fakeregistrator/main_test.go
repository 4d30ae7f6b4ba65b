package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meltwater/proxymatic/testenv/etcd"
)

func TestParseService(t *testing.T) {
	for in, want := range map[string]string{
		"web=10.0.0.1:31000":        "c7-web web {31000 false 10.0.0.1:31000}",
		"web:80=10.0.0.1:31000":     "c7-web web {80 false 10.0.0.1:31000}",
		"web:80=10.0.0.1:31000/tcp": "c7-web web {80 false 10.0.0.1:31000}",
		"dns:53=10.0.0.1:31000/udp": "c7-dns dns {53 true 10.0.0.1:31000}",
		"a/b@8080=[2001:db8::1]:1":  "c7-a_b_8080 a/b@8080 {1 false [2001:db8::1]:1}",
		"web:80=host.example:http":  "c7-web web {80 false host.example:http}",
		"web":                       "want name[:exposed]=ip:port[/udp]",
		"web=10.0.0.1":              "want name[:exposed]=ip:port[/udp]",
		"=10.0.0.1:80":              `want a name and a port of 1 to 65535, not "" and "80"`,
		"web:0=10.0.0.1:80":         `want a name and a port of 1 to 65535, not "web" and "0"`,
		"web:70000=10.0.0.1:80":     `want a name and a port of 1 to 65535, not "web" and "70000"`,
		"web=10.0.0.1:80/sctp":      `want a name and a port of 1 to 65535, not "web" and "80/sctp"`,
	} {
		c, err := parseService(in, 7)
		got := fmt.Sprint(err)
		if err == nil {
			got = fmt.Sprintf("%s %s %v", c.Name, c.Env["SERVICE_NAME"], c.Ports[0])
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", in, got, want)
		}
	}
}

func TestConfigureRefuses(t *testing.T) {
	for args, want := range map[string]string{
		"-ttl 10s":                  "-ttl 10s and -ttl-refresh 0s: want both or none, and -ttl the longer one",
		"-ttl-refresh 10s":          "-ttl 0s and -ttl-refresh 10s: want both or none, and -ttl the longer one",
		"-ttl 10s -ttl-refresh 10s": "-ttl 10s and -ttl-refresh 10s: want both or none, and -ttl the longer one",
		"-etcd etcd://a:1":          "etcd://a:1: want etcd2:// or etcd3://",
		"web=10.0.0.1:80":           `"web=10.0.0.1:80" is no flag`,
		"-service web":              `invalid value "web" for flag -service: want name[:exposed]=ip:port[/udp]`,
		"-ttl 10s -ttl-refresh 5s -etcd etcd2://a:1/x/y": "<nil>",
	} {
		if _, err := configure(strings.Fields(args)); fmt.Sprint(err) != want {
			t.Errorf("%s: got %v, want %s", args, err, want)
		}
	}
}

// It waits for an etcd that is not up yet, and leaves its keys when it ends.
func TestRun(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := etcd.Start(ctx, etcd.Config{Dir: t.TempDir(), V2: true})
	if errors.Is(err, exec.ErrNotFound) && os.Getenv("CI") == "" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer c.Kill()
	c.Kill()
	asked, err := configure([]string{"-etcd", "etcd2://" + c.Addrs(), "-host", "h1", "-ttl", "60s", "-ttl-refresh", "10ms",
		"-service", "web:80=10.0.0.1:31000", "-service", "dns:53=10.0.0.1:31001/udp"})
	if err != nil {
		t.Fatal(err)
	}
	failed := make(chan error, 1)
	asked.registrator.Failed = func(err error) {
		select {
		case failed <- err:
		default:
		}
	}
	running, end := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() { defer close(ended); asked.run(running) }()
	<-failed
	if err := c.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	want := `/services/dns/h1:c2-dns:53:udp 10.0.0.1:31001, /services/web/h1:c1-web:80 10.0.0.1:31000`
	for tree(t, c) != want {
		select {
		case <-ctx.Done():
			t.Fatalf("got %s, want %s", tree(t, c), want)
		case <-time.After(5 * time.Millisecond):
		}
	}
	end()
	<-ended
	if diff := cmp.Diff(want, tree(t, c)); diff != "" {
		t.Errorf("after the end: -want +got\n%s", diff)
	}
}

// tree gives the keys and values of both services in etcd.
func tree(t *testing.T, c *etcd.Cluster) string {
	t.Helper()
	resp, err := http.Get(c.Members[0].URL() + "/v2/keys/services?recursive=true&sorted=true")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	type node struct {
		Key, Value string
		Nodes      []node
	}
	var answer struct{ Node node }
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, service := range answer.Node.Nodes {
		for _, n := range service.Nodes {
			out = append(out, n.Key+" "+n.Value)
		}
	}
	return strings.Join(out, ", ")
}
