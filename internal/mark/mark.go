// Package mark encodes and decodes the control records that the controller
// writes into physical partitions when a head moves: a primer, the first record
// of the partition that it moves to; a seal, whose offset is the end of the old
// extent; and openings behind the primer, which carry over what the old extent
// knew of its producers at its end.
//
// Every mark is a batch of one record by an idempotent producer from a reserved
// range: an append that is repeated is answered with the first one's offset, and
// readers know marks by the header alone.
package mark

import (
	"bytes"
	"math"
	"strconv"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/braidmq/braid/federation"
	controlv1 "github.com/braidmq/braid/gen/braid/control/v1"
	"github.com/braidmq/braid/internal/recordbatch"
)

// FirstProducerID is the first producer id of marks. Kafka clusters allocate
// theirs from 0 up, braid's clients get theirs from 2^48 up.
const FirstProducerID int64 = 1 << 62

// producerIDs is how many producer ids of marks there are; a power of two.
const producerIDs int64 = 1 << 44

// ProducerID maps a producer id from braid's allocator into the range of marks.
// Ids that are less than 2^44 apart map to different ones.
func ProducerID(allocated int64) int64 { return FirstProducerID | allocated&(producerIDs-1) }

// IsMark reports whether a batch of a producer id is a mark.
func IsMark(producerID int64) bool {
	return producerID >= FirstProducerID && producerID < FirstProducerID+producerIDs
}

// A Kind says what a mark is for.
type Kind int8

// The kinds of marks.
const (
	KindPrimer Kind = iota + 1
	KindSeal
	KindOpening
)

func (k Kind) String() string {
	switch k {
	case KindPrimer:
		return "primer"
	case KindSeal:
		return "seal"
	case KindOpening:
		return "opening"
	}
	return "unknown"
}

// A Subject is the extent that a mark is about. Of a seal, it is the extent that
// ends; of the others, the one that begins.
type Subject struct {
	LogicalCluster string
	Topic          federation.TopicName
	TopicID        federation.TopicID
	Partition      federation.LogicalPartition
	Extent         int32
	MapVersion     federation.MapVersion
}

// A Producer is what a physical partition knows of an idempotent producer.
type Producer struct {
	ID    int64
	Epoch int16
	// LastSequence is the sequence of its last record; -1 = nothing of this epoch yet.
	LastSequence int32
	// KnownMs is when a broker knew it last, at a seal; in ms since 1970.
	KnownMs int64
}

// Before reports whether a state is one that the same producer had before another one.
func (p *Producer) Before(q *Producer) bool {
	if p.Epoch != q.Epoch {
		return p.Epoch < q.Epoch
	}
	if p.LastSequence < 0 || q.LastSequence < 0 {
		return p.LastSequence < q.LastSequence
	}
	// Sequences wrap to 0 after 2^31-1: the nearer way round counts.
	d := uint32(q.LastSequence-p.LastSequence) & math.MaxInt32
	return d > 0 && d < 1<<30
}

// HeaderKey is the key of the record header that names a mark's kind, for people
// who look at the physical partition.
const HeaderKey = "braid.mark"

// The keys of the headers of records that are no marks, but were appended again when a
// failed cluster was back: where they lay, by the cluster and their logical offset there.
const (
	HeaderCluster = "braid.failover.cluster"
	HeaderOffset  = "braid.failover.offset"
)

// batchBytesMax bounds the batches of openings, whatever a topic allows.
const batchBytesMax = 256 << 10

// recordsBytesMax bounds what Parse decompresses: a topic's compression.type lets
// brokers compress what was sent to them plain. It is the window of the highest
// level of zstd, which a frame of any size may announce, and decoders refuse to
// have less memory than that.
const recordsBytesMax = 128 << 20

// Primer returns the batch of a primer. The batch has sequence 0 of its producer.
func Primer(s Subject, producerID int64, at time.Time) []byte {
	m := s.message()
	m.Kind = &controlv1.Mark_Primer{Primer: &controlv1.Primer{}}
	return batch(s, KindPrimer, 0, m, producerID, at)
}

// Seal returns the batch of a seal. The batch has sequence 0 of its producer.
func Seal(s Subject, producerID int64, at time.Time) []byte {
	m := s.message()
	m.Kind = &controlv1.Mark_Seal{Seal: &controlv1.Seal{}}
	return batch(s, KindSeal, 0, m, producerID, at)
}

// Openings returns the batches that carry producers over, in the order in which
// they are appended behind the primer of the same producer id: they have the
// sequences 1, 2, and so on. No batch is above maxBatchBytes (max.message.bytes of
// the topic) nor above 256 KiB. Without producers there are none. An error of kind
// RecordTooLarge if not even one producer fits into a batch.
//
// A broker remembers the last 5 batches of a producer: with more than that, an
// append of the first ones cannot be repeated after the last.
func Openings(s Subject, producerID int64, producers []Producer, maxBatchBytes int, at time.Time) ([][]byte, error) {
	var batches [][]byte
	limit := min(maxBatchBytes, batchBytesMax)
	room := limit - overhead(s, producerID, at)
	for len(producers) > 0 {
		o := &controlv1.Opening{}
		n := 0
		for used := 0; n < len(producers); n++ {
			p := producers[n].message()
			size := proto.Size(p)
			if used += protowire.SizeTag(1) + protowire.SizeBytes(size); used > room {
				break
			}
			o.Producers = append(o.Producers, p)
		}
		if n == 0 {
			return nil, federation.Errorf(federation.RecordTooLarge, "a producer's state does not fit into a record batch of %d bytes", limit)
		}
		m := s.message()
		m.Kind = &controlv1.Mark_Opening{Opening: o}
		batches = append(batches, batch(s, KindOpening, int32(len(batches)+1), m, producerID, at))
		producers = producers[n:]
	}
	return batches, nil
}

// overhead returns the size of an opening less its producers, at most.
func overhead(s Subject, producerID int64, at time.Time) int {
	m := s.message()
	m.Kind = &controlv1.Mark_Opening{Opening: &controlv1.Opening{}}
	// The lengths of opening, value and record grow with the producers, from one byte
	// each to three at most.
	const growth = 3 * 2
	return len(batch(s, KindOpening, math.MaxInt32, m, producerID, at)) + growth
}

// key is the key of a mark: compacted topics refuse records without one. It is
// unique, so that compaction keeps the mark.
func key(s Subject, k Kind, index int32) []byte {
	b := append([]byte("braid."), k.String()...)
	b = append(append(b, '/'), s.TopicID.String()...)
	for _, n := range []int32{int32(s.Partition), s.Extent, index} {
		b = strconv.AppendInt(append(b, '/'), int64(n), 10)
	}
	return b
}

func batch(s Subject, k Kind, sequence int32, m *controlv1.Mark, producerID int64, at time.Time) []byte {
	// Numbers and strings always marshal; a name that is not UTF-8 would not.
	value, err := proto.Marshal(m)
	if err != nil {
		m.LogicalCluster, m.Topic = strconv.QuoteToASCII(s.LogicalCluster), strconv.QuoteToASCII(string(s.Topic))
		value, _ = proto.Marshal(m)
	}
	var b recordbatch.Builder
	b.Reset(nil)
	b.Add(&recordbatch.Record{
		TimestampMs: at.UnixMilli(), Key: key(s, k, sequence), Value: value,
		Headers: []recordbatch.RecordHeader{{Key: HeaderKey, Value: []byte(k.String())}},
	})
	return b.Finish(recordbatch.Producer{ID: producerID, Epoch: 0, Sequence: sequence})
}

func (s *Subject) message() *controlv1.Mark {
	return &controlv1.Mark{
		LogicalCluster: s.LogicalCluster, Topic: string(s.Topic), TopicId: bytes.Clone(s.TopicID[:]),
		Partition: int32(s.Partition), Extent: s.Extent, MapVersion: int64(s.MapVersion),
	}
}

func (p *Producer) message() *controlv1.CarriedProducer {
	return &controlv1.CarriedProducer{Id: p.ID, Epoch: int32(p.Epoch), LastSequence: p.LastSequence, KnownMs: p.KnownMs}
}

// Parse reads a mark from a whole batch of the log; producers are those of an
// opening. Errors are of kind CorruptBatch if the bytes are no batch, and of kind
// InvalidRecord if the batch is no mark.
func Parse(batch []byte) (Kind, Subject, []Producer, error) {
	value, err := valueOf(batch)
	if err != nil {
		return 0, Subject{}, nil, err
	}
	var m controlv1.Mark
	if err := proto.Unmarshal(value, &m); err != nil {
		return 0, Subject{}, nil, invalid("%w", err)
	}
	s := Subject{
		LogicalCluster: m.GetLogicalCluster(), Topic: federation.TopicName(m.GetTopic()),
		Partition: federation.LogicalPartition(m.GetPartition()), Extent: m.GetExtent(), MapVersion: federation.MapVersion(m.GetMapVersion()),
	}
	if n := copy(s.TopicID[:], m.GetTopicId()); n != len(m.GetTopicId()) || n != len(s.TopicID) {
		return 0, Subject{}, nil, invalid("a topic id of %d bytes", len(m.GetTopicId()))
	}
	if s.Partition < 0 || s.Extent < 0 || s.MapVersion < 0 {
		return 0, Subject{}, nil, invalid("partition %d, extent %d, map version %d", s.Partition, s.Extent, s.MapVersion)
	}
	switch kind := m.GetKind().(type) {
	case *controlv1.Mark_Primer:
		return KindPrimer, s, nil, nil
	case *controlv1.Mark_Seal:
		return KindSeal, s, nil, nil
	case *controlv1.Mark_Opening:
		producers, err := carried(kind.Opening.GetProducers())
		if err != nil {
			return 0, Subject{}, nil, err
		}
		return KindOpening, s, producers, nil
	}
	return 0, Subject{}, nil, invalid("its kind is not known")
}

// valueOf checks that a batch is whole and of one record by a producer of marks,
// and returns the record's value.
func valueOf(batch []byte) ([]byte, error) {
	h, ok := recordbatch.ParseHeader(batch)
	if !ok {
		return nil, federation.Errorf(federation.CorruptBatch, "%d bytes are no record batch", len(batch))
	}
	// Check is for batches that are sent: with offset 0. The CRC does not cover it.
	sent := bytes.Clone(batch)
	recordbatch.PatchOffsetAndEpoch(sent, 0, federation.NoEpoch)
	switch err := recordbatch.Check(sent, 0); {
	case err != nil:
		return nil, err
	case !IsMark(h.ProducerID):
		return nil, invalid("producer %d writes no marks", h.ProducerID)
	case h.Count != 1:
		return nil, invalid("%d records in its batch", h.Count)
	}
	r := recordbatch.NewReader(recordsBytesMax)
	if err := r.Reset(sent); err != nil {
		return nil, err
	}
	var rec recordbatch.Record
	if ok, err := r.Next(&rec); err != nil {
		return nil, err
	} else if !ok {
		return nil, invalid("its batch has no record")
	}
	return rec.Value, nil
}

func carried(messages []*controlv1.CarriedProducer) ([]Producer, error) {
	producers := make([]Producer, len(messages))
	for i, m := range messages {
		if m.GetId() < 0 || m.GetEpoch() < 0 || m.GetEpoch() > math.MaxInt16 || m.GetLastSequence() < -1 {
			return nil, invalid("producer %d with epoch %d and sequence %d", m.GetId(), m.GetEpoch(), m.GetLastSequence())
		}
		producers[i] = Producer{ID: m.GetId(), Epoch: int16(m.GetEpoch()), LastSequence: m.GetLastSequence(), KnownMs: m.GetKnownMs()}
	}
	return producers, nil
}

func invalid(format string, args ...any) error {
	return federation.Errorf(federation.InvalidRecord, "no mark: "+format, args...)
}

// A Collector finds the producers that the openings among the batches of a partition
// carry over. Visit is called with each batch, and returns false at the first mark that
// cannot be read; Err says why then.
type Collector struct {
	Each func(Producer)
	Err  error
}

// Visit takes the next batch; what is no opening is passed over.
func (c *Collector) Visit(h recordbatch.Header, batch []byte) bool {
	if !IsMark(h.ProducerID) {
		return true
	}
	var producers []Producer
	if _, _, producers, c.Err = Parse(batch); c.Err != nil {
		return false
	}
	for _, p := range producers {
		c.Each(p)
	}
	return true
}
