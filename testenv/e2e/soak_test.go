package e2e

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/testenv/e2e/stage"
)

// How long the soak lasts: `make soak`. In the tests of each day it is short, and memory is not judged.
var soakTime = flag.Duration("soak.time", 2*time.Minute, "how long TestSoak lasts")

const (
	soakServices = 1000
	soakPace     = 200 * time.Millisecond // between changes
	soakLooks    = 60                     // at memory and descriptors, over the time
	soakGrowth   = 1.05                   // most that memory may grow after the first sixth of the time
	soakEnough   = 30 * time.Minute       // from which on that is judged
	soakLeak     = 5                      // descriptors that may be open more: connections to sources come and go
	soakLate     = 5 * time.Second        // how long a removed task may be asked: a busy machine is not what is tried here
)

// sizes are what a process takes.
type sizes struct {
	kB    int // resident memory
	files int // open
}

func sizesOf(pid int) (sizes, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return sizes{}, err
	}
	_, rest, _ := strings.Cut(string(raw), "VmRSS:")
	word, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
	kB, err := strconv.Atoi(word)
	if err != nil {
		return sizes{}, err
	}
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	return sizes{kB, len(files)}, err
}

// TestSoak changes 1,000 services five times a second for long. In the end what is wanted, what runs and what is written are the
// same, and neither memory nor descriptors have grown.
func TestSoak(t *testing.T) {
	fullSpeed(t)
	w := newWorld(t)
	ports := w.services(soakServices, 2)
	w.start()
	load := stage.StartLoad(ports, 100, func(port int, name string, began, ended time.Time) string {
		return w.site.Judge(port, name, began, ended, soakLate)
	})
	dice := rand.New(rand.NewPCG(1, 0))
	var looks []sizes
	changes := 0
	began := time.Now()
	for next := began; time.Since(began) < *soakTime; next = next.Add(soakPace) {
		time.Sleep(time.Until(next))
		w.soakChange(dice, ports[dice.IntN(len(ports))])
		changes++
		if time.Since(began) > time.Duration(len(looks))*(*soakTime)/soakLooks {
			look, err := sizesOf(w.host.Pid())
			w.must(err)
			looks = append(looks, look)
		}
	}
	w.settled()
	w.quiet()
	w.flawless(load)
	first, last := looks[len(looks)/6:len(looks)/3], looks[len(looks)*5/6:]
	kB := func(list []sizes) int {
		list = slices.SortedFunc(slices.Values(list), func(a, b sizes) int { return a.kB - b.kB })
		return list[len(list)/2].kB
	}
	growth := float64(kB(last)) / float64(kB(first))
	t.Logf("%d changes of %d services in %s: %d kB after a sixth of the time, %d kB at the end (%+.1f %%), %d and %d files open, %d loads",
		changes, soakServices, time.Since(began).Round(time.Second), kB(first), kB(last), 100*(growth-1), first[0].files, last[len(last)-1].files, w.loads())
	if last[len(last)-1].files > first[0].files+soakLeak {
		t.Error("files are left open")
	}
	if *soakTime >= soakEnough && growth > soakGrowth {
		t.Error("memory has grown")
	}
}

// soakChange lets a task come or go.
func (w world) soakChange(dice *rand.Rand, port int) {
	w.Helper()
	tasks := w.site.Tasks(port)
	if len(tasks) < 2 || len(tasks) < 4 && dice.IntN(2) == 0 {
		_, err := w.site.AddTask(port)
		w.must(err)
		return
	}
	gone := tasks[dice.IntN(len(tasks))]
	w.site.RemoveTask(gone, answersOn)
	time.AfterFunc(soakLate, gone.Die)
}
