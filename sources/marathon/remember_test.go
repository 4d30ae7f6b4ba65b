package marathon

import (
	"testing"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
)

func TestResultsThatVanishAreNotDeadOnes(t *testing.T) {
	const running = `,"state":"TASK_RUNNING"`
	alive := oneTask(running + `,"healthCheckResults":[{"alive":true}]`)
	dead := oneTask(running + `,"healthCheckResults":[{"alive":false}]`)
	gone := oneTask(running + `,"healthCheckResults":[]`)
	stopped := oneTask(`,"state":"TASK_KILLING","healthCheckResults":[{"alive":true}]`)
	cases := map[string]struct {
		answers []string
		apart   time.Duration
		servers int
	}{
		"never had a result":                             {[]string{gone, gone}, time.Second, 0},
		"alive, then nothing is known":                   {[]string{alive, gone, gone}, time.Second, 1},
		"alive, then dead":                               {[]string{alive, gone, dead}, time.Second, 0},
		"alive, dead, then nothing is known":             {[]string{alive, dead, gone}, time.Second, 0},
		"nothing is known for longer than we hope":       {[]string{alive, gone, gone}, longestAway, 0},
		"alive, then not listed, then nothing is known":  {[]string{alive, "", gone}, time.Second, 1},
		"alive, then not running, then nothing is known": {[]string{alive, stopped, gone}, time.Second, 0},
		"not listed for longer than we hope":             {[]string{alive, "", gone}, longestAway, 0},
		"alive again":                                    {[]string{alive, gone, alive}, longestAway, 1},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			var found []*catalog.Service
			w := world{source: Name, hosts: hosts(), groupSize: 1, beliefs: beliefs{}, now: time.Date(2015, 6, 2, 9, 0, 0, 0, time.UTC)}
			for _, answer := range c.answers {
				apps, _, err := parseApps([]byte(`{"apps":[` + answer + `]}`))
				if err != nil {
					t.Fatal(err)
				}
				found, _ = services(apps, w)
				w.now = w.now.Add(c.apart)
			}
			if got := catalog.CountServers(found); got != c.servers {
				t.Errorf("after %q there are %d servers, want %d", c.answers, got, c.servers)
			}
		})
	}
}
