package status

import (
	"net/http"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/meltwater/proxymatic/runtime/reconcile"
	"github.com/meltwater/proxymatic/sources/catalog"
)

// metricsHandler has a registry of its own: what libraries put into the global one is not ours to show.
func metricsHandler(cfg Config) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(newCollector(cfg), collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: 4})
}

// collector renders the latest pass when it is asked. Nothing is kept between scrapes, so there can be no series of
// what is gone.
type collector struct {
	cfg                                                             Config
	build, sourceUp, sourceSuccess, sourceHeard, sourceEvent, held  *prometheus.Desc
	services, servers, problems                                     *prometheus.Desc
	passes, passSeconds, driverUp, changes, reloads, driftsRepaired *prometheus.Desc
}

func newCollector(cfg Config) *collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("proxymatic_"+name, help, labels, nil)
	}
	return &collector{
		cfg:            cfg,
		build:          desc("build_info", "Always 1; its labels tell what runs.", "version", "commit", "goversion"),
		sourceUp:       desc("source_up", "1 if the source can be read, 0 if not.", "source"),
		sourceSuccess:  desc("source_last_success_timestamp_seconds", "When the source was last read; 0 if never.", "source"),
		sourceHeard:    desc("source_last_heard_timestamp_seconds", "When the source last gave a sign of life; 0 if never.", "source"),
		sourceEvent:    desc("source_last_event_timestamp_seconds", "When the source last told of something by itself; 0 if never.", "source"),
		held:           desc("source_held_servers", "Servers that count though the source does not tell of them any more.", "source"),
		services:       desc("services", "Services that this host should offer."),
		servers:        desc("servers", "Servers behind the services that this host should offer."),
		problems:       desc("problems", "What cannot be used or served now, by who noticed it.", "source"),
		passes:         desc("passes_total", "Passes of the loop."),
		passSeconds:    desc("pass_duration_seconds", "How long the latest pass took."),
		driverUp:       desc("driver_up", "1 if the driver's latest pass succeeded, 0 if not.", "driver"),
		changes:        desc("changes_total", "Changes that the driver made.", "driver", "action"),
		reloads:        desc("reloads_total", "Times that the driver had its proxy loaded anew.", "driver"),
		driftsRepaired: desc("drift_repaired_total", "Changes by somebody else that the driver repaired.", "driver"),
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.build, c.sourceUp, c.sourceSuccess, c.sourceHeard, c.sourceEvent, c.held, c.services, c.servers, c.problems,
		c.passes, c.passSeconds, c.driverUp, c.changes, c.reloads, c.driftsRepaired} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	pass := c.cfg.Pass()
	gauge(out, c.build, 1, c.cfg.Version, c.cfg.Commit, runtime.Version())
	gauge(out, c.services, float64(len(pass.Want)))
	gauge(out, c.servers, float64(catalog.CountServers(pass.Want)))
	counter(out, c.passes, pass.Passes)
	gauge(out, c.passSeconds, pass.Took.Seconds())
	for source, n := range countProblems(pass.Problems) {
		gauge(out, c.problems, float64(n), source)
	}
	for _, s := range pass.Sources {
		gauge(out, c.sourceUp, one(sourceUp(s)), s.Name)
		gauge(out, c.sourceSuccess, seconds(s.Succeeded), s.Name)
		gauge(out, c.sourceHeard, seconds(s.Heard), s.Name)
		gauge(out, c.sourceEvent, seconds(s.Event), s.Name)
		gauge(out, c.held, float64(s.Held), s.Name)
	}
	for _, d := range pass.Drivers {
		c.collectDriver(out, d)
	}
}

func (c *collector) collectDriver(out chan<- prometheus.Metric, d reconcile.DriverState) {
	gauge(out, c.driverUp, one(driverUp(d)), d.Name)
	counter(out, c.reloads, d.Reloads, d.Name)
	counter(out, c.driftsRepaired, d.Drift, d.Name)
	for action, n := range d.Changes {
		counter(out, c.changes, n, d.Name, action)
	}
}

func countProblems(problems []catalog.Problem) map[string]int {
	n := map[string]int{}
	for _, p := range problems {
		n[p.Source]++
	}
	return n
}

func gauge(out chan<- prometheus.Metric, desc *prometheus.Desc, value float64, labels ...string) {
	send(out, desc, prometheus.GaugeValue, value, labels)
}

func counter(out chan<- prometheus.Metric, desc *prometheus.Desc, value int, labels ...string) {
	send(out, desc, prometheus.CounterValue, float64(value), labels)
}

// send leaves out what is no metric, such as a label that is not UTF-8, and lets the scrape go on.
func send(out chan<- prometheus.Metric, desc *prometheus.Desc, kind prometheus.ValueType, value float64, labels []string) {
	if metric, err := prometheus.NewConstMetric(desc, kind, value, labels...); err != nil {
		out <- prometheus.NewInvalidMetric(desc, err)
	} else {
		out <- metric
	}
}

func one(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

// seconds is the Unix time with its fraction, 0 for what never happened.
func seconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMicro()) / 1e6
}
