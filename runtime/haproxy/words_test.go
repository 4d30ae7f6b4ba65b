package haproxy

import "testing"

// The same trouble has the same words, whoever tells it and when.
func TestWordsOfATroubleAreTheSameEachTime(t *testing.T) {
	for version, line := range map[string]string{
		"2.2": "[ALERT] 326/123103 (331) : parsing [/etc/haproxy.cfg:19] : no such thing\n",
		"2.6": "[ALERT]    (331) : config : parsing [/etc/haproxy.cfg:19] : no such thing\n",
	} {
		if got, want := preface.ReplaceAllString(line, ""), "no such thing\n"; got != want {
			t.Errorf("%s: blamed with %q, want %q", version, got, want)
		}
		want := map[string]string{"2.2": "[ALERT] parsing [/etc/haproxy.cfg:19] : no such thing",
			"2.6": "[ALERT] config : parsing [/etc/haproxy.cfg:19] : no such thing"}[version]
		if got := complaints(line); got != want {
			t.Errorf("%s: complaint %q, want %q", version, got, want)
		}
	}
}
