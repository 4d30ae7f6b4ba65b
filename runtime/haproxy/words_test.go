package haproxy

import "testing"

// The same trouble has the same words, whenever it is told.
func TestWordsOfATroubleAreTheSameEachTime(t *testing.T) {
	for version, c := range map[string]struct{ line, complaint string }{
		"2.2": {"[ALERT] 326/123103 (331) : parsing [/a.cfg:19] : no such thing", "[ALERT] parsing [/a.cfg:19] : no such thing"},
		"2.6": {"[ALERT]    (331) : config : parsing [/a.cfg:19] : no such thing", "[ALERT] config : parsing [/a.cfg:19] : no such thing"},
	} {
		if got, want := preface.ReplaceAllString(c.line, ""), "no such thing"; got != want {
			t.Errorf("%s: blamed with %q, want %q", version, got, want)
		}
		if got := complaints(c.line); got != c.complaint {
			t.Errorf("%s: complaint %q, want %q", version, got, c.complaint)
		}
	}
}
