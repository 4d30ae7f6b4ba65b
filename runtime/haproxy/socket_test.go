package haproxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/haproxytech/client-native/v5/runtime"
)

// fakeSocket answers each connection as serve does, on a stats socket of its own.
func fakeSocket(t *testing.T, serve func(net.Conn)) socket {
	t.Helper()
	dir, err := os.MkdirTemp("", "pm")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	group.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			group.Go(func() {
				defer c.Close()
				serve(c)
			})
		}
	})
	t.Cleanup(func() { l.Close(); group.Wait(); os.RemoveAll(dir) })
	return socket{path}
}

// await reads commands until the given one. A stand-in that closes before all is read breaks the pipe of who writes.
func await(c net.Conn, command string) {
	for lines := bufio.NewScanner(c); lines.Scan() && lines.Text() != command; {
	}
}

// A worker that is killed between accept and read.
func TestABrokenPipeIsNoAnswer(t *testing.T) {
	closed := make(chan struct{})
	s := fakeSocket(t, func(c net.Conn) { _ = c.Close(); close(closed) })
	_, err := s.exchange(t.Context(), func(*runtime.SingleRuntime) (string, error) {
		c, err := net.Dial("unix", s.path)
		if err != nil {
			return "", err
		}
		defer c.Close()
		<-closed
		_, err = c.Write([]byte("show info\n"))
		return "", err
	})
	if !errors.Is(err, errUnanswered) {
		t.Errorf("error %v, want %v", err, errUnanswered)
	}
}

func TestAnswersThatAreNotWholeAreErrors(t *testing.T) {
	for name, answer := range map[string]string{
		"closed without a word": "",
		"cut after the first":   "\n\n> [6]: done\n\n> ",
		"cut in the sentinel":   "\n\n> [6]: done\n\n> \n",
		"one prompt too many":   "\n\n> a\n\n> b\n\n> c\n\n> 2.6.12\n\n> ",
	} {
		t.Run(name, func(t *testing.T) {
			s := fakeSocket(t, func(c net.Conn) { await(c, "quit"); fmt.Fprint(c, answer) })
			if got, err := s.do(t.Context(), []string{"one", "two"}); !errors.Is(err, errUnanswered) {
				t.Errorf("answers %q, error %v, want %v", got, err, errUnanswered)
			}
		})
	}
}

func TestWholeAnswersAreCut(t *testing.T) {
	s := fakeSocket(t, func(c net.Conn) {
		await(c, "quit")
		fmt.Fprint(c, "\n\n> [3]: No such server.\n\n> \n> 2.6.12\n\n> ")
	})
	got, err := s.do(t.Context(), []string{"one", "two"})
	if err != nil || strings.Join(got, "|") != "[3]: No such server.|" {
		t.Errorf("answers %q, error %v", got, err)
	}
}

func TestEachLineIsPrompted(t *testing.T) {
	s := fakeSocket(t, func(c net.Conn) {
		for lines := bufio.NewScanner(c); lines.Scan() && lines.Text() != "quit"; {
			fmt.Fprintf(c, "\n[6]: %s\n\n> ", lines.Text())
		}
	})
	got, err := s.do(t.Context(), []string{"one", "two"})
	if err != nil || strings.Join(got, "|") != "[6]: one|[6]: two" {
		t.Errorf("answers %q, error %v", got, err)
	}
}

func TestHangingSocketEndsWithTheContext(t *testing.T) {
	release := make(chan struct{})
	s := fakeSocket(t, func(net.Conn) { <-release })
	defer close(release)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.do(ctx, []string{"show info"}); !errors.Is(err, errUnanswered) || !strings.Contains(err.Error(), s.path) {
		t.Errorf("error %v, want %v with the socket's path", err, errUnanswered)
	}
}

func TestNobodyOnTheSocketIsDown(t *testing.T) {
	s := fakeSocket(t, func(net.Conn) {})
	if _, err := (socket{s.path + "-not"}).do(t.Context(), []string{"show info"}); !errors.Is(err, errDown) {
		t.Errorf("error %v, want %v", err, errDown)
	}
}

func TestCommandsCannotCarryAnotherCommand(t *testing.T) {
	called := false
	s := fakeSocket(t, func(net.Conn) { called = true })
	for _, c := range []string{"show info\ndisable server b/s", "show info;disable server b/s", "a\rb"} {
		if _, err := s.do(t.Context(), []string{c}); err == nil || called {
			t.Errorf("%q was sent", c)
		}
	}
}

func TestRefusals(t *testing.T) {
	for answer, want := range map[string]string{
		"":                               "",
		"[6]: New server registered.":    "",
		"[3]: No such server.":           "No such server.",
		"[5]: All sockets are enabled.":  "",
		"[4]: Invalid addr 'x'":          "Invalid addr 'x'",
		"[4]: IP changed from 'a' to b":  "",
		"[6]: Unknown command, but\nfoo": "Unknown command, but",
		"# be_id be_name":                "",
	} {
		if got := refusal(answer); got != want {
			t.Errorf("refusal(%q) = %q, want %q", answer, got, want)
		}
	}
}
