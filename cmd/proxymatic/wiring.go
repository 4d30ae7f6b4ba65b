package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/meltwater/proxymatic/pen"
	"github.com/meltwater/proxymatic/runtime/haproxy"
	"github.com/meltwater/proxymatic/runtime/policy"
	"github.com/meltwater/proxymatic/runtime/reconcile"
	"github.com/meltwater/proxymatic/sources/catalog"
	"github.com/meltwater/proxymatic/sources/file"
	"github.com/meltwater/proxymatic/sources/marathon"
	"github.com/meltwater/proxymatic/sources/registrator"
)

// sources gives the configured sources.
func (c Config) sources() ([]reconcile.Source, error) {
	var all []reconcile.Source
	if err := c.MarathonAccess.Check(slices.Concat(c.Marathon...)); err != nil {
		return nil, err
	}
	for _, settings := range c.marathons() {
		source, err := marathon.New(settings)
		if err != nil {
			return nil, err
		}
		all = append(all, source)
	}
	if c.Registrator != "" {
		source, err := registrator.New(c.registrator())
		if err != nil {
			return nil, err
		}
		all = append(all, source)
	}
	if c.ServicesFile != "" {
		all = append(all, file.New(c.ServicesFile, file.DefaultInterval))
	}
	return all, nil
}

// marathons gives the settings of each Marathon. The first one is called "marathon" and goes before the others.
func (c Config) marathons() []marathon.Config {
	var all []marathon.Config
	for i, urls := range c.Marathon {
		one := marathon.Config{URLs: urls, Callback: c.MarathonCallback, After: i, RefreshInterval: c.RefreshInterval, GroupSize: c.GroupSize, Access: c.MarathonAccess}
		if i > 0 {
			one.Name = fmt.Sprintf("marathon-%d", i+1)
		}
		all = append(all, one)
	}
	return all
}

func (c Config) registrator() registrator.Config {
	return registrator.Config{URL: c.Registrator, CAFile: c.RegistratorCA, CertFile: c.RegistratorCert, KeyFile: c.RegistratorKey,
		User: c.RegistratorUser, Password: c.RegistratorPassword, RefreshInterval: c.RefreshInterval}
}

// sourceSettings gives what sources makes each source from, by its name.
func (c Config) sourceSettings() map[string]any {
	settings := map[string]any{"registrator": c.registrator(), file.Name: c.ServicesFile}
	for _, one := range c.marathons() {
		settings[cmp.Or(one.Name, marathon.Name)] = one
	}
	return settings
}

func (c Config) policy() policy.Policy {
	return policy.Policy{ExposeHost: c.ExposeHost, Check: c.HAProxyCheck, Reserved: c.reserved()}
}

// guard gives the guard against sources that forget. It waits for two refreshes at least, with what they may take.
func (c Config) guard() policy.Guard {
	g := c.Guard
	g.Hold = max(g.Hold, 2*c.RefreshInterval)
	return g
}

// reserved gives the ports that proxymatic itself listens on, and the flag that moves each.
func (c Config) reserved() map[catalog.Key]string {
	own := map[catalog.Key]string{}
	if _, port, err := net.SplitHostPort(c.StatusEndpoint); err == nil {
		reserve(own, port, "--status-endpoint")
	}
	reserve(own, c.callbackPort(), "--marathon-callback")
	return own
}

func reserve(own map[catalog.Key]string, port, flag string) {
	if n, err := listenPort(port); err == nil {
		own[catalog.Key{Port: n, Proto: catalog.TCP}] = flag
	}
}

// driver makes one kind of proxy offer services, which goes on without us or ends with us.
type driver interface {
	reconcile.Driver
	// Close ends the driver's part when proxymatic exits. With drain the proxy ends too, when its connections have.
	Close(ctx context.Context, drain bool) error
	// Alone tells it that the proxies that it was begun beside have closed their ports.
	Alone()
}

// drivers gives the drivers. They share the services out among themselves: HAProxy has the TCP services where it is wanted,
// and pen has all others.
func (c Config) drivers(beside neighbours) (drivers, error) {
	p, err := c.pen(beside.pens)
	if err != nil || !c.HAProxy {
		return drivers{pen: p}, err
	}
	h, err := c.haproxy(beside.haproxy)
	return drivers{h, p}, err
}

// neighbours are the proxies of another run, whose clients ours take over; none when it is zero.
type neighbours struct {
	haproxy *haproxy.Beside
	pens    []catalog.Key
}

// drivers are those of a run.
type drivers struct {
	haproxy *haproxy.Driver // nil without --haproxy
	pen     *pen.Driver
}

func (d drivers) all() []driver {
	if d.haproxy == nil {
		return []driver{d.pen}
	}
	return []driver{d.haproxy, d.pen}
}

// running gives the servers that the proxies serve, as far as they tell. The error says why that is not all.
func (d drivers) running() (catalog.Places, error) {
	out, errs := catalog.Places{}, error(nil)
	ask := func(running func(context.Context) (catalog.Places, error)) {
		ctx, cancel := context.WithTimeout(context.Background(), runningWait)
		defer cancel()
		some, err := running(ctx)
		maps.Copy(out, some) // no service is in both
		errs = errors.Join(errs, err)
	}
	if d.haproxy != nil {
		ask(d.haproxy.Running)
	}
	ask(d.pen.Running)
	return out, errs
}

// runningWait bounds how long the proxies of one kind are asked at the start what they serve.
const runningWait = 5 * time.Second

// forLoop gives them as the loop sees them.
func (d drivers) forLoop() []reconcile.Driver {
	var out []reconcile.Driver
	for _, one := range d.all() {
		out = append(out, one)
	}
	return out
}

// pen gives the pen driver. The error names a template that cannot be used.
func (c Config) pen(beside []catalog.Key) (*pen.Driver, error) {
	driver, err := pen.New(pen.Config{
		TemplateFile: c.PenTemplate,
		Servers:      c.PenServers,
		Clients:      c.PenClients,
		User:         c.PenUser,
		RunDir:       c.proxyDir(),
		BindAddress:  c.BindAddress,
		TCP:          !c.HAProxy,
		Drain:        c.Drain,
		Beside:       beside,
	})
	if err != nil {
		return nil, fmt.Errorf("--pen-template: %w", err)
	}
	return driver, nil
}

// haproxy gives the HAProxy driver. The error names a template that cannot be used.
func (c Config) haproxy(beside *haproxy.Beside) (*haproxy.Driver, error) {
	driver, err := haproxy.New(haproxy.Config{
		ConfigFile:     c.HAProxyConfig,
		TemplateFile:   c.HAProxyTemplate,
		Start:          c.HAProxyStart,
		Reload:         c.HAProxyReload,
		Socket:         c.proxySocket(),
		RunDir:         c.proxyDir(),
		BindAddress:    c.BindAddress,
		MaxConnections: c.MaxConnections,
		Drain:          c.Drain,
		Env:            openEnv(),
		ReleaseAfter:   c.ReleaseAfter,
		ReloadInterval: c.ReloadInterval,
		MaxOldWorkers:  c.MaxOldWorkers,
		RespectMaint:   c.RespectMaint,
		Beside:         beside,
	})
	if err != nil {
		return nil, fmt.Errorf("--haproxy-template: %w", err)
	}
	return driver, nil
}

// openEnv gives our environment without what may hold a password: HAProxy outlives us, and others may see its environment.
func openEnv() []string {
	return slices.DeleteFunc(os.Environ(), func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		return slices.ContainsFunc(options(), func(o option) bool { return o.secret && o.env == name })
	})
}

// logger gives the log of a run.
func (c Config) logger(w io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: slog.LevelInfo}
	if c.Verbose {
		options.Level = slog.LevelDebug
	}
	if c.LogFormat == formatJSON {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}
