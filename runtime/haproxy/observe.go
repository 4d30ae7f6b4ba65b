package haproxy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// observed is what HAProxy does now, as far as it was read.
type observed struct {
	info
	alive   bool
	built   structure                    // what the running process was built from
	known   bool                         // whether built is known
	open    map[string]bool              // frontends that were read: whether they listen
	backs   map[string]bool              // backends that were read
	servers map[string]map[string]server // backends that were read, by server name
	limits  map[string]map[string]server // whose limits need no look, by backend and name
	deaf    bool                         // it runs, but not on its stats socket
	keys    []catalog.Key                // services that were looked at, in order; nil for all
}

// tellsOf reports whether all services with these keys were looked at; nil is all there are.
func (h *observed) tellsOf(keys []catalog.Key) bool {
	if h.keys == nil || keys == nil {
		return h.keys == nil
	}
	return !slices.ContainsFunc(keys, func(key catalog.Key) bool {
		_, found := slices.BinarySearchFunc(h.keys, key, catalog.Key.Compare)
		return !found
	})
}

// cli is the stats socket; the tests have another.
type cli interface {
	// do sends at most batchSize commands and gives an answer for each.
	do(ctx context.Context, commands []string) ([]string, error)
}

// manyKeys is from how many touched services on it is cheaper to read everything.
const manyKeys = 64

// looking is what a driver knows before it looks: the services with these keys are looked at, nil for all, and HAProxy most
// probably runs what it was built from.
type looking struct {
	keys     []catalog.Key
	expected structure
	load     func(hash string) (structure, bool)
	sure     *observed // frontends and limits that need no look; nil to look at them, too
}

// whole reports whether everything is read.
func (at looking) whole() bool { return at.keys == nil || len(at.keys) > manyKeys }

// commands gives what is asked: who answers, and what the expected structure has of the services.
func (at looking) commands() []string {
	if at.whole() {
		return []string{"show info", showState, "show stat -1 7 -1"}
	}
	return append([]string{"show info"}, commandsFor(at.keys, at.expected, at.sure == nil)...)
}

// observe reads the running state.
func observe(ctx context.Context, c cli, at looking) (observed, error) {
	ask := at.commands()
	first := min(len(ask), batchSize)
	answers, err := c.do(ctx, ask[:first])
	if errors.Is(err, errDown) {
		return nothing(), nil
	}
	if err != nil {
		return nothing(), err
	}
	have, as, err := at.hear(ask[:first], answers)
	switch {
	case err != nil:
		return have, err
	case !as: // the services may have other proxies than was thought
		return have, have.ask(ctx, c, commandsFor(at.keys, have.built, true))
	}
	return have, have.ask(ctx, c, ask[first:])
}

// nothing is what is known of an HAProxy that does not run.
func nothing() observed {
	return observed{open: map[string]bool{}, backs: map[string]bool{}, servers: map[string]map[string]server{}}
}

// hear takes the answers to the first of the commands, and reports whether HAProxy was built as expected. If not, they tell
// nothing of the services.
func (at looking) hear(commands, answers []string) (have observed, asExpected bool, err error) {
	have = nothing()
	have.alive, have.keys = true, at.keys
	if have.info, err = parseInfo(plain(answers[0])); err != nil {
		return have, false, err
	}
	if have.hash != "" {
		have.built, have.known = at.load(have.hash)
	}
	if !at.whole() && have.built.Hash != at.expected.Hash {
		return have, false, nil
	}
	if at.sure != nil {
		have.trust(at.sure)
	}
	return have, true, have.hear(commands[1:], answers[1:])
}

// trust takes frontends and limits to be as they were when they were looked at.
func (h *observed) trust(sure *observed) {
	maps.Copy(h.open, sure.open)
	h.limits = sure.servers
}

// limit gives a backend's servers the limits that need no look.
func (h *observed) limit(backend string) {
	for name, was := range h.limits[backend] {
		if s, ok := h.servers[backend][name]; ok {
			s.maxconn = was.maxconn
			h.servers[backend][name] = s
		}
	}
}

// commandsFor gives the commands that read the state of services: one for the servers of each proxy, and one for what only
// `show stat` tells. For that HAProxy walks through all proxies, for half a millisecond where there are 5,000.
func commandsFor(keys []catalog.Key, built structure, stat bool) []string {
	var out []string
	for _, key := range keys {
		b, _ := built.service(key)
		for _, p := range b.Proxies {
			if p.Back {
				out = append(out, showStateOf+p.Name)
			}
			if stat {
				out = append(out, "show stat "+p.Name+" 7 -1")
			}
		}
	}
	return out
}

const (
	showState   = "show servers state"
	showStateOf = showState + " " // one backend
)

// ask reads what the commands give.
func (h *observed) ask(ctx context.Context, c cli, commands []string) error {
	for chunk := range slices.Chunk(commands, batchSize) {
		answers, err := c.do(ctx, chunk)
		if err != nil {
			return err
		}
		if err := h.hear(chunk, answers); err != nil {
			return err
		}
	}
	return nil
}

// hear takes the answers to commands. `show stat` must come behind the state of the same servers.
func (h *observed) hear(commands, answers []string) error {
	for i, command := range commands {
		if missing(answers[i]) {
			continue
		}
		var err error
		switch backend, one := strings.CutPrefix(command, showStateOf); {
		case one:
			h.backs[backend] = true
			err = parseState(plain(answers[i]), h.servers)
			h.limit(backend)
		case command == showState:
			err = parseState(plain(answers[i]), h.servers)
		default:
			err = h.parseStat(plain(answers[i]))
		}
		if err != nil {
			return fmt.Errorf("%s: %w", command, err)
		}
	}
	return nil
}

// missing reports whether an answer says that the process has no such proxy: it may have been started from a file
// whose section was already dropped.
func missing(answer string) bool {
	text := refusal(answer)
	return text == "Can't find backend." || text == "No such proxy."
}

// runs reports whether the process has all proxies of a section.
func (h *observed) runs(b builtService) bool {
	for _, p := range b.Proxies {
		if _, ok := h.open[p.Name]; (p.Front && !ok) || (p.Back && !h.backs[p.Name]) {
			return false
		}
	}
	return true
}
