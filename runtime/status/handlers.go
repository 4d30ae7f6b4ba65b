package status

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/meltwater/proxymatic/runtime/reconcile"
)

const (
	stateOK           = "OK"
	stateInitializing = "INITIALIZING"
	stateTerminating  = "TERMINATING"
)

// routes knows GET only, which net/http lets HEAD use too; other methods get 405.
func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", s.status)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { text(w, http.StatusOK, stateOK) })
	mux.HandleFunc("GET /readyz", s.readyz)
	mux.Handle("GET /metrics", metricsHandler(s.cfg))
	mux.HandleFunc("GET /api/v1/services", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, servicesJSON(s.cfg.Pass()))
	})
	mux.HandleFunc("GET /api/v1/status", func(w http.ResponseWriter, _ *http.Request) {
		pass := s.cfg.Pass()
		answer(w, statusJSON(pass, s.state(pass), s.cfg, time.Now()))
	})
	mux.HandleFunc("GET /api/v1/changes", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, ChangesJSON{Changes: list(s.cfg.Pass().Changes)})
	})
	return mux
}

// state is what /status says.
func (s *Server) state(pass *reconcile.Pass) string {
	switch {
	case s.terminating.Load():
		return stateTerminating
	case !pass.Applied:
		return stateInitializing
	default:
		return stateOK
	}
}

func (s *Server) status(w http.ResponseWriter, _ *http.Request) {
	state := s.state(s.cfg.Pass())
	if state != stateOK {
		text(w, http.StatusServiceUnavailable, state)
		return
	}
	text(w, http.StatusOK, state)
}

func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) {
	pass := s.cfg.Pass()
	if reasons := notReady(pass, s.state(pass)); len(reasons) > 0 {
		text(w, http.StatusServiceUnavailable, strings.Join(reasons, "\n"))
		return
	}
	text(w, http.StatusOK, strings.Join(append([]string{stateOK}, ages(pass, time.Now())...), "\n"))
}

// ages tells how old what the sources said is, in whole seconds.
func ages(pass *reconcile.Pass, now time.Time) []string {
	var lines []string
	for _, s := range pass.Sources {
		line := fmt.Sprintf("source %s was read %d s ago", s.Name, now.Sub(s.Succeeded)/time.Second)
		if !s.Event.IsZero() {
			line += fmt.Sprintf("; its last event came %d s ago", now.Sub(s.Event)/time.Second)
		}
		lines = append(lines, line)
	}
	return lines
}

// notReady gives the reasons for which this host should not be relied on now. A source that fails after it was read
// once is none: its last services are served.
func notReady(pass *reconcile.Pass, state string) []string {
	reasons := []string{}
	if state != stateOK {
		reasons = append(reasons, state)
	}
	for _, source := range pass.Sources {
		if source.Succeeded.IsZero() {
			reasons = append(reasons, strings.TrimSuffix(fmt.Sprintf("source %s was not read yet: %s", source.Name, source.Err), ": "))
		}
	}
	for _, d := range pass.Drivers {
		if d.Err != "" {
			reasons = append(reasons, fmt.Sprintf("driver %s: %s", d.Name, d.Err))
		}
	}
	return reasons
}

// text answers a line or more. Reasons come from outside: nobody shall take them for a page.
func text(w http.ResponseWriter, code int, body string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	fmt.Fprintln(w, body)
}

// answer writes v as JSON for people and programs alike. It is written as it is rendered: a client that left is the
// only error there can be.
func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	_ = encoder.Encode(v)
}
