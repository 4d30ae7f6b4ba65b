// Command proxymatic keeps the proxies of a host in step with the services that run in its cluster.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/spf13/pflag"
)

func main() {
	shareProcessors()
	signal.Ignore(syscall.SIGHUP) // it would end a run that does not listen yet, and the configuration is read in a moment anyway
	p := program{stdout: os.Stdout, stderr: os.Stderr, notify: func(c chan<- os.Signal) {
		signal.Notify(c, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR1)
	}}
	os.Exit(p.main(context.Background(), os.Args[1:]))
}

// shareProcessors leaves the host's processors to what runs on it: this process takes one at a time, unless the environment
// says otherwise. It waits for others most of the time, and threads that wake each other up cost more than they save.
func shareProcessors() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(1)
	}
}

// program is the whole of proxymatic, apart from its process.
type program struct {
	stdout, stderr io.Writer
	notify         func(chan<- os.Signal) // asks for the signals that a run listens to
}

// Exit codes.
const (
	exitOK      = 0
	exitError   = 1
	exitChanges = 2 // plan: there is something to do
)

// main does what the command line says and gives the exit code.
func (p program) main(ctx context.Context, args []string) int {
	flags := newFlags()
	switch err := flags.Parse(args); {
	case errors.Is(err, pflag.ErrHelp):
		fmt.Fprint(p.stdout, helpText())
		return exitOK
	case err != nil:
		return p.fail(fmt.Errorf("%w; see proxymatic --help", err))
	case flags.NArg() > 1:
		return p.fail(fmt.Errorf("unexpected %q; see proxymatic --help", flags.Arg(1)))
	}
	name := "run"
	if flags.NArg() == 1 {
		name = flags.Arg(0)
	}
	command, known := p.commands()[name]
	if !known {
		return p.fail(fmt.Errorf("unknown command %q; see proxymatic --help", name))
	}
	reading := load
	if command.bare {
		reading = loadFlags
	}
	config, err := reading(flags)
	switch {
	case err != nil:
		return p.fail(err)
	case command.offers && !config.hasSource():
		fmt.Fprint(p.stderr, helpText())
		return p.fail(errNoSource)
	}
	if name == "run" {
		return p.run(flags, config)
	}
	if now, err := readPlaced(config.RunDir); err == nil && !command.bare { // who cannot read it cannot ask proxies either
		config = config.in(now.serving)
	}
	ctx, cancel := context.WithTimeout(ctx, config.Timeout)
	defer cancel()
	code, err := command.do(ctx, config)
	if err != nil {
		return p.fail(err)
	}
	return code
}

var errNoSource = errors.New("no source is configured; give --marathon, --registrator or --services-file")

func (p program) fail(err error) int {
	fmt.Fprintf(p.stderr, "proxymatic: %v\n", err)
	return exitError
}
