package kafkacompat

import (
	"errors"
	"fmt"
	"time"

	"github.com/braidmq/braid/federation"
)

// Config has the settings of a Server. The zero value of a field is its default;
// names in brackets are the settings of a Kafka broker with the same meaning.
type Config struct {
	// GatewayID is the gateway that this server belongs to.
	GatewayID federation.GatewayID
	// Role is the gateway's role: that of clients which name none.
	Role federation.Role

	// FrameBytesMax bounds one request [socket.request.max.bytes]; 100 MiB by
	// default. Memory is taken as the bytes come in, not by the announced length.
	FrameBytesMax int
	// SmallFrameBytesMax bounds one request other than Produce; 16 MiB by default.
	SmallFrameBytesMax int
	// BytesInFlightMax bounds the bytes of all requests in memory [queued.max.request.bytes];
	// 1 GiB by default, at least 2 FrameBytesMax. Where Deps.Requests is smaller, that
	// counts, and FrameBytesMax is at most a half of it, ConnectionBytesInFlightMax a quarter.
	BytesInFlightMax int64
	// ConnectionBytesInFlightMax bounds those of one connection: above it, its next
	// request is not read yet. 64 MiB by default.
	ConnectionBytesInFlightMax int64
	// RequestsInFlightMax bounds the requests of one connection that are read but not
	// answered; 64 by default.
	RequestsInFlightMax int
	// ConnectionsMax bounds the open connections [max.connections]; 20,000 by default.
	ConnectionsMax int
	// IdleTimeout closes a connection without traffic [connections.max.idle.ms]; 10 min by default.
	IdleTimeout time.Duration
	// StallTimeout bounds the wait for the next MiB of a request that has begun, and
	// for a client to take the next MiB of a response; 30 s by default.
	StallTimeout time.Duration
	// AuthenticationTimeout bounds the time from a connection to the end of its TLS
	// handshake and its authentication; 10 s by default.
	AuthenticationTimeout time.Duration
	// SaslBytesMax bounds a request of a client that is not authenticated
	// [sasl.server.max.receive.size]; 512 KiB by default.
	SaslBytesMax int
	// FailedAuthenticationDelay is how late a failed authentication is answered
	// [connection.failed.authentication.delay.ms]; 100 ms by default.
	FailedAuthenticationDelay time.Duration
	// ReauthMax is how long a client is known before it must authenticate again
	// [connections.max.reauth.ms]; 0, the default, is for ever, or as long as its token.
	ReauthMax time.Duration
	// HandOverMax bounds how long a draining server keeps the connections of group
	// members, until their next heartbeats say that another gateway coordinates; 5 s by
	// default, above the heartbeat interval of all SDKs (3 s).
	HandOverMax time.Duration

	// ProduceTimeoutMax bounds the timeout that a Produce request asks for; 2 min by default.
	ProduceTimeoutMax time.Duration
	// AwayWait is how long a batch of an idempotent producer waits for a cluster that does
	// not take appends, and a question about offsets for one that answers nothing, before the
	// client is told to try again: answers go out in the order of requests, so what the client
	// writes to other clusters, or reads there, waits behind it. 1 s by default.
	AwayWait time.Duration
	// AwayWaitAlone is how long a batch waits so while no other answer waits behind its own:
	// it goes on as soon as its partition does, and not only when the client tries again. 5 s
	// by default, after which franz-go asks for metadata again without a pause.
	AwayWaitAlone time.Duration
	// FetchWaitMax bounds the wait that a Fetch request asks for; 30 s by default.
	FetchWaitMax time.Duration
	// FetchBytesMax bounds one Fetch response [fetch.max.bytes]; 55 MiB by default.
	FetchBytesMax int32
	// FetchSessionPartitionsMax bounds the partitions in the fetch sessions of all
	// connections, and those whose consumers were sent to their zone in the last minutes, of
	// some 330 B each; a client whose session would go above it sends
	// full requests [max.incremental.fetch.session.cache.slots]. 500,000 by default, and
	// at most what a half of Deps.Requests has room for; negative: no sessions.
	FetchSessionPartitionsMax int64
	// FetchPartitionsMax bounds the topics and partitions that one Fetch request names,
	// those that it names twice included; 100,000 by default. With a smaller Deps.Requests
	// it is what a quarter of that has room for, at 640 B each, but not below 50,000.
	FetchPartitionsMax int
	// AnswerBytesMax bounds what one answer but that to Fetch takes while it is made;
	// 256 MiB by default, and at most Deps.Answers.
	AnswerBytesMax int64
	// PartitionsPerRequestMax bounds the partitions of one Produce request; 20,000 by default.
	PartitionsPerRequestMax int
	// RequestTimeout bounds the work for any other request but JoinGroup and SyncGroup,
	// which wait for their group; 30 s by default.
	RequestTimeout time.Duration

	// AutoCreateTopics creates a topic when a client asks for its metadata and allows
	// it [auto.create.topics.enable]; off by default.
	AutoCreateTopics bool
	// DefaultPartitions is the partition count of topics created without one
	// [num.partitions]; 4 by default.
	DefaultPartitions int32
	// DefaultReplicationFactor is the replication factor of topics created without one
	// [default.replication.factor]; 0, the default, leaves it to the physical clusters.
	DefaultReplicationFactor int16
	// TopicWait bounds the wait for a topic change to be in this gateway's map; 5 s by default.
	TopicWait time.Duration
	// DescribePartitionsMax bounds the partitions of one DescribeTopicPartitions
	// response [max.request.partition.size.limit], and of one DescribeProducers request;
	// 2000 by default.
	DescribePartitionsMax int32

	// ClientTelemetry takes the metrics that clients push (KIP-714); off by default, and then
	// not advertised.
	ClientTelemetry bool
	// TelemetryInterval is how often clients push [push.interval of a subscription]; 1 min by default.
	TelemetryInterval time.Duration
	// TelemetryBytesMax bounds one push [telemetry.max.bytes]; 1 MiB by default.
	TelemetryBytesMax int32
	// TelemetryUnpackedBytesMax bounds one push when it is unpacked; 8 MiB by default.
	TelemetryUnpackedBytesMax int
	// TelemetryClientsMax bounds the clients whose metrics are taken; 10,000 by default.
	TelemetryClientsMax int
	// TelemetrySeriesMax bounds the metrics of all clients together; 50,000 by default.
	TelemetrySeriesMax int

	// GroupMinSessionTimeout and GroupMaxSessionTimeout are what DescribeConfigs shows
	// of the group coordinator's limits [group.min.session.timeout.ms,
	// group.max.session.timeout.ms]; 6 s and 30 min by default. The coordinator enforces its own.
	GroupMinSessionTimeout time.Duration
	GroupMaxSessionTimeout time.Duration
	// GroupSettings are those of members of the newer protocol [group.consumer.session.timeout.ms,
	// group.consumer.heartbeat.interval.ms, and their bounds], which it shows, and within which
	// AlterConfigs takes those of single groups; Kafka's by default.
	GroupSettings federation.GroupSettings
}

// frameUnitBytes is what is read of a request before its whole length is believed.
const frameUnitBytes = 1 << 20

func (c Config) withDefaults() Config {
	c.FrameBytesMax = or(c.FrameBytesMax, 100<<20)
	c.SmallFrameBytesMax = or(c.SmallFrameBytesMax, 16<<20)
	c.BytesInFlightMax = or(c.BytesInFlightMax, 1<<30)
	c.ConnectionBytesInFlightMax = or(c.ConnectionBytesInFlightMax, 64<<20)
	c.RequestsInFlightMax = or(c.RequestsInFlightMax, 64)
	c.ConnectionsMax = or(c.ConnectionsMax, 20_000)
	c.IdleTimeout = or(c.IdleTimeout, 10*time.Minute)
	c.StallTimeout = or(c.StallTimeout, 30*time.Second)
	c.AuthenticationTimeout = or(c.AuthenticationTimeout, 10*time.Second)
	c.SaslBytesMax = or(c.SaslBytesMax, 512<<10)
	c.FailedAuthenticationDelay = or(c.FailedAuthenticationDelay, 100*time.Millisecond)
	c.HandOverMax = or(c.HandOverMax, 5*time.Second)
	c.AwayWait = or(c.AwayWait, time.Second)
	c.AwayWaitAlone = or(c.AwayWaitAlone, 5*time.Second)
	c.ProduceTimeoutMax = or(c.ProduceTimeoutMax, 2*time.Minute)
	c.FetchWaitMax = or(c.FetchWaitMax, 30*time.Second)
	c.FetchBytesMax = or(c.FetchBytesMax, 55<<20)
	c.FetchSessionPartitionsMax = or(c.FetchSessionPartitionsMax, 500_000)
	c.FetchPartitionsMax = or(c.FetchPartitionsMax, 100_000)
	c.AnswerBytesMax = or(c.AnswerBytesMax, 256<<20)
	c.PartitionsPerRequestMax = or(c.PartitionsPerRequestMax, 20_000)
	c.RequestTimeout = or(c.RequestTimeout, 30*time.Second)
	c.DefaultPartitions = or(c.DefaultPartitions, 4)
	c.TopicWait = or(c.TopicWait, 5*time.Second)
	c.DescribePartitionsMax = or(c.DescribePartitionsMax, 2000)
	c.TelemetryInterval = or(c.TelemetryInterval, time.Minute)
	c.TelemetryBytesMax = or(c.TelemetryBytesMax, 1<<20)
	c.TelemetryUnpackedBytesMax = or(c.TelemetryUnpackedBytesMax, 8<<20)
	c.TelemetryClientsMax = or(c.TelemetryClientsMax, 10_000)
	c.TelemetrySeriesMax = or(c.TelemetrySeriesMax, 50_000)
	c.GroupMinSessionTimeout = or(c.GroupMinSessionTimeout, 6*time.Second)
	c.GroupMaxSessionTimeout = or(c.GroupMaxSessionTimeout, 30*time.Minute)
	c.GroupSettings = c.GroupSettings.WithDefaults()
	return c
}

// within lowers the limits on requests to what a budget of so many bytes allows; 0 = any.
func (c Config) within(budget int64) Config {
	if budget <= 0 || budget >= c.BytesInFlightMax {
		return c
	}
	c.BytesInFlightMax = budget
	// Two requests of the largest size fit: one that is worked on, and the next.
	c.FrameBytesMax = min(c.FrameBytesMax, int(budget/2))
	// No connection alone has all of it.
	c.ConnectionBytesInFlightMax = min(c.ConnectionBytesInFlightMax, budget/4)
	c.FetchSessionPartitionsMax = min(c.FetchSessionPartitionsMax, budget/2/fetchSessionPartBytes)
	c.FetchPartitionsMax = min(c.FetchPartitionsMax, max(fetchPartitionsLeast, int(budget/4/fetchPartBytes)))
	return c
}

func (c Config) validate() error {
	switch {
	case c.AnswerBytesMax < 1<<20 || c.AnswerBytesMax > 1<<30:
		return fmt.Errorf("kafka facade: AnswerBytesMax %d: want 1 MiB to 1 GiB", c.AnswerBytesMax)
	case c.FetchPartitionsMax < 1:
		return fmt.Errorf("kafka facade: FetchPartitionsMax %d: want at least 1", c.FetchPartitionsMax)
	case c.GatewayID == "":
		return errors.New("kafka facade: GatewayID is not set")
	case c.FrameBytesMax < 1024 || c.FrameBytesMax > 1<<30:
		return fmt.Errorf("kafka facade: FrameBytesMax %d: want 1024 to 1 GiB", c.FrameBytesMax)
	case c.BytesInFlightMax < 2*int64(c.FrameBytesMax):
		// Frames that are half read hold a part each: with less, they could wait for each other.
		return fmt.Errorf("kafka facade: BytesInFlightMax %d: want at least twice FrameBytesMax %d", c.BytesInFlightMax, c.FrameBytesMax)
	case c.RequestsInFlightMax < 1 || c.ConnectionsMax < 1:
		return errors.New("kafka facade: RequestsInFlightMax and ConnectionsMax must be at least 1")
	case c.ReauthMax < 0 || c.SaslBytesMax < 1024 || c.AuthenticationTimeout < 0:
		return errors.New("kafka facade: ReauthMax and AuthenticationTimeout must not be negative, and SaslBytesMax at least 1024")
	case c.DefaultPartitions < 1:
		return fmt.Errorf("kafka facade: DefaultPartitions %d: want at least 1", c.DefaultPartitions)
	}
	return nil
}

func or[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}
