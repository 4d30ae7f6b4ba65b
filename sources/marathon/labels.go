package marathon

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// labelPrefix begins the labels that say how port N of an app is proxied: labelPrefix + N + ".weight".
const labelPrefix = "com.meltwater.proxymatic.port."

// Limits of what a label may ask for: HAProxy takes timeouts and connection counts that fit 31 bits, timeouts in
// milliseconds.
const (
	maxTimeoutSeconds = 2147483
	maxConnections    = 1<<31 - 1
)

// settings are what labels say of one port.
type settings struct {
	weight, maxConn int
	mode            catalog.Mode
	timeouts        catalog.Timeouts
}

// portLabels reads the labels of one port. A bad one counts as missing, and is a reason.
type portLabels struct {
	labels  map[string]label
	index   int
	reasons []string
}

func (l *portLabels) settings(groupSize int, keys []catalog.Key) settings {
	maxConn := l.number("maxconn", 0, 1, maxConnections)
	return settings{
		weight: l.number("weight", catalog.DefaultWeight, 1, catalog.MaxWeight),
		// Rounded up, so that a limit that was asked for never becomes 0, which is none.
		maxConn: (maxConn + groupSize - 1) / groupSize,
		mode:    l.mode(keys),
		timeouts: catalog.Timeouts{
			Client: l.seconds("timeout.client"),
			Server: l.seconds("timeout.server"),
		},
	}
}

func (l *portLabels) mode(keys []catalog.Key) catalog.Mode {
	tcp := slices.ContainsFunc(keys, func(k catalog.Key) bool { return k.Proto == catalog.TCP })
	switch value := l.value("mode"); {
	case value == "" || value == "tcp":
		return catalog.ModeTCP
	case value == "http" && tcp:
		return catalog.ModeHTTP
	case value == "http":
		l.bad("mode", value, "a udp port cannot be proxied as http")
		return catalog.ModeTCP
	default:
		l.bad("mode", value, "want tcp or http")
		return catalog.ModeTCP
	}
}

func (l *portLabels) number(name string, otherwise, low, high int) int {
	value := l.value(name)
	if value == "" {
		return otherwise
	}
	n, err := strconv.Atoi(value)
	if err != nil || n < low || n > high {
		l.bad(name, value, fmt.Sprintf("want a number from %d to %d", low, high))
		return otherwise
	}
	return n
}

func (l *portLabels) seconds(name string) time.Duration {
	value := l.value(name)
	if value == "" {
		return 0
	}
	s, err := strconv.ParseFloat(value, 64)
	if err != nil || !(s >= 0.001 && s <= maxTimeoutSeconds) { // so written, it refuses NaN too
		l.bad(name, value, fmt.Sprintf("want seconds from 0.001 to %d", maxTimeoutSeconds))
		return 0
	}
	return time.Duration(s * float64(time.Second)).Round(time.Millisecond)
}

func (l *portLabels) value(name string) string {
	return strings.TrimSpace(string(l.labels[l.key(name)]))
}

func (l *portLabels) key(name string) string { return labelPrefix + strconv.Itoa(l.index) + "." + name }

func (l *portLabels) bad(name, value, want string) {
	l.reasons = append(l.reasons, fmt.Sprintf("label %s is %.60q: %s; the default is used", l.key(name), value, want))
}

func (l *portLabels) fail(reason string) {
	l.reasons = append(l.reasons, fmt.Sprintf("port %d is left out: %s", l.index, reason))
}
