package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// acked is what a run answers to ack.
type acked struct {
	Released []catalog.Problem `json:"released"`        // what was held
	Error    string            `json:"error,omitempty"` // why nothing was released
}

// ack lets the run go on without the servers that it holds against what their sources tell.
func (p program) ack(ctx context.Context, c Config) (int, error) {
	var answer acked
	running, err := askRun(ctx, c.controlSocket(), http.MethodPost, "/ack", &answer)
	switch {
	case err != nil:
		return exitError, err
	case !running:
		return exitError, fmt.Errorf("no proxymatic holds %s, so nothing is held", c.RunDir)
	case answer.Error != "":
		return exitError, errors.New(answer.Error)
	case len(answer.Released) == 0:
		_, err = fmt.Fprintln(p.stdout, "nothing was held")
	}
	for _, r := range answer.Released {
		_, err = fmt.Fprintf(p.stdout, "released: %s: %s\n", r.Source, r.Reason)
	}
	return exitOK, err
}

// acknowledge lets go what is held.
func (r *runner) acknowledge(ctx context.Context) acked {
	released, err := r.current.Load().loop.Acknowledge(ctx)
	return acked{orEmpty(released), errorText(err)}
}
