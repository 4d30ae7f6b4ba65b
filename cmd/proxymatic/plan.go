package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/meltwater/proxymatic/runtime/reconcile"
	"github.com/meltwater/proxymatic/sources/catalog"
)

// planned is what `plan` prints, and what a run answers on its control socket.
type planned struct {
	Drivers  []driverPlan      `json:"drivers"`
	Problems []catalog.Problem `json:"problems"`
	Error    string            `json:"error,omitempty"` // what could not be planned, and why
	Note     string            `json:"note,omitempty"`  // which configuration it is for, where that is not the one that runs
}

// driverPlan is what one driver would do now.
type driverPlan struct {
	Driver  string           `json:"driver"`
	Changes []catalog.Change `json:"changes"` // in the order in which they would be made
	Reloads []string         `json:"reloads"` // why the proxy would be loaded anew
}

func (d *planned) add(driver string, report catalog.Report) {
	d.Drivers = append(d.Drivers, driverPlan{driver, orEmpty(report.Changes), orEmpty(report.Reloads)})
}

// plan prints what a run would change on this host now. One that is running is asked, since it knows more: what it
// waits for, and what it holds back.
func (p program) plan(ctx context.Context, c Config) (int, error) {
	answer, running, err := askForPlan(ctx, c.controlSocket())
	if err == nil && !running {
		answer, err = planAlone(ctx, c)
	}
	if err != nil {
		return exitError, err
	}
	if running {
		fmt.Fprintln(p.stderr, "proxymatic: note: the proxymatic that holds", c.RunDir, "was asked; what counts is its own configuration")
	}
	if answer.Note != "" {
		fmt.Fprintln(p.stderr, "proxymatic: note:", answer.Note)
	}
	if c.Output == formatJSON {
		err = p.json(answer)
	} else {
		_, err = fmt.Fprint(p.stdout, answer.text())
		p.problems(answer.Problems)
	}
	switch {
	case err != nil:
		return exitError, err
	case answer.Error != "":
		return exitError, errors.New(answer.Error)
	case answer.empty():
		return exitOK, nil
	}
	return exitChanges, nil
}

// askForPlan asks the run that listens on the control socket; running is false when there is none.
func askForPlan(ctx context.Context, path string) (answer planned, running bool, err error) {
	running, err = askRun(ctx, path, http.MethodGet, "/plan", &answer)
	return answer, running, err
}

// planAlone plans from what the sources say now. Like a run, it needs every one of them.
func planAlone(ctx context.Context, c Config) (planned, error) {
	drivers, err := c.drivers(neighbours{})
	if err != nil {
		return planned{}, err
	}
	d, failures, err := decide(ctx, c)
	if err = errors.Join(err, join(failures)); err != nil {
		return planned{}, err
	}
	return planWith(ctx, drivers.forLoop(), d.Want, d.Problems), nil
}

func planWith(ctx context.Context, drivers []reconcile.Driver, want []*catalog.Service, problems []catalog.Problem) planned {
	out := planned{Problems: orEmpty(slices.Clone(problems))}
	var errs []error
	for _, driver := range drivers {
		report, err := driver.Plan(ctx, want)
		if err != nil {
			errs = append(errs, fmt.Errorf("driver %s: %w", driver.Name(), err))
		}
		out.add(driver.Name(), report)
		out.Problems = append(out.Problems, report.Problems...)
	}
	out.Error = errorText(errors.Join(errs...))
	return out
}

// planOf is the answer of a run whose loop planned.
func planOf(pass *reconcile.Pass, err error) planned {
	out := planned{Drivers: []driverPlan{}, Problems: []catalog.Problem{}, Error: errorText(err)}
	if pass == nil {
		return out
	}
	for _, d := range pass.Drivers {
		out.add(d.Name, d.Report)
	}
	out.Problems = append(out.Problems, pass.Problems...)
	return out
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func (d planned) empty() bool {
	return !slices.ContainsFunc(d.Drivers, func(p driverPlan) bool { return len(p.Changes)+len(p.Reloads) > 0 })
}

// text gives the plan for people: a line a change, and a line for each reason of a reload in place of the reload itself.
func (d planned) text() string {
	if d.empty() && d.Error == "" {
		return "nothing to change\n"
	}
	var b strings.Builder
	for _, p := range d.Drivers {
		for _, c := range p.Changes {
			if c.Action == "reload" && len(p.Reloads) > 0 {
				continue
			}
			detail := ""
			if c.Detail != "" {
				detail = "(" + c.Detail + ")"
			}
			fmt.Fprintln(&b, line(p.Driver+":", c.Action, c.Service, c.Server, detail))
		}
		for _, reason := range p.Reloads {
			fmt.Fprintln(&b, line(p.Driver+":", "reload because of", reason))
		}
	}
	return b.String()
}

// line joins the words that are not empty.
func line(words ...string) string {
	return strings.Join(slices.DeleteFunc(words, func(s string) bool { return s == "" }), " ")
}
