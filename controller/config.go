package controller

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/braidmq/braid/controller/planner"
	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/upstream"
)

// Config bounds a controller. EnsureDefaults fills what is zero.
type Config struct {
	// LogicalCluster is the logical cluster whose map this controller writes;
	// "default" by default.
	LogicalCluster string
	// ID names this controller in lists; random by default.
	ID string
	// URL is the base URL at which gateways and the other controllers reach it.
	URL string
	// Unguarded says that callers of this controller prove nothing. While the map has ACLs or
	// tenants, that raises an alarm.
	Unguarded bool

	// LeaseTTL is how long the lead lasts after its last renewal; 2 s by default. A
	// standby takes over at the latest LeaseTTL + RenewInterval after the leader died.
	LeaseTTL time.Duration
	// RenewInterval is the time between renewals, and between a standby's looks at the
	// lease; 500 ms by default.
	RenewInterval time.Duration

	// GatewayLease is how long a gateway may acknowledge appends after the last moment
	// at which this controller's lead was confirmed; 60 s by default.
	GatewayLease time.Duration
	// BeatInterval is what gateways are told; 1 s by default.
	BeatInterval time.Duration
	// BeatTimeout is the silence after which a gateway's stream counts as lost; 6 s by default.
	BeatTimeout time.Duration
	// RegisterTimeout bounds the wait for the first frame of a stream, and that for a write of
	// the map whose outcome it depends on; 5 s by default.
	RegisterTimeout time.Duration
	// GatewayGrace is how long a gateway stays in the map after its stream was lost; 2 s by default.
	GatewayGrace time.Duration
	// TakeoverGrace is the same for the gateways that a new leader finds in the map, and
	// bounds how long an operation waits for gateways without a stream; 10 s by default.
	TakeoverGrace time.Duration
	// StreamsMax bounds the streams of gateways and watchers; 10,000 by default.
	StreamsMax int

	// CollectInterval is the time between two looks at the physical clusters; 5 s by default.
	CollectInterval time.Duration
	// CollectMinInterval is the shortest time between two looks, whatever the hints; 100 ms by default.
	CollectMinInterval time.Duration
	// SealedInterval is the time between two looks at the physical partitions of sealed
	// extents, for retention and for records of others; 10 s by default.
	SealedInterval time.Duration
	// ProbeTimeout bounds one look at one physical cluster; 5 s by default.
	ProbeTimeout time.Duration

	// JournalWait bounds how long a new map waits until one physical cluster has it in its
	// journal, before gateways see it; 200 ms by default.
	JournalWait time.Duration
	// OffsetsBackupInterval is the time between two copies of the offsets that groups have
	// committed to the physical clusters; 60 s by default.
	OffsetsBackupInterval time.Duration

	// OrphanGrace is how long a new leader waits before it goes on with the moves of heads
	// whose operations the store has lost; 10 s by default.
	OrphanGrace time.Duration

	// StepTimeout bounds the retries of one step of an operation; 30 s by default.
	StepTimeout time.Duration
	// CleanupTimeout bounds the retries of deletes on physical clusters; 10 min by default.
	CleanupTimeout time.Duration
	// RequestWait bounds how long an admin call waits for its operation; 60 s by default.
	RequestWait time.Duration
	// ApplyWait bounds how long an operation waits until all gateways that have a stream
	// have applied the map that it published; 2 s by default.
	ApplyWait time.Duration
	// SealWait bounds how long appends to heads that are to move are held while the
	// gateways answer; then the heads take appends again, and it is tried later. It must
	// be below the gateways' own limit for holding appends; 2 s by default.
	SealWait time.Duration
	// SealHeadsMax bounds the heads that are sealed in one step; 250 by default.
	SealHeadsMax int
	// CopyBytesPerSecond bounds what a move of a compacted topic copies in a second while the
	// topic takes appends; 64 MiB by default.
	CopyBytesPerSecond int64
	// CopyHeadsMax bounds the heads of a compacted topic that are copied at one time: each
	// takes some MiB of memory; 8 by default.
	CopyHeadsMax int
	// DirectQuiet is how long the heads of an adopted topic are watched for records of
	// producers that do not use braid, while all gateways hold their appends; 200 ms by
	// default.
	DirectQuiet time.Duration
	// FailoverAfter is how long a physical cluster must be away, for this controller and
	// for most gateways, before it is failed over by itself; 0, the default, is never.
	FailoverAfter time.Duration
	// RestoreRecordsMax bounds the records of one suspended extent that are appended again
	// when its cluster is back; if there are more, all stay where they are. 10,000,000 by
	// default.
	RestoreRecordsMax int64
	// ProducerExpiry is how long a producer is carried from head to head that writes to
	// none of them; 24 hours by default, as brokers remember producers
	// (producer.id.expiration.ms).
	ProducerExpiry time.Duration
	// OperationsMax bounds the operations that run at one time; 256 by default.
	OperationsMax int
	// OperationsKeep bounds the ended operations that are remembered; 500 by default.
	OperationsKeep int

	// DefaultPartitions is the partition count of a topic that is created without one
	// (Kafka's num.partitions); 1 by default.
	DefaultPartitions int32
	// PartitionsMax bounds the partitions of one topic; 10,000 by default.
	PartitionsMax int32
	// ACLsMax bounds the ACLs, of some 400 B each in every gateway; 20,000 by default.
	ACLsMax int
	// QuotasMax bounds the entities that have quotas, of some 400 B each in every gateway;
	// 10,000 by default.
	QuotasMax int
	// GroupConfigsMax bounds the groups that have settings of their own, of some 300 B each in
	// every gateway; 10,000 by default.
	GroupConfigsMax int
	// GatewayScheme is that of the gateways' Connect API, http or https; http by default.
	GatewayScheme string
	// CredentialsMax bounds the credentials of all users: each gateway holds them, of some
	// 300 B each; 10,000 by default.
	CredentialsMax int
	// TenantsMax bounds the tenants; 1,000 by default.
	TenantsMax int
	// TenantLimits are those of tenants that have none of their own: of topics, partitions,
	// credentials, ACLs and quotas; a tenth of what the deployment may have. Those of groups
	// and connections are the gateways'.
	TenantLimits federation.TenantLimits
	// ForwardWait is how long a standby waits for a leader before it refuses a call; 5 s by default.
	ForwardWait time.Duration

	// Upstream is used to probe a cluster before it is registered.
	Upstream upstream.Config
}

// EnsureDefaults fills fields that are zero.
func (c *Config) EnsureDefaults() {
	setDefault(&c.LogicalCluster, federation.DefaultLogicalCluster)
	setDefault(&c.ID, "controller-"+rand.Text()[:8])
	setDefault(&c.LeaseTTL, 2*time.Second)
	setDefault(&c.RenewInterval, 500*time.Millisecond)
	setDefault(&c.GatewayLease, 60*time.Second)
	setDefault(&c.BeatInterval, time.Second)
	setDefault(&c.BeatTimeout, 6*time.Second)
	setDefault(&c.RegisterTimeout, 5*time.Second)
	setDefault(&c.GatewayGrace, 2*time.Second)
	setDefault(&c.TakeoverGrace, 10*time.Second)
	setDefault(&c.StreamsMax, 10_000)
	setDefault(&c.CollectInterval, 5*time.Second)
	setDefault(&c.CollectMinInterval, 100*time.Millisecond)
	setDefault(&c.SealedInterval, 10*time.Second)
	setDefault(&c.ProbeTimeout, 5*time.Second)
	setDefault(&c.JournalWait, 200*time.Millisecond)
	setDefault(&c.OffsetsBackupInterval, 60*time.Second)
	setDefault(&c.OrphanGrace, 10*time.Second) // longer than a request of a former leader is under way
	setDefault(&c.StepTimeout, 30*time.Second)
	setDefault(&c.CleanupTimeout, 10*time.Minute)
	setDefault(&c.RequestWait, 60*time.Second)
	setDefault(&c.ApplyWait, 2*time.Second)
	setDefault(&c.SealWait, 2*time.Second)
	setDefault(&c.SealHeadsMax, 250)
	setDefault(&c.CopyBytesPerSecond, 64<<20)
	setDefault(&c.CopyHeadsMax, 8)
	setDefault(&c.DirectQuiet, 200*time.Millisecond)
	setDefault(&c.RestoreRecordsMax, 10_000_000)
	setDefault(&c.ProducerExpiry, 24*time.Hour)
	setDefault(&c.OperationsMax, 256)
	setDefault(&c.OperationsKeep, 500)
	setDefault(&c.DefaultPartitions, 1)
	setDefault(&c.PartitionsMax, 10_000)
	setDefault(&c.ACLsMax, 20_000)
	setDefault(&c.QuotasMax, 10_000)
	setDefault(&c.GroupConfigsMax, 10_000)
	setDefault(&c.GatewayScheme, "http")
	setDefault(&c.CredentialsMax, 10_000)
	setDefault(&c.TenantsMax, 1000)
	c.TenantLimits = c.TenantLimits.Or(federation.TenantLimits{Topics: 1000, Partitions: 10_000, Credentials: 1000, ACLs: 2000, Quotas: 1000})
	setDefault(&c.ForwardWait, 5*time.Second)
}

// Validate returns the first field that makes no sense.
func (c *Config) Validate() error {
	if err := planner.CheckLogicalCluster(c.LogicalCluster); err != nil {
		return fmt.Errorf("controller: %w", err)
	}
	if u, err := url.Parse(c.URL); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("controller: url %q: want http://HOST:PORT, as gateways reach this controller", c.URL)
	}
	for name, d := range map[string]time.Duration{
		"lease ttl": c.LeaseTTL, "renew interval": c.RenewInterval, "gateway lease": c.GatewayLease, "beat interval": c.BeatInterval,
		"beat timeout": c.BeatTimeout, "register timeout": c.RegisterTimeout, "gateway grace": c.GatewayGrace, "takeover grace": c.TakeoverGrace,
		"collect interval": c.CollectInterval, "collect min interval": c.CollectMinInterval, "sealed interval": c.SealedInterval, "probe timeout": c.ProbeTimeout,
		"step timeout": c.StepTimeout, "cleanup timeout": c.CleanupTimeout, "request wait": c.RequestWait, "apply wait": c.ApplyWait, "seal wait": c.SealWait, "producer expiry": c.ProducerExpiry, "direct quiet": c.DirectQuiet,
		"forward wait": c.ForwardWait, "journal wait": c.JournalWait, "orphan grace": c.OrphanGrace, "offsets backup interval": c.OffsetsBackupInterval,
	} {
		if d <= 0 {
			return fmt.Errorf("controller: %s is %s: want more than 0", name, d)
		}
	}
	if err := c.TenantLimits.Validate(); err != nil {
		return fmt.Errorf("controller: %w", err)
	}
	switch {
	case c.RenewInterval*2 > c.LeaseTTL:
		return fmt.Errorf("controller: renew interval %s: want at most half of the lease ttl %s", c.RenewInterval, c.LeaseTTL)
	case c.BeatInterval*2 > c.BeatTimeout:
		return fmt.Errorf("controller: beat interval %s: want at most half of the beat timeout %s", c.BeatInterval, c.BeatTimeout)
	case c.GatewayLease <= c.LeaseTTL || c.GatewayLease <= 2*c.BeatInterval:
		return fmt.Errorf("controller: gateway lease %s: want more than the lease ttl and two beat intervals", c.GatewayLease)
	case c.DefaultPartitions < 1 || c.PartitionsMax < c.DefaultPartitions:
		return fmt.Errorf("controller: default partitions %d: want 1 to the maximum of %d", c.DefaultPartitions, c.PartitionsMax)
	case c.FailoverAfter < 0:
		return fmt.Errorf("controller: failover after %s: want 0 (never) or more", c.FailoverAfter)
	case c.RestoreRecordsMax < 0:
		return fmt.Errorf("controller: restore records max %d: want 0 or more", c.RestoreRecordsMax)
	case c.SealHeadsMax < 1:
		return errors.New("controller: at least one head must be sealed in a step")
	case c.CopyBytesPerSecond < 1 || c.CopyHeadsMax < 1:
		return errors.New("controller: the copies of compacted topics need at least one byte a second and one head at a time")
	case c.CredentialsMax < 1:
		return fmt.Errorf("controller: credentials max %d: want at least 1", c.CredentialsMax)
	case c.StreamsMax < 1 || c.OperationsMax < 1 || c.OperationsKeep < 1:
		return errors.New("controller: streams, operations and kept operations need room for at least one each")
	}
	return nil
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
