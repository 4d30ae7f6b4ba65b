package pen

import (
	"testing"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// Passes that look only at what changed leave no files of former pens either.
func TestRealFilesOfFormerPensGo(t *testing.T) {
	r := newRig(t, nil)
	s := tcp(port(t), echo(t, "a"))
	for _, c := range []struct {
		want  []*catalog.Service
		made  string
		files int
	}{
		{[]*catalog.Service{s}, "start pen", 3},
		{[]*catalog.Service{asHTTP(s)}, "replace pen", 3},
		{nil, "stop pen", 0},
	} {
		report, err := r.driver.Apply(t.Context(), c.want)
		if got := text(report); err != nil || got != c.made {
			t.Fatalf("got %s, %v, want %s", got, err, c.made)
		}
		if got := r.files(); len(got) != c.files {
			t.Errorf("%s: left are %v", c.made, got)
		}
	}
}

// asHTTP gives the same service in mode http, for which pen has an option, and is another command.
func asHTTP(s *catalog.Service) *catalog.Service {
	other := *s
	other.Mode = catalog.ModeHTTP
	return &other
}
