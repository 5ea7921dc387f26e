package router

import (
	"cmp"
	"encoding/binary"
	"net"
	"slices"
	"sort"
	"strings"

	"github.com/twmb/franz-go/pkg/kbin"

	"github.com/braidmq/braid/internal/upstream"
)

// The versions of Produce that lanes speak: from the first with magic 2 to the
// last that names topics by name and is free of transactions' implicit joins.
const (
	produceVersionMin = 3
	produceVersionMax = 11
	produceFlexible   = 9
)

// A produceRequest is a Produce request in the making: at most one batch for
// each partition. Its buffers are reused by the next request of the lane.
type produceRequest struct {
	conn    *connLane
	version int16
	ops     []*appendOp
	parts   []*partQueue // of ops
	scratch []byte
	cuts    []int
	bufs    net.Buffers
	answers []produceAnswer
}

// encode builds the request's body around the batches, which are not copied.
func (q *produceRequest) encode(acks Acks, timeoutMs int32) net.Buffers {
	flex := q.version >= produceFlexible
	b := q.scratch[:0]
	// cuts[i] is where the i-th batch goes in b.
	cuts := q.cuts[:0]
	if flex {
		b = append(b, 0) // no transactional id
	} else {
		b = kbin.AppendInt16(b, -1)
	}
	b = kbin.AppendInt16(b, int16(acks))
	b = kbin.AppendInt32(b, timeoutMs)
	topics := 0
	for i := range q.ops {
		if i == 0 || q.parts[i].address.Topic != q.parts[i-1].address.Topic {
			topics++
		}
	}
	b = appendArrayLen(b, flex, topics)
	for i := 0; i < len(q.ops); {
		topic := q.parts[i].address.Topic
		n := 1
		for i+n < len(q.ops) && q.parts[i+n].address.Topic == topic {
			n++
		}
		if flex {
			b = kbin.AppendCompactString(b, topic)
		} else {
			b = kbin.AppendString(b, topic)
		}
		b = appendArrayLen(b, flex, n)
		for j := i; j < i+n; j++ {
			b = kbin.AppendInt32(b, int32(q.parts[j].address.Partition))
			if flex {
				b = binary.AppendUvarint(b, uint64(len(q.ops[j].batch))+1)
			} else {
				b = kbin.AppendInt32(b, int32(len(q.ops[j].batch)))
			}
			cuts = append(cuts, len(b))
			if flex {
				b = append(b, 0)
			}
		}
		if flex {
			b = append(b, 0)
		}
		i += n
	}
	if flex {
		b = append(b, 0)
	}
	q.scratch, q.cuts = b, cuts
	bufs := q.bufs[:0]
	from := 0
	for i, cut := range cuts {
		bufs = append(bufs, b[from:cut], q.ops[i].batch)
		from = cut
	}
	q.bufs = append(bufs, b[from:])
	return q.bufs
}

func appendArrayLen(b []byte, flex bool, n int) []byte {
	if flex {
		return binary.AppendUvarint(b, uint64(n)+1)
	}
	return kbin.AppendInt32(b, int32(n))
}

// A produceAnswer is a broker's answer for one partition.
type produceAnswer struct {
	code          int16
	baseOffset    int64
	logAppendTime int64
	logStart      int64
	recordErrors  []RecordError
	message       string
	present       bool
}

// hasOffset reports whether a broker says where it has appended a batch. It does so, too,
// when it could not wait for the other replicas (Kafka's DelayedProduce): such an error
// keeps the offset. One of a batch that was not appended has -1, or the 0 of an empty answer.
func (a *produceAnswer) hasOffset() bool {
	return a.baseOffset > 0 || a.baseOffset == 0 && a.logStart >= 0
}

// decode reads the response into one answer for each op, in their order; they are
// the request's, until it is used again. It reads by hand: kmsg makes an object of each
// list and each string of a response.
func (q *produceRequest) decode(b *upstream.Buffer) ([]produceAnswer, error) {
	flex := q.version >= produceFlexible
	q.answers = slices.Grow(q.answers[:0], len(q.ops))[:len(q.ops)]
	clear(q.answers)
	r := kbin.Reader{Src: b.B}
	next := 0
	for topics := readArrayLen(&r, flex); topics > 0 && r.Ok(); topics-- {
		var topic string
		if flex {
			topic = r.UnsafeCompactString()
		} else {
			topic = r.UnsafeString()
		}
		for parts := readArrayLen(&r, flex); parts > 0 && r.Ok(); parts-- {
			partition, a := q.readAnswer(&r, flex)
			if at := q.find(topic, partition, next); at >= 0 && r.Ok() {
				next, q.answers[at] = at+1, a
			}
		}
		skipTags(&r, flex)
	}
	r.Int32() // how long the broker throttled
	skipTags(&r, flex)
	return q.answers, r.Complete()
}

func (q *produceRequest) readAnswer(r *kbin.Reader, flex bool) (partition int32, a produceAnswer) {
	partition = r.Int32()
	a = produceAnswer{code: r.Int16(), baseOffset: r.Int64(), logAppendTime: r.Int64(), logStart: -1, present: true}
	if q.version >= 5 {
		a.logStart = r.Int64()
	}
	if q.version >= 8 {
		for n := readArrayLen(r, flex); n > 0 && r.Ok(); n-- {
			a.recordErrors = append(a.recordErrors, RecordError{Index: r.Int32(), Message: readNullable(r, flex)})
			skipTags(r, flex)
		}
		a.message = readNullable(r, flex)
	}
	skipTags(r, flex)
	return partition, a
}

func readArrayLen(r *kbin.Reader, flex bool) int32 {
	if flex {
		return r.CompactArrayLen()
	}
	return r.ArrayLen()
}

func readNullable(r *kbin.Reader, flex bool) string {
	var v *string
	if flex {
		v = r.CompactNullableString()
	} else {
		v = r.NullableString()
	}
	if v == nil {
		return ""
	}
	return *v
}

func skipTags(r *kbin.Reader, flex bool) {
	if !flex {
		return
	}
	for n := r.Uvarint(); n > 0 && r.Ok(); n-- {
		r.Uvarint()
		r.Span(int(r.Uvarint()))
	}
}

// find returns the op of a physical partition. Brokers mostly answer in the
// order of the request, so it looks at hint first; else the order of sort helps.
func (q *produceRequest) find(topic string, partition int32, hint int) int {
	if hint < len(q.parts) && compareAddress(q.parts[hint], topic, partition) == 0 {
		return hint
	}
	i := sort.Search(len(q.parts), func(i int) bool { return compareAddress(q.parts[i], topic, partition) >= 0 })
	if i < len(q.parts) && compareAddress(q.parts[i], topic, partition) == 0 {
		return i
	}
	return -1
}

func compareAddress(p *partQueue, topic string, partition int32) int {
	if p.address.Topic != topic {
		return strings.Compare(p.address.Topic, topic)
	}
	return cmp.Compare(int32(p.address.Partition), partition)
}

// sort orders the ops by topic and partition: a request names each topic once,
// and find searches.
func (q *produceRequest) sort() {
	sort.Sort((*byAddress)(q))
}

type byAddress produceRequest

func (q *byAddress) Len() int { return len(q.ops) }

func (q *byAddress) Less(i, j int) bool {
	a := &q.parts[j].address
	return compareAddress(q.parts[i], a.Topic, int32(a.Partition)) < 0
}

func (q *byAddress) Swap(i, j int) {
	q.ops[i], q.ops[j] = q.ops[j], q.ops[i]
	q.parts[i], q.parts[j] = q.parts[j], q.parts[i]
}
