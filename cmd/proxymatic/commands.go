package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"sync"

	"github.com/meltwater/proxymatic/pen"
	"github.com/meltwater/proxymatic/runtime/haproxy"
	"github.com/meltwater/proxymatic/runtime/policy"
	"github.com/meltwater/proxymatic/runtime/reconcile"
	"github.com/meltwater/proxymatic/runtime/status"
	"github.com/meltwater/proxymatic/sources/catalog"
	"github.com/meltwater/proxymatic/sources/file"
)

// command is one word of the command line.
type command struct {
	offers bool                                       // is about services, so a source must be configured
	bare   bool                                       // needs no configuration, so a broken one does not matter
	do     func(context.Context, Config) (int, error) // gives the exit code; an error means exitError. Nil for run
}

func (p program) commands() map[string]command {
	return map[string]command{
		"run":         {offers: true},
		"services":    {offers: true, do: p.services},
		"plan":        {offers: true, do: p.plan},
		"render":      {offers: true, do: p.render},
		"ack":         {do: p.ack},
		"validate":    {do: p.validate},
		"healthcheck": {do: p.healthcheck},
		"version":     {bare: true, do: p.version},
	}
}

// failure is a source that could not be read.
type failure struct {
	source string
	err    error
}

// problem tells of it beside what was read.
func (f failure) problem() catalog.Problem {
	return catalog.Problem{Source: f.source, Subject: "source", Reason: f.err.Error()}
}

// readAll reads every source once, all at the same time.
func readAll(ctx context.Context, sources []reconcile.Source) ([]catalog.Snapshot, []failure) {
	snaps, errs := make([]catalog.Snapshot, len(sources)), make([]error, len(sources))
	var group sync.WaitGroup
	for i, s := range sources {
		group.Go(func() { snaps[i], errs[i] = s.Read(ctx) })
	}
	group.Wait()
	var read []catalog.Snapshot
	var failures []failure
	for i, s := range sources {
		if errs[i] != nil {
			failures = append(failures, failure{s.Name(), errs[i]})
			continue
		}
		read = append(read, snaps[i])
	}
	return read, failures
}

func join(failures []failure) error {
	var errs []error
	for _, f := range failures {
		errs = append(errs, fmt.Errorf("source %s: %w", f.source, f.err))
	}
	return errors.Join(errs...)
}

// decide reads every source once and gives what this host should offer. All problems are in the decision.
func decide(ctx context.Context, c Config) (policy.Decision, []failure, error) {
	sources, err := c.sources()
	if err != nil {
		return policy.Decision{}, nil, err
	}
	snaps, failures := readAll(ctx, sources)
	d := c.policy().Decide(snaps)
	for _, s := range snaps {
		d.Problems = append(d.Problems, s.Problems...)
	}
	for _, f := range failures {
		d.Problems = append(d.Problems, f.problem())
	}
	return d, failures, nil
}

// services prints what this host would offer: all that the sources that can be read tell.
func (p program) services(ctx context.Context, c Config) (int, error) {
	d, failures, err := decide(ctx, c)
	if err != nil {
		return exitError, err
	}
	if c.Output == formatJSON {
		err = p.json(status.ServicesJSON{Services: catalog.ListJSON(d.Want), Problems: orEmpty(d.Problems)})
	} else {
		_, err = io.WriteString(p.stdout, catalog.Format(d.Want))
		p.problems(d.Problems[:len(d.Problems)-len(failures)])
	}
	return exitOK, errors.Join(err, join(failures))
}

func (p program) problems(problems []catalog.Problem) {
	for _, problem := range problems {
		fmt.Fprintf(p.stderr, "problem: %s: %s: %s\n", problem.Source, problem.Subject, problem.Reason)
	}
}

// render prints the file that would be written. A source that cannot be read is an error: the file would lack its part.
func (p program) render(ctx context.Context, c Config) (int, error) {
	if !c.HAProxy {
		return exitError, errors.New("without --haproxy no haproxy.cfg is written: all services go to pen")
	}
	driver, err := c.haproxy(nil)
	if err != nil {
		return exitError, err
	}
	d, failures, err := decide(ctx, c)
	if err = errors.Join(err, join(failures)); err != nil {
		return exitError, err
	}
	text, err := driver.Render(ctx, d.Want)
	if err != nil {
		return exitError, err
	}
	_, err = p.stdout.Write(text)
	p.problems(d.Problems)
	return exitOK, err
}

// validate checks what can be checked without the network.
func (p program) validate(ctx context.Context, c Config) (int, error) {
	if _, err := c.sources(); err != nil {
		return exitError, err
	}
	if _, err := c.pen(nil); err != nil {
		return exitError, err
	}
	if c.ServicesFile != "" {
		snap, err := file.New(c.ServicesFile, 0).Read(ctx)
		if p.problems(snap.Problems); err == nil && len(snap.Problems) > 0 {
			err = fmt.Errorf("--services-file: %s has problems", c.ServicesFile)
		}
		if err != nil {
			return exitError, err
		}
	}
	if c.HAProxy {
		driver, err := c.haproxy(nil)
		if err == nil {
			err = driver.Check(ctx)
		}
		if err != nil {
			return exitError, err
		}
	}
	if !c.hasSource() {
		fmt.Fprintf(p.stderr, "proxymatic: note: %v before a run\n", errNoSource)
	}
	_, err := fmt.Fprintln(p.stdout, "configuration is valid")
	return exitOK, err
}

// healthcheck asks the status endpoint of the run that has the same configuration.
func (p program) healthcheck(ctx context.Context, c Config) (int, error) {
	if c.StatusEndpoint == "" {
		return exitError, errors.New("--status-endpoint is empty, so there is nobody to ask")
	}
	if err := status.Healthcheck(ctx, c.StatusEndpoint); err != nil {
		return exitError, err
	}
	_, err := fmt.Fprintln(p.stdout, "healthy")
	return exitOK, err
}

// versions is what `version` prints.
type versions struct {
	Version string `json:"version"`
	Commit  string `json:"commit"` // empty when unknown
	Go      string `json:"go"`
	HAProxy string `json:"haproxy"` // or why there is none
	Pen     string `json:"pen"`     // the path of its program; empty when it is not installed
}

func (p program) version(ctx context.Context, c Config) (int, error) {
	v := buildInfo()
	v.HAProxy = haproxy.Version(ctx)
	v.Pen = pen.Installed()
	if c.Output == formatJSON {
		return exitOK, p.json(v)
	}
	orNone := func(s string) string {
		if s == "" {
			return "not found"
		}
		return s
	}
	_, err := fmt.Fprintf(p.stdout, "proxymatic %s\ncommit     %s\ngo         %s\nhaproxy    %s\npen        %s\n",
		v.Version, orNone(v.Commit), v.Go, v.HAProxy, orNone(v.Pen))
	return exitOK, err
}

// buildInfo tells what the Go tools recorded about this program.
func buildInfo() versions {
	v := versions{Version: "(devel)", Go: runtime.Version()}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	v.Version = cmp.Or(stamp, info.Main.Version, v.Version)
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			v.Commit = s.Value
		}
	}
	return v
}

// orEmpty makes a list that JSON shows as [], never as null.
func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

func (p program) json(v any) error {
	enc := json.NewEncoder(p.stdout)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
