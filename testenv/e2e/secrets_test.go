package e2e

import (
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/meltwater/proxymatic/testenv/e2e/stage"
)

// The secrets of these tests. None is a piece of another, or of anything else.
const (
	rightPassword = "pa55-Xq7/w%r:d"
	wrongPassword = "pa55-Yz8-wr0ng"
	rightToken    = "t0ken-Kv3-r1ght"
	wrongToken    = "t0ken-Lw4-wr0ng"
)

// member is a host that a Marathon lets in, or not.
type member struct {
	world
	secrets []string
	env     []string // what proxymatic has in its environment beside ours
}

// newMember gives one who knows the fixed secrets, in a world with HAProxy and pen.
func newMember(t *testing.T) *member {
	t.Helper()
	m := &member{world: worldWith(t, "haproxy", "pen"), secrets: []string{rightPassword, wrongPassword, rightToken, wrongToken}}
	for _, password := range []string{rightPassword, wrongPassword} {
		m.secrets = append(m.secrets, base64.StdEncoding.EncodeToString([]byte("proxymatic:"+password)), escaped(password))
	}
	return m
}

// escaped is a password as it stands in a URL.
func escaped(password string) string {
	return strings.NewReplacer("%", "%25", "/", "%2F", ":", "%3A").Replace(password)
}

// secretFile gives NAME_FILE=PATH for a file that holds a secret, outside of the host's directory.
func (m *member) secretFile(name, secret string) string {
	m.Helper()
	file := filepath.Join(m.TempDir(), "secret")
	m.must(os.WriteFile(file, []byte(secret+"\n"), 0o600))
	return name + "_FILE=" + file
}

// run starts proxymatic with this environment and these flags, and waits until all is served.
func (m *member) run(env []string, flags ...string) {
	m.Helper()
	m.env = env
	m.host.Env = append(os.Environ(), env...)
	m.must(m.host.Start(append([]string{"--verbose", "--refresh-interval", "1"}, flags...)...))
	m.must(m.host.Ready(m.patient()))
	m.settled()
}

// commands runs all commands with these flags, and gives all that they print.
func (m *member) commands(env []string, flags ...string) (services stage.Output, printed string) {
	m.Helper()
	m.host.Env = append(os.Environ(), env...)
	for _, words := range [][]string{{"plan", "--output", "json"}, {"render"}, {"validate"}, {"version"}, {"services", "--output", "json"}, {"services"}} {
		out, err := m.host.Command(m.patient(), slices.Concat(words[:1], m.host.Flags(flags...), words[1:])...)
		m.must(err)
		services, printed = out, printed+out.Stdout+out.Stderr
	}
	return services, printed
}

// lookout gives everything where somebody could see a secret, by its place.
func (m *member) lookout() map[string]string {
	m.Helper()
	seen := map[string]string{"the log": m.host.Log()}
	for _, path := range []string{"/status", "/readyz", "/healthz", "/metrics", "/api/v1/status", "/api/v1/services", "/api/v1/changes"} {
		_, body, err := m.host.Get(m.patient(), path)
		m.must(err)
		seen[path] = body
	}
	processes := append(m.host.HAProxy(), m.host.Pid())
	for _, pen := range m.host.Pens() {
		processes = append(processes, pen.PID)
	}
	for _, pid := range processes {
		for _, name := range []string{"cmdline", "environ"} {
			if raw, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), name)); err == nil && (name == "cmdline" || pid != m.host.Pid()) {
				seen[fmt.Sprintf("%s of process %d", name, pid)] = string(raw)
			}
		}
	}
	m.must(filepath.WalkDir(m.host.Dir, func(path string, entry os.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			raw, readErr := os.ReadFile(path)
			if errors.Is(readErr, os.ErrNotExist) { // a temporary file
				return nil
			}
			seen[path], err = string(raw), readErr
		}
		return err
	}))
	if len(m.host.HAProxy()) < 2 || len(m.host.Pens()) == 0 || !strings.Contains(seen[m.host.Config()], "shop") || !strings.Contains(seen["/metrics"], "proxymatic_source_up") {
		m.Errorf("there is too little to look at: %v", processes)
	}
	return seen
}

// shown names the places that show a secret.
func (m *member) shown(seen map[string]string) []string {
	var places []string
	for place, text := range seen {
		for _, secret := range m.secrets {
			if strings.Contains(text, secret) {
				places = append(places, place)
				m.Logf("%s shows %s", place, secret)
			}
		}
	}
	slices.Sort(places)
	return slices.Compact(places)
}

// keepsSecrets fails the test if anything so far shows a secret.
func (m *member) keepsSecrets() {
	m.Helper()
	if places := m.shown(m.lookout()); len(places) > 0 {
		m.Errorf("a secret is shown by %q", places)
	}
}

// ends lets proxymatic end, and looks at its last words.
func (m *member) ends() {
	m.Helper()
	m.must(m.host.Signal(syscall.SIGTERM))
	if code, err := m.host.Wait(m.patient()); err != nil || code != 0 {
		m.Errorf("proxymatic ended with %d, %v", code, err)
	}
	if places := m.shown(map[string]string{"the log": m.host.Log()}); len(places) > 0 {
		m.Errorf("a secret is shown by %q", places)
	}
}
