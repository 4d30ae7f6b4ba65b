package haproxy

import (
	"context"
	"errors"
	"fmt"
	"slices"

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
	deaf    bool                         // it runs, but not on its stats socket
}

// cli is the stats socket; the tests have another.
type cli interface {
	// do sends at most batchSize commands and gives an answer for each.
	do(ctx context.Context, commands []string) ([]string, error)
}

// manyKeys is from how many touched services on it is cheaper to read everything.
const manyKeys = 64

// observe reads the running state of the services with the given keys, or of all when keys is nil.
func observe(ctx context.Context, c cli, keys []catalog.Key, load func(hash string) (structure, bool)) (observed, error) {
	have := observed{open: map[string]bool{}, backs: map[string]bool{}, servers: map[string]map[string]server{}}
	first := []string{"show info"}
	all := keys == nil || len(keys) > manyKeys
	if all {
		first = append(first, "show servers state", "show stat -1 7 -1")
	}
	answers, err := c.do(ctx, first)
	if errors.Is(err, errDown) {
		return have, nil
	}
	if err != nil {
		return have, err
	}
	have.alive = true
	if have.info, err = parseInfo(plain(answers[0])); err != nil {
		return have, err
	}
	if have.hash != "" {
		have.built, have.known = load(have.hash)
	}
	if all {
		return have, have.read(answers[1], answers[2])
	}
	return have, have.readSome(ctx, c, keys)
}

// read takes an answer of `show servers state` and one of `show stat`.
func (h *observed) read(state, stat string) error {
	if err := parseState(plain(state), h.servers); err != nil {
		return err
	}
	return h.parseStat(plain(stat))
}

// readSome reads the proxies of some services, two commands each.
func (h *observed) readSome(ctx context.Context, c cli, keys []catalog.Key) error {
	var commands []string
	for _, key := range keys {
		b, _ := h.built.service(key)
		for _, p := range b.Proxies {
			if p.Back {
				commands = append(commands, "show servers state "+p.Name, "show stat "+p.Name+" 7 -1")
			} else {
				commands = append(commands, "", "show stat "+p.Name+" 7 -1")
			}
		}
	}
	for chunk := range slices.Chunk(commands, batchSize) {
		send := slices.DeleteFunc(slices.Clone(chunk), func(c string) bool { return c == "" })
		answers, err := c.do(ctx, send)
		if err != nil {
			return err
		}
		for i := 0; i < len(chunk); i += 2 {
			if chunk[i] != "" && !missing(answers[0]) {
				if err := parseState(plain(answers[0]), h.servers); err != nil {
					return err
				}
			}
			if chunk[i] != "" {
				answers = answers[1:]
			}
			if !missing(answers[0]) {
				if err := h.parseStat(plain(answers[0])); err != nil {
					return fmt.Errorf("%s: %w", chunk[i+1], err)
				}
			}
			answers = answers[1:]
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
