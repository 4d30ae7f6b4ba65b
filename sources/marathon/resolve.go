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
// may take together: what is late keeps its last good address.
const (
	hostFresh   = time.Minute
	hostRetry   = 5 * time.Second
	hostPatient = 3 * time.Second
)

// resolver gives the addresses of agents. It belongs to one goroutine.
type resolver struct {
	lookup func(ctx context.Context, host string) ([]netip.Addr, error)
	known  map[string]knownHost
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
		if !now.Before(r.known[host].until) {
			stale = append(stale, host)
		}
	}
	limited, cancel := context.WithTimeout(ctx, hostPatient)
	defer cancel()
	var lock sync.Mutex
	each(stale, func(host string) {
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

// forget drops expired names that no task needs.
func (r *resolver) forget(needed map[string]hostAnswer, now time.Time) {
	for host, known := range r.known {
		if _, ok := needed[host]; !ok && now.After(known.until) {
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
		reason := fmt.Sprintf("its host %.100q cannot be looked up now: %s", host, reason(err))
		return knownHost{answer: hostAnswer{reason: reason}, until: now.Add(hostRetry)}
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

// each calls do for every item, eight at a time, and returns when all are done.
func each[T any](items []T, do func(T)) {
	var wait sync.WaitGroup
	slots := make(chan struct{}, 8)
	for _, item := range items {
		slots <- struct{}{}
		wait.Go(func() {
			defer func() { <-slots }()
			do(item)
		})
	}
	wait.Wait()
}
