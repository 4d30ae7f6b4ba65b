package main

import (
	"net/netip"
	"slices"
	"time"

	"github.com/meltwater/proxymatic/runtime/haproxy"
	"github.com/meltwater/proxymatic/runtime/policy"
	"github.com/meltwater/proxymatic/sources/marathon"
)

// Config is everything that can be configured, checked. It is never changed once made: reading the configuration again
// makes another one.
type Config struct {
	File string // the YAML file that was read; empty when there was none

	Registrator      string     // etcd URL; empty when not read
	Marathon         [][]string // of each Marathon the URLs of its replicas; empty when none is read
	MarathonCallback string     // URL that Marathon posts to; empty for none
	ServicesFile     string     // empty when not read

	MarathonAccess marathon.Access

	RegistratorCA, RegistratorCert, RegistratorKey string // paths; empty for none
	RegistratorUser, RegistratorPassword           string

	Guard           policy.Guard
	FlapLimit       int
	RefreshInterval time.Duration
	ExposeHost      bool
	GroupSize       int
	MaxConnections  int
	BindAddress     netip.Addr
	Drain           time.Duration
	ReleaseAfter    time.Duration
	ReloadInterval  time.Duration // 0 for none
	MaxOldWorkers   int           // 0 for no limit
	RespectMaint    bool
	OnExit          string // onExitLeave or onExitDrain

	PenTemplate string // empty for the built-in one
	PenServers  int
	PenClients  int
	PenUser     string

	HAProxy         bool
	HAProxyStart    string // managed, or a command
	HAProxyReload   string // managed, or a command
	HAProxyConfig   string
	HAProxyTemplate string // empty for the built-in one
	HAProxySocket   string
	HAProxyCheck    policy.CheckMode

	StatusEndpoint string // host:port; empty for none
	RunDir         string
	Place          place // where in it the proxies are; found there, not configured
	TakeOver       bool
	StateDir       string
	Verbose        bool
	LogFormat      string // text or json

	Output  string        // of a command: text or json
	Timeout time.Duration // of a command
}

const (
	managed     = haproxy.Managed
	onExitLeave = "leave"
	onExitDrain = "drain"
	formatText  = "text"
	formatJSON  = "json"

	defaultConfigFile = "/etc/proxymatic/proxymatic.yaml"
)

// option is one thing that can be configured. Its name is both the long flag and the YAML key.
type option struct {
	name, short string
	env         string // empty for none; where secret, env_FILE names a file with the value
	arg         string // what --help calls the value; empty for a flag that needs none
	def         string // the default, as one would write it
	help        string
	secret      bool   // the value may hold a password
	flagOnly    bool   // has no YAML key
	between     string // for a flag that may be given more than once: what else stands between its values
	set         func(*Config, any) error
}

// into makes an option's set from where the value goes and how it is read.
func into[T any](field func(*Config) *T, read func(any) (T, error)) func(*Config, any) error {
	return func(c *Config, raw any) error {
		v, err := read(raw)
		if err == nil {
			*field(c) = v
		}
		return err
	}
}

// options is the table that flags, environment, YAML keys, defaults, help and the shipped configuration file come from.
func options() []option {
	return slices.Concat(originalOptions(), newOptions(), runOptions(), guardOptions(), marathonOptions(), commandOptions())
}

// originalOptions are the Python version's, in its order and words.
func originalOptions() []option {
	return []option{
		{name: "registrator", short: "r", env: "REGISTRATOR_URL", arg: "REGISTRATOR", secret: true,
			help: `URL where registrator publishes services, e.g. "etcd://localhost:4001/services"`,
			set:  into(func(c *Config) *string { return &c.Registrator }, etcdURL)},
		{name: "marathon", short: "m", env: "MARATHON_URL", arg: "MARATHON", secret: true,
			between: clusterMark,
			help: `Marathon URL to query, e.g. "http://localhost:8080/". Several, with commas between them, are replicas of one Marathon. ` +
				`With ";" between them, or given more than once, they are Marathons of their own`,
			set: into(func(c *Config) *[][]string { return &c.Marathon }, clusters)},
		{name: "marathon-callback", short: "c", env: "MARATHON_CALLBACK_URL", arg: "CALLBACK",
			help: `URL to listen for Marathon HTTP callbacks, e.g. "http://this-host:5090"; for Marathon up to 1.4`,
			set:  into(func(c *Config) *string { return &c.MarathonCallback }, callbackURL)},
		{name: "verbose", short: "v", env: "VERBOSE", def: "false",
			help: "Increase verbosity",
			set:  into(func(c *Config) *bool { return &c.Verbose }, yesNo)},
		{name: "refresh-interval", short: "i", env: "REFRESH_INTERVAL", arg: "INTERVAL", def: "60",
			help: "Polling interval when using non-event capable backends",
			set:  into(func(c *Config) *time.Duration { return &c.RefreshInterval }, duration)},
		{name: "expose-host", short: "e", env: "EXPOSE_HOST", def: "false",
			help: "Expose services running in net=host mode. May cause port collisions when this container is also run in net=host mode",
			set:  into(func(c *Config) *bool { return &c.ExposeHost }, yesNo)},
		{name: "pen-template", env: "PEN_TEMPLATE", arg: "PENTEMPLATE", def: "/etc/pen/pen.cfg.tpl",
			help: "Template pen proxy config file",
			set:  into(func(c *Config) *string { return &c.PenTemplate }, path)},
		{name: "pen-servers", env: "PEN_SERVERS", arg: "PENSERVERS", def: "32",
			help: "Max number of backend servers for each pen service",
			set:  into(func(c *Config) *int { return &c.PenServers }, upTo(1000))},
		{name: "pen-clients", env: "PEN_CLIENTS", arg: "PENCLIENTS", def: "8192",
			help: "Max number of pen client connections",
			set:  into(func(c *Config) *int { return &c.PenClients }, upTo(1_000_000))},
		{name: "pen-user", env: "PEN_USER", arg: "PENUSER", def: "pen",
			help: "User to run pen proxy as",
			set:  into(func(c *Config) *string { return &c.PenUser }, filled)},
		{name: "haproxy", env: "HAPROXY", def: "false",
			help: "Use HAproxy for TCP services",
			set:  into(func(c *Config) *bool { return &c.HAProxy }, yesNo)},
		{name: "haproxy-start", env: "HAPROXY_START", arg: "HAPROXYSTART", def: "/etc/init.d/haproxy start",
			help: "Command to start HAproxy",
			set:  into(func(c *Config) *string { return &c.HAProxyStart }, filled)},
		{name: "haproxy-reload", env: "HAPROXY_RELOAD", arg: "HAPROXYRELOAD", def: "/etc/init.d/haproxy reload",
			help: "Command to reload HAproxy",
			set:  into(func(c *Config) *string { return &c.HAProxyReload }, filled)},
		{name: "haproxy-config", env: "HAPROXY_CONFIG", arg: "HAPROXYCONFIG", def: "/etc/haproxy/haproxy.cfg",
			help: "HAproxy config file to write",
			set:  into(func(c *Config) *string { return &c.HAProxyConfig }, path)},
		{name: "haproxy-template", env: "HAPROXY_TEMPLATE", arg: "HAPROXYTEMPLATE", def: "/etc/haproxy/haproxy.cfg.tpl",
			help: "Template HAproxy config file",
			set:  into(func(c *Config) *string { return &c.HAProxyTemplate }, path)},
	}
}

// newOptions are what came since, about the proxies.
func newOptions() []option {
	return []option{
		{name: "haproxy-socket", env: "HAPROXY_SOCKET", arg: "PATH", def: "/run/proxymatic/haproxy.sock",
			help: "Stats socket of HAproxy; the template's global section declares it",
			set:  into(func(c *Config) *string { return &c.HAProxySocket }, socketPath)},
		{name: "haproxy-check", env: "HAPROXY_CHECK", arg: "WHEN", def: string(policy.CheckAuto),
			help: "Let HAproxy check the health of servers: auto (where the source knows nothing of it), always or never",
			set:  into(func(c *Config) *policy.CheckMode { return &c.HAProxyCheck }, oneOf(policy.CheckAuto, policy.CheckAlways, policy.CheckNever))},
		{name: "services-file", env: "SERVICES_FILE", arg: "FILE",
			help: "YAML or JSON list of services, in the form that the command services prints; read again when it changes",
			set:  into(func(c *Config) *string { return &c.ServicesFile }, optionalPath)},
		{name: "registrator-ca", env: "REGISTRATOR_CA", arg: "FILE",
			help: "Certificates that etcd's own is checked against; with it, TLS is used",
			set:  into(func(c *Config) *string { return &c.RegistratorCA }, optionalPath)},
		{name: "registrator-cert", env: "REGISTRATOR_CERT", arg: "FILE",
			help: "Certificate to show to etcd; with it, TLS is used",
			set:  into(func(c *Config) *string { return &c.RegistratorCert }, optionalPath)},
		{name: "registrator-key", env: "REGISTRATOR_KEY", arg: "FILE",
			help: "Key of that certificate",
			set:  into(func(c *Config) *string { return &c.RegistratorKey }, optionalPath)},
		{name: "registrator-user", env: "REGISTRATOR_USER", arg: "USER",
			help: "User of etcd",
			set:  into(func(c *Config) *string { return &c.RegistratorUser }, word)},
		{name: "registrator-password", env: "REGISTRATOR_PASSWORD", arg: "PASSWORD", secret: true,
			help: "Password of that user",
			set:  into(func(c *Config) *string { return &c.RegistratorPassword }, word)},
		{name: "group-size", env: "GROUP_SIZE", arg: "N", def: "1",
			help: "Number of proxymatic hosts that share a server's maxconn",
			set:  into(func(c *Config) *int { return &c.GroupSize }, count)},
		{name: "max-connections", env: "MAX_CONNECTIONS", arg: "N", def: "8192",
			help: "Max number of connections of each service in HAproxy",
			set:  into(func(c *Config) *int { return &c.MaxConnections }, count)},
		{name: "bind-address", env: "BIND_ADDRESS", arg: "IP", def: "0.0.0.0",
			help: "Address that services listen on",
			set:  into(func(c *Config) *netip.Addr { return &c.BindAddress }, address)},
		{name: "drain", env: "DRAIN", arg: "TIME", def: "60s",
			help: "How long connections to removed servers, or to proxies that end, may last; 0 cuts them at once",
			set:  into(func(c *Config) *time.Duration { return &c.Drain }, durationOrNone)},
		{name: "release-after", env: "RELEASE_AFTER", arg: "TIME", def: "1h",
			help: "Reload to free the port of a removed service after this time, if no other reload did",
			set:  into(func(c *Config) *time.Duration { return &c.ReleaseAfter }, duration)},
		{name: "reload-interval", env: "RELOAD_INTERVAL", arg: "TIME", def: "250ms",
			help: "Least time between two reloads of HAproxy: what comes meanwhile shares the next one; 0 for none",
			set:  into(func(c *Config) *time.Duration { return &c.ReloadInterval }, durationOrNone)},
		{name: "max-old-workers", env: "MAX_OLD_WORKERS", arg: "N", def: "5",
			help: "Number of HAproxy's old workers, which a reload leaves to their connections, from which on a reload waits until one ends, " +
				"or ends the oldest when it has had the drain time; 0 for no limit",
			set: into(func(c *Config) *int { return &c.MaxOldWorkers }, countOrNone)},
		{name: "respect-maint", env: "RESPECT_MAINT", def: "false",
			help: "Leave a server alone that somebody put into maintenance or drain on HAproxy's stats socket",
			set:  into(func(c *Config) *bool { return &c.RespectMaint }, yesNo)},
		{name: "on-exit", env: "ON_EXIT", arg: "WHAT", def: onExitLeave,
			help: "What becomes of the proxies at exit: leave (they keep serving) or drain (and stop)",
			set:  into(func(c *Config) *string { return &c.OnExit }, oneOf(onExitLeave, onExitDrain))},
	}
}

// runOptions are about the run itself: where it is, what it keeps and tells.
func runOptions() []option {
	return []option{
		{name: "status-endpoint", env: "STATUS_ENDPOINT", arg: "HOST:PORT", def: "127.0.0.1:9090",
			help: "Where to serve status, metrics and the API over HTTP; empty for nowhere",
			set:  into(func(c *Config) *string { return &c.StatusEndpoint }, endpoint)},
		{name: "run-dir", env: "RUN_DIR", arg: "DIR", def: "/run/proxymatic",
			help: "Directory for sockets and what lasts until the next boot",
			set:  into(func(c *Config) *string { return &c.RunDir }, path)},
		{name: "take-over", env: "TAKE_OVER", def: "false",
			help: "Take over from the proxymatic that holds the run directory, perhaps in another container: it goes on until this one serves, and then drains and ends",
			set:  into(func(c *Config) *bool { return &c.TakeOver }, yesNo)},
		{name: "state-dir", env: "STATE_DIR", arg: "DIR", def: "/var/lib/proxymatic",
			help: "Directory for what lasts longer",
			set:  into(func(c *Config) *string { return &c.StateDir }, path)},
		{name: "log-format", env: "LOG_FORMAT", arg: "FORMAT", def: formatText,
			help: "Log as text or json",
			set:  into(func(c *Config) *string { return &c.LogFormat }, oneOf(formatText, formatJSON))},
	}
}

// commandOptions are about one call, and stand on its command line only.
func commandOptions() []option {
	return []option{
		{name: "config", env: "PROXYMATIC_CONFIG", arg: "FILE", def: defaultConfigFile, flagOnly: true,
			help: "YAML file whose keys are the long names of these options; may be missing unless given",
			set:  into(func(c *Config) *string { return &c.File }, path)},
		{name: "output", arg: "FORMAT", def: formatText, flagOnly: true,
			help: "Output of services, plan and version: text or json",
			set:  into(func(c *Config) *string { return &c.Output }, oneOf(formatText, formatJSON))},
		{name: "timeout", arg: "TIME", def: "10s", flagOnly: true,
			help: "Time that a command other than run may take",
			set:  into(func(c *Config) *time.Duration { return &c.Timeout }, duration)},
	}
}
