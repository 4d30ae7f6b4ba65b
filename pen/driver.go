// Package pen drives pen: one process for each UDP service, and for each TCP service when HAProxy does not take them. What a
// service's servers are is told to the running process through its control socket.
package pen

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
	"github.com/meltwater/proxymatic/templates"
)

// Name is the driver's name.
const Name = "pen"

// parallel is how many pens are looked at, or started, at a time.
const parallel = 16

// Config is what a Driver needs to know.
type Config struct {
	TemplateFile string        // of pen's configuration; empty is the built-in one
	Servers      int           // most servers of a service that are used
	Clients      int           // most connections or UDP flows of a service at a time
	User         string        // as whom pen runs
	RunDir       string        // for configurations, sockets and logs; must exist before Apply
	BindAddress  netip.Addr    // where services listen
	TCP          bool          // serve TCP services too
	Drain        time.Duration // how long Close may wait for the connections of TCP services
	Beside       []catalog.Key // services that pens of another run, perhaps in another container, serve until these do
}

// Driver makes pens offer services. It implements reconcile.Driver.
type Driver struct {
	config Config
	files  files
	render renderer
	now    func() time.Time

	resync atomic.Bool
	alarm  chan time.Duration // when to ask for another pass; the latest counts
	pens   chan []process     // those that serve, when they change

	beside  atomic.Pointer[[]catalog.Key] // Config.Beside; nil when these pens are alone
	sinkErr atomic.Pointer[string]        // why nobody takes the clients of TCP services without servers

	// What follows belongs to Plan and Apply, which are never called at the same time. It is a memory of what was proven, to
	// look at less, and of what failed, to try it less often; nothing breaks when it is lost.
	user     identity
	verified map[catalog.Key]proof
	sieve    sieve

	// So does this, but services are brought up at the same time, and Run looks after pens beside them.
	mu       sync.Mutex
	children map[int]*child
	failures map[catalog.Key]failure
	busy     map[int]bool // pens that took a whole core when they were last looked at
	ended    map[int]bool // pens that have ended
	missed   map[int]int  // how often in a row a pen has not answered
}

// proof is a service as it was last seen to be served.
type proof struct {
	service *catalog.Service
	process process
	sharer  string // who else has its port
}

// New prepares a driver. Errors are about the template, which they name.
func New(config Config) (*Driver, error) {
	t, err := templates.ParsePen(config.TemplateFile)
	if err != nil {
		return nil, err
	}
	d := &Driver{config: config, files: files{config.RunDir}, render: renderer{t, config.Servers}, now: time.Now,
		alarm: make(chan time.Duration, 1), pens: make(chan []process, 1), children: map[int]*child{}, failures: map[catalog.Key]failure{}, ended: map[int]bool{}, missed: map[int]int{}}
	if len(config.Beside) > 0 {
		d.beside.Store(&config.Beside)
	}
	return d, d.tryTemplate()
}

// tryTemplate renders samples and refuses a template that no service could use.
func (d *Driver) tryTemplate() error {
	addr := netip.MustParseAddrPort("192.0.2.1:31000")
	for _, s := range []*catalog.Service{
		{Key: catalog.Key{Port: 1, Proto: catalog.UDP}, Name: "sample.udp", Source: "sample", Mode: catalog.ModeTCP},
		{Key: catalog.Key{Port: 1, Proto: catalog.TCP}, Name: "sample.http", Source: "sample", Mode: catalog.ModeHTTP},
	} {
		options, err := d.render.options(s)
		if err != nil {
			return err
		}
		if _, err := d.render.text(s, options, slots{1: addr, 2: addr}); err != nil {
			return err
		}
	}
	return nil
}

// Name is "pen".
func (d *Driver) Name() string { return Name }

// Resync makes the next Plan or Apply observe everything.
func (d *Driver) Resync() { d.resync.Store(true) }

// mine gives the services that pen should offer.
func (d *Driver) mine(want []*catalog.Service) []*catalog.Service {
	if d.config.TCP {
		return want
	}
	return d.sieve.udpOf(want)
}

// Installed gives the path of the program; empty when there is none.
func Installed() string {
	path, err := exec.LookPath("pen")
	if err != nil {
		return ""
	}
	return path
}

// put replaces a file for pen to read. Not even a crash of the machine needs more: it ends pen too.
func put(path, text string) error {
	temp := path + ".new"
	err := os.WriteFile(temp, []byte(text), 0o644)
	if err == nil {
		err = os.Chmod(temp, 0o644) // whatever the umask: pen is another user
	}
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		return fmt.Errorf("write for pen: %w", err)
	}
	return nil
}
