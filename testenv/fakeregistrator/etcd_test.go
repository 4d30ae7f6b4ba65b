package fakeregistrator

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meltwater/proxymatic/testenv/etcd"
)

// cluster starts an etcd with both stores.
func cluster(t *testing.T, members int) *etcd.Cluster {
	t.Helper()
	return started(t, etcd.Config{Dir: t.TempDir(), V2: true, Members: members})
}

func started(t *testing.T, cfg etcd.Config) *etcd.Cluster {
	t.Helper()
	c, err := etcd.Start(hurry(t), cfg)
	if errors.Is(err, exec.ErrNotFound) && os.Getenv("CI") == "" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Kill)
	return c
}

// hurry ends what hangs.
func hurry(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// open sends a request without a body, or with a JSON one, and gives the answer's body.
func open(t *testing.T, method, url, body string) io.Reader {
	t.Helper()
	req, err := http.NewRequestWithContext(hurry(t), method, url, strings.NewReader(body))
	must(t, err)
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	must(t, err)
	t.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s %s: %s", method, url, resp.Status)
	}
	return resp.Body
}

func ask(t *testing.T, method, url, body string) string {
	t.Helper()
	raw, err := io.ReadAll(open(t, method, url, body))
	must(t, err)
	return strings.TrimSpace(string(raw))
}

// reader reads a store behind the back of what is tested.
type reader struct {
	name  string
	store func(addrs string) Store
	// versions gives a number for each key below /services that changes when the key is set, also to the value that it has.
	versions func(t *testing.T, c *etcd.Cluster) map[string]string
	// values gives the values of these keys.
	values func(t *testing.T, c *etcd.Cluster) map[string]string
}

func readers() []reader {
	return []reader{
		{"v2", V2, func(t *testing.T, c *etcd.Cluster) map[string]string { _, version := readV2(t, c); return version },
			func(t *testing.T, c *etcd.Cluster) map[string]string { value, _ := readV2(t, c); return value }},
		{"v3", V3, func(t *testing.T, c *etcd.Cluster) map[string]string { _, version := readV3(t, c); return version },
			func(t *testing.T, c *etcd.Cluster) map[string]string { value, _ := readV3(t, c); return value }},
	}
}

type nodeV2 struct {
	Key           string      `json:"key"`
	Dir           bool        `json:"dir"`
	Value         string      `json:"value"`
	ModifiedIndex json.Number `json:"modifiedIndex"`
	Nodes         []nodeV2    `json:"nodes"`
}

func (n nodeV2) leaves() []nodeV2 {
	if !n.Dir {
		return []nodeV2{n}
	}
	var out []nodeV2
	for _, child := range n.Nodes {
		out = append(out, child.leaves()...)
	}
	return out
}

const treeV2 = "/v2/keys/?recursive=true&sorted=true"

func readV2(t *testing.T, c *etcd.Cluster) (value, version map[string]string) {
	t.Helper()
	var answer struct{ Node nodeV2 }
	must(t, json.Unmarshal([]byte(ask(t, http.MethodGet, c.Members[0].URL()+treeV2, "")), &answer))
	value, version = map[string]string{}, map[string]string{}
	for _, n := range answer.Node.leaves() {
		value[n.Key], version[n.Key] = n.Value, n.ModifiedIndex.String()
	}
	return value, version
}

type kvV3 struct {
	Key, Value  []byte
	ModRevision string `json:"mod_revision"`
}

func readV3(t *testing.T, c *etcd.Cluster) (value, version map[string]string) {
	t.Helper()
	var answer struct{ Kvs []kvV3 }
	// All keys: from "\0" on.
	must(t, json.Unmarshal([]byte(ask(t, http.MethodPost, c.Members[0].URL()+"/v3/kv/range", `{"key":"AA==","range_end":"AA=="}`)), &answer))
	value, version = map[string]string{}, map[string]string{}
	for _, kv := range answer.Kvs {
		value[string(kv.Key)], version[string(kv.Key)] = string(kv.Value), kv.ModRevision
	}
	return value, version
}

func wantValues(t *testing.T, when string, want, got map[string]string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s: -want +got\n%s", when, diff)
	}
}
