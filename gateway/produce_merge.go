package gateway

import (
	"fmt"
	"time"

	"github.com/braidmq/braid/federation"
	braidv1 "github.com/braidmq/braid/gen/braid/v1"
	"github.com/braidmq/braid/internal/recordbatch"
)

// A stream of small frames would be as many small batches, which cost the broker more
// than their records, and only some of a partition may be in flight. What waits in
// held behind those becomes one batch: nothing waits for it that would not have
// waited anyway. The first part carries the others, and each frame gets an answer of
// its own.
//
// What is wrong with one frame must not be told to another. If a broker refuses a batch
// for what it holds, frames that it does not name are asked to come again, and from then
// on the partition's parts travel alone, so that the next refusal is the right one's.

// mergeable reports whether a part may share a batch: one that the gateway has made.
func (p *part) mergeable() bool { return p.raw == nil && p.count > 0 }

// own is how many records of the batch are the part's own.
func (p *part) own() int32 {
	n := p.count
	for _, q := range p.more {
		n -= q.count
	}
	return n
}

// merge brings what waits behind p into its batch, as far as it fits.
func (s *produceSession) merge(ps *partitionState, p *part) {
	if s.mergeBytes <= 0 || ps.alone || !p.mergeable() {
		return
	}
	limit := s.mergeBytes
	if p.batchBytesMax > 0 {
		limit = min(limit, p.batchBytesMax)
	}
	size, n := p.builder.Len(), 0
	for _, q := range ps.held {
		// A record's deltas can take some bytes more behind others.
		more := q.builder.Len() + int(q.count)*deltaBytesMax
		if !q.mergeable() || size+more > limit || q.frame.deadline.Sub(p.frame.deadline) > mergeSpan {
			break
		}
		size += more
		n++
	}
	if n == 0 {
		return
	}
	p.more = append(p.more, ps.held[:n]...)
	ps.held = ps.held[n:]
	larger := getBytes(size)
	p.builder.Move(*larger)
	putBytes(p.memory)
	p.memory = larger
	for _, q := range p.more {
		p.builder.Append(&q.builder)
		p.count += q.count
		q.release()
	}
}

// mergeSpan is how much later a frame may have come than the first of its batch, since
// they fail together when the first one's time is up.
const mergeSpan = time.Second

// deltaBytesMax is by how much the deltas of a record grow at most: its time, its
// number, and the length that counts both.
const deltaBytesMax = 9 + 4 + 1

// decideAll ends a part and those that share its batch.
func (s *produceSession) decideAll(p *part, o *outcome) {
	if len(p.more) == 0 {
		s.decide(p, o)
		return
	}
	all := append([]*part{p}, p.more...)
	own := p.own()
	refused := o.err != nil && o.result.Failure == nil && blames(federation.KindOf(o.err))
	if refused {
		p.state.alone = true
	}
	p.more, p.count = nil, own
	first := int32(0)
	for _, q := range all {
		each := o.of(q, first, p.producer)
		if refused && len(each.records) == 0 {
			each.result.Failure = againAlone(all[len(all)-1].frame.seq)
		}
		first += q.count
		s.decide(q, each)
	}
}

// of is the outcome of a part whose records begin at first in the batch.
func (o *outcome) of(q *part, first int32, producer recordbatch.Producer) *outcome {
	out := &outcome{err: o.err, refused: o.refused}
	r := &out.result
	r.BaseOffset, r.LogAppendTimeMs, r.Deduplicated, r.Failure = o.result.BaseOffset, o.result.LogAppendTimeMs, o.result.Deduplicated, o.result.Failure
	if r.BaseOffset >= 0 {
		r.BaseOffset += int64(first)
	}
	r.NextSequence = recordbatch.AddSequence(producer.Sequence, first+q.count)
	for _, bad := range o.records {
		if at := bad.index - first; at >= 0 && at < q.count {
			out.records = append(out.records, rejectedRecord{at, bad.err})
		}
	}
	return out
}

// blames reports whether an error is about what a batch holds.
func blames(k federation.Kind) bool {
	switch k {
	case federation.RecordTooLarge, federation.InvalidRecord, federation.CorruptBatch, federation.InvalidTimestamp,
		federation.UnsupportedCompression, federation.PolicyViolation:
		return true
	default:
		return false
	}
}

// againAlone is the failure of a frame whose batch was refused, but not for its records.
func againAlone(last uint64) *braidv1.Failure {
	return &braidv1.Failure{
		Reason:    braidv1.Reason_REASON_EARLIER_FAILURE,
		Message:   fmt.Sprintf("the broker refused a batch of several frames for what one of them holds; send again with failure_seen %d or above", last),
		Retriable: true,
	}
}
