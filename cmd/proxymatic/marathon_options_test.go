package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/meltwater/proxymatic/sources/marathon"
)

func TestMarathonAccess(t *testing.T) {
	unset(t)
	account := "{\n  \"uid\": \"p\",\n  \"private_key\": \"-----BEGIN\\n\"\n}"
	for name, text := range map[string]string{"MARATHON_PASSWORD": "pw\n", "MARATHON_TOKEN": "tok", "MARATHON_SERVICE_ACCOUNT": account + "\n"} {
		file := filepath.Join(t.TempDir(), "secret")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		t.Setenv(name+"_FILE", file)
	}
	t.Setenv("MARATHON_USER", "u")
	t.Setenv("MARATHON_INSECURE", "yes")
	got, err := read(t, "--marathon-token-scheme", "Bearer", yamlFile(t, "marathon: http://m\nmarathon-ca: /ca\nmarathon-cert: /cert\nmarathon-key: /key"))
	want := marathon.Access{User: "u", Password: "pw", Token: "tok", TokenScheme: "Bearer", ServiceAccount: account,
		CAFile: "/ca", CertFile: "/cert", KeyFile: "/key", Insecure: true}
	if err != nil || got.MarathonAccess != want {
		t.Errorf("got %+v, %v\nwant %+v", got.MarathonAccess, err, want)
	}
	if used := got.marathons()[0].Access; used != want {
		t.Errorf("the source gets %+v", used)
	}
}

func TestMarathonAccessThatContradictsItselfEndsTheStart(t *testing.T) {
	unset(t)
	if got := call(t, "validate", "--marathon=http://m;https://n", "--marathon-insecure"); got.code != 0 {
		t.Errorf("one of two Marathons has https: got %+v", got)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--marathon-user=u", "--marathon-password=zecret", "--marathon-token=zecret"}, "proxymatic: --marathon-user and --marathon-token contradict each other; keep one\n"},
		{[]string{"--marathon-insecure"}, "proxymatic: --marathon-insecure is about https, and no URL of --marathon has that\n"},
		{[]string{"--marathon-ca=/missing"}, "proxymatic: --marathon-ca is about https, and no URL of --marathon has that\n"},
		{[]string{"--marathon-ca=/missing", "--marathon=https://m"}, "proxymatic: --marathon-ca: open /missing: no such file or directory\n"},
		{[]string{"--marathon-password=zec\nret"}, "proxymatic: --marathon-password (from the command line): has a line break or another control character\n"},
		{[]string{"--marathon-service-account=zecret"}, "proxymatic: --marathon-service-account: want JSON such as"},
	} {
		for _, command := range []string{"run", "validate"} {
			got := call(t, slices.Concat([]string{command, "--run-dir", t.TempDir(), "--status-endpoint=", "--marathon=http://m"}, c.args)...)
			if got.code != 1 || !strings.HasPrefix(got.stderr, c.want) || strings.Contains(got.stderr, "zec") {
				t.Errorf("%s %q: got %+v, want %s", command, c.args, got, c.want)
			}
		}
	}
}

// A service account in YAML is text; what looks like a mapping is one.
func TestAServiceAccountInYAML(t *testing.T) {
	unset(t)
	for text, good := range map[string]bool{
		"marathon-service-account: '{\"uid\":\"p\"}'":         true,
		"marathon-service-account: |\n  {\n   \"uid\":\"p\"}": true,
		"marathon-service-account: {\"uid\":\"zecret\"}":      false,
		"marathon-service-account: [zecret]":                  false,
	} {
		got, err := read(t, yamlFile(t, text))
		var account map[string]any
		if good && (err != nil || json.Unmarshal([]byte(got.MarathonAccess.ServiceAccount), &account) != nil || !reflect.DeepEqual(account, map[string]any{"uid": "p"})) {
			t.Errorf("%s: got %q, %v", text, got.MarathonAccess.ServiceAccount, err)
		}
		if !good && (err == nil || strings.Contains(err.Error(), "zecret")) {
			t.Errorf("%s: got %v, want an error without the value", text, err)
		}
	}
}

func TestHAProxyGetsNoSecretOfOurEnvironment(t *testing.T) {
	unset(t)
	for _, o := range options() {
		if o.secret {
			t.Setenv(o.env, "zecret")
		}
	}
	if env := strings.Join(openEnv(), "\n"); strings.Contains(env, "zecret") {
		t.Errorf("HAProxy's environment:\n%s", env)
	}
	secrets := []string{"MARATHON_PASSWORD", "MARATHON_TOKEN", "MARATHON_SERVICE_ACCOUNT", "MARATHON_URL"}
	for _, o := range options() {
		secrets = slices.DeleteFunc(secrets, func(s string) bool { return o.secret && o.env == s })
	}
	if len(secrets) > 0 {
		t.Errorf("%q should be secret", secrets)
	}
}
