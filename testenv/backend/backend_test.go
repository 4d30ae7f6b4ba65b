package backend

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"testing"
	"time"
)

func TestHTTPNamesItself(t *testing.T) {
	s, err := ListenHTTP("127.0.0.1:0", "one")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	resp, err := http.Get("http://" + s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "one" {
		t.Errorf("answer %q, %v; want one", body, err)
	}
	if s.Connections() != 1 || s.Requests() != 1 {
		t.Errorf("%d connections, %d requests; want 1, 1", s.Connections(), s.Requests())
	}
}

func TestHungHTTPAcceptsAndNeverAnswers(t *testing.T) {
	s, err := ListenHTTP("127.0.0.1:0", "one")
	if err != nil {
		t.Fatal(err)
	}
	s.Hang()
	answer := make(chan error, 1)
	go func() {
		_, err := http.Get("http://" + s.Addr())
		answer <- err
	}()
	for s.Requests() == 0 {
		select {
		case err := <-answer:
			t.Fatalf("answered: %v", err)
		default:
			runtime.Gosched()
		}
	}
	s.Close()
	if err := <-answer; err == nil {
		t.Error("a hung server answered when it closed")
	}
}

func TestHungTCPStillAnswersConnectionsThatWereServed(t *testing.T) {
	s, err := ListenTCP("127.0.0.1:0", "one")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	old, in := dial(t, s)
	ask(t, old, in)
	s.Hang()
	ask(t, old, in)
	late, in := dial(t, s)
	fmt.Fprint(late, "hello\nhello\n")
	for s.Requests() < 4 { // when the second line is counted, the first has had its answer, or none
		runtime.Gosched()
	}
	s.Close()
	if line, err := in.ReadString('\n'); err == nil {
		t.Errorf("a hung server answered %q", line)
	}
}

func dial(t *testing.T, s *Server) (net.Conn, *bufio.Reader) {
	t.Helper()
	conn, err := net.Dial("tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn, bufio.NewReader(conn)
}

func ask(t *testing.T, conn net.Conn, in *bufio.Reader) {
	t.Helper()
	fmt.Fprintln(conn, "hello")
	if line, err := in.ReadString('\n'); err != nil || line != "one\n" {
		t.Errorf("answer %q, %v; want one", line, err)
	}
}

func TestUDPNamesItselfAndGivesThePacketBack(t *testing.T) {
	s, err := ListenUDP("127.0.0.1:0", "one")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "udp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "hello")
	b := make([]byte, 20)
	if n, err := conn.Read(b); err != nil || string(b[:n]) != "one hello" {
		t.Errorf("answer %q, %v; want one hello", b[:n], err)
	}
}
