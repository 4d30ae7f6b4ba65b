// Package hostname gives the addresses of host names, and remembers the last good ones for when the resolver fails.
package hostname

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// Fresh is how long an address is used without another question.
const Fresh = time.Minute

// Retry is how long a name that has no address is not asked for again.
const Retry = 5 * time.Second

// How long all names of one reading may take together: what is late keeps its last good address. The first reading has no such
// address to keep, so it takes its time, and for a while it counts only when no name is late.
const (
	patient      = 3 * time.Second
	firstPatient = 15 * time.Second
	strict       = time.Minute
	parallel     = 64
)

// doubted is how long a name must be said not to exist before its address is forgotten: a name server that has lost its zone says so
// of every name.
const doubted = 10 * time.Minute

// remembered is how long an expired name that nobody needs is kept.
const remembered = 5 * time.Minute

// Answer is a host's address, or why there is none.
type Answer struct {
	Addr      netip.Addr
	Reason    string // empty when there is an address
	Temporary bool   // there may be an address, which cannot be had now
}

// Lookup gives the addresses of a host name. A *net.DNSError that IsNotFound says that there is no such host; other errors
// are taken for temporary. It is called from several goroutines.
type Lookup func(ctx context.Context, host string) ([]netip.Addr, error)

// Resolver gives the addresses of hosts. It may be used by several goroutines.
type Resolver struct {
	lookup  Lookup
	lock    sync.Mutex // of what follows; never held while names are looked up
	known   map[string]knownHost
	began   time.Time // when names were late at first
	settled bool      // a reading has counted
}

type knownHost struct {
	answer Answer    // the last good address, until the name is known not to exist
	until  time.Time // when to ask again
	gone   time.Time // when the name was first said not to exist, and nothing else since; zero when it was not
	said   time.Time // when that was said last
}

// New gives a resolver that knows nothing yet. A nil lookup is the system's.
func New(lookup Lookup) *Resolver {
	if lookup == nil {
		lookup = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	return &Resolver{lookup: lookup, known: make(map[string]knownHost)}
}

// Settle says that a reading has counted: names without an address cost only what needs them from now on.
func (r *Resolver) Settle() {
	r.lock.Lock()
	defer r.lock.Unlock()
	r.settled = true
}

// Resolve gives an answer for each name. Only a name that is said not to exist for ten minutes loses an address
// that it had.
func (r *Resolver) Resolve(ctx context.Context, hosts []string) map[string]Answer {
	now := time.Now()
	stale, patience := r.stale(hosts, now)
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	r.askAll(limited, stale)
	r.lock.Lock()
	defer r.lock.Unlock()
	out := make(map[string]Answer, len(hosts))
	for _, host := range hosts {
		out[host] = r.known[host].answer
	}
	r.forget(out, now)
	return out
}

// stale gives the names that are to be looked up, and how long that may take.
func (r *Resolver) stale(hosts []string, now time.Time) ([]string, time.Duration) {
	r.lock.Lock()
	defer r.lock.Unlock()
	var stale []string
	for _, host := range hosts {
		known := r.known[host]
		if !now.Before(known.until) || known.answer.Temporary && !r.settled {
			stale = append(stale, host)
		}
	}
	if !r.settled {
		return stale, firstPatient
	}
	return stale, patient
}

// Late is the error of a reading that would drop servers because of names that cannot be resolved now, before any reading
// has counted: those may be serving. After a while a few such names cost only their own servers, for they would
// hold up all others; when it is half of the names or more, the resolver is at fault and nothing is concluded. Nor is it for long when
// it says of all names that they do not exist; one alone may just be wrong.
func (r *Resolver) Late(answers map[string]Answer, now time.Time) error {
	var late, none []string
	for host, a := range answers {
		switch {
		case a.Temporary:
			late = append(late, host)
		case a.Reason != "":
			none = append(none, host)
		}
	}
	vanished := len(none) == len(answers) && len(none) > 1
	r.lock.Lock()
	defer r.lock.Unlock()
	if r.settled || len(late) == 0 && !vanished {
		return nil
	}
	if r.began.IsZero() {
		r.began = now
	}
	switch took := now.Sub(r.began); {
	case vanished && took < doubted:
		return errors.New(answers[slices.Min(none)].Reason)
	case vanished, took >= strict && 2*len(late) < len(answers):
		return nil
	}
	return errors.New(answers[slices.Min(late)].Reason)
}

// forget drops expired names that nobody has needed for long. A list may lack them for a moment around a failover.
func (r *Resolver) forget(needed map[string]Answer, now time.Time) {
	for host, known := range r.known {
		if _, ok := needed[host]; !ok && now.Sub(known.until) > remembered {
			delete(r.known, host)
		}
	}
}

// askAll learns the addresses of all hosts, so many at a time.
func (r *Resolver) askAll(ctx context.Context, hosts []string) {
	var wait sync.WaitGroup
	slots := make(chan struct{}, parallel)
	for _, host := range hosts {
		slots <- struct{}{}
		wait.Go(func() {
			defer func() { <-slots }()
			addrs, err := r.ask(ctx, host)
			r.lock.Lock()
			defer r.lock.Unlock()
			r.known[host] = r.known[host].after(host, addrs, err, time.Now())
		})
	}
	wait.Wait()
}

// ask does not bother the resolver with what is no host name.
func (r *Resolver) ask(ctx context.Context, host string) ([]netip.Addr, error) {
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
		return knownHost{answer: Answer{Addr: pick(usables, k.answer.Addr)}, until: now.Add(Fresh)}
	case err == nil, errors.As(err, &dns) && dns.IsNotFound:
		if k.gone.IsZero() || now.Sub(k.said) > doubted/2 { // nobody was asked for long
			k.gone = now
		}
		next := knownHost{answer: Answer{Reason: fmt.Sprintf("its host %.100q has no address", host)}, until: now.Add(Retry), gone: k.gone, said: now}
		if k.answer.Addr.IsValid() && now.Sub(k.gone) < doubted {
			next.answer, next.until = k.answer, now.Add(Fresh/2)
		}
		return next
	case k.answer.Addr.IsValid():
		return knownHost{answer: k.answer, until: now.Add(Fresh / 2)}
	default:
		reason := fmt.Sprintf("host %.100q cannot be resolved now: %s", host, Reason(err))
		return knownHost{answer: Answer{Reason: reason, Temporary: true}, until: now.Add(Retry)}
	}
}

func usableOnly(addrs []netip.Addr) []netip.Addr {
	var out []netip.Addr
	for _, a := range addrs {
		if answer := Usable(a); answer.Reason == "" {
			out = append(out, answer.Addr)
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

// Usable refuses what no server can have.
func Usable(addr netip.Addr) Answer {
	addr = addr.Unmap()
	if !addr.IsValid() || addr.IsUnspecified() || addr.IsMulticast() || addr.Zone() != "" {
		return Answer{Reason: fmt.Sprintf("%.60s is no address of a server", addr)}
	}
	return Answer{Addr: addr}
}

// Reason is a network error's text without what differs from one attempt to the next, such as the port that the connection
// had on this side: so one lasting trouble has one text.
func Reason(err error) string {
	var dns *net.DNSError
	var op *net.OpError
	var request *url.Error
	switch {
	case errors.As(err, &dns) && dns.IsNotFound:
		return fmt.Sprintf("lookup %s: no such host", dns.Name)
	case errors.As(err, &dns) && dns.IsTimeout:
		return fmt.Sprintf("lookup %s: no answer in time", dns.Name)
	case errors.As(err, &dns):
		return fmt.Sprintf("lookup %s: the name server fails", dns.Name)
	case errors.As(err, &op):
		stable := *op
		stable.Source = nil
		return stable.Error()
	case errors.As(err, &request):
		return request.Err.Error()
	default:
		return err.Error()
	}
}
