package main

import (
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/runtime/policy"
	"github.com/meltwater/proxymatic/sources/marathon"
)

// unset takes all settings out of the environment for one test.
func unset(t *testing.T) {
	t.Helper()
	for _, o := range options() {
		for _, name := range []string{o.env, o.env + "_FILE"} {
			if _, there := os.LookupEnv(name); there && o.env != "" {
				t.Setenv(name, "")
			}
		}
	}
}

func read(t *testing.T, args ...string) (Config, error) {
	t.Helper()
	flags := newFlags()
	if err := flags.Parse(args); err != nil {
		t.Fatalf("parse %q: %v", args, err)
	}
	return load(flags)
}

// yamlFile writes a file and gives the flag that names it.
func yamlFile(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return "--config=" + name
}

func TestDefaults(t *testing.T) {
	unset(t)
	want := Config{
		MarathonAccess: marathon.Access{TokenScheme: "token"}, Guard: policy.Guard{Percent: 50, Min: 5, Hold: time.Minute}, FlapLimit: 6, RefreshInterval: time.Minute, GroupSize: 1, MaxConnections: 8192, BindAddress: netip.MustParseAddr("0.0.0.0"),
		Drain: 60 * time.Second, ReleaseAfter: time.Hour, ReloadInterval: 250 * time.Millisecond, MaxOldWorkers: 5, OnExit: "leave",
		PenServers: 32, PenClients: 8192, PenUser: "pen",
		HAProxyStart: "/etc/init.d/haproxy start", HAProxyReload: "/etc/init.d/haproxy reload",
		HAProxyConfig: "/etc/haproxy/haproxy.cfg", HAProxySocket: "/run/proxymatic/haproxy.sock", HAProxyCheck: policy.CheckAuto,
		StatusEndpoint: "127.0.0.1:9090", RunDir: "/run/proxymatic", StateDir: "/var/lib/proxymatic", LogFormat: "text",
		Output: "text", Timeout: 10 * time.Second,
	}
	got, err := read(t)
	got.File, got.HAProxyTemplate, got.PenTemplate = "", "", "" // what is installed here decides on these
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v\nwant %+v", got, err, want)
	}
}

func TestPrecedence(t *testing.T) {
	for _, c := range []struct {
		rule string
		env  string
		yaml string
		args []string
		want time.Duration
	}{
		{"the default", "", "", nil, time.Minute},
		{"the file over the default", "", "refresh-interval: 2", nil, 2 * time.Second},
		{"the environment over the file", "3", "refresh-interval: 2", nil, 3 * time.Second},
		{"an empty environment variable is unset", "", "refresh-interval: 2", nil, 2 * time.Second},
		{"the command line over all", "3", "refresh-interval: 2", []string{"--refresh-interval=4"}, 4 * time.Second},
		{"the short flag too", "3", "refresh-interval: 2", []string{"-i", "4"}, 4 * time.Second},
		{"a flag with the default's value", "3", "refresh-interval: 2", []string{"-i60"}, time.Minute},
		{"a key without a value is unset", "", "refresh-interval:", nil, time.Minute},
	} {
		t.Run(c.rule, func(t *testing.T) {
			unset(t)
			t.Setenv("REFRESH_INTERVAL", c.env)
			got, err := read(t, append(c.args, yamlFile(t, c.yaml))...)
			if err != nil || got.RefreshInterval != c.want {
				t.Errorf("env %q, yaml %q, args %q: got %s, %v, want %s", c.env, c.yaml, c.args, got.RefreshInterval, err, c.want)
			}
		})
	}
}

func TestDecoding(t *testing.T) {
	duration := func(c Config) any { return c.RefreshInterval }
	boolean := func(c Config) any { return c.HAProxy }
	list := func(c Config) any { return c.Marathon }
	for _, c := range []struct {
		yaml string
		get  func(Config) any
		want any
	}{
		{"refresh-interval: 60", duration, 60 * time.Second},
		{"refresh-interval: '60'", duration, 60 * time.Second},
		{"refresh-interval: 1.5", duration, 1500 * time.Millisecond},
		{"refresh-interval: 5m", duration, 5 * time.Minute},
		{"refresh-interval: ' 60s '", duration, 60 * time.Second},
		{"haproxy: true", boolean, true},
		{"haproxy: yes", boolean, true},
		{"haproxy: 'YES'", boolean, true},
		{"haproxy: 1", boolean, true},
		{"haproxy: no", boolean, false},
		{"haproxy: False", boolean, false},
		{"haproxy: 0", boolean, false},
		{"marathon: http://a:1/", list, [][]string{{"http://a:1"}}},
		{"marathon: http://a:1/ , https://b:2,", list, [][]string{{"http://a:1", "https://b:2"}}},
		{"marathon: [http://a:1, ' http://b:2/x/ ']", list, [][]string{{"http://a:1", "http://b:2/x"}}},
		{"marathon:\n- http://u:p@a:1\n- http://b:2", list, [][]string{{"http://u:p@a:1", "http://b:2"}}},
		{"marathon: ''", list, [][]string(nil)},
		{"marathon: http://a:1,http://b:2 ; http://c:3/;", list, [][]string{{"http://a:1", "http://b:2"}, {"http://c:3"}}},
		{"marathon: ['http://a:1;http://c:3']", list, [][]string{{"http://a:1"}, {"http://c:3"}}},
		{"marathon: [[http://a:1, http://b:2], [http://c:3], 'http://d:4,http://e:5']", list, [][]string{{"http://a:1", "http://b:2"}, {"http://c:3"}, {"http://d:4", "http://e:5"}}},
		{"pen-servers: 7", func(c Config) any { return c.PenServers }, 7},
		{"status-endpoint: ''", func(c Config) any { return c.StatusEndpoint }, ""},
		{"status-endpoint: '[::1]:90'", func(c Config) any { return c.StatusEndpoint }, "[::1]:90"},
		{"status-endpoint: ':90'", func(c Config) any { return c.StatusEndpoint }, ":90"},
		{"bind-address: '::'", func(c Config) any { return c.BindAddress }, netip.MustParseAddr("::")},
		{"registrator: etcd://a:1,b:2/services/", func(c Config) any { return c.Registrator }, "etcd://a:1,b:2/services"},
		{"haproxy-check: never", func(c Config) any { return c.HAProxyCheck }, policy.CheckNever},
		{"run-dir: /x/../y/", func(c Config) any { return c.RunDir }, "/y"},
	} {
		t.Run(c.yaml, func(t *testing.T) {
			unset(t)
			config, err := read(t, yamlFile(t, c.yaml))
			if got := c.get(config); err != nil || !reflect.DeepEqual(got, c.want) {
				t.Errorf("%s: got %#v, %v, want %#v", c.yaml, got, err, c.want)
			}
		})
	}
}

// A value means the same wherever it stands.
func TestFlagsAndEnvironmentAreDecodedLikeYAML(t *testing.T) {
	unset(t)
	t.Setenv("MARATHON_URL", "http://a:1/, http://b:2/")
	t.Setenv("VERBOSE", "Yes")
	t.Setenv("DRAIN", "5")
	got, err := read(t, "--haproxy", "-e=no", "--release-after", "90", "--group-size=2")
	if err != nil || !got.HAProxy || got.ExposeHost || !got.Verbose || got.Drain != 5*time.Second || got.ReleaseAfter != 90*time.Second ||
		got.GroupSize != 2 || !reflect.DeepEqual(got.Marathon, [][]string{{"http://a:1", "http://b:2"}}) {
		t.Errorf("got %+v, %v", got, err)
	}
	if got, err := read(t, "-m", "http://a:1,http://b:2", "--marathon=http://c:3"); err != nil || !reflect.DeepEqual(got.Marathon, [][]string{{"http://a:1", "http://b:2"}, {"http://c:3"}}) {
		t.Errorf("two Marathons: got %q, %v", got.Marathon, err)
	}
	if got, err := read(t, "--group-size", "3", "--group-size", "4"); err != nil || got.GroupSize != 4 {
		t.Errorf("another flag that is given twice: got %d, %v", got.GroupSize, err)
	}
	t.Setenv("HAPROXY", "1")
	if got, err := read(t, "--haproxy=false", "--marathon="); err != nil || got.HAProxy || got.Marathon != nil {
		t.Errorf("flags that switch off what the environment has: got %v and %q, %v", got.HAProxy, got.Marathon, err)
	}
}

func TestErrorsNameTheSettingAndItsPlace(t *testing.T) {
	for _, c := range []struct{ yaml, want string }{
		{"refresh-intervall: 1", `FILE: unknown key "refresh-intervall"; did you mean "refresh-interval"?`},
		{"REGISTRATOR: x", `FILE: unknown key "REGISTRATOR"; did you mean "registrator"?`},
		{"pen_user: x\nmarathon-url: x", "FILE: unknown key \"marathon-url\"; did you mean \"marathon\"?\nunknown key \"pen_user\"; did you mean \"pen-user\"?"},
		{"refresh-intervall: 1\npen-servers: 0", "FILE: unknown key \"refresh-intervall\"; did you mean \"refresh-interval\"?\n--pen-servers (from FILE): \"0\": want a whole number from 1"},
		{"haproxy.check: x", `FILE: unknown key "haproxy.check"; did you mean "haproxy-check"?`},
		{"drain: 1\ndrain: 2", "FILE: yaml: unmarshal errors:\n  line 2: mapping key \"drain\" already defined at line 1"},
		{"drain: 1\n---\ndrain: 2", "FILE: want one YAML document, not several"},
		{"drain: [", "FILE: yaml: line 1: did not find expected node content"},
		{"release-after: 0", `--release-after (from FILE): "0": want more than 0`},
		{"drain: -5s", `--drain (from FILE): "-5s": want 0 or more`},
		{"reload-interval: -1", `--reload-interval (from FILE): "-1": want 0 or more`},
		{"max-old-workers: -1", `--max-old-workers (from FILE): "-1": want a whole number from 0`},
		{"drain: soon", `--drain (from FILE): "soon": want seconds, such as 60, or a duration, such as 60s or 5m`},
		{"drain: .nan", `--drain (from FILE): "NaN": want seconds, such as 60, or a duration, such as 60s or 5m`},
		{"drain: 1e300", `--drain (from FILE): "1e+300": want seconds, such as 60, or a duration, such as 60s or 5m`},
		{"marathon: ['http://a:1;http://c:3', 'http://d:4']", `--marathon (from FILE): a list is one of replicas, which ";" does not fit into: want a list of lists, one for each Marathon`},
		{"drain: [1, 2]", "--drain (from FILE): want a single value"},
		{"drain: {a: 1}", "--drain (from FILE): want a single value"},
		{"pen-servers: 3.9", `--pen-servers (from FILE): "3.9": want a whole number from 1`},
		{"pen-servers: 0", `--pen-servers (from FILE): "0": want a whole number from 1`},
		{"haproxy: maybe", `--haproxy (from FILE): "maybe": want true or false (or 1, 0, yes, no)`},
		{"on-exit: stop", `--on-exit (from FILE): "stop": want one of ["leave" "drain"]`},
		{"pen-user: ''", "--pen-user (from FILE): must not be empty"},
		{"pen-user: \"a\\nb\"", "--pen-user (from FILE): has a line break or another control character"},
		{"bind-address: eth0", `--bind-address (from FILE): "eth0": want an IPv4 or IPv6 address`},
		{"status-endpoint: 9090", `--status-endpoint (from FILE): "9090": want host:port, such as 127.0.0.1:9090, or nothing for no endpoint`},
		{"status-endpoint: 'a:0'", "--status-endpoint (from FILE): port 0: want 1 to 65535"},
		{"marathon: localhost:8080", "--marathon (from FILE): want a URL such as http://host:8080"},
		{"registrator: http://x", "--registrator (from FILE): want a URL such as etcd://host:4001/services"},
		{"haproxy-start: managed", `--haproxy-start is "managed" and --haproxy-reload is "/etc/init.d/haproxy reload": want both to be managed, or both to be commands`},
		{"haproxy-socket: /" + strings.Repeat("x", 107), `--haproxy-socket (from FILE): "/` + strings.Repeat("x", 107) + `": want at most 97 bytes, HAProxy's limit for a Unix socket`},
		{"haproxy-socket: /" + strings.Repeat("x", 97), `--haproxy-socket (from FILE): "/` + strings.Repeat("x", 97) + `": want at most 97 bytes, HAProxy's limit for a Unix socket`},
		{"haproxy-start: managed\nhaproxy-reload: managed\nrun-dir: /" + strings.Repeat("x", 77), "--run-dir: the socket /" + strings.Repeat("x", 77) + "/haproxy-master.sock would have more than the 97 bytes that HAProxy allows"},
		{"run-dir: /" + strings.Repeat("x", 94), "--run-dir: the socket /" + strings.Repeat("x", 94) + "/control.sock would have more than the 107 bytes that the kernel allows"},
		{"release-after: 0\npen-servers: 0", "--pen-servers (from FILE): \"0\": want a whole number from 1\n--release-after (from FILE): \"0\": want more than 0"},
	} {
		t.Run(c.yaml, func(t *testing.T) {
			unset(t)
			flag := yamlFile(t, c.yaml)
			_, err := read(t, flag)
			if err == nil {
				t.Fatalf("%s: no error, want %s", c.yaml, c.want)
			}
			if got := strings.ReplaceAll(err.Error(), strings.TrimPrefix(flag, "--config="), "FILE"); got != c.want {
				t.Errorf("%s\ngot  %s\nwant %s", c.yaml, got, c.want)
			}
		})
	}
}

func TestErrorsNameTheEnvironmentAndTheCommandLine(t *testing.T) {
	unset(t)
	t.Setenv("DRAIN", "x")
	_, err := read(t, "--group-size", "-1")
	want := `--group-size (from the command line): "-1": want a whole number from 1` + "\n" +
		`--drain (from the environment: DRAIN): "x": want seconds, such as 60, or a duration, such as 60s or 5m`
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestMarathonCallback(t *testing.T) {
	unset(t)
	for _, good := range []string{"", "http://me:5090", "http://me:5090/", "http://me/events/", "http://[::1]:5090"} {
		if c, err := read(t, "--marathon-callback="+good); err != nil || c.MarathonCallback != good {
			t.Errorf("%q: got %q, %v", good, c.MarathonCallback, err)
		}
	}
	const from = "--marathon-callback (from the command line): "
	for bad, want := range map[string]string{
		"https://me:5090":       from + "want a URL that begins with http://: the listener has no TLS, since what Marathon posts is but a hint to look",
		"http://user:pw@me:509": from + "want a URL without credentials, for Marathon shows it to all; give it a path that is hard to guess instead",
		"me:5090":               from + "want a URL such as http://host:8080",
		"http://me:0":           from + "want a port from 1 to 65535 in the URL",
		"http://me:5090/?x=y":   from + "want a URL without ? and #",
		"http://me:9090":        "--marathon-callback and --status-endpoint both listen on port 9090: give one of them another",
	} {
		if _, err := read(t, "--marathon-callback="+bad); err == nil || err.Error() != want {
			t.Errorf("%s\ngot  %v\nwant %s", bad, err, want)
		}
	}
	want := "--marathon-callback is for one Marathon, and there are 2: remove it, their event streams are followed without it"
	if _, err := read(t, "-m", "http://a,http://b", "-m", "http://c", "-c", "http://me:5090"); err == nil || err.Error() != want {
		t.Errorf("two Marathons: got %v, want %s", err, want)
	}
	if _, err := read(t, "--marathon-callback=http://me:9090", "--status-endpoint="); err != nil {
		t.Errorf("no status endpoint: %v", err)
	}
}

// No piece of a password is shown, whatever in it makes the URL fall apart elsewhere.
func TestNoPieceOfAPasswordIsShown(t *testing.T) {
	for _, password := range []string{"sec/ret", "sec@ret", "sec:ret", "sec#ret", "sec?ret", "sec,ret", "99999/ret", "77/ret", "77#ret", "77?ret", "77,ret", "sec%ret", "/sec", "#sec", "@/ret", "se\"c/ret"} {
		for option, scheme := range map[string]string{"--marathon": "http", "--marathon-callback": "http", "--registrator": "etcd3"} {
			got := call(t, "services", "--haproxy", "--timeout=0.05", option, scheme+"://user:"+password+"@127.0.0.1:1/x")
			if got.code != 1 || got.stdout != "" || regexp.MustCompile(`sec|ret\b|99999|77|user`).MatchString(strings.ReplaceAll(got.stderr, helpText(), "")) {
				t.Errorf("%s with password %s: got %+v, want an error without a piece of it", option, password, got)
			}
		}
	}
}

func TestPasswordsAreNotShown(t *testing.T) {
	for _, bad := range []string{"http://user:secret@host:x", "user:secret@host", "http://user:secret@host:99999", "ftp://user:secret@host", "http://user:secret@ho st", "http://user:sec%ret@host", "http://user:secret@"} {
		t.Run(bad, func(t *testing.T) {
			unset(t)
			if _, err := read(t, "--marathon", bad); err == nil || strings.Contains(err.Error(), "sec") {
				t.Errorf("got %v, want an error without the password", err)
			}
		})
	}
}

func TestSecretsInFiles(t *testing.T) {
	unset(t)
	secret := filepath.Join(t.TempDir(), "url")
	if err := os.WriteFile(secret, []byte("http://u:p@a:1/\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("MARATHON_URL_FILE", secret)
	if got, err := read(t, yamlFile(t, "marathon: http://b:2")); err != nil || !reflect.DeepEqual(got.Marathon, [][]string{{"http://u:p@a:1"}}) {
		t.Errorf("the file's value over the YAML file's: got %q, %v", got.Marathon, err)
	}
	if got, err := read(t, "-m", "http://c:3"); err != nil || !reflect.DeepEqual(got.Marathon, [][]string{{"http://c:3"}}) {
		t.Errorf("the command line over the file: got %q, %v", got.Marathon, err)
	}
	t.Setenv("MARATHON_URL", "http://d:4")
	if _, err := read(t); err == nil || !strings.Contains(err.Error(), "MARATHON_URL_FILE") {
		t.Errorf("both: got %v, want an error that names them", err)
	}
	t.Setenv("MARATHON_URL", "")
	if err := os.WriteFile(secret+".empty", []byte(" \n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("MARATHON_URL_FILE", secret+".empty")
	if _, err := read(t); err == nil || !strings.Contains(err.Error(), secret+".empty is empty") {
		t.Errorf("an empty file: %v", err)
	}
	t.Setenv("MARATHON_URL_FILE", secret+".missing")
	if _, err := read(t); err == nil || !strings.Contains(err.Error(), "MARATHON_URL_FILE") {
		t.Errorf("a missing file: got %v, want an error that names the variable", err)
	}
}

func TestConfigurationFileMayBeMissingUnlessGiven(t *testing.T) {
	unset(t)
	if _, err := read(t, "--config=/nonexistent/c.yaml"); err == nil || !strings.Contains(err.Error(), "/nonexistent/c.yaml") {
		t.Errorf("given: got %v, want an error that names the file", err)
	}
	t.Setenv("PROXYMATIC_CONFIG", "/nonexistent/c.yaml")
	if _, err := read(t); err == nil {
		t.Error("given by the environment: no error")
	}
}

func TestTemplatePath(t *testing.T) {
	unset(t)
	want := "" // the built-in one
	if !missing("/etc/haproxy/haproxy.cfg.tpl") {
		want = "/etc/haproxy/haproxy.cfg.tpl"
	}
	if got, err := read(t); err != nil || got.HAProxyTemplate != want {
		t.Errorf("left at its default: got %q, %v, want %q", got.HAProxyTemplate, err, want)
	}
	given := "--haproxy-template=/nonexistent/haproxy.cfg.tpl"
	if got, err := read(t, given); err != nil || got.HAProxyTemplate == "" {
		t.Errorf("given and missing: got %q, %v, want that it stays", got.HAProxyTemplate, err)
	}
}

func TestEveryOptionIsReadFromItsOwnPlaces(t *testing.T) {
	seen := map[string]string{}
	for _, o := range options() {
		for _, name := range []string{o.name, o.short, o.env} {
			if other, twice := seen[name]; twice && name != "" {
				t.Errorf("%s and %s both have %q", other, o.name, name)
			}
			seen[name] = o.name
		}
		if want := strings.ToUpper(strings.ReplaceAll(o.name, "-", "_")); o.env != "" && !strings.Contains(o.env, want) {
			t.Errorf("--%s is %s in the environment, want %s in it", o.name, o.env, want)
		}
	}
}

func FuzzParseFile(f *testing.F) {
	for _, seed := range []string{"", "a", "drain: 1", "drain: &a [*a]", "- 1", "1: 2", "? [a]: b", "haproxy: .nan", "marathon: [a, [b]]"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		values, err := parseFile(text)
		if err != nil {
			return
		}
		var c Config
		for _, o := range options() {
			_ = o.set(&c, values[o.name]) // must not panic, whatever the value
		}
	})
}
