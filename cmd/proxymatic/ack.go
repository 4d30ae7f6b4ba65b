package main

import (
	"context"
	"fmt"
	"net/http"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// ack lets the run go on without the servers that it holds against what their sources tell.
func (p program) ack(ctx context.Context, c Config) (int, error) {
	var released []catalog.Problem
	running, err := askRun(ctx, c.controlSocket(), http.MethodPost, "/ack", &released)
	switch {
	case err != nil:
		return exitError, err
	case !running:
		return exitError, fmt.Errorf("no proxymatic holds %s, so nothing is held", c.RunDir)
	case len(released) == 0:
		_, err = fmt.Fprintln(p.stdout, "nothing was held")
	}
	for _, r := range released {
		_, err = fmt.Fprintf(p.stdout, "released: %s: %s\n", r.Source, r.Reason)
	}
	return exitOK, err
}

// acknowledge lets go what is held.
func (r *runner) acknowledge() []catalog.Problem { return r.current.Load().loop.Acknowledge() }
