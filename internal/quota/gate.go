package quota

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/logging"
)

// GateConfig bounds the connections of a gateway's doors together; 0 = no bound.
type GateConfig struct {
	// ConnectionsMax bounds the open connections [max.connections].
	ConnectionsMax int
	// PerIPMax bounds those of one IP address [max.connections.per.ip].
	PerIPMax int
	// Rate bounds the new connections in a second [max.connection.creation.rate]. Further ones wait
	// to be accepted.
	Rate float64
}

// Validate refuses what makes no sense.
func (c GateConfig) Validate() error {
	if c.ConnectionsMax < 0 || c.PerIPMax < 0 || c.Rate < 0 {
		return fmt.Errorf("--connections-max %d, --connections-max-per-ip %d and --connection-rate %v must not be negative; 0 = no limit", c.ConnectionsMax, c.PerIPMax, c.Rate)
	}
	return nil
}

// A Gate is what connections to a gateway come through: it counts them, and keeps those
// that are too many out. Each connection that a listener of it has returned must be given
// to Left once, when it has ended.
type Gate struct {
	ctx     context.Context //nolint:containedctx // of what is counted
	cfg     GateConfig
	limiter *Limiter
	log     *slog.Logger
	refused metric.Int64Counter
	rate    *bucket // nil = no bound
	began   time.Time

	mu      sync.Mutex // guards the following
	open    int
	byIP    map[string]int
	delayed int
}

// NewGate makes a Gate. The limiter's quotas of IP addresses bound how many connections
// each opens in a second; it may be nil. It makes the instrument
// braid.connections.refused (reason).
func NewGate(ctx context.Context, cfg GateConfig, limiter *Limiter, logger *slog.Logger, meter metric.Meter) (*Gate, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	g := &Gate{ctx: ctx, cfg: cfg, limiter: limiter, log: logging.Limited(logger), began: time.Now(), byIP: make(map[string]int)}
	if cfg.Rate > 0 {
		// A second's worth at once: what is above waits, and nobody is refused.
		g.rate = newBucket(cfg.Rate, time.Second, time.Hour)
	}
	var err error
	if g.refused, err = meter.Int64Counter("braid.connections.refused",
		metric.WithDescription("Connections that were closed at once: too many, too many of one IP address, or too many of it in a second.")); err != nil {
		return nil, fmt.Errorf("connection metrics: %w", err)
	}
	return g, nil
}

// Listener returns l behind the gate. What it returns are l's own connections.
func (g *Gate) Listener(l net.Listener) net.Listener {
	return &gateListener{Listener: l, g: g, closed: make(chan struct{})}
}

type gateListener struct {
	net.Listener
	g      *Gate
	once   sync.Once
	closed chan struct{}
}

func (l *gateListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

func (l *gateListener) Accept() (net.Conn, error) {
	for {
		nc, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if !l.g.enter(nc, l.closed) {
			continue
		}
		if l.g.rate != nil {
			l.pace()
		}
		return nc, nil
	}
}

// pace waits until another connection may be taken. Those that come meanwhile wait in the
// system's queue.
func (l *gateListener) pace() {
	d := l.g.rate.take(int64(time.Since(l.g.began)), 1)
	if d > 0 {
		pause(d, l.closed)
	}
}

// addressOf returns the IP address of who is at the other end, in the spelling of quotas.
func addressOf(remote net.Addr) string {
	ap, err := netip.ParseAddrPort(remote.String())
	if err != nil {
		return remote.String()
	}
	return ap.Addr().Unmap().WithZone("").String()
}

// enter counts a connection, or closes it.
func (g *Gate) enter(nc net.Conn, closed <-chan struct{}) bool {
	ip := addressOf(nc.RemoteAddr())
	if d := g.limiter.connection(g.ctx, ip); d > 0 {
		g.tooMany("ip_rate", ip)
		g.closeLater(nc, min(d, delayedCloseMax), closed)
		return false
	}
	reason := ""
	g.mu.Lock()
	switch {
	case g.cfg.ConnectionsMax > 0 && g.open >= g.cfg.ConnectionsMax:
		reason = "total"
	case g.cfg.PerIPMax > 0 && g.byIP[ip] >= g.cfg.PerIPMax:
		reason = "ip_total"
	default:
		g.open++
		if g.cfg.PerIPMax > 0 {
			g.byIP[ip]++
		}
	}
	g.mu.Unlock()
	if reason == "" {
		return true
	}
	g.tooMany(reason, ip)
	if !g.closeLater(nc, refusedCloseAfter, closed) && reason == "total" {
		pause(refusedPause, closed) // whoever comes next would be refused, too
	}
	return false
}

// A connection that is refused is closed late, so that its client does not come again at
// once: as a broker does with those above the quota of their IP address.
const (
	delayedCloseMax   = time.Second
	refusedCloseAfter = 250 * time.Millisecond
	refusedPause      = time.Millisecond
	delayedMax        = 1000 // connections that wait to be closed; others are closed at once
)

// closeLater returns false if it closes at once.
func (g *Gate) closeLater(nc net.Conn, d time.Duration, closed <-chan struct{}) bool {
	g.mu.Lock()
	late := g.delayed < delayedMax
	if late {
		g.delayed++
	}
	g.mu.Unlock()
	if !late {
		_ = nc.Close()
		return false
	}
	go func() {
		pause(d, closed)
		_ = nc.Close()
		g.mu.Lock()
		g.delayed--
		g.mu.Unlock()
	}()
	return true
}

// pause waits for d, or until a listener is closed.
func pause(d time.Duration, closed <-chan struct{}) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-closed:
	}
}

// Left counts a connection out.
func (g *Gate) Left(nc net.Conn) {
	if g == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open--
	if g.cfg.PerIPMax > 0 {
		ip := addressOf(nc.RemoteAddr())
		if g.byIP[ip]--; g.byIP[ip] <= 0 {
			delete(g.byIP, ip)
		}
	}
}

// ConnState is a hook for a http.Server that serves a listener of the gate.
func (g *Gate) ConnState(nc net.Conn, state http.ConnState) {
	if state == http.StateClosed || state == http.StateHijacked {
		g.Left(nc)
	}
}

func (g *Gate) tooMany(reason, ip string) {
	g.refused.Add(g.ctx, 1, metric.WithAttributes(attribute.String("reason", reason)))
	g.mu.Lock()
	open := g.open
	g.mu.Unlock()
	logger := g.log.With("reason", reason, "ip", ip, "connections", open, "connections_max", g.cfg.ConnectionsMax, "connections_max_per_ip", g.cfg.PerIPMax)
	switch reason { // each is limited by itself
	case "total":
		logger.Warn("connection refused: too many")
	case "ip_total":
		logger.Warn("connection refused: too many of one IP address")
	default:
		logger.Warn("connection refused: too many new ones of one IP address")
	}
}

// connection counts a new connection of an IP address; if that is above its quota, it
// returns for how long.
func (l *Limiter) connection(ctx context.Context, ip string) time.Duration {
	if l == nil {
		return 0
	}
	r := l.rules()
	if r == nil || !r.ips {
		return 0
	}
	rate := 0.0
	for _, name := range []string{ip, ""} {
		if q := r.quotas[federation.QuotaEntity{IP: federation.NamedQuota(name)}]; q != nil && rate == 0 {
			rate = q.Values[federation.QuotaConnectionCreationRate]
		}
	}
	if rate <= 0 {
		return 0
	}
	l.mu.Lock()
	b := l.bucketLocked(bucketKey{kind: connections, user: federation.NamedQuota(ip)}, rate)
	l.mu.Unlock()
	d, ok := b.try(l.now(), 1)
	if ok {
		return 0
	}
	l.observe(ctx, connections, d)
	return d
}
