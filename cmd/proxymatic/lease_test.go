package main

import (
	"bufio"
	"encoding/json"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// leases gives both ends of one.
func leases(t *testing.T) (holder, successor *lease) {
	t.Helper()
	dir, err := os.MkdirTemp("", "pm") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	theirs, err := net.DialUnix("unix", nil, l.Addr().(*net.UnixAddr))
	if err != nil {
		t.Fatal(err)
	}
	ours, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	holder, successor = newLease(ours, bufio.NewReader(ours)), newLease(theirs, bufio.NewReader(theirs))
	t.Cleanup(holder.end)
	return holder, successor
}

// What a successor could send is read, and what it could not is known to it: neither believes what the other does not.
func TestACommitmentCountsForBothOrForNone(t *testing.T) {
	holder, successor := leases(t)
	defer successor.end()
	if err := successor.say(wordReady); err != nil {
		t.Fatal(err)
	}
	if err := successor.say(wordCommit); err != nil {
		t.Fatal(err)
	}
	if !holder.lastWord() {
		t.Error("a commitment that was sent in time does not count")
	}

	holder, successor = leases(t)
	defer successor.end()
	if holder.lastWord() {
		t.Error("a commitment counts that was never sent")
	}
	if err := successor.say(wordCommit); err == nil {
		t.Error("a successor could commit to a holder that goes on")
	}
}

// A run that is to end gives its successor a moment still, and none when it is told a second time. What was sent till then counts.
func TestSignalsWhileFrozen(t *testing.T) {
	for _, c := range []struct {
		rule    string
		signals []os.Signal
		word    string
		want    bool
	}{
		{"TERM and HUP, and the commitment", []os.Signal{syscall.SIGTERM, syscall.SIGHUP}, wordCommit, true},
		{"TERM twice, and the commitment just before", []os.Signal{syscall.SIGTERM, syscall.SIGTERM}, wordCommit, true},
		{"TERM twice", []os.Signal{syscall.SIGTERM, syscall.SIGINT}, "", false},
		{"the successor gives up", nil, wordGiveUp, false},
	} {
		t.Run(c.rule, func(t *testing.T) {
			holder, successor := leases(t)
			defer successor.end()
			signals := make(chan os.Signal, 2)
			for _, sig := range c.signals {
				signals <- sig
			}
			if c.word != "" {
				if err := successor.say(c.word); err != nil {
					t.Fatal(err)
				}
			}
			r := &runner{signals: signals}
			if got := r.decide(holder); got != c.want || holder.gaveUp != (c.word == wordGiveUp) {
				t.Errorf("committed %t, given up %t, want %t", got, holder.gaveUp, c.want)
			}
		})
	}
}

// Whoever cannot be served is told why.
func TestRefusedLease(t *testing.T) {
	dir, err := os.MkdirTemp("", "pm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket, asked := filepath.Join(dir, "s"), make(chan error, 1)
	stop, err := control{leases: make(chan *lease)}.serve(socket)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	go func() {
		_, _, err := readOffer(conn, time.Minute)
		asked <- err
	}()
	if err := <-asked; err == nil || !strings.Contains(err.Error(), "another one takes over") {
		t.Errorf("got %v, want the reason", err)
	}
	stop()
	if !missing(socket) {
		t.Error("the socket is still there")
	}
}

func TestACommitmentOfTheDeadCounts(t *testing.T) {
	holder, successor := leases(t)
	if err := successor.say(wordCommit); err != nil {
		t.Fatal(err)
	}
	successor.end()
	if !holder.lastWord() {
		t.Error("a commitment that was sent in time does not count")
	}
	if err := holder.say(wordReady); err == nil {
		t.Error("the holder does not notice that the successor is gone")
	}
}

func TestSnapshotsAreHandedOverWhole(t *testing.T) {
	at := time.Date(2026, 11, 23, 5, 0, 0, 0, time.UTC)
	want := catalog.Snapshot{Source: "marathon", Priority: 2, Succeeded: at, Heard: at.Add(time.Second), Event: at.Add(time.Minute), Err: "no route",
		Problems: []catalog.Problem{{Source: "marathon", Subject: "/a", Reason: "no port"}},
		Services: []*catalog.Service{
			{Key: catalog.Key{Port: 8300, Proto: catalog.TCP}, Name: "web", Source: "marathon", Mode: catalog.ModeHTTP, Timeouts: catalog.Timeouts{Client: time.Second},
				Servers: []catalog.Server{
					{Addr: netip.MustParseAddrPort("10.0.0.1:31000"), Weight: 5, MaxConn: 7, Check: true},
					{Addr: netip.MustParseAddrPort("[2001:db8::1]:31000"), Weight: 128, OnHost: true},
				}},
			{Key: catalog.Key{Port: 53, Proto: catalog.UDP}, Name: "dns", Source: "marathon", Mode: catalog.ModeTCP},
		}}
	text, err := json.Marshal(offer{Snapshots: []snapshotJSON{snapshotToJSON(want)}})
	if err != nil {
		t.Fatal(err)
	}
	var o offer
	if err := json.Unmarshal(text, &o); err != nil {
		t.Fatal(err)
	}
	got, err := o.Snapshots[0].snapshot()
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	o.Snapshots[0].Services[0].Check = nil
	if _, err := o.Snapshots[0].snapshot(); err == nil {
		t.Error("a service is taken of whose servers not all is said")
	}
}

func servingPlace(t *testing.T, dir string) place {
	t.Helper()
	now, err := readPlaced(dir)
	if err != nil {
		t.Fatal(err)
	}
	return now.serving
}

func nextPlace(t *testing.T, dir string, serving place) place {
	t.Helper()
	next, err := serving.next(dir)
	if err != nil {
		t.Fatal(err)
	}
	return next
}

func TestPlaces(t *testing.T) {
	dir := t.TempDir()
	if now, next := servingPlace(t, dir), nextPlace(t, dir, 0); now != 0 || next != 1 {
		t.Errorf("at first the place is %d and the next %d, want 0 and 1", now, next)
	}
	if now, next := servingPlace(t, dir), nextPlace(t, dir, 0); now != 0 || next != 2 {
		t.Errorf("after a successor that came to nothing the place is %d and the next %d, want 0 and 2", now, next)
	}
	if err := os.MkdirAll(place(3).dir(dir), 0o755); err != nil { // of a successor that failed
		t.Fatal(err)
	}
	if err := place(2).settle(dir); err != nil {
		t.Fatal(err)
	}
	if now, next := servingPlace(t, dir), nextPlace(t, dir, 2); now != 2 || next != 4 {
		t.Errorf("the place is %d and the next %d, want 2 and 4", now, next)
	}
	if err := place(2).clear(dir); err != nil {
		t.Fatal(err)
	}
	if err := place(4).settle(dir); err != nil || nextPlace(t, dir, 4) != 5 {
		t.Errorf("a place is used twice: %v", err)
	}
	c := Config{RunDir: dir, HAProxy: true, HAProxyStart: managed, HAProxySocket: dir + "/haproxy.sock"}
	if got := c.proxySocket(); got != dir+"/haproxy.sock" {
		t.Errorf("socket of the first place: %s", got)
	}
	if err := c.in(2).link(); err != nil {
		t.Fatal(err)
	}
	if to, err := os.Readlink(c.HAProxySocket); err != nil || to != "place-2/haproxy.sock" {
		t.Errorf("--haproxy-socket leads to %s, %v", to, err)
	}
	for _, text := range []string{"no number", "", "1"} {
		if err := os.WriteFile(placeFile(dir), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if got, err := readPlaced(dir); err == nil || !strings.Contains(err.Error(), placeFile(dir)) {
			t.Errorf("a damaged file names place %d, %v, want an error that names the file", got.serving, err)
		}
	}
	for _, name := range []string{"structure-ab", "lock", "control.sock", "place-3/structure-ab"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := place(0).clear(dir); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(dir + "/*")
	want := []string{dir + "/control.sock", dir + "/haproxy.sock", dir + "/lock", dir + "/place", dir + "/place-3"}
	if err != nil || !reflect.DeepEqual(left, want) {
		t.Errorf("left %q, %v, want %q", left, err, want)
	}
}
