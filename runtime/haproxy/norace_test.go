//go:build !race

package haproxy

// storyRuns is how many stories TestConverge tells.
const storyRuns = 1000
