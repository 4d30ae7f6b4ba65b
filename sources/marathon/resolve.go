package marathon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// How long an address counts as fresh, when a name without an address is asked again, and how long all names of one reading
// may take together: what is late keeps its last good address. The first reading has no such address to keep, so it
// takes its time, and for a while it counts only when no name is late.
const (
	hostFresh        = time.Minute
	hostRetry        = 5 * time.Second
	hostPatient      = 3 * time.Second
	hostFirstPatient = 15 * time.Second
	hostStrict       = time.Minute
	hostParallel     = 64
)

// resolver gives the addresses of agents. It belongs to one goroutine.
type resolver struct {
	lookup  func(ctx context.Context, host string) ([]netip.Addr, error)
	known   map[string]knownHost
	began   time.Time // when names were late at first
	settled bool      // a reading has counted
}

type knownHost struct {
	answer hostAnswer // the last good address, until the name is known not to exist
	until  time.Time  // when to ask again
}

// resolve gives an answer for each name. Only a name that is known not to exist loses an address that it had.
func (r *resolver) resolve(ctx context.Context, hosts []string) map[string]hostAnswer {
	var stale []string
	now := time.Now()
	for _, host := range hosts {
		known := r.known[host]
		if !now.Before(known.until) || known.answer.temporary && !r.settled {
			stale = append(stale, host)
		}
	}
	patience := hostPatient
	if !r.settled {
		patience = hostFirstPatient
	}
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var lock sync.Mutex
	each(stale, hostParallel, func(host string) {
		addrs, err := r.ask(limited, host)
		lock.Lock()
		defer lock.Unlock()
		r.known[host] = r.known[host].after(host, addrs, err, time.Now())
	})
	out := make(map[string]hostAnswer, len(hosts))
	for _, host := range hosts {
		out[host] = r.known[host].answer
	}
	r.forget(out, now)
	return out
}

// late is the error of a reading that would drop tasks because of names that cannot be resolved now, before any reading
// has counted: those tasks may be serving. After a while a few such names cost only their own tasks, for they would
// hold up all others; when it is half of the names or more, the resolver is at fault and nothing is concluded.
func (r *resolver) late(answers map[string]hostAnswer, now time.Time) error {
	var late []string
	for host, a := range answers {
		if a.temporary {
			late = append(late, host)
		}
	}
	if r.settled || len(late) == 0 {
		return nil
	}
	if r.began.IsZero() {
		r.began = now
	}
	if now.Sub(r.began) >= hostStrict && 2*len(late) < len(answers) {
		return nil
	}
	return errors.New(answers[slices.Min(late)].reason)
}

// forget drops expired names that no task has needed for long. A list may lack them for a moment around a failover.
func (r *resolver) forget(needed map[string]hostAnswer, now time.Time) {
	for host, known := range r.known {
		if _, ok := needed[host]; !ok && now.Sub(known.until) > remembered {
			delete(r.known, host)
		}
	}
}

// ask does not bother the resolver with what is no host name.
func (r *resolver) ask(ctx context.Context, host string) ([]netip.Addr, error) {
	odd := strings.ContainsFunc(host, func(c rune) bool {
		return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("-_.", c))
	})
	if odd || len(host) > 253 {
		return nil, &net.DNSError{Err: "no host name", IsNotFound: true}
	}
	return r.lookup(ctx, host)
}

// after is what is known of a host once the answer has come.
func (k knownHost) after(host string, addrs []netip.Addr, err error, now time.Time) knownHost {
	usables := usableOnly(addrs)
	var dns *net.DNSError
	switch {
	case err == nil && len(usables) > 0:
		return knownHost{answer: hostAnswer{addr: pick(usables, k.answer.addr)}, until: now.Add(hostFresh)}
	case err == nil, errors.As(err, &dns) && dns.IsNotFound:
		return knownHost{answer: hostAnswer{reason: fmt.Sprintf("its host %.100q has no address", host)}, until: now.Add(hostRetry)}
	case k.answer.addr.IsValid():
		return knownHost{answer: k.answer, until: now.Add(hostFresh / 2)}
	default:
		reason := fmt.Sprintf("host %.100q cannot be resolved now: %s", host, reason(err))
		return knownHost{answer: hostAnswer{reason: reason, temporary: true}, until: now.Add(hostRetry)}
	}
}

func usableOnly(addrs []netip.Addr) []netip.Addr {
	var out []netip.Addr
	for _, a := range addrs {
		if answer := usable(a); answer.reason == "" {
			out = append(out, answer.addr)
		}
	}
	return out
}

// pick stays with the last address while it is among the answers, whose order rotates, and else takes the lowest IPv4
// address, or the lowest IPv6 one. IPv4 sorts first.
func pick(addrs []netip.Addr, last netip.Addr) netip.Addr {
	if slices.Contains(addrs, last) {
		return last
	}
	return slices.MinFunc(addrs, netip.Addr.Compare)
}

// each calls do for every item, so many at a time, and returns when all are done.
func each[T any](items []T, parallel int, do func(T)) {
	var wait sync.WaitGroup
	slots := make(chan struct{}, parallel)
	for _, item := range items {
		slots <- struct{}{}
		wait.Go(func() {
			defer func() { <-slots }()
			do(item)
		})
	}
	wait.Wait()
}
