package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"go.yaml.in/yaml/v3"
)

var settingLine = regexp.MustCompile(`(?m)^#([a-z-]+: .*)$`)

// shippedSettings gives the settings that the shipped file shows, as if each # had been removed.
func shippedSettings(t *testing.T) (text string, values map[string]any) {
	t.Helper()
	shipped, err := os.ReadFile("../../deploy/proxymatic.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, match := range settingLine.FindAllStringSubmatch(string(shipped), -1) {
		text += match[1] + "\n"
	}
	if err := yaml.Unmarshal([]byte(text), &values); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return text, values
}

func TestShippedFileHasEveryKeyAndNoOther(t *testing.T) {
	_, values := shippedSettings(t)
	var want []string
	for _, o := range options() {
		if !o.flagOnly {
			want = append(want, o.name)
		}
	}
	slices.Sort(want)
	if got := sortedKeys(values); !slices.Equal(got, want) {
		t.Errorf("keys in deploy/proxymatic.yaml\n%q\nwant those of the options\n%q", got, want)
	}
}

func TestShippedFileShowsTheDefaults(t *testing.T) {
	_, values := shippedSettings(t)
	for _, o := range options() {
		shown, err := word(values[o.name])
		if o.def != "" && !o.flagOnly && (err != nil || shown != o.def) {
			t.Errorf("%s: the file shows %q (%v), the default is %q", o.name, shown, err, o.def)
		}
	}
}

func TestShippedFileCanBeRead(t *testing.T) {
	unset(t)
	text, _ := shippedSettings(t)
	changed := filepath.Join(t.TempDir(), "all.yaml")
	if err := os.WriteFile(changed, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"../../deploy/proxymatic.yaml", changed} {
		if _, err := read(t, "--config", file); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
}
