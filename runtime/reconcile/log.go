package reconcile

import (
	"context"
	"log/slog"
	"slices"
	"strings"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// maxLines is how many changes or problems of one pass get a line each; a start with 5,000 services would bury the rest.
const maxLines = 50

// logReport logs what a driver did: a line a change, one for a reload with its reasons. What repairs somebody else's
// change is a warning.
func logReport(log *slog.Logger, driver string, report catalog.Report) {
	if len(report.Reloads) > 0 {
		log.Info(actionReload, "driver", driver, "reasons", strings.Join(report.Reloads, "; "))
	}
	drift, lines := setOf(report.Drift), 0
	for _, c := range report.Changes {
		if c.Action == actionReload && len(report.Reloads) > 0 {
			continue // said above, with its reasons
		}
		if lines++; lines <= maxLines {
			logChange(log, driver, c, drift[c])
		}
	}
	if lines > maxLines {
		log.Info("more changes", "driver", driver, "count", lines-maxLines)
	}
}

func logChange(log *slog.Logger, driver string, c catalog.Change, drift bool) {
	level, message := slog.LevelInfo, c.Action
	attrs := make([]slog.Attr, 0, 5)
	if drift {
		level, message = slog.LevelWarn, "drift repaired"
		attrs = append(attrs, slog.String("action", c.Action))
	}
	attrs = append(attrs, slog.String("driver", driver))
	for _, a := range []slog.Attr{slog.String("service", c.Service), slog.String("server", c.Server), slog.String("detail", c.Detail)} {
		if a.Value.String() != "" {
			attrs = append(attrs, a)
		}
	}
	log.LogAttrs(context.Background(), level, message, attrs...)
}

// logProblems logs the difference between two passes' problems.
func logProblems(log *slog.Logger, old, now []catalog.Problem) {
	if slices.Equal(old, now) {
		return
	}
	logEach(log, slog.LevelWarn, "problem", without(now, old))
	logEach(log, slog.LevelInfo, "problem gone", without(old, now))
}

func logEach(log *slog.Logger, level slog.Level, message string, problems []catalog.Problem) {
	ctx := context.Background()
	for _, p := range problems[:min(len(problems), maxLines)] {
		log.LogAttrs(ctx, level, message, slog.String("source", p.Source), slog.String("subject", p.Subject), slog.String("reason", p.Reason))
	}
	if rest := len(problems) - maxLines; rest > 0 {
		log.LogAttrs(ctx, level, message, slog.Int("more", rest))
	}
}

func without(list, other []catalog.Problem) []catalog.Problem {
	known := setOf(other)
	var out []catalog.Problem
	for _, p := range list {
		if !known[p] {
			out = append(out, p)
		}
	}
	return out
}

// logSource logs that a source begins to fail, fails for another reason, or can be read (again).
func logSource(log *slog.Logger, old, now catalog.Snapshot) {
	switch {
	case now.Err == "" && (old.Err != "" || old.Succeeded.IsZero()) && !now.Succeeded.IsZero():
		log.Info("source read", "source", now.Source, "services", len(now.Services), "servers", catalog.CountServers(now.Services))
	case now.Err == old.Err || now.Err == "":
	case now.Succeeded.IsZero():
		log.Warn("source cannot be read", "source", now.Source, "err", now.Err)
	default:
		log.Warn("source cannot be read, its last services stay", "source", now.Source, "err", now.Err)
	}
}

// logDriver logs that a driver begins to fail, fails for another reason, or recovered.
func logDriver(log *slog.Logger, old, now DriverState) {
	switch {
	case now.Err == old.Err:
	case now.Err == "":
		log.Info("driver recovered", "driver", now.Name)
	default:
		log.Warn("driver fails, is tried again", "driver", now.Name, "err", now.Err)
	}
}
