package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	agents   = 40 // hosts that tasks run on, fewer than there are tasks over time: names come anew, and expire
	agentTLD = ".test."
	silent   = dnsmessage.RCode(0xff) // no answer at all
)

// nameServer is the only DNS server that proxymatic asks. It knows the agents, all of which are this host.
type nameServer struct {
	conn  net.PacketConn
	fault atomic.Uint32 // the dnsmessage.RCode of all answers
	asked atomic.Uint64
}

// ownDNS gives the tasks' hosts names, and proxymatic a name server that can fail. It reports whether that can be: it takes root,
// for a resolv.conf that only proxymatic sees.
func (c *chaos) ownDNS() bool {
	conn, err := net.ListenPacket("udp", fmt.Sprintf("127.53.%d.%d:53", 1+c.IntN(250), 1+os.Getpid()%250))
	if err != nil {
		c.Logf("no name server, which never fails then: %v", err)
		return false
	}
	s := &nameServer{conn: conn}
	answered := make(chan struct{})
	go func() { defer close(answered); s.answer() }()
	c.Cleanup(func() { conn.Close(); <-answered })
	host, _, _ := net.SplitHostPort(conn.LocalAddr().String())
	c.must(os.WriteFile(c.host.Path("resolv.conf"), []byte("nameserver "+host+"\n"), 0o644))
	prefix := []string{"unshare", "--mount", "sh", "-c", "mount --bind " + c.host.Path("resolv.conf") + ` /etc/resolv.conf && exec "$0" "$@"`}
	if out, err := exec.Command(prefix[0], append(prefix[1:], "true")...).CombinedOutput(); err != nil {
		c.Logf("no name server, which never fails then: %v %s", err, out)
		return false
	}
	c.dns, c.host.Prefix = s, prefix
	c.site.Agent = func(task int) string {
		return fmt.Sprintf("agent-%d%s", task%agents, strings.TrimSuffix(agentTLD, "."))
	}
	return true
}

// answer answers until the connection is closed.
func (s *nameServer) answer() {
	for buffer := make([]byte, 512); ; {
		n, from, err := s.conn.ReadFrom(buffer)
		if err != nil {
			return
		}
		s.asked.Add(1)
		var m dnsmessage.Message
		if m.Unpack(buffer[:n]) != nil || len(m.Questions) != 1 || s.fault.Load() == uint32(silent) {
			continue
		}
		raw, err := reply(m.ID, m.Questions[0], dnsmessage.RCode(s.fault.Load())).Pack()
		if err == nil {
			_, err = s.conn.WriteTo(raw, from)
		}
		if err != nil {
			return
		}
	}
}

// reply is the answer to a question. There are agents, and each has an IPv4 address.
func reply(id uint16, q dnsmessage.Question, code dnsmessage.RCode) *dnsmessage.Message {
	m := &dnsmessage.Message{Header: dnsmessage.Header{ID: id, Response: true, RecursionAvailable: true, RCode: code}, Questions: []dnsmessage.Question{q}}
	switch known := strings.HasSuffix(q.Name.String(), agentTLD); {
	case code != dnsmessage.RCodeSuccess:
	case !known:
		m.RCode = dnsmessage.RCodeNameError
	case q.Type == dnsmessage.TypeA:
		m.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1},
			Body:   &dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}},
		}}
	}
	return m
}

// dnsFaults are those of the name server. A task that is new meanwhile has no address until they are over.
func dnsFaults() map[string]strike {
	out := map[string]strike{}
	for name, code := range map[string]dnsmessage.RCode{
		"DNS is silent":      silent,
		"DNS fails":          dnsmessage.RCodeServerFailure,
		"DNS knows no names": dnsmessage.RCodeNameError,
	} {
		begin := func(c *chaos) func() {
			c.settledWithin(chaosPatience, c.wanted) // so that no service is left with nothing but what has no address yet
			c.dns.fault.Store(uint32(code))
			return func() { c.dns.fault.Store(uint32(dnsmessage.RCodeSuccess)) }
		}
		out[name] = begin
		out["proxymatic is killed while "+name] = func(c *chaos) func() {
			undo := begin(c)
			c.host.Kill()
			c.begin()
			return undo
		}
	}
	return out
}
