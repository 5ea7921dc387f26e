package gateway

import (
	"errors"
	"fmt"
	"time"

	"github.com/braidmq/braid/federation"
)

// Config holds the limits of the Connect door. The zero value of a field means
// its default.
type Config struct {
	// LogicalCluster is the logical cluster that requests mean that name none;
	// federation.DefaultLogicalCluster by default.
	LogicalCluster string
	// TokenKey signs producer identities, so that nobody writes as another's producer.
	// All gateways of a fleet share it. If it is empty, Deps.TokenKey is asked for it.
	TokenKey []byte

	// MessageBytesMax bounds one request message, decompressed; 8 MiB by default.
	MessageBytesMax int
	// FrameBytesMax bounds the payload of one produce frame, unless the topic's
	// max.message.bytes is larger; 1 MiB by default.
	FrameBytesMax int
	// RecordBytesMax bounds the key, value and headers of one record of a topic without
	// a max.message.bytes of its own; 1 MiB by default.
	RecordBytesMax int
	// FrameRecordsMax bounds the records of one produce frame; 10000 by default.
	FrameRecordsMax int
	// RecordHeadersMax bounds the headers of one record; 100 by default.
	RecordHeadersMax int

	// ProduceCreditBatches and ProduceCreditBytes are how much a produce stream may
	// have undecided; 64 and 16 MiB by default.
	ProduceCreditBatches int64
	ProduceCreditBytes   int64
	// ProduceParkAfter is how long a partition decides nothing before the frames that wait
	// for it stop to count as undecided; 1 s by default. ProduceParkedBatches and
	// ProduceParkedBytes bound these frames on one stream; 1024 and 16 MiB by default.
	ProduceParkAfter     time.Duration
	ProduceParkedBatches int64
	ProduceParkedBytes   int64
	// PartitionInFlightMax is how many batches of an idempotent producer are under way
	// to one partition; 5 by default and at most, as brokers remember the last 5.
	PartitionInFlightMax int
	// ProduceMergeBytes bounds the batch that small frames of an idempotent stream share
	// while they wait for earlier ones of their partition; 64 KiB by default, -1 has each
	// frame travel by itself.
	ProduceMergeBytes int
	// DeliveryTimeoutDefault and DeliveryTimeoutMax bound how long a batch may take;
	// 2 min and 15 min by default.
	DeliveryTimeoutDefault time.Duration
	DeliveryTimeoutMax     time.Duration
	// StaleCountGrace is how long a stream may split keys by the partition count from
	// before a topic grew; 1 min by default.
	StaleCountGrace time.Duration

	// ConsumeCreditRecords and ConsumeCreditBytes are the credit of a consume stream
	// that asks for none; 1000 and 8 MiB by default.
	ConsumeCreditRecords int64
	ConsumeCreditBytes   int64
	// DeliveryFrameBytesDefault and DeliveryFrameBytesMax bound the payload of one frame
	// of records; 1 MiB and 4 MiB by default.
	DeliveryFrameBytesDefault int
	DeliveryFrameBytesMax     int
	// SendQueueBytesMax bounds what a reading stream has ready for a client that does
	// not take it; 2 MiB by default.
	SendQueueBytesMax int
	// FetchBytesMax and FetchPartitionBytesMax bound one read of a stream from the
	// router, which is what a stream holds while its client takes nothing; 2 MiB and
	// 1 MiB by default.
	FetchBytesMax          int32
	FetchPartitionBytesMax int32
	// FetchWaitMax bounds the long poll of the Fetch call; 20 s by default. Streams
	// poll for StreamPollWait; 5 s by default.
	FetchWaitMax   time.Duration
	StreamPollWait time.Duration
	// FetchRecordsDefault is the page of a Fetch call that asks for none; 1000 by default.
	FetchRecordsDefault int
	// DecompressedBytesMax bounds the records of one batch, decompressed; 64 MiB by default.
	DecompressedBytesMax int
	// PartitionRetryWait is the pause after a partition could not be read; 500 ms by default.
	PartitionRetryWait time.Duration
	// ReadPartitionsMax bounds the partitions of one Read, Fetch or ListOffsets, and of the
	// topics that one GetCommittedOffsets names; 10000 by default.
	ReadPartitionsMax int
	// LingerMax bounds Delivery.linger_ms; 1 s by default.
	LingerMax time.Duration

	// SessionTimeoutDefault, SessionTimeoutMin and SessionTimeoutMax bound how long a
	// silent member stays in its group; 45 s, 6 s and 30 min by default.
	SessionTimeoutDefault time.Duration
	SessionTimeoutMin     time.Duration
	SessionTimeoutMax     time.Duration
	// RebalanceTimeoutDefault and RebalanceTimeoutMax bound how long a member may keep a
	// revoked partition; 60 s and 15 min by default.
	RebalanceTimeoutDefault time.Duration
	RebalanceTimeoutMax     time.Duration
	// CommitPartitionsMax bounds the partitions of one commit; 10000 by default.
	CommitPartitionsMax int
	// CommitMetadataBytesMax bounds the metadata of a committed offset; 4096 by default,
	// as Kafka's offset.metadata.max.bytes.
	CommitMetadataBytesMax int

	// UnaryTimeout is the deadline of calls that bring none; 30 s by default.
	UnaryTimeout time.Duration
	// HeartbeatInterval is how often an idle stream shows that it lives; 10 s by default.
	HeartbeatInterval time.Duration
	// OpenTimeout bounds how long a stream may stay without its first message; 15 s by default.
	OpenTimeout time.Duration
	// HoldTimeout is how long fetched records wait for a client's credit before their
	// memory is given back, to be fetched again; 2 s by default.
	HoldTimeout time.Duration
	// StallTimeout is how long a client of Read may take nothing of what is sent to it before
	// the stream ends, and gives the records that it holds back; 1 min by default.
	StallTimeout time.Duration
	// LeaveTimeout bounds how long a stream that ends tries to leave its group; 2 s by default.
	LeaveTimeout time.Duration
	// CallsMax bounds the calls and streams that are open at a time, of all clients together;
	// 20000 by default.
	CallsMax int
	// StreamAgeMax is the age, give or take a tenth, at which a stream is asked to go
	// elsewhere, so that load spreads; 0, the default, is never.
	StreamAgeMax time.Duration
	// DrainGrace is how long streams may go on after Draining; 5 s by default.
	DrainGrace time.Duration

	// CoalesceBytes is how much of a stream's output waits for more, while the stream has
	// more at hand, before it is sent; 64 KiB by default, -1 sends each message by itself.
	CoalesceBytes int

	// CORSOrigins are the origins that browsers may call from; none by default, "*" is any.
	CORSOrigins []string
}

// withDefaults returns the config with defaults filled in, or what is wrong with it.
func (c Config) withDefaults() (Config, error) {
	if c.LogicalCluster == "" {
		c.LogicalCluster = federation.DefaultLogicalCluster
	}
	for _, f := range []struct {
		field *int
		value int
	}{
		{&c.MessageBytesMax, 8 << 20},
		{&c.FrameBytesMax, 1 << 20},
		{&c.RecordBytesMax, 1 << 20},
		{&c.FrameRecordsMax, 10000},
		{&c.RecordHeadersMax, 100},
		{&c.PartitionInFlightMax, brokerRemembers},
		{&c.ProduceMergeBytes, 64 << 10},
		{&c.DeliveryFrameBytesDefault, 1 << 20},
		{&c.DeliveryFrameBytesMax, 4 << 20},
		{&c.SendQueueBytesMax, 2 << 20},
		{&c.FetchRecordsDefault, 1000},
		{&c.DecompressedBytesMax, 64 << 20},
		{&c.ReadPartitionsMax, 10000},
		{&c.CommitPartitionsMax, 10000},
		{&c.CommitMetadataBytesMax, 4096},
		{&c.CallsMax, callsMaxDefault},
		{&c.CoalesceBytes, 64 << 10},
	} {
		or(f.field, f.value)
	}
	or(&c.ProduceCreditBatches, 64)
	or(&c.ProduceCreditBytes, 16<<20)
	or(&c.ProduceParkedBatches, 1024)
	or(&c.ProduceParkedBytes, 16<<20)
	or(&c.ConsumeCreditRecords, 1000)
	or(&c.ConsumeCreditBytes, 8<<20)
	or(&c.FetchBytesMax, 2<<20)
	or(&c.FetchPartitionBytesMax, 1<<20)
	for _, f := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&c.DeliveryTimeoutDefault, 2 * time.Minute},
		{&c.DeliveryTimeoutMax, 15 * time.Minute},
		{&c.StaleCountGrace, time.Minute},
		{&c.ProduceParkAfter, time.Second},
		{&c.FetchWaitMax, 20 * time.Second},
		{&c.StreamPollWait, 5 * time.Second},
		{&c.PartitionRetryWait, 500 * time.Millisecond},
		{&c.LingerMax, time.Second},
		{&c.SessionTimeoutDefault, 45 * time.Second},
		{&c.SessionTimeoutMin, 6 * time.Second},
		{&c.SessionTimeoutMax, 30 * time.Minute},
		{&c.RebalanceTimeoutDefault, time.Minute},
		{&c.RebalanceTimeoutMax, 15 * time.Minute},
		{&c.UnaryTimeout, 30 * time.Second},
		{&c.HeartbeatInterval, 10 * time.Second},
		{&c.DrainGrace, 5 * time.Second},
		{&c.OpenTimeout, 15 * time.Second},
		{&c.HoldTimeout, 2 * time.Second},
		{&c.StallTimeout, time.Minute},
		{&c.LeaveTimeout, 2 * time.Second},
	} {
		or(f.field, f.value)
	}
	return c, c.validate()
}

// brokerRemembers is how many batches of a producer a partition remembers to
// recognise repeats (ProducerStateEntry.NUM_BATCHES_TO_RETAIN).
const brokerRemembers = 5

func (c *Config) validate() error {
	switch {
	case c.PartitionInFlightMax < 1 || c.PartitionInFlightMax > brokerRemembers:
		return fmt.Errorf("gateway: PartitionInFlightMax is %d, want 1 to %d: brokers recognise the last %d batches of a producer",
			c.PartitionInFlightMax, brokerRemembers, brokerRemembers)
	case c.FrameBytesMax > c.MessageBytesMax:
		return fmt.Errorf("gateway: FrameBytesMax %d is above MessageBytesMax %d", c.FrameBytesMax, c.MessageBytesMax)
	case c.ProduceCreditBytes < int64(c.FrameBytesMax):
		return fmt.Errorf("gateway: ProduceCreditBytes %d is below FrameBytesMax %d: a full frame could never be sent", c.ProduceCreditBytes, c.FrameBytesMax)
	case c.ProduceCreditBatches < 1 || c.ConsumeCreditRecords < 1 || c.ConsumeCreditBytes < 1:
		return errors.New("gateway: default credit must be positive")
	case len(c.TokenKey) > 0 && len(c.TokenKey) < tokenKeyBytesMin:
		return fmt.Errorf("gateway: TokenKey has %d bytes, want %d at least", len(c.TokenKey), tokenKeyBytesMin)
	}
	return nil
}

// or sets a field that is zero.
func or[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
