package freeport

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// In other processes too: the test runs itself.
func TestNoPortIsGivenTwice(t *testing.T) {
	seen := map[string]bool{}
	for range 3 {
		child := exec.Command(os.Args[0], "-test.run=^TestPrintPorts$", "-test.v")
		child.Env = append(os.Environ(), "PORTS_CHILD=1")
		stdin, err := child.StdinPipe() // the child lives, and so holds its ports, until it is closed
		if err != nil {
			t.Fatal(err)
		}
		stdout, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = stdin.Close(); _ = child.Wait() }()
		var text strings.Builder
		for buf := make([]byte, 4096); !strings.Contains(text.String(), "end"); {
			n, err := stdout.Read(buf)
			if err != nil {
				t.Fatal(err, text.String())
			}
			text.Write(buf[:n])
		}
		for _, line := range strings.Split(text.String(), "\n") {
			if port, ok := strings.CutPrefix(line, "port "); ok {
				if seen[port] {
					t.Error("given twice:", port)
				}
				seen[port] = true
			}
		}
	}
	if len(seen) != 3*120 {
		t.Errorf("%d ports, want %d", len(seen), 3*120)
	}
}

func TestPrintPorts(t *testing.T) {
	if os.Getenv("PORTS_CHILD") == "" {
		return
	}
	for range 2 {
		given, err := Get(60)
		if err != nil {
			t.Fatal(err)
		}
		for _, port := range given {
			fmt.Println("port", port)
		}
	}
	fmt.Println("end")
	_, _ = os.Stdin.Read(make([]byte, 1))
}

func TestUsedPortsAreLeftOut(t *testing.T) {
	p, err := Get(1)
	if err != nil {
		t.Fatal(err)
	}
	u, err := net.ListenUDP("udp", &net.UDPAddr{Port: p[0] + 1})
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	next, err := Get(1)
	if err != nil || next[0] == p[0]+1 {
		t.Errorf("got %v (%v) while %d is used", next, err, p[0]+1)
	}
}
