package etcd

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

func start(t *testing.T, cfg Config) *Cluster {
	t.Helper()
	cfg.Dir = t.TempDir()
	c, err := Start(patience(t), cfg)
	if errors.Is(err, exec.ErrNotFound) && os.Getenv("CI") == "" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Kill)
	return c
}

// patience ends what hangs.
func patience(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// L2E= is /a, MQ== is 1.
func putOne(t *testing.T, m *Member) {
	t.Helper()
	if _, err := m.post(patience(t), "/v3/kv/put", `{"key":"L2E=","value":"MQ=="}`); err != nil {
		t.Fatal(err)
	}
}

// values gives the values of /a at a revision, "0" for the newest.
func values(t *testing.T, m *Member, revision string) string {
	t.Helper()
	body, err := m.post(patience(t), "/v3/kv/range", `{"key":"L2E=","revision":"`+revision+`"}`)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d", strings.Count(string(body), `"value":"MQ=="`))
}

func TestDataOutliveAKillAndNotAWipe(t *testing.T) {
	c := start(t, Config{})
	m := c.Members[0]
	putOne(t, m)
	m.Kill()
	if err := m.Restart(patience(t)); err != nil {
		t.Fatal(err)
	}
	if got := values(t, m, "0"); got != "1" {
		t.Errorf("after a kill: got %s, want 1 value", got)
	}
	if err := c.Wipe(patience(t)); err != nil {
		t.Fatal(err)
	}
	if got := values(t, m, "0"); got != "0" {
		t.Errorf("after a wipe: got %s, want 0 values", got)
	}
}

func TestCompactForgetsOldRevisions(t *testing.T) {
	c := start(t, Config{})
	m := c.Members[0]
	putOne(t, m)
	putOne(t, m)
	if got := values(t, m, "2"); got != "1" {
		t.Errorf("before: got %s, want 1 value", got)
	}
	if err := m.Compact(patience(t)); err != nil {
		t.Fatal(err)
	}
	if got := values(t, m, "2"); !strings.Contains(got, "compacted") {
		t.Errorf("old revision: got %s, want an error that tells of compaction", got)
	}
	if got := values(t, m, "0"); got != "1" {
		t.Errorf("newest revision: got %s, want 1 value", got)
	}
}

func TestStoreV2IsThereWhenAskedFor(t *testing.T) {
	for v2, want := range map[bool]int{false: http.StatusNotFound, true: http.StatusOK} {
		resp, err := http.Get(start(t, Config{V2: v2}).Members[0].URL() + "/v2/keys/")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("V2 %t: got %d, want %d", v2, resp.StatusCode, want)
		}
	}
}

func TestThreeMembersNeedTwo(t *testing.T) {
	c := start(t, Config{Members: 3})
	putOne(t, c.Members[0])
	c.Members[0].Kill()
	for ctx := patience(t); values(t, c.Members[1], "0") != "1" && ctx.Err() == nil; { // it may have been the leader
		time.Sleep(5 * time.Millisecond)
	}
	if got := values(t, c.Members[1], "0"); got != "1" {
		t.Errorf("one killed: got %s, want 1 value", got)
	}
	c.Members[1].Kill()
	for ctx := patience(t); c.Members[2].health(ctx) == nil; time.Sleep(5 * time.Millisecond) {
		if ctx.Err() != nil {
			t.Fatal("healthy without a quorum")
		}
	}
	if err := c.Members[0].Restart(patience(t)); err != nil {
		t.Error("two of three:", err)
	}
	if err := c.Restart(patience(t)); err != nil {
		t.Fatal(err)
	}
	if got := values(t, c.Members[0], "0"); got != "1" {
		t.Errorf("all restarted: got %s, want 1 value", got)
	}
	if got := strings.Count(c.Addrs(), ","); got != 2 {
		t.Errorf("Addrs: got %s, want three", c.Addrs())
	}
}

func TestThatItEndedIsTold(t *testing.T) {
	c := start(t, Config{})
	m := c.Members[0]
	m.Kill()
	m.args = append(m.args, "--election-timeout", "1")
	if err := m.Restart(patience(t)); err == nil || !strings.Contains(err.Error(), "election-timeout[1ms]") {
		t.Errorf("got %v, want the reason", err)
	}
}

// The test runs itself: a program that is killed cannot clean up.
func TestServersEndWithTheirProgram(t *testing.T) {
	start(t, Config{}).Kill() // skips where etcd is missing
	child := exec.Command(os.Args[0], "-test.run=^TestStartAndHang$", "-test.v")
	child.Env = append(os.Environ(), "ETCD_CHILD="+t.TempDir())
	stdout, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	var word string
	var pid int
	for word != "pid" {
		if _, err := fmt.Fscan(stdout, &word); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := fmt.Fscan(stdout, &pid); err != nil || syscall.Kill(pid, 0) != nil {
		t.Fatalf("no etcd runs as %d (%v)", pid, err)
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait() // it was killed
	for ctx := patience(t); alive(pid); time.Sleep(5 * time.Millisecond) {
		if ctx.Err() != nil {
			t.Fatal("etcd outlives the program that started it")
		}
	}
}

// alive does not count what only waits to be asked for its exit code.
func alive(pid int) bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(raw), ") Z ")
}

func TestStartAndHang(t *testing.T) {
	dir := os.Getenv("ETCD_CHILD")
	if dir == "" {
		return
	}
	c, err := Start(t.Context(), Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("pid", c.Members[0].Pid())
	select {}
}
