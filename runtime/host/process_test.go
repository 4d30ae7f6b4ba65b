package host

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestRestlessProcesses(t *testing.T) {
	before := Pulse{Worked: time.Second, Slept: 10}
	for _, c := range []struct {
		now  Pulse
		want bool
	}{
		{before, false},
		{Pulse{1400 * time.Millisecond, 10}, false},
		{Pulse{1500 * time.Millisecond, 14}, true},
		{Pulse{6 * time.Second, 15}, false},
	} {
		if got := c.now.Restless(before); got != c.want {
			t.Errorf("from %+v to %+v: %t, want %t", before, c.now, got, c.want)
		}
	}
}

func TestPulseOfAProcess(t *testing.T) {
	before, err := ReadPulse(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for now := before; now.Worked == before.Worked; {
		_ = strings.Repeat("x", 100000)
		if now, err = ReadPulse(os.Getpid()); err != nil {
			t.Fatal(err)
		}
	}
	cat := exec.Command("cat")
	in, err := cat.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cat.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cat.Start(); err != nil {
		t.Fatal(err)
	}
	var first, last Pulse
	for exchanges := 0; last.Slept == first.Slept; exchanges++ { // most end with a cat that waits for the next
		if exchanges == 10000 {
			t.Fatalf("a process that waited slept %d times, and never again", last.Slept)
		}
		if _, err := in.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		if last, err = ReadPulse(cat.Process.Pid); err != nil {
			t.Fatal(err)
		}
		if exchanges == 0 {
			first = last
		}
	}
	_ = in.Close()
	if err := cat.Wait(); err != nil {
		t.Error(err)
	}
	if _, err := ReadPulse(cat.Process.Pid); err == nil {
		t.Error("a process that has ended has a pulse")
	}
}
