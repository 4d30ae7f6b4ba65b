package haproxy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/haproxytech/client-native/v5/runtime"
	"github.com/haproxytech/client-native/v5/runtime/options"
	"golang.org/x/sys/unix"
)

// batchSize is how many commands go over one connection. Measured on 2.6: 8 have all the throughput of larger batches and
// delay the traffic of a busy proxy by less than 1.5 ms; 100 delay it by 5 ms.
const batchSize = 8

// batchTimeout bounds one batch. HAProxy answers within a millisecond; a busy machine may need a hundred times that.
const batchTimeout = 5 * time.Second

// errDown means that nobody listens on the stats socket.
var errDown = errors.New("HAProxy does not run: nobody answers on its stats socket")

// errUnanswered means that HAProxy took a batch and did not answer all of it: what it did is unknown until it is read.
var errUnanswered = errors.New("HAProxy did not answer")

// socket speaks to HAProxy's stats socket. A connection stays with the worker that accepted it, even when that worker has
// been replaced and its answers mean nothing any more, so each batch has a connection of its own.
type socket struct {
	path string
}

// do sends at most batchSize commands and gives an answer for each. client-native reads until the peer closes and reports
// neither a cut connection nor its own time-out, so the answers are framed by prompts, counted, and end in a sentinel. Each command
// has a line of its own: 3.2 prompts once a line, the versions before it once a command.
func (s socket) do(ctx context.Context, commands []string) ([]string, error) {
	for _, c := range commands {
		if strings.ContainsAny(c, "\n\r;") {
			return nil, fmt.Errorf("command %q: a line break or ';' would begin another command", c)
		}
	}
	text, err := s.exchange(ctx, func(single *runtime.SingleRuntime) (string, error) {
		return single.ExecuteRaw("prompt\n" + strings.Join(commands, "\n") + "\nshow version\nquit")
	})
	if err != nil {
		return nil, err
	}
	return splitAnswers(text, len(commands))
}

// exchange lets client-native talk on a connection of its own, no longer than ctx lets it.
func (s socket) exchange(ctx context.Context, talk func(*runtime.SingleRuntime) (string, error)) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, batchTimeout)
	defer cancel()
	type reply struct {
		text string
		err  error
	}
	done := make(chan reply, 1)
	go func() { // ends by client-native's own time-out of 30 s at the latest
		var single runtime.SingleRuntime
		if err := single.Init(s.path, 0, 0, options.RuntimeOptions{DoNotCheckRuntimeOnInit: true}); err != nil {
			done <- reply{err: err}
			return
		}
		text, err := talk(&single)
		done <- reply{text, err}
	}()
	select {
	case <-ctx.Done():
		return "", fmt.Errorf("%w within %s on %s", errUnanswered, batchTimeout, s.path)
	case r := <-done:
		if r.err != nil {
			return "", dialError(r.err)
		}
		return r.text, nil
	}
}

// splitAnswers cuts a reply at the prompts: one for the severity option and one for `prompt` itself, one for each command
// and one before the sentinel's answer.
func splitAnswers(text string, commands int) ([]string, error) {
	parts := strings.Split("\n"+text, "\n> ")
	if len(parts) != commands+2 {
		return nil, fmt.Errorf("%w completely: %d answers for %d commands", errUnanswered, max(0, len(parts)-2), commands)
	}
	answers := parts[1 : len(parts)-1]
	for i, a := range answers {
		answers[i] = strings.TrimSpace(a)
	}
	return answers, nil
}

// refusal tells whether an answer says that a command was not done. Severities 0 to 3 are errors; an unknown command
// answers with severity 6 and an unreadable address with 4, so their texts are known here.
func refusal(answer string) string {
	severity, text, ok := strings.Cut(strings.TrimPrefix(answer, "["), "]:")
	if !ok || answer == text {
		return ""
	}
	text = strings.TrimSpace(text)
	first, _, _ := strings.Cut(text, "\n")
	if severity < "4" || strings.HasPrefix(text, "Unknown command") || strings.HasPrefix(text, "Invalid addr") {
		return first
	}
	return ""
}

// plain strips the severity in front of an answer.
func plain(answer string) string {
	if len(answer) > 4 && answer[0] == '[' && answer[2] == ']' && answer[3] == ':' {
		return strings.TrimSpace(answer[4:])
	}
	return answer
}

// dialError tells a proxy that is not there from one that cannot be reached.
func dialError(err error) error {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w (%w)", errDown, err)
	case errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ECONNRESET): // the worker ended after it had accepted
		return fmt.Errorf("%w (%w)", errUnanswered, err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: proxymatic needs the right to write to it", err)
	}
	return err
}

// master sends one command to the master process' own socket. client-native cannot be used with it on 2.6 beyond raw text,
// which is all that is needed here.
func (s socket) master(ctx context.Context, command string) (string, error) {
	return s.exchange(ctx, func(single *runtime.SingleRuntime) (string, error) { return single.ExecuteMaster(command) })
}

// peer gives the process and the user that began to listen on a unix socket: for the stats socket, those that bind the
// services' ports.
func peer(path string) (*unix.Ucred, error) {
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err != nil {
		return nil, dialError(err)
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	var sockErr error
	if err := raw.Control(func(fd uintptr) { cred, sockErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return nil, err
	}
	return cred, sockErr
}
