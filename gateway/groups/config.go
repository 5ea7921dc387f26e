package groups

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/logging"
	"github.com/braidmq/braid/internal/redisstore"
)

// Config says what an Engine serves, and bounds it. The zero value of a limit
// is its default.
type Config struct {
	// Gateway is the gateway that this engine is part of.
	Gateway federation.GatewayID
	Maps    Maps
	Store   *redisstore.Store
	Logger  *slog.Logger // nil = none
	clients *slog.Logger // for lines that clients can cause
	// Sees says which topics a member may describe, by its principal and host: a regular
	// expression of Kafka's newer protocol matches no others. nil = all.
	Sees func(principal, host string, topic federation.TopicName) bool

	// SessionTimeoutMin and SessionTimeoutMax bound what members may ask for; 6 s and
	// 30 min by default (Kafka's group.min/max.session.timeout.ms).
	SessionTimeoutMin, SessionTimeoutMax time.Duration
	// RebalanceTimeoutMax bounds the rebalance timeout that members may ask for; longer
	// ones are cut to it. 1 h by default.
	RebalanceTimeoutMax time.Duration
	// ConnectSessionTimeout and ConnectRebalanceTimeout are those of a Connect member
	// that names none; 45 s and 60 s by default.
	ConnectSessionTimeout, ConnectRebalanceTimeout time.Duration
	// ConsumerSessionTimeout is how long a member of Kafka's newer protocol (KIP-848) is kept
	// without a heartbeat; 45 s by default (Kafka's group.consumer.session.timeout.ms).
	ConsumerSessionTimeout time.Duration
	// ConsumerHeartbeatInterval is how often it is told to send one; 5 s by default (Kafka's
	// group.consumer.heartbeat.interval.ms). It learns of a change with its next one.
	ConsumerHeartbeatInterval time.Duration
	// The bounds of what a group may set for itself of the two; Kafka's defaults, widened to
	// hold the values above: 45 s to 60 s (group.consumer.min/max.session.timeout.ms), and 5 s
	// to 15 s (group.consumer.min/max.heartbeat.interval.ms).
	ConsumerSessionTimeoutMin, ConsumerSessionTimeoutMax       time.Duration
	ConsumerHeartbeatIntervalMin, ConsumerHeartbeatIntervalMax time.Duration
	// InitialRebalanceDelay is how long an empty group waits for more classic members
	// before its first rebalance, as Kafka's group.initial.rebalance.delay.ms; 200 ms by
	// default (Kafka: 3 s), enough for processes that start together. Negative = none.
	InitialRebalanceDelay time.Duration
	// NewMemberJoinTimeout bounds how long a member that never got an answer to its
	// JoinGroup is kept; 5 min by default, as in Kafka.
	NewMemberJoinTimeout time.Duration
	// RevokeWaitMax is how long SyncGroup answers of a mixed group wait for Connect
	// members to give partitions up that classic members get, so that the classic
	// members need no second rebalance; 2 s by default. Negative = no wait.
	RevokeWaitMax time.Duration

	// GroupsMax bounds the groups in memory; 100,000 by default.
	GroupsMax int
	// Limit says how many groups there may be that something is stored of, at all gateways
	// together, and as many in memory here; further ones are refused. nil, or 0 = any number.
	Limit func() int
	// Room is what all members may take; NewRoom(0) by default. Engines of one process share
	// one.
	Room *Room
	// MembersMax bounds the members of a group, of all protocols together; 2,000 by default
	// (Kafka's group.max.size and group.consumer.max.size).
	MembersMax int
	// MemberBytesMax bounds a member's metadata and its assignment; 256 KiB by default.
	MemberBytesMax int
	// SubscriptionsMax bounds the topics that a Connect member names; 1,000 by default.
	SubscriptionsMax int
	// OffsetMetadataMax bounds the metadata of a committed offset; 4,096 bytes by
	// default (Kafka's offset.metadata.max.bytes).
	OffsetMetadataMax int
	// OffsetsRetention is how long offsets of an empty group are kept; 7 days by default
	// (Kafka's offsets.retention.minutes).
	OffsetsRetention time.Duration
	// RetentionCheck is how often that is looked at; 10 min by default.
	RetentionCheck time.Duration
	// MailboxMax bounds the requests that wait for a group; 128 by default. Further ones
	// block their sender.
	MailboxMax int
	// EventsMax bounds the assignment changes that a Membership holds for a reader that
	// does not read them; 64 by default. The membership then ends.
	EventsMax int

	// StoreTimeout bounds one access to Redis; 5 s by default.
	StoreTimeout time.Duration
	// LoadRetry is how long a group is not looked up again after Redis did not answer;
	// 250 ms by default.
	LoadRetry time.Duration
	// OwnershipCheck is how often the engine looks whether its groups are still its
	// own; 2 s by default. Writes are always checked.
	OwnershipCheck time.Duration
	// IdleUnload is how long a group without members stays in memory; 1 min by default.
	IdleUnload time.Duration

	// NewID makes the unique part of a member id; a random UUID by default.
	NewID func() string
}

func (c Config) withDefaults() Config {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	limit := func(n *int, v int) {
		if *n == 0 {
			*n = v
		}
	}
	def(&c.SessionTimeoutMin, 6*time.Second)
	def(&c.SessionTimeoutMax, 30*time.Minute)
	def(&c.RebalanceTimeoutMax, time.Hour)
	def(&c.ConnectSessionTimeout, 45*time.Second)
	def(&c.ConnectRebalanceTimeout, 60*time.Second)
	consumer := c.Settings()
	c.ConsumerSessionTimeout, c.ConsumerHeartbeatInterval = consumer.SessionTimeout.Default, consumer.HeartbeatInterval.Default
	def(&c.InitialRebalanceDelay, 200*time.Millisecond)
	def(&c.NewMemberJoinTimeout, 5*time.Minute)
	def(&c.RevokeWaitMax, 2*time.Second)
	def(&c.OffsetsRetention, 7*24*time.Hour)
	def(&c.RetentionCheck, 10*time.Minute)
	def(&c.StoreTimeout, 5*time.Second)
	def(&c.LoadRetry, 250*time.Millisecond)
	def(&c.OwnershipCheck, 2*time.Second)
	def(&c.IdleUnload, time.Minute)
	limit(&c.GroupsMax, 100_000)
	limit(&c.MembersMax, 2_000)
	limit(&c.MemberBytesMax, 256<<10)
	limit(&c.SubscriptionsMax, 1_000)
	limit(&c.OffsetMetadataMax, 4_096)
	limit(&c.MailboxMax, 128)
	limit(&c.EventsMax, 64)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	c.clients = logging.Limited(c.Logger)
	if c.Room == nil {
		c.Room = NewRoom(0)
	}
	if c.NewID == nil {
		c.NewID = uuid.NewString
	}
	return c
}

// Settings are those of members of the newer protocol: what holds for groups that set
// nothing, and what others may set.
func (c *Config) Settings() federation.GroupSettings {
	return federation.GroupSettings{
		SessionTimeout:    federation.GroupSetting{Default: c.ConsumerSessionTimeout, Min: c.ConsumerSessionTimeoutMin, Max: c.ConsumerSessionTimeoutMax},
		HeartbeatInterval: federation.GroupSetting{Default: c.ConsumerHeartbeatInterval, Min: c.ConsumerHeartbeatIntervalMin, Max: c.ConsumerHeartbeatIntervalMax},
	}.WithDefaults()
}

func (c *Config) limit() int {
	if c.Limit == nil {
		return 0
	}
	return c.Limit()
}

// validate returns every setting that makes no sense, in one error.
func (c Config) validate() error {
	var bad []error
	if c.Gateway == "" || c.Maps == nil || c.Store == nil {
		bad = append(bad, errors.New("gateway, maps and store must be set"))
	}
	if c.SessionTimeoutMin < 0 || c.SessionTimeoutMax < c.SessionTimeoutMin {
		bad = append(bad, fmt.Errorf("session timeouts: the minimum %v is negative or above the maximum %v", c.SessionTimeoutMin, c.SessionTimeoutMax))
	}
	if c.ConsumerHeartbeatInterval >= c.ConsumerSessionTimeout {
		bad = append(bad, fmt.Errorf("consumer heartbeat interval: %v is not below the session timeout of %v", c.ConsumerHeartbeatInterval, c.ConsumerSessionTimeout))
	}
	if err := c.Settings().Validate(); err != nil {
		bad = append(bad, err)
	}
	for _, d := range []struct {
		name string
		v    time.Duration
	}{
		{"rebalance timeout maximum", c.RebalanceTimeoutMax},
		{"connect session timeout", c.ConnectSessionTimeout},
		{"connect rebalance timeout", c.ConnectRebalanceTimeout},
		{"consumer session timeout", c.ConsumerSessionTimeout},
		{"consumer heartbeat interval", c.ConsumerHeartbeatInterval},
		{"new member join timeout", c.NewMemberJoinTimeout},
		{"offsets retention", c.OffsetsRetention},
		{"retention check", c.RetentionCheck},
		{"store timeout", c.StoreTimeout},
		{"load retry", c.LoadRetry},
		{"ownership check", c.OwnershipCheck},
		{"idle unload", c.IdleUnload},
	} {
		if d.v < 0 {
			bad = append(bad, fmt.Errorf("%s: %v is negative", d.name, d.v))
		}
	}
	for _, l := range []struct {
		name string
		v    int
	}{
		{"groups", c.GroupsMax},
		{"members", c.MembersMax},
		{"member bytes", c.MemberBytesMax},
		{"subscriptions", c.SubscriptionsMax},
		{"offset metadata", c.OffsetMetadataMax},
		{"mailbox", c.MailboxMax},
		{"events", c.EventsMax},
	} {
		if l.v < 1 {
			bad = append(bad, fmt.Errorf("the limit on %s must be positive, not %d", l.name, l.v))
		}
	}
	if len(bad) > 0 {
		return fmt.Errorf("group engine: %w", errors.Join(bad...))
	}
	return nil
}
