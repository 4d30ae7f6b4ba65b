//go:build race

package haproxy

// storyRuns is how many stories TestConverge tells: fewer under the race detector, which makes them five times slower and finds
// nothing in them, since each is told by one goroutine.
const storyRuns = 200
