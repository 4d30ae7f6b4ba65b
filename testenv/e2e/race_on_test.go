//go:build race

package e2e

// slowed tells that the race detector slows clients and backends so far that they starve the host that they test.
const slowed = true
