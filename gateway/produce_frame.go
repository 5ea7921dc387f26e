package gateway

import (
	"strconv"
	"strings"
	"time"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway/router"
	braidv1 "github.com/braidmq/braid/gen/braid/v1"
	"github.com/braidmq/braid/internal/recordbatch"
)

// A frame is one ProduceFrame on its way.
type frame struct {
	seq         uint64
	topic       federation.TopicName
	failureSeen uint64
	deadline    time.Time
	bytes       int64 // payload, as credit counts it
	parts       []*part
	open        int // parts that are not decided
	ack         *braidv1.ProduceAck
	failed      bool
	parked      bool
	done        bool

	// What most frames need of each, so that a frame is one object.
	onePart   part
	onePlace  [1]*part
	oneAck    braidv1.ProduceAck
	oneResult [1]*braidv1.PartitionResult
}

func newFrame(seq uint64, topic federation.TopicName) *frame {
	f := &frame{seq: seq, topic: topic}
	f.ack = &f.oneAck
	f.ack.BatchSeq, f.ack.Results = seq, f.oneResult[:0]
	return f
}

// newPart adds a part.
func (f *frame) newPart(partition federation.LogicalPartition) *part {
	if len(f.parts) > 0 {
		p := &part{frame: f, partition: partition}
		f.parts = append(f.parts, p)
		return p
	}
	p := &f.onePart
	p.frame, p.partition = f, partition
	f.onePlace[0] = p
	f.parts = f.onePlace[:]
	return p
}

// A part is what one frame writes to one partition: one record batch.
type part struct {
	frame     *frame
	partition federation.LogicalPartition
	state     *partitionState // of an idempotent producer
	pace      *pace           // of the partition

	builder recordbatch.Builder // the batch of records
	raw     []byte              // or the client's own batch
	header  recordbatch.Header  // of raw
	plain   bool                // carries no producer
	memory  *[]byte             // of either
	room    int                 // that the batch needs, roughly, and rather more than less
	more    []*part             // that share the batch, behind this one

	batchBytesMax int // 0 = the broker's default, not known here

	count    int32
	indexes  []int32 // where the records are in the frame; nil = at the same places
	rejected error   // why the part can't be written

	producer recordbatch.Producer // set when submitted
	outcome  *outcome             // set when it is known
	decided  bool
	unknown  bool // it may be stored, since a try before this one

	append [1]router.Append // as it is submitted
	answer outcome          // the router's
}

// release gives the memory of the batch back; nobody may use it any more.
func (p *part) release() {
	if p.memory != nil {
		if p.raw == nil {
			*p.memory = p.builder.Bytes() // it may have grown out of what it had
		}
		putBytes(p.memory)
	}
	p.builder, p.raw, p.memory = recordbatch.Builder{}, nil, nil
	p.append[0].Batch = nil
}

// index returns where a record of the part is in the frame; false = it has none such.
func (p *part) index(record int32) (int32, bool) {
	switch {
	case record < 0 || record >= p.count:
		return 0, false
	case p.indexes != nil:
		return p.indexes[record], true
	default:
		return record, true
	}
}

// batch completes the batch with the producer that was set.
func (p *part) batch() []byte {
	if p.raw != nil {
		return p.raw
	}
	return p.builder.Finish(p.producer)
}

// A splitter turns the records of a frame into batches, one for each partition.
// It is used by one goroutine.
type splitter struct {
	cfg   *Config
	topic *topicLimits
	// atomic leaves a part out as a whole if one of its records is bad; else the
	// good ones are written.
	atomic bool
	// salt chooses the partition of null keys together with the frame's number: the
	// producer id, so that a frame that is sent again is split alike.
	salt int64
	now  time.Time

	record      recordbatch.Record
	byPartition map[federation.LogicalPartition]*part // of the frame that is being split
	places      []*part                               // of its records, if it may have several
}

// topicLimits are the limits of a topic's config.
type topicLimits struct {
	batchBytesMax  int // 0 = the broker's default, not known here
	frameBytesMax  int
	recordBytesMax int
	compacted      bool
}

func newTopicLimits(cfg *Config, t *federation.Topic) *topicLimits {
	l := &topicLimits{frameBytesMax: cfg.FrameBytesMax, recordBytesMax: cfg.RecordBytesMax}
	if n, err := strconv.Atoi(t.Config["max.message.bytes"]); err == nil && n > 0 {
		l.batchBytesMax, l.recordBytesMax = n, n
		l.frameBytesMax = max(l.frameBytesMax, min(n, cfg.MessageBytesMax))
	}
	l.compacted = strings.Contains(t.Config["cleanup.policy"], "compact")
	return l
}

// check refuses a frame that can't be split at all.
func (s *splitter) check(in *braidv1.ProduceFrame) error {
	switch {
	case len(in.GetRecords()) > 0 && len(in.GetKafkaBatch()) > 0:
		return invalid("batch: records and kafka_batch are both set; want one of them")
	case len(in.GetRecords()) == 0 && len(in.GetKafkaBatch()) == 0:
		return invalid("batch.records: is empty")
	case len(in.GetKafkaBatch()) > 0 && in.Partition == nil:
		return invalid("batch.partition: must be set with kafka_batch")
	case len(in.GetRecords()) > s.cfg.FrameRecordsMax:
		return invalid("batch.records: %d records, want at most %d in one frame", len(in.GetRecords()), s.cfg.FrameRecordsMax)
	}
	if n := payloadBytes(in); n > int64(s.topic.frameBytesMax) {
		return federation.Errorf(federation.RecordTooLarge, "batch: %d bytes of payload, want at most %d in one frame", n, s.topic.frameBytesMax)
	}
	return nil
}

// split fills f.parts with the batches of a frame that passed check.
func (s *splitter) split(f *frame, in *braidv1.ProduceFrame, count int32) {
	if len(in.GetKafkaBatch()) > 0 {
		s.rawPart(f, in)
		return
	}
	records := in.GetRecords()
	s.places = s.places[:0]
	if in.Partition != nil || len(records) == 1 {
		p := f.newPart(s.place(f, in, records[0], count))
		p.room = recordbatch.HeaderSize
		for _, r := range records {
			p.room += recordRoom(r)
		}
	} else {
		s.spread(f, in, count)
	}
	for _, p := range f.parts {
		p.memory = getBytes(p.room)
		p.builder.Reset(*p.memory)
	}
	for i, r := range records {
		p := f.parts[0]
		if len(s.places) > 0 {
			p = s.places[i]
		}
		s.load(r)
		s.add(p, int32(i))
	}
	for _, p := range f.parts {
		p.batchBytesMax = s.topic.batchBytesMax
		s.finish(p)
	}
	// Nothing may hold the frame's bytes, which are another's soon.
	s.record.Key, s.record.Value = nil, nil
	clear(s.record.Headers[:cap(s.record.Headers)])
	if clear(s.places); cap(s.places) > placesMax {
		s.places = nil
	}
	clear(s.byPartition)
}

// placesMax is for how many records a stream keeps splitter.places.
const placesMax = 1000

// recordRoom is what a record takes in a batch, roughly.
func recordRoom(r *braidv1.Record) int { return recordBytes(r) + 24 + 4*len(r.GetHeaders()) }

// spread finds the part of each record of a frame that has no partition.
func (s *splitter) spread(f *frame, in *braidv1.ProduceFrame, count int32) {
	if s.byPartition == nil {
		s.byPartition = make(map[federation.LogicalPartition]*part)
	}
	var last *part
	for _, r := range in.GetRecords() {
		if partition := s.place(f, in, r, count); last == nil || last.partition != partition {
			if last = s.byPartition[partition]; last == nil {
				last = f.newPart(partition)
				last.room = recordbatch.HeaderSize
				s.byPartition[partition] = last
			}
		}
		last.room += recordRoom(r)
		s.places = append(s.places, last)
	}
}

// place returns the partition of a record.
func (s *splitter) place(f *frame, in *braidv1.ProduceFrame, r *braidv1.Record, count int32) federation.LogicalPartition {
	switch {
	case in.Partition != nil:
		return federation.LogicalPartition(in.GetPartition())
	case r.Key != nil:
		return federation.PartitionForKey(r.GetKey(), count)
	case r.GetKeyText() != "":
		return federation.PartitionForKey([]byte(r.GetKeyText()), count)
	default:
		return federation.LogicalPartition(nullKeyPartition(s.salt, f.seq, count))
	}
}

// load reads a record of a request into s.record.
func (s *splitter) load(r *braidv1.Record) {
	rec := &s.record
	rec.TimestampMs, rec.Key, rec.Value = r.GetTimestampMs(), r.Key, r.Value
	if rec.Key == nil && r.GetKeyText() != "" {
		rec.Key = []byte(r.GetKeyText())
	}
	if rec.Value == nil && r.GetValueText() != "" {
		rec.Value = []byte(r.GetValueText())
	}
	rec.Headers = rec.Headers[:0]
	for _, h := range r.GetHeaders() {
		rec.Headers = append(rec.Headers, recordbatch.RecordHeader{Key: h.GetKey(), Value: h.GetValue()})
	}
}

func (s *splitter) add(p *part, index int32) {
	if err := s.validate(); err != nil {
		p.frame.ack.Rejected = append(p.frame.ack.Rejected, &braidv1.RecordFailure{Index: index, Failure: failure(err)})
		if p.rejected == nil {
			p.rejected = err
		}
		return
	}
	if s.record.TimestampMs == 0 {
		s.record.TimestampMs = s.now.UnixMilli()
	}
	n := p.builder.Count()
	if p.indexes == nil && n != index {
		p.indexes = make([]int32, n, n+16)
		for i := range n {
			p.indexes[i] = i
		}
	}
	if p.indexes != nil {
		p.indexes = append(p.indexes, index)
	}
	p.builder.Add(&s.record)
}

func (s *splitter) validate() error {
	rec := &s.record
	if rec.TimestampMs < 0 {
		return federation.Errorf(federation.InvalidTimestamp, "record: timestamp_ms %d is negative", rec.TimestampMs)
	}
	if len(rec.Headers) > s.cfg.RecordHeadersMax {
		return federation.Errorf(federation.InvalidRecord, "record: %d headers, want at most %d", len(rec.Headers), s.cfg.RecordHeadersMax)
	}
	if rec.Key == nil && s.topic.compacted {
		return federation.Errorf(federation.InvalidRecord, "record: a compacted topic takes no record without a key")
	}
	n := len(rec.Key) + len(rec.Value)
	for i := range rec.Headers {
		n += len(rec.Headers[i].Key) + len(rec.Headers[i].Value)
	}
	if n > s.topic.recordBytesMax {
		return federation.Errorf(federation.RecordTooLarge, "record: %d bytes, want at most %d", n, s.topic.recordBytesMax)
	}
	return nil
}

// finish decides what becomes of a part with bad records.
func (s *splitter) finish(p *part) {
	p.count = p.builder.Count()
	if p.rejected != nil && p.count > 0 && !s.atomic {
		p.rejected = nil
	}
	if m := s.topic.batchBytesMax; p.rejected == nil && m > 0 && p.builder.Len() > m {
		p.rejected = federation.Errorf(federation.RecordTooLarge, "partition %d: the records make a batch of %d bytes, the topic takes at most %d; send fewer in one frame",
			p.partition, p.builder.Len(), m)
	}
}

func (s *splitter) rawPart(f *frame, in *braidv1.ProduceFrame) {
	p := f.newPart(federation.LogicalPartition(in.GetPartition()))
	p.raw = in.GetKafkaBatch()
	if err := recordbatch.Check(p.raw, s.topic.batchBytesMax); err != nil {
		p.rejected = err
		return
	}
	p.header, _ = recordbatch.ParseHeader(p.raw)
	p.count, p.plain = p.header.Count, !p.header.Idempotent()
	if p.header.Transactional() {
		p.rejected = federation.Errorf(federation.InvalidRecord, "kafka_batch: transactional batches are not taken")
	}
	if int(p.count) > s.cfg.FrameRecordsMax {
		p.rejected = invalid("kafka_batch: %d records, want at most %d in one frame", p.count, s.cfg.FrameRecordsMax)
	}
	// The frame's bytes are another's soon.
	p.memory = getBytes(len(p.raw))
	*p.memory = append(*p.memory, p.raw...)
	p.raw = *p.memory
}

// payloadBytes is the size of a frame as credit and limits count it: keys,
// values and headers; a raw batch counts whole.
func payloadBytes(in *braidv1.ProduceFrame) int64 {
	n := len(in.GetKafkaBatch())
	for _, r := range in.GetRecords() {
		n += recordBytes(r)
	}
	return int64(n)
}

func recordBytes(r *braidv1.Record) int {
	n := len(r.GetKey()) + len(r.GetValue()) + len(r.GetKeyText()) + len(r.GetValueText())
	for _, h := range r.GetHeaders() {
		n += len(h.GetKey()) + len(h.GetValue())
	}
	return n
}

// nullKeyPartition chooses the partition of the records of a frame that have no
// key: a pure function, so that a frame that is sent again goes there again.
func nullKeyPartition(salt int64, seq uint64, count int32) int32 {
	x := uint64(salt)*0x9e3779b97f4a7c15 + seq
	// The finalizer of splitmix64: neighbours in, anything out.
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	x ^= x >> 31
	return int32(x % uint64(count))
}
