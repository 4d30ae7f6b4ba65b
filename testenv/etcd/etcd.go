// Package etcd runs real etcd servers on 127.0.0.1 for tests, benchmarks and the demo: one, or a cluster whose members can
// be killed, started again and robbed of their data.
package etcd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/meltwater/proxymatic/testenv/freeport"
)

// Config says what to start.
type Config struct {
	Dir     string // for data and logs; it must exist and stays when the cluster is closed
	V2      bool   // serve the v2 store beside the v3 one, which is always there
	Members int    // of the cluster; 0 means 1
	// Secure, unless it is nil, lets members talk to clients only by TLS, with the certificate that it signed as "server", and
	// only to those that show one of it too.
	Secure *Certificates
}

// Cluster is a running etcd. Its methods are for one goroutine at a time. Ports and names stay the same all its life.
type Cluster struct {
	Members []*Member
}

// Start starts etcd, which must be in PATH (otherwise the error is exec.ErrNotFound), and waits until it is healthy. Servers
// end with the program that started them, however that ends.
func Start(ctx context.Context, cfg Config) (*Cluster, error) {
	program, err := exec.LookPath("etcd")
	if err != nil {
		return nil, err
	}
	n := max(cfg.Members, 1)
	ports, err := freeport.Get(2 * n)
	if err != nil {
		return nil, err
	}
	c := &Cluster{}
	var peers []string
	for i := range n {
		m, err := newMember(program, cfg, i, ports[2*i:])
		if err != nil {
			return nil, err
		}
		c.Members, peers = append(c.Members, m), append(peers, m.name+"="+m.peerURL)
	}
	for _, m := range c.Members {
		m.args = append(m.args, "--initial-cluster", strings.Join(peers, ","), fmt.Sprintf("--enable-v2=%t", cfg.V2))
	}
	if err := c.Restart(ctx); err != nil {
		c.Kill()
		return nil, err
	}
	return c, nil
}

// newMember gives a member, with ports for clients and for the others, that still lacks the flags that tell of these.
func newMember(program string, cfg Config, i int, ports []int) (*Member, error) {
	m := &Member{
		program: program,
		name:    fmt.Sprintf("etcd%d", i),
		addr:    fmt.Sprintf("127.0.0.1:%d", ports[0]),
		peerURL: fmt.Sprintf("http://127.0.0.1:%d", ports[1]),
	}
	var secure []string
	if c := cfg.Secure; c != nil {
		var err error
		if m.secure, err = c.Client("server"); err != nil {
			return nil, err
		}
		secure = []string{"--cert-file", c.File("server.crt"), "--key-file", c.File("server.key"),
			"--trusted-ca-file", c.File(c.name + ".crt"), "--client-cert-auth"}
	}
	m.data, m.log = filepath.Join(cfg.Dir, m.name), filepath.Join(cfg.Dir, m.name+".log")
	m.args = append([]string{"--name", m.name, "--data-dir", m.data,
		"--listen-client-urls", m.URL(), "--advertise-client-urls", m.URL(),
		"--listen-peer-urls", m.peerURL, "--initial-advertise-peer-urls", m.peerURL}, secure...)
	return m, nil
}

// Addrs gives where the members listen for clients, as "host:port,host:port": what stands between etcd:// and the prefix.
func (c *Cluster) Addrs() string {
	var out []string
	for _, m := range c.Members {
		out = append(out, m.addr)
	}
	return strings.Join(out, ",")
}

// Kill ends all members as kill -9 does and waits for them.
func (c *Cluster) Kill() {
	for _, m := range c.Members {
		m.Kill()
	}
}

// Restart starts the members that do not run, with the data that they had, and waits until all are healthy.
func (c *Cluster) Restart(ctx context.Context) error {
	for _, m := range c.Members {
		if err := m.start(); err != nil {
			return err
		}
	}
	for _, m := range c.Members {
		if err := m.healthy(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Wipe kills all members, removes their data and starts them again: both stores are empty and count their revisions from
// the start, as the same cluster.
func (c *Cluster) Wipe(ctx context.Context) error {
	c.Kill()
	var errs []error
	for _, m := range c.Members {
		errs = append(errs, os.RemoveAll(m.data))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return c.Restart(ctx)
}
