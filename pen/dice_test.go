package pen

import (
	"bufio"
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"context"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// storySeed gives the first seed and the number of stories.
func storySeed(t *testing.T, runs int) (uint64, int) {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	for name, to := range map[string]any{"PM_SEED": &seed, "PM_RUNS": &runs} {
		if text := os.Getenv(name); text != "" {
			if _, err := fmt.Sscan(text, to); err != nil {
				t.Fatalf("%s=%q: %v", name, text, err)
			}
		}
	}
	return seed, runs
}

// dice draws what happens in a story. The same seed gives the same one, as far as the kernel lets it.
type dice struct {
	*rand.Rand
	keys   []catalog.Key
	places []place
	next   map[catalog.Key]*catalog.Service
}

// one reports true once in n times.
func (r *dice) one(n int) bool { return r.IntN(n) == 0 }

// pick draws one of some; they must not be empty.
func pick[T any](r *dice, from []T) T { return from[r.IntN(len(from))] }

// want gives the catalog as it is now.
func (r *dice) want() []*catalog.Service {
	out := make([]*catalog.Service, 0, len(r.next))
	for _, s := range r.next {
		out = append(out, s)
	}
	catalog.Sort(out)
	return out
}

// turn makes a few changes of the catalog, and sometimes none or many.
func (r *dice) turn() {
	for range pick(r, []int{0, 1, 1, 2, 3, 8}) {
		r.change()
	}
}

func (r *dice) change() {
	key := pick(r, r.keys)
	var s catalog.Service
	was, ok := r.next[key]
	if ok {
		s = *was
	}
	switch {
	case !ok:
		s = catalog.Service{Key: key, Name: "alpha", Source: "test", Mode: catalog.ModeTCP}
		for range r.IntN(4) {
			r.changeServers(&s)
		}
	case r.one(8):
		delete(r.next, key)
		return
	case r.one(12):
		s.Name = pick(r, []string{"alpha", "beta"})
	case r.one(12):
		s.Mode = pick(r, []catalog.Mode{catalog.ModeTCP, catalog.ModeHTTP})
	case r.one(12):
		s.Servers = nil
	default:
		r.changeServers(&s)
	}
	r.next[key] = s.Canonical()
}

// changeServers adds, removes or changes a server.
func (r *dice) changeServers(s *catalog.Service) {
	s.Servers = slices.Clone(s.Servers)
	v := catalog.Server{Addr: pick(r, r.places).addr, Weight: pick(r, []int{1, 250, 500, 500, 500, 1000})}
	i := slices.IndexFunc(s.Servers, func(o catalog.Server) bool { return o.Addr == v.Addr })
	switch {
	case i < 0:
		s.Servers = append(s.Servers, v)
	case r.one(2):
		s.Servers[i] = v
	default:
		s.Servers = slices.Delete(s.Servers, i, i+1)
	}
}

func countsText(counts map[string]int) string {
	var words []string
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		words = append(words, fmt.Sprintf("%s %d", name, counts[name]))
	}
	return strings.Join(words, ", ")
}

// place is where a server may be.
type place struct {
	name string // what it answers with; empty when nobody is there
	addr netip.AddrPort
}

// newPlace serves UDP and TCP on an address of this host, which is the same in each run but for the port. It answers a datagram,
// or what a connection begins with, with its name and the first line.
func newPlace(t *testing.T, host byte, name string) place {
	t.Helper()
	addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, host}), port(t))
	if name == "" {
		return place{addr: addr}
	}
	packets, err := net.ListenPacket("udp4", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = packets.Close() })
	go func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := packets.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = packets.WriteTo(append([]byte(name+" "), buf[:n]...), from)
		}
	}()
	l, err := net.Listen("tcp4", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = bufio.NewReader(c).ReadString('\n')
			fmt.Fprintf(c, "%s\n", name)
			_ = c.Close()
		}
	}()
	return place{name, addr}
}

// holder is a client of a UDP service that stays. Its datagrams are numbered, so that late answers are told from new ones, and
// have its name, since pen now and then gives an answer to another client.
type holder struct {
	net.Conn
	key  catalog.Key
	name string
	sent int
}

// send sends a datagram. That nobody may be there is no error.
func (h *holder) send() {
	h.sent++
	_, _ = fmt.Fprintf(h, "%s %d", h.name, h.sent)
}

// heard gives who has answered a datagram from the given one on; empty when nobody has until then.
func (h *holder) heard(from int, until time.Time) string {
	_ = h.SetReadDeadline(until)
	buf := make([]byte, 2048)
	for {
		n, err := h.Read(buf)
		if err != nil {
			if !os.IsTimeout(err) && time.Now().Before(until) {
				continue // an ICMP message for an earlier datagram
			}
			return ""
		}
		var who, name string
		var number int
		if _, err := fmt.Fscan(bytes.NewReader(buf[:n]), &who, &name, &number); err == nil && name == h.name && number >= from {
			return who
		}
	}
}

// ask sends datagrams until one is answered: pen may lose some on the way to a server that is not there.
func (h *holder) ask() string {
	from := h.sent + 1
	for range 100 {
		h.send()
		if who := h.heard(from, time.Now().Add(50*time.Millisecond)); who != "" {
			return who
		}
	}
	return "nobody"
}

// askTCP gives who answers a connection; "nobody" when it is closed without an answer.
func askTCP(port uint16) string {
	c, err := net.Dial("tcp4", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(3 * time.Second))
	_, _ = fmt.Fprint(c, "GET / HTTP/1.0\r\n\r\n")
	who, err := bufio.NewReader(c).ReadString('\n')
	if os.IsTimeout(err) {
		return "silence"
	}
	if err != nil {
		return "nobody"
	}
	return strings.TrimSpace(who)
}

// interrupted is a context that ends when its deadline is asked for so often: each command to a pen asks once or twice.
type interrupted struct {
	context.Context
	end  context.CancelFunc
	left atomic.Int64
}

func (c *interrupted) Deadline() (time.Time, bool) {
	if c.left.Add(-1) == 0 {
		c.end()
	}
	return c.Context.Deadline()
}
