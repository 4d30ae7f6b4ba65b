package catalog

import "time"

// Change is one thing that a driver did, or would do.
type Change struct {
	Service string `json:"service"`          // the service's name and key, such as "web 8300/tcp"; empty when it is about the whole proxy
	Server  string `json:"server,omitempty"` // the server's name in the proxy, where it is about one
	Action  string `json:"action"`           // in a few fixed words, such as "add server", "pause frontend", "reload"
	Detail  string `json:"detail,omitempty"` // the command, the file line or the reason
}

// Report tells what a driver's pass found and did (Apply), or would do (Plan).
type Report struct {
	Changes  []Change  // in the order in which they are made; empty when the proxy already does what is wanted
	Reloads  []string  // why the proxy is loaded anew, a line a reason; empty when it is not
	Loaded   time.Time // when it last was; zero when it is not, or was not yet
	Drift    []Change  // those of Changes that repair what somebody else had changed
	Problems []Problem // services that this driver left out or could not serve as wanted
	Facts    []Fact    // what an operator wants to know of the proxy: its version, process, socket
}

// Fact is a named figure of a proxy, for status and logs.
type Fact struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}
