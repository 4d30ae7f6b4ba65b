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
	var slept [2]uint64
	for i := range slept {
		for range 3 { // each time it must wait for us
			if _, err := in.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if _, err := out.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
		}
		p, err := ReadPulse(cat.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		slept[i] = p.Slept
	}
	if slept[1] <= slept[0] {
		t.Errorf("a process that waited slept %v times", slept)
	}
	_ = in.Close()
	if err := cat.Wait(); err != nil {
		t.Error(err)
	}
	if _, err := ReadPulse(cat.Process.Pid); err == nil {
		t.Error("a process that has ended has a pulse")
	}
}
