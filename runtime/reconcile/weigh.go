package reconcile

import (
	"time"

	"github.com/meltwater/proxymatic/runtime/policy"
	"github.com/meltwater/proxymatic/sources/catalog"
)

// weighed is what counts of a source: what it tells and what is held against it, without the servers that flap.
type weighed struct {
	kept     policy.Kept
	damper   *policy.Damper
	services []*catalog.Service
	letIn    time.Time // when a server that flaps may come in; zero for none
}

// weighedOf gives what counts of a source; nothing yet when it never spoke.
func (l *Loop) weighedOf(name string) weighed {
	if w, ok := l.weighed[name]; ok {
		return *w
	}
	return weighed{damper: &policy.Damper{Limit: l.cfg.Flaps}}
}

// weigh replaces what counts of a source.
func (l *Loop) weigh(name string, kept policy.Kept, damper *policy.Damper) {
	w := &weighed{kept: kept, damper: damper}
	w.services, w.letIn = damper.Next(kept.Services, kept.Held, time.Now())
	l.weighed[name] = w
}
