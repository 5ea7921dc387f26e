package router

import (
	"context"
	"log/slog"
	"time"

	"github.com/braidmq/braid/internal/memory"
	"github.com/braidmq/braid/internal/upstream"
)

// Config holds the limits of a router. Zero fields take the defaults.
type Config struct {
	// Lanes is how many connections for appends, and as many for reads, the router
	// keeps to each physical broker; client connections and streams are spread over
	// them. Where appends wait on all of them for an answer, clients that come get a new
	// one, up to LanesMax. 4 and 16 by default.
	Lanes, LanesMax int
	// AppendBytesMax bounds the bytes of appends in flight in this process, and
	// SessionAppendBytesMax those of one session; Produce waits above them.
	// 256 MiB and 64 MiB by default.
	AppendBytesMax, SessionAppendBytesMax int64
	// AppendRequestsMax bounds the Produce requests in flight on one connection to a
	// broker: further appends wait and share the next request. 5 by default.
	AppendRequestsMax int
	// AppendRequestBytesMax bounds the bytes of one such request, unless a single
	// batch is larger. 4 MiB by default.
	AppendRequestBytesMax int
	// RetryBackoff and RetryBackoffMax are the pauses before an append is tried again
	// after a retriable error of a broker; 20 ms doubling to 500 ms by default.
	RetryBackoff, RetryBackoffMax time.Duration
	// HoldMax bounds how long an append waits for a head that is being moved; then its
	// client is told to try again. It must be below any client's request timeout; 5 s by
	// default.
	HoldMax time.Duration
	// EarlyWait is how long a batch of an idempotent producer that a head does not know
	// waits for the batches before it; then its client is told to try again. 1 s by default.
	EarlyWait time.Duration
	// EarlyAsk is the shortest time between two questions to a head which producers it
	// knows; 100 ms by default.
	EarlyAsk time.Duration
	// ProducersMax bounds the producers that each lane remembers as known to heads, over
	// all heads; those that are forgotten are asked for again. 1,000,000 by default.
	ProducersMax int
	// FetchBytesMax bounds what one session asks of one broker at a time, and about what
	// one Fetch answers: a larger part is split, and the next one is read while the reader
	// takes this one. A client that asks for more at once (FetchLimit.MinBytes) waits for
	// more. 4 MiB by default.
	FetchBytesMax int32
	// ReadAheadBytesMax bounds what the process reads before its readers ask: while a
	// reader behind the tail works on one answer, the next one is fetched. 256 MiB by
	// default; -1 turns it off.
	ReadAheadBytesMax int64
	// TailWait is how long a broker holds the fetch that waits for new records of all
	// partitions that someone waits for; a partition that joins waits at most this long
	// for the next one. 100 ms by default.
	TailWait time.Duration
	// TailIdle is how long a partition stays in that fetch after its last reader; 3 s by default.
	TailIdle time.Duration
	// TailBytesMax bounds the tail cache for each physical broker; 32 MiB by default.
	TailBytesMax int
	// EpochWait is how long records of a new physical leader epoch wait for the map
	// to name it, so that a record never shows two epochs; 1 s by default.
	EpochWait time.Duration
	// QueryTimeout bounds ListOffsets and the like; 10 s by default.
	QueryTimeout time.Duration
	// TimeSearchBytesMax bounds what a look-up by a time before a move reads of a part of
	// the partition, where its cluster finds a mark of the controller's in place of a
	// record, and what a batch of it may be decompressed; 4 MiB by default. What lies
	// behind that stands in for the record.
	TimeSearchBytesMax int32
	Logger             *slog.Logger
}

func (c Config) withDefaults() Config {
	def(&c.Lanes, 4)
	def(&c.LanesMax, 16)
	c.LanesMax = max(c.Lanes, c.LanesMax)
	def(&c.AppendBytesMax, 256<<20)
	def(&c.SessionAppendBytesMax, 64<<20)
	def(&c.AppendRequestsMax, 5)
	def(&c.AppendRequestBytesMax, 4<<20)
	def(&c.RetryBackoff, 20*time.Millisecond)
	def(&c.RetryBackoffMax, 500*time.Millisecond)
	def(&c.HoldMax, 5*time.Second)
	def(&c.EarlyWait, time.Second)
	def(&c.EarlyAsk, 100*time.Millisecond)
	def(&c.ProducersMax, 1_000_000)
	def(&c.FetchBytesMax, 4<<20)
	def(&c.ReadAheadBytesMax, 256<<20)
	def(&c.TailWait, 100*time.Millisecond)
	def(&c.TailIdle, 3*time.Second)
	def(&c.TailBytesMax, 32<<20)
	def(&c.EpochWait, time.Second)
	def(&c.QueryTimeout, 10*time.Second)
	def(&c.TimeSearchBytesMax, 4<<20)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func def[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// ProducerIDs hands out producer ids, unique over the whole deployment.
type ProducerIDs interface {
	NextProducerID(ctx context.Context) (int64, error)
}

// LeaderSeen is told of physical leader epochs that the map does not have yet;
// it must not block.
type LeaderSeen func(cluster, physicalTopic string, partition, epoch int32)

// Deps are what a router works with.
type Deps struct {
	Maps        Maps
	Clusters    *upstream.Pool
	Lease       Lease
	ProducerIDs ProducerIDs
	// LeaderSeen may be nil.
	LeaderSeen LeaderSeen
	// Answers is what records that were read are taken from; it must be that of Clusters.
	// nil = no bound.
	Answers *memory.Budget
}
