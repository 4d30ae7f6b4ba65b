package main

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meltwater/proxymatic/runtime/reconcile"
	"github.com/meltwater/proxymatic/sources/catalog"
	"github.com/meltwater/proxymatic/sources/file"
)

func known() []reconcile.SourceState {
	web := &catalog.Service{Key: catalog.Key{Port: 80, Proto: catalog.TCP}, Name: "web", Source: "marathon", Mode: catalog.ModeHTTP,
		Timeouts: catalog.Timeouts{Client: time.Second},
		Servers:  []catalog.Server{{Addr: netip.MustParseAddrPort("10.0.0.1:1"), Weight: 7, MaxConn: 9, Check: true, OnHost: true}}}
	return []reconcile.SourceState{
		{Name: "marathon", Priority: 3, Succeeded: time.Unix(1, 0).UTC(), Services: []*catalog.Service{web}, Err: "no route"},
		{Name: "registrator"}, // never read
		{Name: file.Name, Succeeded: time.Unix(1, 0), Services: []*catalog.Service{web}},
	}
}

func TestStateIsReadAsItWasWritten(t *testing.T) {
	text, err := stateText(known())
	if err != nil {
		t.Fatal(err)
	}
	got, err := parseState(text)
	s := known()[0]
	want := []catalog.Snapshot{{Source: s.Name, Priority: s.Priority, Succeeded: s.Succeeded, Services: s.Services}}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); err != nil || diff != "" {
		t.Errorf("%v, -want +got:\n%s", err, diff)
	}
}

func TestStateThatCannotBeUsedIsSetAside(t *testing.T) {
	raw, err := stateText(known())
	if err != nil {
		t.Fatal(err)
	}
	good := string(raw)
	for name, c := range map[string]struct{ text, want string }{
		"cut":             {good[:len(good)/2], "unexpected end of JSON input"},
		"empty":           {"", "unexpected end of JSON input"},
		"changed":         {strings.Replace(good, "10.0.0.1", "10.0.0.9", 1), "its checksum is wrong"},
		"of a format":     {strings.Replace(good, `"format":1`, `"format":2`, 1), "format 2, where this version writes 1"},
		"another's":       {`[]`, "cannot unmarshal array"},
		"of bad services": {`{"format":1,"sha256":"` + sum([]byte(`[{"services":[{"port":0}]}]`)) + `","sources":[{"services":[{"port":0}]}]}`, "port 0"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "services.json")
			if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			snaps, err := loadState(path)
			if err == nil || !strings.Contains(err.Error(), c.want) || snaps != nil {
				t.Errorf("got %v, %v, want %s", snaps, err, c.want)
			}
			aside, err := os.ReadFile(path + unusable)
			if err != nil || string(aside) != c.text {
				t.Errorf("set aside is %q, %v", aside, err)
			}
			if snaps, err := loadState(path); snaps != nil || err != nil {
				t.Errorf("the next start reads %v, %v", snaps, err)
			}
		})
	}
}

// Whatever lies in the state directory, reading it costs nothing but what was in it.
func FuzzState(f *testing.F) {
	good, err := stateText(known())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good, "")
	_, sources, _ := strings.Cut(string(good), `"sources":`)
	f.Add([]byte{}, strings.TrimSuffix(sources, "}"))
	f.Fuzz(func(t *testing.T, text []byte, sources string) {
		if sources != "" { // with the right checksum, so that it is read
			text = fmt.Appendf(nil, `{"format":%d,"sha256":"%s","sources":%s}`, stateFormat, sum([]byte(sources)), sources)
		}
		snaps, err := parseState(text)
		if err != nil && snaps != nil {
			t.Errorf("%v, and yet %v", err, snaps)
		}
		var read []reconcile.SourceState
		for _, s := range snaps {
			read = append(read, reconcile.SourceState{Name: s.Source, Priority: s.Priority, Services: s.Services, Succeeded: s.Succeeded})
		}
		if text, err = stateText(read); err == nil {
			_, err = parseState(text)
		}
		if err != nil {
			t.Errorf("what was read cannot be written and read again: %v", err)
		}
	})
}

// Servers that went since the state was saved do not come back, and those that came are not forgotten.
func TestWhatWasSavedIsCorrectedByWhatIsServed(t *testing.T) {
	at := netip.MustParseAddrPort
	saved := []catalog.Snapshot{{Source: "marathon", Services: []*catalog.Service{
		{Key: catalog.Key{Port: 80, Proto: catalog.TCP}, Name: "web", Servers: []catalog.Server{{Addr: at("10.0.0.1:1"), Weight: 7}, {Addr: at("10.0.0.2:1"), Weight: 7}}},
		{Key: catalog.Key{Port: 83, Proto: catalog.TCP}, Name: "closed", Servers: []catalog.Server{{Addr: at("10.0.0.3:1"), Weight: 1}}},
		{Key: catalog.Key{Port: 81, Proto: catalog.TCP}, Name: "not served", Servers: []catalog.Server{{Addr: at("10.0.0.3:1"), Weight: 1}}},
	}}}
	running := catalog.Places{}
	running.Add(catalog.Key{Port: 80, Proto: catalog.TCP}, at("10.0.0.4:1"))
	running.Add(catalog.Key{Port: 80, Proto: catalog.TCP}, at("10.0.0.1:1"))
	running.Add(catalog.Key{Port: 82, Proto: catalog.TCP}, at("10.0.0.5:1"))
	running[catalog.Key{Port: 83, Proto: catalog.TCP}] = nil
	want := []catalog.Server{{Addr: at("10.0.0.1:1"), Weight: 7}, {Addr: at("10.0.0.4:1"), Weight: catalog.DefaultWeight}}
	got := asServed(saved, running)
	if len(got) != 1 || got[0].Source != "marathon" || len(got[0].Services) != 2 || got[0].Services[1] != saved[0].Services[2] || !slices.Equal(got[0].Services[0].Servers, want) {
		t.Errorf("got %+v, want web with %v", got, want)
	}
	if was := saved[0].Services[0].Servers; len(was) != 2 || was[1].Addr != at("10.0.0.2:1") {
		t.Errorf("what was saved has changed to %v", was)
	}
}

func TestSameKeys(t *testing.T) {
	of := func(ports ...uint16) reconcile.SourceState {
		s := reconcile.SourceState{Name: "marathon"}
		for _, p := range ports {
			s.Services = append(s.Services, &catalog.Service{Key: catalog.Key{Port: p, Proto: catalog.TCP}})
		}
		return s
	}
	a := of(1, 2, 3)
	changed := reconcile.SourceState{Name: a.Name, Services: []*catalog.Service{a.Services[0], of(2).Services[0], a.Services[2]}}
	for name, c := range map[string]struct {
		b    reconcile.SourceState
		want bool
	}{
		"itself":                {a, true},
		"one is in another way": {changed, true},
		"all are":               {of(1, 2, 3), true},
		"another one":           {of(1, 2, 4), false},
		"one more":              {of(1, 2, 3, 4), false},
		"one less":              {of(1, 2), false},
		"another source":        {reconcile.SourceState{Name: "file", Services: a.Services}, false},
	} {
		if got := sameKeys(a, c.b); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
