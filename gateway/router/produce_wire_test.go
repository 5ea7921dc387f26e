package router

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/upstream"
)

// manyParts is a request for n partitions of each topic, in any order.
func manyParts(topics []string, n int) *produceRequest {
	q := &produceRequest{version: produceVersionMax}
	for _, topic := range topics {
		for i := range n {
			q.parts = append(q.parts, &partQueue{address: federation.PhysicalAddress{Topic: topic, Partition: federation.PhysicalPartition(i)}})
			q.ops = append(q.ops, &appendOp{})
		}
	}
	rand.Shuffle(len(q.ops), (*byAddress)(q).Swap)
	q.sort()
	return q
}

// answersTo is a broker's answer to a request, whose base offsets tell the ops
// apart; shuffled if the broker answers in an order of its own.
func answersTo(q *produceRequest, shuffled bool) *upstream.Buffer {
	resp := kmsg.NewPtrProduceResponse()
	resp.SetVersion(q.version)
	for i, p := range q.parts {
		if n := len(resp.Topics); n == 0 || resp.Topics[n-1].Topic != p.address.Topic {
			resp.Topics = append(resp.Topics, kmsg.ProduceResponseTopic{Topic: p.address.Topic})
		}
		t := &resp.Topics[len(resp.Topics)-1]
		part := kmsg.NewProduceResponseTopicPartition()
		part.Partition, part.BaseOffset = int32(p.address.Partition), int64(i)
		t.Partitions = append(t.Partitions, part)
	}
	if shuffled {
		rand.Shuffle(len(resp.Topics), func(i, j int) { resp.Topics[i], resp.Topics[j] = resp.Topics[j], resp.Topics[i] })
		for i := range resp.Topics {
			parts := resp.Topics[i].Partitions
			rand.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
		}
	}
	return &upstream.Buffer{B: resp.AppendTo(nil)}
}

func TestAnswersFindTheirOps(t *testing.T) {
	for _, topics := range [][]string{{"a"}, {"b", "a", "c"}} {
		for _, shuffled := range []bool{false, true} {
			q := manyParts(topics, 20)
			answers, err := q.decode(answersTo(q, shuffled))
			require.NoError(t, err)
			for i, a := range answers {
				require.True(t, a.present, i)
				require.EqualValues(t, i, a.baseOffset)
			}
		}
	}
	q := manyParts([]string{"b"}, 3)
	for hint := range 4 {
		require.Equal(t, -1, q.find("a", 0, hint))
		require.Equal(t, -1, q.find("c", 0, hint))
		require.Equal(t, -1, q.find("b", -1, hint))
		require.Equal(t, -1, q.find("b", 3, hint))
		require.Equal(t, 1, q.find("b", 1, hint))
	}
	require.Zero(t, testing.AllocsPerRun(10, func() { q.find("b", 1, 0) }))
	q.parts = nil
	require.Equal(t, -1, q.find("b", 1, 0))
}

// In every version, and whatever else a broker says: answers are what kmsg reads.
func FuzzProduceAnswers(f *testing.F) {
	topics := []string{"a", "b"}
	for v := int16(produceVersionMin); v <= produceVersionMax; v++ {
		resp := kmsg.NewPtrProduceResponse()
		resp.SetVersion(v)
		resp.ThrottleMillis = 7
		for i, topic := range append(topics, "other") {
			t := kmsg.NewProduceResponseTopic()
			t.Topic = topic
			for p := range int32(4) {
				part := kmsg.NewProduceResponseTopicPartition()
				part.Partition, part.ErrorCode, part.BaseOffset, part.LogAppendTime, part.LogStartOffset = p, int16(i), int64(100*i)+int64(p), -1, 5
				part.CurrentLeader.LeaderID = 3
				if p == 2 {
					part.ErrorMessage = new("bad records")
					part.ErrorRecords = []kmsg.ProduceResponseTopicPartitionErrorRecord{{RelativeOffset: 1, ErrorMessage: new("this one")}, {RelativeOffset: 4}}
				}
				t.Partitions = append(t.Partitions, part)
			}
			resp.Topics = append(resp.Topics, t)
		}
		raw := resp.AppendTo(nil)
		f.Add(v, raw)
		f.Add(v, raw[:len(raw)/2])
	}
	f.Add(int16(6), []byte{2, 2, 'a', 1, 0xff, 0xff, 0xff, 0xff, 0x0f}) // v9: a topic with 2^32 tagged fields
	f.Fuzz(func(t *testing.T, version int16, raw []byte) {
		q := manyParts(topics, 3)
		q.version = produceVersionMin + int16(uint16(version)%(produceVersionMax-produceVersionMin+1))
		if !countsHold(q.version, raw) {
			_, _ = q.decode(&upstream.Buffer{B: raw}) // in a moment; kmsg would go round 2^32 times
			return
		}
		want, err := answersByKmsg(q, raw)
		if err != nil {
			return // a broker's that is broken: what matters is that nothing is made of it that is not there
		}
		for range 2 { // with memory that was used before
			got, err := q.decode(&upstream.Buffer{B: raw})
			require.NoError(t, err)
			require.Equal(t, want, got)
		}
	})
}

// countsHold reports whether all that an answer counts is there, also in the tagged
// fields that decode skips: kmsg goes round for each tagged field that is announced,
// which takes minutes for 2^32 that are not there.
func countsHold(version int16, raw []byte) bool {
	flex := version >= produceFlexible
	r := kbin.Reader{Src: raw}
	for topics := readArrayLen(&r, flex); topics > 0 && r.Ok(); topics-- {
		readNullable(&r, flex)
		for parts := readArrayLen(&r, flex); parts > 0 && r.Ok(); parts-- {
			r.Span(4 + 2 + 8 + 8) // partition, code, base offset, time
			if version >= 5 {
				r.Int64()
			}
			if version >= 8 {
				for n := readArrayLen(&r, flex); n > 0 && r.Ok(); n-- {
					r.Int32()
					readNullable(&r, flex)
					tagsHold(&r, flex, nil)
				}
				readNullable(&r, flex)
			}
			tagsHold(&r, flex, func(leader *kbin.Reader) {
				leader.Span(8)
				tagsHold(leader, true, nil)
			})
		}
		tagsHold(&r, flex, nil)
	}
	r.Int32()
	tagsHold(&r, flex, func(nodes *kbin.Reader) {
		for n := nodes.CompactArrayLen(); n > 0 && nodes.Ok(); n-- {
			nodes.Int32()
			nodes.CompactString()
			nodes.Int32()
			nodes.CompactNullableString()
			tagsHold(nodes, true, nil)
		}
	})
	return r.Ok()
}

// tagsHold reads tagged fields, of which kmsg knows the one with number 0.
func tagsHold(r *kbin.Reader, flex bool, known func(*kbin.Reader)) {
	if !flex {
		return
	}
	for n := r.Uvarint(); n > 0 && r.Ok(); n-- {
		tag := r.Uvarint()
		inner := kbin.Reader{Src: r.Span(int(r.Uvarint()))}
		if tag == 0 && known != nil && r.Ok() {
			if known(&inner); !inner.Ok() {
				r.Span(len(r.Src) + 1)
			}
		}
	}
}

func answersByKmsg(q *produceRequest, raw []byte) ([]produceAnswer, error) {
	resp := kmsg.NewPtrProduceResponse()
	resp.SetVersion(q.version)
	if err := resp.ReadFrom(raw); err != nil {
		return nil, err
	}
	answers := make([]produceAnswer, len(q.ops))
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			at := q.find(t.Topic, p.Partition, 0)
			if at < 0 {
				continue
			}
			a := produceAnswer{code: p.ErrorCode, baseOffset: p.BaseOffset, logAppendTime: p.LogAppendTime, logStart: p.LogStartOffset, present: true}
			for _, re := range p.ErrorRecords {
				e := RecordError{Index: re.RelativeOffset}
				if re.ErrorMessage != nil {
					e.Message = *re.ErrorMessage
				}
				a.recordErrors = append(a.recordErrors, e)
			}
			if p.ErrorMessage != nil {
				a.message = *p.ErrorMessage
			}
			answers[at] = a
		}
	}
	return answers, nil
}

func TestBrokenAnswersAreRefused(t *testing.T) {
	q := manyParts([]string{"a"}, 3)
	raw := answersTo(q, false).B
	for n := range len(raw) {
		_, err := q.decode(&upstream.Buffer{B: raw[:n]})
		require.Error(t, err, n)
	}
	_, err := q.decode(&upstream.Buffer{B: raw})
	require.NoError(t, err)
}

// What a broker answers to a request for many partitions, to their ops.
func BenchmarkProduceAnswers(b *testing.B) {
	for _, n := range []int{10, 200, 2000} {
		for _, order := range []string{"in order", "shuffled"} {
			b.Run(fmt.Sprintf("%d partitions %s", n, order), func(b *testing.B) {
				q := manyParts([]string{"a"}, n)
				buf := answersTo(q, order == "shuffled")
				b.ReportAllocs()
				for b.Loop() {
					if _, err := q.decode(buf); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// The ops of a request in any order, to be encoded.
func BenchmarkProduceSort(b *testing.B) {
	for _, n := range []int{10, 200, 2000} {
		b.Run(fmt.Sprintf("%d partitions", n), func(b *testing.B) {
			q := manyParts([]string{"a"}, n)
			rand.Shuffle(n, (*byAddress)(q).Swap)
			mixed := append([]*partQueue(nil), q.parts...)
			b.ReportAllocs()
			for b.Loop() {
				copy(q.parts, mixed)
				q.sort()
			}
		})
	}
}
