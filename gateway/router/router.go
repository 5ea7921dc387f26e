// Package router appends to logical partitions and reads from them. It is the
// one engine behind both doors: the Connect handlers and the Kafka facade.
//
// It works on whole record batches (magic 2) and decodes no record: an append
// passes on the bytes that came in, a read patches base offset and partition
// leader epoch of each batch. It finds the extents in the map, talks to the
// physical clusters, and answers in logical offsets and epochs.
package router

import (
	"context"
	"time"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/upstream"
)

// Maps is the router's view of the federation: gateway/mapwatch follows the
// controller, tests pass a fixed map.
type Maps interface {
	// Current returns the newest map; never nil.
	Current() *federation.Map
	// Changed returns a channel that is closed when the map after the one that
	// Current returned at the time of the call is in.
	Changed() <-chan struct{}
}

// Lease tells whether this gateway may acknowledge appends.
type Lease interface {
	// Valid reports whether the lease holds at this moment.
	Valid() bool
	// Gaps counts how often it has run out and begun again. What was sent before a gap
	// must not be acknowledged after it: a head can have been sealed in the gap.
	Gaps() int64
}

// Acks says when an append counts as done, in Kafka's numbers.
type Acks int16

// The values of Acks. AcksNone is sent upstream as AcksLeader, so that flow
// control and moves of the head hold; the caller just does not tell its client.
const (
	AcksAll    Acks = -1
	AcksNone   Acks = 0
	AcksLeader Acks = 1
)

// An Append is one record batch (magic 2, already checked with
// recordbatch.Check) bound for a logical partition.
type Append struct {
	federation.TopicPartition
	Batch []byte
	// AwayWait bounds how long the append waits for a cluster that is away, if its producer
	// is idempotent; nil = until its timeout.
	AwayWait *AwayWait
}

// An AwayWait says how long appends wait for a cluster that is away: all its appends fail.
// It is for callers that answer in order, so that an append may hold up others.
type AwayWait struct {
	// HoldsUp reports whether an answer waits behind that of an append; answers to appends
	// of the same call do so anyway. It is called at any time.
	HoldsUp func() bool
	// Others is how long the cluster may be away for an append that holds up others.
	Others time.Duration
	// Alone is how long an append waits that holds up nothing.
	Alone time.Duration
}

// Appended is the outcome of an Append.
type Appended struct {
	BaseOffset      federation.LogicalOffset // -1 if not known (a duplicate from long ago)
	LogAppendTimeMs int64                    // -1 unless the topic stamps at append
	LogStart        federation.LogicalOffset // -1 if not known
	Duplicate       bool                     // was in the log already
	RecordErrors    []RecordError            // with Err of kind InvalidRecord
	Err             error                    // *federation.Error; nil = persisted
}

// A RecordError names a record that made a broker refuse its batch (KIP-467).
type RecordError struct {
	Index   int32
	Message string
}

// A Position is where a reader stands in a logical partition.
type Position struct {
	federation.TopicPartition
	Offset federation.LogicalOffset
	// MaxBytes bounds what is returned for this partition; the first batch is
	// returned whole even if it is larger (KIP-74).
	MaxBytes int32
	// CurrentEpoch is the leader epoch that the client knows, or NoEpoch.
	CurrentEpoch federation.LogicalEpoch
	// LastFetchedEpoch is the epoch of the batch that the client read last, or NoEpoch.
	LastFetchedEpoch federation.LogicalEpoch
	// Check asks for no records, only whether the offset is one of the log. A Fetch ends when
	// the broker has said so, as it does when it has an error to tell.
	Check bool
}

// FetchLimit bounds a Fetch over all of its partitions together.
type FetchLimit struct {
	MinBytes int32 // return at once when this much is there
	MaxBytes int32
	MaxWait  time.Duration // wait at most this long for MinBytes, whatever the slowest cluster does
	// ReadCommitted hides what lies above the last stable offset, and lists aborted transactions.
	ReadCommitted bool
}

// A Slice is what a Fetch brought for one partition.
type Slice struct {
	federation.TopicPartition
	// Records are whole record batches, offsets and epochs logical. They point into
	// buffers that Fetched.Release gives back. The first batch can begin below the
	// asked offset, and the last can be cut off: readers skip both, as in Kafka.
	Records [][]byte
	// Next is where the reader goes on: behind the records, and behind a gap that follows.
	Next federation.LogicalOffset
	// NextEpoch is the leader epoch there, if there are no records and Next is above the
	// asked offset.
	NextEpoch     federation.LogicalEpoch
	HighWatermark federation.LogicalOffset
	LastStable    federation.LogicalOffset
	LogStart      federation.LogicalOffset
	Aborted       []AbortedTxn
	// Diverging is set if the log does not have what the reader read last (KIP-595).
	Diverging *EpochEnd
	// InRange says, of a Position with Check, that its offset is one of the log. Neither this
	// nor Err is set if the broker did not answer in time.
	InRange bool
	Err     error // *federation.Error
}

// Bytes returns the size of the records.
func (s *Slice) Bytes() (n int) {
	for _, r := range s.Records {
		n += len(r)
	}
	return n
}

// An AbortedTxn is an aborted transaction in the range of a Slice.
type AbortedTxn struct {
	ProducerID  int64
	FirstOffset federation.LogicalOffset
}

// An EpochEnd is the end offset of a leader epoch.
type EpochEnd struct {
	Epoch federation.LogicalEpoch
	End   federation.LogicalOffset
}

// An OffsetQuery asks for an offset by timestamp.
type OffsetQuery struct {
	federation.TopicPartition
	// TimestampMs is a time, or one of the special values below.
	TimestampMs   int64
	CurrentEpoch  federation.LogicalEpoch
	ReadCommitted bool // TimestampLatest is the last stable offset then
	// AwayWait is how long the answer waits for a cluster of which no broker answers
	// anything; zero = as long as for any. It is for callers that hold up others behind it.
	AwayWait time.Duration
}

// The special timestamps of ListOffsets, in Kafka's numbers.
const (
	TimestampLatest        int64 = -1
	TimestampEarliest      int64 = -2
	TimestampMax           int64 = -3 // the record with the largest timestamp (KIP-734)
	TimestampEarliestLocal int64 = -4 // KIP-405
)

// An OffsetAnswer answers an OffsetQuery.
type OffsetAnswer struct {
	Offset      federation.LogicalOffset // -1 if no record fits
	TimestampMs int64                    // -1 if not known
	Epoch       federation.LogicalEpoch
	Err         error
}

// An EpochQuery asks where a leader epoch ends (OffsetForLeaderEpoch, KIP-320).
type EpochQuery struct {
	federation.TopicPartition
	CurrentEpoch federation.LogicalEpoch
	Epoch        federation.LogicalEpoch
	AwayWait     time.Duration // as in OffsetQuery
}

// An EpochAnswer answers an EpochQuery; Epoch and End are -1 if unknown.
type EpochAnswer struct {
	EpochEnd
	Err error
}

// DeleteBefore asks to delete the records of a partition below an offset; -1 is
// the high watermark.
type DeleteBefore struct {
	federation.TopicPartition
	Offset federation.LogicalOffset
}

// Deleted answers a DeleteBefore.
type Deleted struct {
	LowWatermark federation.LogicalOffset
	Err          error
}

// Watermarks are the ends of a logical partition.
type Watermarks struct {
	LogStart, HighWatermark, LastStable federation.LogicalOffset
}

// A Session is the router as one client connection or stream sees it. It pins
// the client to lanes, which keeps the order of its appends. Its methods may be
// called from several goroutines; appends keep the order of their Produce calls.
type Session interface {
	// Produce submits appends, in order with all earlier ones of this session. It
	// blocks only while the session's or the process's budget of bytes in flight is
	// used up, or until ctx ends; an error means that nothing was submitted and done
	// is not called. Otherwise done is called exactly once, from another goroutine,
	// when all appends are decided, at the latest timeout after the call; the batches
	// must stay untouched until then. done must not block.
	Produce(ctx context.Context, acks Acks, timeout time.Duration, appends []Append, done func([]Appended)) error

	// Fetch reads, waiting as limit says. The answer has the order of from. The
	// caller calls Release when the bytes were used.
	Fetch(ctx context.Context, from []Position, limit FetchLimit) (*Fetched, error)

	ListOffsets(ctx context.Context, q []OffsetQuery) []OffsetAnswer
	OffsetsForEpochs(ctx context.Context, q []EpochQuery) []EpochAnswer
	DeleteRecords(ctx context.Context, d []DeleteBefore) []Deleted
	// Watermarks asks the clusters for the current ends of a partition.
	Watermarks(ctx context.Context, tp federation.TopicPartition) (Watermarks, error)

	// InitProducer allocates a producer id for an idempotent producer, or raises the
	// epoch of a current one (id -1 = none).
	InitProducer(ctx context.Context, id int64, epoch int16) (newID int64, newEpoch int16, err error)

	Inspector

	// Close ends the session; appends that were submitted are still decided.
	Close()
}

// Fetched is the answer to a Fetch.
type Fetched struct {
	Slices []Slice
	bufs   []*upstream.Buffer
	few    [4]*upstream.Buffer // what bufs begins in
}

// Release gives the buffers of the records back; they must not be used after it.
func (f *Fetched) Release() {
	for _, b := range f.bufs {
		b.Release()
	}
	clear(f.bufs)
	f.bufs = nil
}
