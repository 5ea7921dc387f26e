package journal

import (
	"bytes"
	"context"
	"strconv"
	"time"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/recordbatch"
	"github.com/braidmq/braid/internal/upstream"
)

const (
	// batchBytesMax bounds a batch, whatever the topic allows, and batchBytesUsual is
	// taken where the cluster does not tell (message.max.bytes).
	batchBytesMax   = 1 << 20
	batchBytesUsual = 1000000
	// batchOverhead is room for the header of a batch, recordOverhead for what a record
	// has besides key and value.
	batchOverhead  = recordbatch.HeaderSize
	recordOverhead = 48
	// recordsBytesMax bounds what a batch is decompressed to.
	recordsBytesMax = 128 << 20
)

// topicConfig is what a topic of a journal is created with. Segments are small, as
// the newest one is never compacted.
func topicConfig() map[string]string {
	return map[string]string{
		policyKey: policyCompact, "segment.bytes": strconv.Itoa(16 << 20), "min.cleanable.dirty.ratio": "0.2", "compression.type": "producer",
	}
}

const (
	policyKey     = "cleanup.policy"
	policyCompact = "compact"
)

// A Log is a journal on one physical cluster, as one leader writes it. It is not
// safe for concurrent use. After an error of kind UnknownTopic, OutOfOrderSequence
// or UnknownProducer it must be opened anew; after ProducerFenced another leader
// has written to it.
type Log struct {
	cluster *upstream.Cluster
	at      upstream.Partition
	who     recordbatch.Producer
	fencing int64
	next    int32                     // sequence of the next batch
	seen    federation.PhysicalOffset // up to where it was read
	claimed bool
	bytes   int      // the largest batch
	pending [][]byte // batches that are not known to be there, in their order
	// Created tells that Open has made the topic.
	Created bool
}

// Find reads a journal without writing to it; false if the cluster has none.
func Find(ctx context.Context, c *upstream.Cluster, topic string, visit func(Record)) (bool, error) {
	topics, err := c.Topics(ctx, topic)
	if err != nil {
		return false, err
	}
	if _, ok := topics[topic]; !ok {
		return false, nil
	}
	l := &Log{cluster: c, at: upstream.Partition{Topic: topic}}
	return true, l.read(ctx, visit)
}

// Open prepares a journal for the leader with a fencing number: the topic is made if
// it is not there. visit gets all records in their order; with nil, nothing is read.
func Open(ctx context.Context, c *upstream.Cluster, topic string, fencing int64, visit func(Record)) (*Log, error) {
	l := &Log{cluster: c, at: upstream.Partition{Topic: topic}, who: producer(fencing), fencing: fencing, bytes: batchBytesUsual}
	topics, err := c.Topics(ctx, topic)
	if err != nil {
		return nil, err
	}
	if _, ok := topics[topic]; !ok {
		if err := c.CreateTopic(ctx, topic, 1, -1, topicConfig(), false); err != nil {
			return nil, err
		}
		l.Created = true
	}
	if err := l.configure(ctx); err != nil {
		return nil, err
	}
	if visit == nil {
		return l, nil
	}
	return l, l.read(ctx, visit)
}

// configure checks the topic's configuration: one that deletes would lose the map.
func (l *Log) configure(ctx context.Context) error {
	values, err := l.cluster.TopicConfig(ctx, l.at.Topic)
	switch {
	case federation.KindOf(err) == federation.UnknownTopic:
		return nil // made a moment ago; not every broker knows it yet
	case err != nil:
		return err
	}
	if n, err := strconv.Atoi(values["max.message.bytes"].Value); err == nil && n > 0 {
		l.bytes = min(n, batchBytesMax)
	}
	if v, ok := values[policyKey]; ok && v.Value != policyCompact {
		return l.cluster.SetTopicConfig(ctx, l.at.Topic, map[string]string{policyKey: policyCompact}, nil, false)
	}
	return nil
}

// read gives the records behind those that were read before to visit.
func (l *Log) read(ctx context.Context, visit func(Record)) error {
	ends := l.cluster.Ends(ctx, []upstream.Partition{l.at})[0]
	if ends.Err != nil {
		return ends.Err
	}
	reader := recordbatch.NewReader(recordsBytesMax)
	var bad error
	// Everything up to the end of the log: an append that is on its way may become
	// visible, and what Ends says of it must be replicated before it counts.
	err := l.cluster.ReadBatches(ctx, l.at, max(l.seen, ends.LogStart), ends.HighWatermark, func(h recordbatch.Header, batch []byte) bool {
		if h.ProducerID == l.who.ID && h.ProducerEpoch == l.who.Epoch {
			l.next, l.claimed = recordbatch.AddSequence(h.LastSequence(), 1), true
		}
		if h.Control() || h.Count == 0 {
			return true
		}
		if bad = reader.Reset(batch); bad != nil {
			return false
		}
		for {
			var r recordbatch.Record
			var ok bool
			if ok, bad = reader.Next(&r); bad != nil || !ok {
				return bad == nil
			}
			if federation.PhysicalOffset(r.Offset) >= l.seen {
				visit(Record{Key: string(r.Key), Value: bytes.Clone(r.Value)})
			}
		}
	})
	if err == nil {
		err = bad
	}
	if err == nil {
		l.seen = max(l.seen, ends.HighWatermark)
	}
	return err
}

// Claim fences all leaders before this one: what they send from now on is refused.
// visit gets the records that came since Open; it may be nil.
func (l *Log) Claim(ctx context.Context, visit func(Record)) error {
	if !l.claimed {
		if len(l.pending) == 0 {
			l.pending = l.batches([]Record{{Key: keyClaim, Value: strconv.AppendInt(nil, l.fencing, 10)}})
		}
		if err := l.Flush(ctx); err != nil {
			return err
		}
		l.claimed = true
	}
	if visit == nil {
		return nil
	}
	return l.read(ctx, visit)
}

// Append appends records, in as few batches as they fit into. After an error they
// may be there or not: Flush goes on with them.
func (l *Log) Append(ctx context.Context, records []Record) error {
	l.pending = append(l.pending, l.batches(records)...)
	return l.Flush(ctx)
}

// Flush appends what earlier calls may not have appended. Brokers know the batches
// again that they have.
func (l *Log) Flush(ctx context.Context) error {
	for len(l.pending) > 0 {
		done := l.cluster.AppendMarks(ctx, []upstream.MarkAppend{{Partition: l.at, Batch: l.pending[0]}})[0]
		if done.Err != nil && federation.KindOf(done.Err) != federation.DuplicateSequence {
			return done.Err
		}
		l.pending = l.pending[1:]
	}
	l.pending = nil
	return nil
}

// Pending reports whether Flush has something to do.
func (l *Log) Pending() bool { return len(l.pending) > 0 }

func (l *Log) batches(records []Record) [][]byte {
	now := time.Now().UnixMilli()
	var out [][]byte
	var b recordbatch.Builder
	b.Reset(nil)
	finish := func() {
		who := l.who
		who.Sequence = l.next
		l.next = recordbatch.AddSequence(l.next, b.Count())
		out = append(out, b.Finish(who))
		b = recordbatch.Builder{}
		b.Reset(nil)
	}
	for _, r := range records {
		if b.Count() > 0 && b.Len()+batchOverhead+recordOverhead+len(r.Key)+len(r.Value) > l.bytes {
			finish()
		}
		b.Add(&recordbatch.Record{TimestampMs: now, Key: []byte(r.Key), Value: r.Value})
	}
	if b.Count() > 0 {
		finish()
	}
	return out
}
