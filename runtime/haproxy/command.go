package haproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// commandTimeout bounds a start or reload command. A command that hangs must not end all updates.
const commandTimeout = 60 * time.Second

// answerTimeout is how long HAProxy may stay silent after a start command.
const answerTimeout = 5 * time.Second

// commands lets the host's own service manage HAProxy, through the shell commands that the user gave.
type commands struct {
	startCommand, reloadCommand string
	cli                         cli
	socket                      string
	config, runDir              string
	env                         []string
	patience                    time.Duration // answerTimeout
	now                         func() time.Time
	ended                       time.Time // when the last reload command had ended
	asked                       bool      // whether HAProxy has been asked about the file since
}

// start runs the start command, and the reload command when HAProxy stays silent: some service managers believe that a
// dead HAProxy still runs.
func (c *commands) start(ctx context.Context) error {
	startErr := c.run(ctx, c.startCommand)
	if c.answers(ctx) {
		return nil
	}
	if err := c.run(ctx, c.reloadCommand); err != nil {
		return errors.Join(startErr, err)
	}
	if c.answers(ctx) {
		return nil
	}
	if startErr != nil {
		return startErr
	}
	return fmt.Errorf("HAProxy does not answer on %s after %q and %q: look into its log, and at the `stats socket` line",
		c.socket, c.startCommand, c.reloadCommand)
}

// answers waits for HAProxy's first answer.
func (c *commands) answers(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, c.patience)
	defer cancel()
	for ctx.Err() == nil {
		if _, err := c.cli.do(ctx, []string{"show info"}); err == nil {
			return true
		}
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
	return false
}

func (c *commands) reload(ctx context.Context) error {
	defer func() { c.ended, c.asked = c.now(), false }()
	return c.run(ctx, c.reloadCommand)
}

// refused finds out about a command that signals and cannot know what comes of it: HAProxy is asked about the file when no new
// worker has come for a second, and given up after ten. The largest configurations load in two.
func (c *commands) refused(ctx context.Context) error {
	const askAfter, giveUpAfter = time.Second, 10 * time.Second
	waited := c.now().Sub(c.ended)
	if waited < askAfter {
		return nil
	}
	if _, err := findHAProxy(); err == nil && !c.asked {
		c.asked = true
		if err := checkConfig(ctx, c.config); err != nil {
			return err
		}
	}
	if waited > giveUpAfter {
		return fmt.Errorf("no new worker came within %s of %q; a port that somebody took meanwhile has this effect too", giveUpAfter, c.reloadCommand)
	}
	return nil
}

func (c *commands) deaf() bool { return false } // the commands are tried in turn anyway

func (c *commands) dismiss(int, []netip.AddrPort) error { return nil } // nobody starts one beside another

// elders looks for the other children of the serving worker's master. Without a master, HAProxy's processes are all children of init.
func (c *commands) elders(_ context.Context, worker int) ([]int, error) {
	return siblings(worker, c.config), nil
}

func (c *commands) end(worker int) error { return endWorker(worker, c.config) }

func (c *commands) binder() (int, bool) {
	cred, err := peer(c.socket)
	if err != nil {
		return 0, false
	}
	return int(cred.Uid), true
}

// stop closes the services' ports and waits for their connections to end. The process itself is the service manager's.
func (c *commands) stop(ctx context.Context) error {
	have, err := observe(ctx, c.cli, looking{load: func(string) (structure, bool) { return structure{}, false }})
	if err != nil || !have.alive {
		return err
	}
	for name, open := range have.open {
		if !open {
			continue
		}
		if _, err := c.cli.do(ctx, []string{"disable frontend " + name}); err != nil {
			return err
		}
	}
	for ctx.Err() == nil {
		answers, err := c.cli.do(ctx, []string{"show info"})
		if err != nil || strings.Contains(answers[0], "\nCurrConns: 0\n") {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
	return nil
}

// run gives a command to the shell. When it takes too long its process group is ended: not an HAProxy that it started,
// which leaves the group when it becomes a daemon. Its output goes through a file, since such a daemon would hold a pipe.
func (c *commands) run(ctx context.Context, command string) error {
	out, err := os.CreateTemp(c.runDir, "command-*.log")
	if err != nil {
		return err
	}
	defer os.Remove(out.Name())
	defer out.Close()
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", command)
	cmd.Stdout, cmd.Stderr, cmd.Env = out, out, c.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	err = cmd.Run()
	if ctx.Err() != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("%q did not end within %s", command, commandTimeout)
	}
	if err != nil {
		return fmt.Errorf("%q: %w%s", command, err, tail(out))
	}
	return nil
}

// tail gives the end of a command's output.
func tail(out *os.File) string {
	const most = 1000
	end, err := out.Seek(0, io.SeekEnd)
	if err != nil {
		return ""
	}
	raw, err := io.ReadAll(io.NewSectionReader(out, max(0, end-most), most))
	text := strings.TrimSpace(string(raw))
	if err != nil || text == "" {
		return ""
	}
	return ": " + complaints(text)
}
