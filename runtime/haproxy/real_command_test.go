package haproxy

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// daemonRig gives a rig whose HAProxy is started and reloaded by commands, as prefix (another user, say) has it. The reload
// signals the master, which hands the sockets over.
func daemonRig(t *testing.T, prefix string, change func(*Config)) *rig {
	return newRig(t, func(c *Config) {
		c.TemplateFile = writeTemplate(t, "", "")
		pid := filepath.Join(c.RunDir, "haproxy.pid")
		c.Start = fmt.Sprintf("%s haproxy -W -D -p %s -f %s", prefix, pid, c.ConfigFile)
		c.Reload = fmt.Sprintf("kill -USR2 $(cat %s)", pid)
		if change != nil {
			change(c)
		}
	})
}

// untilReloaded makes passes until one has reloaded: the driver lets a while pass, since a signal just after its start kills
// HAProxy's master.
func (h *rig) untilReloaded(want []*catalog.Service) {
	h.t.Helper()
	for len(h.apply(want).Reloads) == 0 {
	}
}

func TestRealCommandsStartAndReload(t *testing.T) {
	h := daemonRig(t, "", nil)
	p := freePorts(t, 2)
	a := backend(t, "a")
	h.apply([]*catalog.Service{service(p[0], a)})
	want := []*catalog.Service{service(p[0], a), service(p[1], a)}
	h.untilReloaded(want)
	mustAnswer(t, p[1], "a")
	h.mustBeSettled(want)
}

func TestRealCommandsThatFailAreNamed(t *testing.T) {
	cases := map[string]struct{ start, reload, want string }{
		"a start command that fails":           {"echo cannot reach the service manager; exit 3", "true", "cannot reach the service manager"},
		"a start command that starts nothing":  {"true", "true", "does not answer"},
		"a start command that does not exist":  {"/no/such/program", "true", "/no/such/program"},
		"a silent start, a reload that starts": {"true", "", ""},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			h := daemonRig(t, "", func(config *Config) {
				works := config.Start
				config.Start, config.Reload = c.start, c.reload
				if c.reload == "" {
					config.Reload = works
				}
			})
			h.driver.process.(*commands).patience = 500 * time.Millisecond
			_, err := h.driver.Apply(t.Context(), []*catalog.Service{service(freePorts(t, 1)[0], backend(t, "a"))})
			if c.want == "" && err != nil {
				t.Errorf("error %v", err)
			}
			if c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("error %v, want %q in it", err, c.want)
			}
		})
	}
}

func TestRealReloadCommandThatDoesNothingIsNoSuccess(t *testing.T) {
	h := daemonRig(t, "", nil)
	p := freePorts(t, 2)
	a := backend(t, "a")
	h.apply([]*catalog.Service{service(p[0], a)})
	h.driver.process.(*commands).reloadCommand = "exit 1"
	waitLoad(h)
	_, err := h.driver.Apply(t.Context(), []*catalog.Service{service(p[0], a), service(p[1], a)})
	if err == nil || !strings.Contains(err.Error(), "exit") {
		t.Fatalf("error %v", err)
	}
	mustAnswer(t, p[0], "a")
}

func TestRealOtherUserBindsThePorts(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("CI must run as root, to start HAProxy as another user")
		}
		t.Skip("only root can start HAProxy as another user")
	}
	if _, err := exec.LookPath("setpriv"); err != nil {
		t.Fatal(err)
	}
	h := daemonRig(t, "setpriv --reuid 65534 --regid 65534 --clear-groups", nil)
	if err := os.Chmod(h.config.RunDir, 0o777); err != nil {
		t.Fatal(err)
	}
	p := freePorts(t, 21)
	a := backend(t, "a")
	h.apply([]*catalog.Service{service(p[0], a)})
	if uid, known := h.driver.process.binder(); !known || uid != 65534 {
		t.Fatalf("HAProxy binds as user %d, %v", uid, known)
	}
	load := startLoad(t, p[0])
	var want []*catalog.Service
	for _, port := range p {
		want = append(want, service(port, a))
	}
	catalog.Sort(want)
	h.untilReloaded(want)
	mustNotFail(t, load)
	for _, port := range p[1:] {
		mustAnswer(t, port, "a")
	}
}
