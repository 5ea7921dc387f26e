package mapwatch

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/braidmq/braid/federation"
)

// Config says who follows the map, and bounds how. EnsureDefaults fills what is zero.
type Config struct {
	// LogicalCluster is the logical cluster whose map is followed; "default" by default.
	LogicalCluster string
	// WatchOnly follows the map without being a gateway: the fields down to Build are
	// not used then, and there is no lease.
	WatchOnly bool
	// ID names the gateway. One that keeps its id keeps its Kafka node id.
	ID federation.GatewayID
	// ConnectAddress and KafkaAddress are HOST:PORT, as clients reach the gateway.
	ConnectAddress, KafkaAddress string
	// TenantKafka are addresses for clients of tenants, in place of KafkaAddress.
	TenantKafka map[string]string
	Zone        string
	Role        federation.Role
	Build       string

	// Controllers are base URLs of controllers; empty = the leader is looked up in Redis.
	Controllers []string
	// BackoffMin and BackoffMax bound the pause between two attempts to attach, with
	// jitter; 50 ms and 1 s by default.
	BackoffMin, BackoffMax time.Duration
	// AttachTimeout bounds the wait for a controller's first frame, and the silence
	// after it, whatever the beat: a large map takes its time. 5 s by default.
	AttachTimeout time.Duration
	// SilenceFactor is the number of beat intervals without any frame after which a
	// stream counts as lost, if that is longer than AttachTimeout; 5 by default.
	SilenceFactor int
	// LeaseMargin is taken off each lease, for clocks that run apart; 1 s by default.
	LeaseMargin time.Duration
	// BeatMinInterval is the shortest time between two beats that news asks for; 20 ms by default.
	BeatMinInterval time.Duration
	// LeadersMax bounds the leader epochs that wait for the next beat; 10,000 by default.
	// More are dropped: the controller finds them by itself.
	LeadersMax int
	// ColdStartRetry is the pause between two attempts to read the map from Redis; 500 ms by default.
	ColdStartRetry time.Duration

	// Load is asked at each beat for what the gateway carries; nil = nothing is told.
	Load func() Load
	// LoadInterval is how often the controller is told of the load of partitions; 10 s
	// by default. LoadsMax bounds how many it is told of, the busiest ones; 10,000 by default.
	LoadInterval time.Duration
	LoadsMax     int
	// Loads is asked for what was appended to partitions since it was asked last, in
	// bytes; nil = nothing is told. It fails only with ctx.
	Loads func(ctx context.Context) (map[federation.TopicPartition]int64, error)
	// Hold is called with each map that has sealing heads: it returns when nothing is in
	// flight to them. It fails only with ctx. nil = there are no appends.
	Hold func(ctx context.Context, m *federation.Map) ([]federation.HeldHead, error)
	// Away is asked at each beat for the physical clusters of which no broker answers; nil =
	// none is told.
	Away func() []federation.ClusterName
	// OnDrain is called when the controller asks this gateway to drain; nil = ignored.
	// It must not block.
	OnDrain func(grace time.Duration, cause string)
}

// Load is what a gateway carries.
type Load struct {
	Connections               int32
	BytesInPerS, BytesOutPerS int64
}

// EnsureDefaults fills fields that are zero.
func (c *Config) EnsureDefaults() {
	setDefault(&c.LogicalCluster, federation.DefaultLogicalCluster)
	setDefault(&c.ID, federation.GatewayID("gateway-"+rand.Text()[:8]))
	setDefault(&c.BackoffMin, 50*time.Millisecond)
	setDefault(&c.BackoffMax, time.Second)
	setDefault(&c.AttachTimeout, 5*time.Second)
	setDefault(&c.SilenceFactor, 5)
	setDefault(&c.LeaseMargin, time.Second)
	setDefault(&c.BeatMinInterval, 20*time.Millisecond)
	setDefault(&c.LeadersMax, 10_000)
	setDefault(&c.ColdStartRetry, 500*time.Millisecond)
	setDefault(&c.LoadInterval, 10*time.Second)
	setDefault(&c.LoadsMax, 10_000)
}

// Validate returns the first field that makes no sense.
func (c *Config) Validate() error {
	for _, u := range c.Controllers {
		if p, err := url.Parse(u); err != nil || p.Host == "" {
			return fmt.Errorf("controller url %q: want http://HOST:PORT", u)
		}
	}
	switch {
	case !c.WatchOnly && c.ConnectAddress == "":
		return fmt.Errorf("gateway %q: the connect address, as clients reach it, is missing", c.ID)
	case c.BackoffMin <= 0 || c.BackoffMax < c.BackoffMin:
		return fmt.Errorf("map watch: backoff of %s to %s makes no sense", c.BackoffMin, c.BackoffMax)
	case c.AttachTimeout <= 0 || c.LeaseMargin <= 0 || c.BeatMinInterval <= 0 || c.ColdStartRetry <= 0:
		return errors.New("map watch: attach timeout, lease margin, beat interval and cold start retry need to be above 0")
	case c.LoadInterval <= 0 || c.LoadsMax < 1:
		return errors.New("map watch: want a load interval above 0 and room for at least one load")
	case c.SilenceFactor < 2 || c.LeadersMax < 1:
		return errors.New("map watch: want a silence factor of at least 2 and room for at least one leader")
	}
	return nil
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
