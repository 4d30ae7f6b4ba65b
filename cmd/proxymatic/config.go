package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"github.com/spf13/viper"
	"go.yaml.in/yaml/v3"
)

// flagValue is a flag's text. It is read and checked together with what comes from elsewhere.
type flagValue struct {
	text    string
	between string // stands between the texts of a flag that is given more than once; empty: the last one counts
	given   bool
}

func (f *flagValue) String() string { return f.text }
func (f *flagValue) Type() string   { return "value" }

// Set takes the text of one more flag.
func (f *flagValue) Set(s string) error {
	if f.given && f.between != "" {
		s = f.text + f.between + s
	}
	f.text, f.given = s, true
	return nil
}

// newFlags gives the command line's flags, to be parsed.
func newFlags() *pflag.FlagSet {
	flags := pflag.NewFlagSet("proxymatic", pflag.ContinueOnError)
	flags.Usage = func() {} // the caller prints help where it belongs
	for _, o := range options() {
		flag := flags.VarPF(&flagValue{text: o.def, between: o.between}, o.name, o.short, o.help)
		if o.arg == "" {
			flag.NoOptDefVal = "true"
		}
	}
	return flags
}

// settings is one reading of the configuration: flag over environment over YAML file over default.
type settings struct {
	flags  *pflag.FlagSet
	viper  *viper.Viper
	file   string            // the YAML file that was read; empty when there was none
	source map[string]string // option -> where its value comes from, unless it is the default
}

// load reads and checks the whole configuration. The error names every bad setting and where it stands.
func load(flags *pflag.FlagSet) (Config, error) {
	s, err := bindAll(flags)
	if err != nil {
		return Config{}, err
	}
	c := Config{}
	if err := errors.Join(s.readFile(), s.read(&c, options())); err != nil {
		return Config{}, err
	}
	c.File = s.file
	for _, template := range []struct {
		name string
		path *string
	}{{"haproxy-template", &c.HAProxyTemplate}, {"pen-template", &c.PenTemplate}} {
		if s.source[template.name] == "" && missing(*template.path) {
			*template.path = ""
		}
	}
	return c, c.check()
}

// loadFlags reads what only the command line says, so that a broken configuration is nothing to it.
func loadFlags(flags *pflag.FlagSet) (Config, error) {
	s, err := bindAll(flags)
	if err != nil {
		return Config{}, err
	}
	c := Config{}
	err = s.read(&c, slices.DeleteFunc(options(), func(o option) bool { return !o.flagOnly }))
	return c, err
}

func bindAll(flags *pflag.FlagSet) (*settings, error) {
	s := &settings{flags: flags, viper: viper.New(), source: map[string]string{}}
	var errs []error
	for _, o := range options() {
		errs = append(errs, s.bind(o))
	}
	return s, errors.Join(errs...)
}

// read fills in options. The error names every bad one.
func (s *settings) read(c *Config, list []option) error {
	var errs []error
	for _, o := range list {
		if err := o.set(c, s.viper.Get(o.name)); err != nil {
			errs = append(errs, fmt.Errorf("--%s (from %s): %w", o.name, s.origin(o), err))
		}
	}
	return errors.Join(errs...)
}

// check finds settings that do not go together.
func (c Config) check() error {
	if (c.HAProxyStart == managed) != (c.HAProxyReload == managed) {
		return fmt.Errorf("--haproxy-start is %q and --haproxy-reload is %q: want both to be managed, or both to be commands",
			c.HAProxyStart, c.HAProxyReload)
	}
	if c.MarathonCallback != "" && len(c.Marathon) > 1 {
		return fmt.Errorf("--marathon-callback is for one Marathon, and there are %d: remove it, their event streams are followed without it", len(c.Marathon))
	}
	if _, port, err := net.SplitHostPort(c.StatusEndpoint); err == nil && port == c.callbackPort() {
		return fmt.Errorf("--marathon-callback and --status-endpoint both listen on port %s: give one of them another", port)
	}
	if socket := c.controlSocket(); len(socket) > kernelSocketPath {
		return fmt.Errorf("--run-dir: the socket %s would have more than the %d bytes that the kernel allows", socket, kernelSocketPath)
	}
	if c.TakeOver && c.HAProxy && c.HAProxyStart != managed {
		return fmt.Errorf("--take-over is for proxies that proxymatic runs itself, and --haproxy-start is %q: a restart without --take-over leaves such an HAProxy alone", c.HAProxyStart)
	}
	if socket := filepath.Join(c.proxyDir(), "haproxy-master.sock"); c.HAProxyStart == managed && len(socket) > haproxySocketPath {
		return fmt.Errorf("--run-dir: the socket %s would have more than the %d bytes that HAProxy allows", socket, haproxySocketPath)
	}
	return nil
}

// callbackPort is the port that Marathon posts to, or empty.
func (c Config) callbackPort() string {
	u, err := url.Parse(c.MarathonCallback)
	if err != nil || c.MarathonCallback == "" {
		return ""
	}
	return cmp.Or(u.Port(), "80")
}

func (c Config) controlSocket() string { return filepath.Join(c.RunDir, "control.sock") }

// hasSource tells whether there is anything to read services from.
func (c Config) hasSource() bool {
	return c.Registrator != "" || len(c.Marathon) > 0 || c.ServicesFile != ""
}

// bind tells viper where an option's value can come from, the YAML file excepted.
func (s *settings) bind(o option) error {
	s.viper.SetDefault(o.name, o.def)
	if err := s.viper.BindPFlag(o.name, s.flags.Lookup(o.name)); err != nil {
		return err
	}
	given := s.flags.Changed(o.name)
	if given {
		s.source[o.name] = "the command line"
	}
	if o.env == "" {
		return nil
	}
	if err := s.viper.BindEnv(o.name, o.env); err != nil {
		return err
	}
	if os.Getenv(o.env) != "" && !given {
		s.source[o.name] = "the environment: " + o.env
	}
	if file := os.Getenv(o.env + "_FILE"); o.secret && file != "" && !given {
		return s.readSecret(o, file)
	}
	return nil
}

func (s *settings) readSecret(o option, file string) error {
	if os.Getenv(o.env) != "" {
		return fmt.Errorf("--%s: both %s and %s_FILE are in the environment; keep one", o.name, o.env, o.env)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("--%s (from the environment: %s_FILE): %w", o.name, o.env, err)
	}
	if len(bytes.TrimSpace(text)) == 0 {
		return fmt.Errorf("--%s (from the environment: %s_FILE): %s is empty", o.name, o.env, file)
	}
	s.viper.Set(o.name, strings.TrimSpace(string(text)))
	s.source[o.name] = fmt.Sprintf("%s, named by %s_FILE", file, o.env)
	return nil
}

func (s *settings) origin(o option) string {
	if from := s.source[o.name]; from != "" {
		return from
	}
	return "the default"
}

// readFile adds the YAML file. It may be missing unless it was given.
func (s *settings) readFile() error {
	name := s.viper.GetString("config")
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) && s.source["config"] == "" {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	s.file = name
	values, err := parseFile(text)
	if err != nil {
		err = fmt.Errorf("%s: %w", name, err)
	}
	for key := range values {
		if s.source[key] == "" {
			s.source[key] = name
		}
	}
	return errors.Join(err, s.viper.MergeConfigMap(values))
}

// parseFile gives the keys of a YAML file that have a value; beside an error, those that are known. Keys are compared as they are
// written, and duplicates are errors of the YAML library: viper folds case and keeps any one.
func parseFile(text []byte) (map[string]any, error) {
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var values, more map[string]any
	if err := dec.Decode(&values); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, errors.New("want one YAML document, not several")
	}
	var keys []string
	for _, o := range options() {
		if !o.flagOnly {
			keys = append(keys, o.name)
		}
	}
	var errs []error
	for _, key := range sortedKeys(values) {
		known := slices.Contains(keys, key)
		if !known {
			errs = append(errs, fmt.Errorf("unknown key %q; did you mean %q?", key, meant(key, keys)))
		}
		if !known || values[key] == nil {
			delete(values, key)
		}
	}
	return values, errors.Join(errs...)
}

func sortedKeys(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// meant is the known key that an unknown one may stand for: the option whose variable has its name, or else the nearest.
func meant(key string, known []string) string {
	for _, o := range options() {
		if strings.EqualFold(o.env, strings.ReplaceAll(key, "-", "_")) && slices.Contains(known, o.name) {
			return o.name
		}
	}
	return nearest(key, known)
}

// nearest is the known word that takes the fewest edits to get to.
func nearest(word string, known []string) string {
	word = strings.ReplaceAll(strings.ToLower(word), "_", "-")
	return slices.MinFunc(known, func(a, b string) int { return edits(word, a) - edits(word, b) })
}

// edits is the number of letters to add, remove or replace between two words.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}

func missing(path string) bool {
	_, err := os.Stat(path)
	return errors.Is(err, fs.ErrNotExist)
}
