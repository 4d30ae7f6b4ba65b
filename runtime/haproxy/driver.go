// Package haproxy drives HAProxy: it makes a running process offer the wanted TCP services through its stats socket, lets
// haproxy.cfg follow, and loads a new process only for what the socket cannot do.
package haproxy

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
	"github.com/meltwater/proxymatic/templates"
)

// Managed is the value of Config.Start and Config.Reload that makes the driver run HAProxy itself.
const Managed = "managed"

// Config is what a Driver needs to know.
type Config struct {
	ConfigFile     string        // haproxy.cfg
	TemplateFile   string        // its template; empty is the built-in one
	Start, Reload  string        // Managed, or shell commands
	Socket         string        // HAProxy's stats socket
	RunDir         string        // for structures and the master socket; must exist before Plan or Apply
	BindAddress    netip.Addr    // where services listen
	MaxConnections int           // of each service
	Drain          time.Duration // how long a removed server keeps its connections; 0 cuts them at once
	Env            []string      // environment of HAProxy and the shell commands; nil is our own
	ReleaseAfter   time.Duration // how long a removed service's port may stay bound without a reload for another reason
	ReloadInterval time.Duration // least time between two loads, so that services that come together share one; 0 for none
	MaxOldWorkers  int           // number of old workers with open connections from which on a reload waits; 0 for no limit
	RespectMaint   bool          // leave servers alone that somebody put into maintenance or drain on the socket
	Beside         *Beside       // whose clients ours takes over; nil for nobody's. Managed only
}

// Driver makes HAProxy offer services. It implements reconcile.Driver.
type Driver struct {
	config  Config
	cli     cli
	process process
	ports   ports
	render  *renderer
	store   store
	file    *keeper
	now     func() time.Time
	check   func(ctx context.Context, path string) error // what HAProxy says to a configuration
	beside  *atomic.Pointer[Beside]                      // nil in it when ours is alone

	resync  atomic.Bool           // the next pass observes everything
	fileErr atomic.Pointer[error] // why haproxy.cfg could not be brought up to date
	alarm   chan time.Duration    // when to ask for another pass; the latest counts
	worker  chan int              // the worker's process, when it changes
	watched int                   // the same, as Run knows it; 0 before the first

	// What follows belongs to Plan and Apply, which are never called at the same time. It is a memory of what was proven,
	// to look at less, and of when things began; nothing breaks when it is lost.
	last     info // who answered the last pass
	former   int  // the process that the last load replaced; 0 for none
	alone    int  // the process that is known to have no other beside it; 0 for none
	built    structure
	verified sections                  // what the last passes proved; nil when that is nothing
	leaving  map[string]leaving        // removed servers that still have connections, by path
	gone     map[catalog.Key]time.Time // removed services whose ports are still bound
	taken    map[catalog.Key]string    // services that wait for a port, and who has it
	refused  map[catalog.Key]*refused  // services that HAProxy refuses
	balks    map[string]*balk          // changes that HAProxy refuses
	hands    hands                     // servers that somebody took out of service; nil when that is not known
	left     map[catalog.Key]bool      // services that are left out for a try
	looked   time.Time                 // when the holders of taken ports were last looked for
	pace     pace                      // when the next load is due
	crowd    crowd                     // old workers
	rechecks int                       // passes that still observe everything, soon after a failed reload
}

// maxSocketPath is HAProxy's limit: it binds a temporary name first, and renames it.
const maxSocketPath = 97

// New prepares a driver. Errors are about the template: they name the file and the line.
func New(config Config) (*Driver, error) {
	if len(config.Socket) > maxSocketPath {
		return nil, fmt.Errorf("stats socket %s: the path is longer than the %d bytes that HAProxy takes", config.Socket, maxSocketPath)
	}
	if strings.ContainsAny(config.Socket, " \t\r\n\"'#\\,") {
		return nil, fmt.Errorf("stats socket %q: haproxy.cfg cannot carry such a path; leave out blanks, quotes, '#', ',' and '\\'", config.Socket)
	}
	t, err := templates.ParseHAProxy(config.TemplateFile)
	if err != nil {
		return nil, err
	}
	global := templates.HAProxy{Socket: config.Socket, HardStop: hardStop(config.Drain)}
	global.User, global.Group = identity()
	render, err := newRenderer(t, global, config.BindAddress, config.MaxConnections)
	if err != nil {
		return nil, fmt.Errorf("template: %w", err)
	}
	beside := new(atomic.Pointer[Beside])
	beside.Store(config.Beside)
	d := &Driver{config: config, cli: socket{config.Socket}, ports: hostPorts{config.ConfigFile, beside}, beside: beside, render: render, store: store{config.RunDir},
		file: &keeper{path: config.ConfigFile, changed: make(chan struct{}, 1)}, now: time.Now, check: checkConfig, alarm: make(chan time.Duration, 1), worker: make(chan int, 1),
		leaving: map[string]leaving{}, gone: map[catalog.Key]time.Time{}, taken: map[catalog.Key]string{}, balks: map[string]*balk{}}
	if config.Start == Managed || config.Reload == Managed {
		d.process = newManaged(config, beside)
	} else {
		d.process = &commands{startCommand: config.Start, reloadCommand: config.Reload, cli: d.cli, socket: config.Socket,
			config: config.ConfigFile, runDir: config.RunDir, env: config.Env, patience: answerTimeout, now: time.Now}
	}
	return d, d.tryTemplate()
}

// Name is "haproxy".
func (d *Driver) Name() string { return "haproxy" }

// Resync makes the next Plan or Apply observe everything.
func (d *Driver) Resync() { d.resync.Store(true) }

// Render gives the haproxy.cfg that a load of these services would write.
func (d *Driver) Render(_ context.Context, want []*catalog.Service) ([]byte, error) {
	l, err := d.layout(want, structure{})
	if err != nil {
		return nil, err
	}
	return l.text(l.structure().Hash), nil
}

// tryTemplate renders a sample and refuses a template whose HAProxy could not be driven.
func (d *Driver) tryTemplate() error {
	l, err := d.layout(sample(), structure{})
	if err != nil {
		return err
	}
	name := cmp.Or(d.config.TemplateFile, "built in")
	if !declaresSocket(string(l.text("")), d.config.Socket) {
		return fmt.Errorf("template %s: its global section does not declare the stats socket; add the line `stats socket %s mode 600 "+
			"level admin expose-fd listeners` to it", name, d.config.Socket)
	}
	for _, s := range l.sections {
		switch {
		case len(s.proxies) == 0:
			return fmt.Errorf(`template %s: "service" makes no listen, frontend or backend section`, name)
		case len(s.binds) == 0:
			return fmt.Errorf(`template %s: "service" makes no line "bind {{.Bind}}"`, name)
		case len(s.managedNames()) == 0:
			return fmt.Errorf(`template %s: "service" makes no line "server {{.Name}} {{.Address}} ..." for its servers`, name)
		}
	}
	return nil
}

// declaresSocket reports whether the global section has the stats socket, with the right to change things.
func declaresSocket(text, path string) bool {
	global := false
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		if isHeader(words[0]) {
			global = words[0] == "global"
		}
		if global && len(words) > 4 && words[0] == "stats" && words[1] == "socket" && strings.TrimPrefix(words[2], "unix@") == path &&
			strings.Contains(line, "level admin") {
			return true
		}
	}
	return false
}

// sample has services of each kind, to try templates with.
func sample() []*catalog.Service {
	server := func(addr string) catalog.Server {
		return catalog.Server{Addr: netip.MustParseAddrPort(addr), Weight: catalog.DefaultWeight}
	}
	checked := server("192.0.2.1:31001")
	checked.Check, checked.MaxConn = true, 10
	return []*catalog.Service{
		{Key: catalog.Key{Port: 1, Proto: catalog.TCP}, Name: "sample.tcp", Source: "sample", Mode: catalog.ModeTCP,
			Servers: []catalog.Server{server("192.0.2.1:31000"), checked}},
		{Key: catalog.Key{Port: 2, Proto: catalog.TCP}, Name: "sample.http", Source: "sample", Mode: catalog.ModeHTTP,
			Timeouts: catalog.Timeouts{Client: time.Second, Server: time.Second}, Servers: []catalog.Server{server("[2001:db8::1]:31000")}},
	}
}

// Check lets haproxy, where it is installed, read what the template makes of sample services. It binds nothing.
func (d *Driver) Check(ctx context.Context) error {
	if _, err := findHAProxy(); err != nil {
		return nil
	}
	text, err := d.Render(ctx, sample())
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "proxymatic-check-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "haproxy.cfg")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return err
	}
	return d.check(ctx, path)
}

// Version gives HAProxy's version, or why there is none.
func Version(ctx context.Context) string {
	program, err := findHAProxy()
	if err != nil {
		return "not installed"
	}
	out, err := exec.CommandContext(ctx, program, "-v").Output()
	if err != nil {
		return fmt.Sprintf("%s does not run: %v", program, err)
	}
	first, _, _ := strings.Cut(string(out), "\n")
	fields := strings.Fields(first) // "HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/"
	if len(fields) > 2 {
		return fields[2]
	}
	return first
}
