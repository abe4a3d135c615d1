// Package telemetry is what the operator tells those who run it: metrics for Prometheus, and
// whether it is alive and ready.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	recordsv1 "github.com/mirrord-go/mirrord/api/records/v1alpha"
	"github.com/mirrord-go/mirrord/internal/agent/nodeapi"
	"github.com/mirrord-go/mirrord/internal/policy"
)

// Metrics are the operator's. Their names begin with "mirrord_operator_".
type Metrics struct {
	registry *prometheus.Registry
	refusals *prometheus.CounterVec
	carriers prometheus.Gauge
	carried  *prometheus.CounterVec
	leader   prometheus.Gauge
}

// Sources are where metrics are read from when somebody asks for them.
type Sources struct {
	// Records are all sessions.
	Records func() []*recordsv1.SessionRecord
	// States are the sessions at agents, as far as this replica listens to them.
	States func() []nodeapi.SessionState
	// Agents is how many agents serve.
	Agents func() int
}

// NewMetrics returns metrics that read sources.
func NewMetrics(s Sources) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mirrord_operator_refusals_total", Help: "Reasons for which sessions were refused, by policy and kind of rule.",
		}, []string{"policy", "code"}),
		carriers: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "mirrord_operator_carriers", Help: "Connections of clients to agents through this replica.",
		}),
		carried: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mirrord_operator_carried_bytes_total", Help: "Bytes that this replica carried, counted when a carrier ends.",
		}, []string{"direction"}),
		leader: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "mirrord_operator_leader", Help: "Whether this replica looks after sessions.",
		}),
	}
	m.registry.MustRegister(m.refusals, m.carriers, m.carried, m.leader, &state{s},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Refused counts a reason for which a session was refused.
func (m *Metrics) Refused(r policy.Reason) {
	by := ""
	if r.Policy != nil {
		by = r.Policy.String()
	}
	m.refusals.WithLabelValues(by, string(r.Code)).Inc()
}

// CarrierOpened counts a carrier in.
func (m *Metrics) CarrierOpened() { m.carriers.Inc() }

// CarrierClosed counts a carrier out, with what it carried to the agent and to the client.
func (m *Metrics) CarrierClosed(toAgent, toClient int64) {
	m.carriers.Dec()
	m.carried.WithLabelValues("to_agent").Add(float64(toAgent))
	m.carried.WithLabelValues("to_client").Add(float64(toClient))
}

// Leads says whether this replica looks after sessions.
func (m *Metrics) Leads(yes bool) {
	m.leader.Set(0)
	if yes {
		m.leader.Set(1)
	}
}

// state reads what is counted anew each time.
type state struct{ Sources }

// What state describes.
var (
	sessionsDesc = prometheus.NewDesc("mirrord_operator_sessions", "Sessions, by phase.", []string{"phase"}, nil)
	agentsDesc   = prometheus.NewDesc("mirrord_operator_agents", "Agents that serve.", nil, nil)
	portsDesc    = prometheus.NewDesc("mirrord_operator_ports", "Ports of targets that sessions have, by mode. Only the replica that looks after sessions knows them.", []string{"mode"}, nil)
	bytesDesc    = prometheus.NewDesc("mirrord_operator_session_bytes", "Bytes of the sessions that run, by direction as their clients see it. Only the replica that looks after sessions knows them.", []string{"direction"}, nil)
	deniedDesc   = prometheus.NewDesc("mirrord_operator_session_denials", "What agents refused to the sessions that run. Only the replica that looks after sessions knows it.", nil, nil)
)

// Describe implements prometheus.Collector.
func (*state) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{sessionsDesc, agentsDesc, portsDesc, bytesDesc, deniedDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (s *state) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	phases := map[string]int{"Starting": 0, "Active": 0, "Waiting": 0, "Ended": 0}
	for _, r := range s.Records() {
		phases[string(r.Status.Phase)]++
	}
	for phase, n := range phases {
		gauge(sessionsDesc, float64(n), phase)
	}
	gauge(agentsDesc, float64(s.Agents()))
	var stolen, mirrored int
	var in, out, denied uint64
	for _, st := range s.States() {
		stolen += len(st.Stolen)
		mirrored += len(st.Mirrored)
		in += st.BytesIn
		out += st.BytesOut
		denied += st.Refused
	}
	gauge(portsDesc, float64(stolen), "steal")
	gauge(portsDesc, float64(mirrored), "mirror")
	gauge(bytesDesc, float64(in), "from_client")
	gauge(bytesDesc, float64(out), "to_client")
	gauge(deniedDesc, float64(denied))
}

// Serve serves /metrics, /healthz and /readyz at the address until ctx ends. Ready says what is
// missing for this replica to serve sessions.
func (m *Metrics) Serve(ctx context.Context, address string, ready func() error) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("listening for metrics and health: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving metrics and health: %w", err)
	}
	return nil
}
