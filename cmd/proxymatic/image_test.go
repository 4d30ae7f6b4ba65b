package main

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

// dockerStop is the time after which `docker stop` kills.
const dockerStop = 10 * time.Second

// imageSettings gives the environment that the Dockerfile sets, and the text of the file.
func imageSettings(t *testing.T) (env map[string]string, text string) {
	t.Helper()
	file, err := os.ReadFile("../../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	env = map[string]string{}
	for _, line := range regexp.MustCompile(`(?m)^ENV (.*)$`).FindAllStringSubmatch(string(file), -1) {
		for setting := range strings.FieldsSeq(line[1]) {
			name, value, _ := strings.Cut(setting, "=")
			env[name] = value
		}
	}
	return env, string(file)
}

// composeSettings gives what the test environment sets for proxymatic, in its file and in the one for laptops.
func composeSettings(t *testing.T) map[string]string {
	t.Helper()
	env := map[string]string{}
	for _, name := range []string{"docker-compose.yml", "docker-compose.bridge.yml"} {
		text, err := os.ReadFile("../../testenv/compose/" + name)
		if err != nil {
			t.Fatal(err)
		}
		var file struct {
			Services map[string]struct{ Environment map[string]string }
		}
		if err := yaml.Unmarshal(text, &file); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		maps.Copy(env, file.Services["proxymatic"].Environment)
	}
	return env
}

func TestContainersSetOnlyWhatExists(t *testing.T) {
	var names []string
	for _, o := range options() {
		names = append(names, o.env)
	}
	image, _ := imageSettings(t)
	for where, env := range map[string]map[string]string{"Dockerfile": image, "testenv/compose": composeSettings(t)} {
		if len(env) == 0 {
			t.Errorf("%s sets nothing", where)
		}
		for name := range env {
			if !slices.Contains(names, name) {
				t.Errorf("%s sets %s, which no option reads", where, name)
			}
		}
	}
}

func TestImageManagesItsProxiesAndEndsInTime(t *testing.T) {
	unset(t)
	env, _ := imageSettings(t)
	for name, value := range env {
		t.Setenv(name, value)
	}
	c, err := read(t)
	if err != nil {
		t.Fatal(err)
	}
	if c.HAProxyStart != managed || c.HAProxyReload != managed || c.OnExit != onExitDrain {
		t.Errorf("start %q, reload %q, on exit %q: want %q, %q, %q", c.HAProxyStart, c.HAProxyReload, c.OnExit, managed, managed, onExitDrain)
	}
	if c.Drain > dockerStop-2*time.Second {
		t.Errorf("drain %s: want 2 s less than the %s after which docker stop kills", c.Drain, dockerStop)
	}
	if c.HAProxy {
		t.Error("the image serves TCP with HAProxy: pen is the default, --haproxy asks for HAProxy")
	}
}

func TestImageKeepsTheDirectoriesAsVolumes(t *testing.T) {
	unset(t)
	_, text := imageSettings(t)
	c, err := read(t)
	if err != nil {
		t.Fatal(err)
	}
	if want := `VOLUME ["` + c.RunDir + `", "` + c.StateDir + `"]`; !strings.Contains(text, want) {
		t.Errorf("the Dockerfile has no %s", want)
	}
}

// Registrator would take proxymatic for a service, and its other services for servers of that.
func TestImageIsNoServiceOfRegistrators(t *testing.T) {
	_, text := imageSettings(t)
	if regexp.MustCompile(`(?m)^EXPOSE`).MatchString(text) || !strings.Contains(text, "LABEL SERVICE_IGNORE=true") {
		t.Error("the Dockerfile exposes a port, or has no label SERVICE_IGNORE=true")
	}
}
