package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/meltwater/proxymatic/runtime/host"
	"github.com/meltwater/proxymatic/runtime/reconcile"
	"github.com/meltwater/proxymatic/sources/catalog"
	"github.com/meltwater/proxymatic/sources/file"
)

const (
	stateFormat = 1
	saveEvery   = 30 * time.Second // at most, but for services that are new or gone; which servers there are, the proxies know too
	saveLook    = 10 * time.Second // how often it is looked at whether there is something to write down
	saveAge     = time.Minute      // how old the time of a reading may be that is written down
	unusable    = ".unusable"      // is added to the name of a state file that cannot be read
)

// state is the file in the state directory: what counted of each source last. It stands in for sources that cannot be read at the
// next start.
type state struct {
	Format  int             `json:"format"`
	Sum     string          `json:"sha256"` // of Sources as they stand there
	Sources json.RawMessage `json:"sources"`
}

func (c Config) stateFile() string { return filepath.Join(c.StateDir, "services.json") }

// loadState gives what was saved; nothing when nothing was. A file that cannot be used is set aside.
func loadState(path string) ([]catalog.Snapshot, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	snaps, err := parseState(text)
	if err != nil {
		err = fmt.Errorf("%s: %w; it is now %s", path, err, path+unusable)
		return nil, errors.Join(err, os.Rename(path, path+unusable))
	}
	return snaps, nil
}

func parseState(text []byte) ([]catalog.Snapshot, error) {
	var s state
	if err := json.Unmarshal(text, &s); err != nil {
		return nil, err
	}
	switch {
	case s.Format != stateFormat:
		return nil, fmt.Errorf("format %d, where this version writes %d", s.Format, stateFormat)
	case s.Sum != sum(s.Sources):
		return nil, errors.New("its checksum is wrong: it was cut or changed")
	}
	var list []snapshotJSON
	if err := json.Unmarshal(s.Sources, &list); err != nil {
		return nil, err
	}
	var snaps []catalog.Snapshot
	for _, j := range list {
		snap, err := j.snapshot()
		if err != nil {
			return nil, err
		}
		snaps = append(snaps, snap)
	}
	return snaps, nil
}

func sum(text []byte) string {
	digest := sha256.Sum256(text)
	return hex.EncodeToString(digest[:])
}

// stateText gives the file. The services file is not in it: that is at hand itself.
func stateText(sources []reconcile.SourceState) ([]byte, error) {
	list := []snapshotJSON{}
	for _, s := range sources {
		if s.Name != file.Name && !s.Succeeded.IsZero() {
			list = append(list, snapshotToJSON(catalog.Snapshot{Source: s.Name, Priority: s.Priority, Services: s.Services, Succeeded: s.Succeeded}))
		}
	}
	raw, err := json.Marshal(list)
	if err != nil {
		return nil, err
	}
	return json.Marshal(state{Format: stateFormat, Sum: sum(raw), Sources: raw})
}

// saveState writes down what counts of the sources, whenever that has changed, until ctx ends and once more then.
func (i *instance) saveState(ctx context.Context) {
	var s saved
	ticker := time.NewTicker(saveLook)
	defer ticker.Stop()
	for ctx.Err() == nil {
		select {
		case <-i.loop.Passed():
		case <-ticker.C:
		case <-ctx.Done():
		}
		if now := i.worthSaving(); s.due(now, ctx.Err() != nil) {
			s.write(i.config.stateFile(), now, i.log)
		}
	}
}

// worthSaving gives what counts of the sources; of those that were not read yet, what was known before the start.
func (i *instance) worthSaving() []reconcile.SourceState {
	out, known := slices.Clone(i.loop.Pass().Sources), i.loop.Known()
	for n, s := range out {
		if was, ok := known[s.Name]; ok && s.Succeeded.IsZero() {
			out[n].Priority, out[n].Services, out[n].Succeeded = was.Priority, was.Services, was.Succeeded
		}
	}
	return out
}

// saved is what was written down last.
type saved struct {
	sources []reconcile.SourceState
	tried   time.Time
	failed  string // why the last try did
}

// due reports whether to write down what the sources say now.
func (s *saved) due(now []reconcile.SourceState, last bool) bool {
	switch {
	case last:
		return true
	case time.Since(s.tried) >= saveEvery:
		return !slices.EqualFunc(s.sources, now, savedAlike)
	default:
		return s.failed == "" && !slices.EqualFunc(s.sources, now, sameKeys)
	}
}

func (s *saved) write(path string, now []reconcile.SourceState, log *slog.Logger) {
	s.tried = time.Now()
	text, err := stateText(now)
	if err == nil {
		err = host.WriteFile(path, text, 0o640)
	}
	if err == nil {
		s.sources, s.failed = now, ""
		return
	}
	if err.Error() != s.failed {
		log.Warn("what the sources told is not saved for the next start; it is tried again", "err", err)
	}
	s.failed = err.Error()
}

// recall tells the loop what was known before the start: what was saved, with the servers that the proxies have.
func (i *instance) recall() {
	saved, err := loadState(i.config.stateFile())
	if err != nil {
		i.log.Warn("what the sources told before the start is not known", "err", err)
	}
	if len(saved) == 0 {
		return
	}
	running, err := i.drivers.running()
	if err != nil {
		i.log.Warn("what the proxies serve is not known: what was saved counts", "err", err)
	}
	i.loop.Recall(asServed(saved, running))
}

// asServed gives what was saved, in which services that the proxies serve have the servers that they have there, and those whose ports are
// closed there are gone: what was saved is some seconds older than that.
func asServed(saved []catalog.Snapshot, running catalog.Places) []catalog.Snapshot {
	owner := map[catalog.Key]string{} // of several sources one has the port
	for _, s := range slices.Backward(slices.SortedStableFunc(slices.Values(saved), byPriority)) {
		for _, was := range s.Services {
			owner[was.Key] = s.Source
		}
	}
	out := slices.Clone(saved)
	for i, s := range out {
		out[i].Services = nil
		for _, was := range s.Services {
			addrs, served := running[was.Key]
			switch {
			case !served || owner[was.Key] != s.Source:
				out[i].Services = append(out[i].Services, was)
			case len(addrs) > 0:
				out[i].Services = append(out[i].Services, withServers(was, addrs))
			}
		}
	}
	return out
}

// byPriority puts the source first that has a port which several want.
func byPriority(a, b catalog.Snapshot) int {
	return cmp.Or(cmp.Compare(b.Priority, a.Priority), cmp.Compare(a.Source, b.Source))
}

// withServers gives a service with the servers at these addresses.
func withServers(was *catalog.Service, addrs map[netip.AddrPort]bool) *catalog.Service {
	is := *was
	is.Servers = nil
	for addr := range addrs {
		v := catalog.Server{Addr: addr, Weight: catalog.DefaultWeight} // one that came since
		if i := slices.IndexFunc(was.Servers, func(v catalog.Server) bool { return v.Addr == addr }); i >= 0 {
			v = was.Servers[i]
		}
		is.Servers = append(is.Servers, v)
	}
	return is.Canonical()
}

// sameKeys reports whether there are the same services.
func sameKeys(a, b reconcile.SourceState) bool {
	if a.Name != b.Name || len(a.Services) != len(b.Services) {
		return false
	}
	for i := 0; ; i++ {
		if i += catalog.InStep(a.Services[i:], b.Services[i:]); i == len(a.Services) {
			return true
		}
		if a.Services[i].Key != b.Services[i].Key {
			return false
		}
	}
}

// savedAlike reports whether nothing of a source has to be written down anew.
func savedAlike(a, b reconcile.SourceState) bool {
	return a.Name == b.Name && b.Succeeded.Sub(a.Succeeded) < saveAge && catalog.SameList(a.Services, b.Services)
}
