package kafkacompat

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway/router"
	"github.com/braidmq/braid/internal/layout/layouttest"
)

type noMap struct{}

func (noMap) Current() *federation.Map { return new(federation.Map) }

func (noMap) Changed() <-chan struct{} { return nil }

func parserForTest() *conn {
	return &conn{s: &Server{cfg: Config{}.withDefaults(), deps: Deps{Maps: noMap{}}}}
}

// FuzzProduceParser holds the parser against kmsg: whatever it takes, kmsg reads
// the same from it.
func FuzzProduceParser(f *testing.F) {
	for v := int16(0); v <= 13; v++ {
		for seed := range uint64(8) {
			req := kmsg.NewPtrProduceRequest()
			layouttest.Fill(rand.New(rand.NewPCG(seed, uint64(v))), reflect.ValueOf(req).Elem(), false)
			req.SetVersion(v)
			f.Add(v, req.AppendTo(nil))
		}
	}
	c := parserForTest()
	f.Fuzz(func(t *testing.T, version int16, b []byte) {
		if version < 0 || version > 13 {
			return
		}
		got, err := c.parseProduce(&request{version: version, body: b})
		if err != nil {
			return
		}
		want := kmsg.NewPtrProduceRequest()
		want.SetVersion(version)
		require.NoError(t, want.ReadFrom(b))
		require.Equal(t, want.TransactionID != nil, got.transactional)
		require.Equal(t, want.Acks, got.acks)
		require.Equal(t, want.TimeoutMillis, got.timeoutMs)
		require.Len(t, got.topics, len(want.Topics))
		for i := range want.Topics {
			wt, gt := &want.Topics[i], &got.topics[i]
			require.Equal(t, wt.Topic, gt.topic)
			require.EqualValues(t, wt.TopicID, gt.id)
			require.Len(t, gt.partitions, len(wt.Partitions))
			for j := range wt.Partitions {
				require.Equal(t, wt.Partitions[j].Partition, gt.partitions[j].partition)
				require.Equal(t, string(wt.Partitions[j].Records), string(gt.partitions[j].records))
			}
		}
	})
}

func TestProduceParserTakesWhatKmsgWrites(t *testing.T) {
	c := parserForTest()
	for v := int16(0); v <= 13; v++ {
		for seed := range uint64(30) {
			req := kmsg.NewPtrProduceRequest()
			layouttest.Fill(rand.New(rand.NewPCG(seed, uint64(v))), reflect.ValueOf(req).Elem(), false)
			req.SetVersion(v)
			b := req.AppendTo(nil)
			_, err := c.parseProduce(&request{version: v, body: b})
			require.NoError(t, err, "v%d seed %d", v, seed)
			for n := range b {
				_, err := c.parseProduce(&request{version: v, body: b[:n]})
				require.Error(t, err, "v%d seed %d cut at %d", v, seed, n)
			}
		}
	}
}

func TestProduceParserBoundsPartitions(t *testing.T) {
	c := parserForTest()
	req := kmsg.NewPtrProduceRequest()
	rt := kmsg.NewProduceRequestTopic()
	rt.Partitions = make([]kmsg.ProduceRequestTopicPartition, c.s.cfg.PartitionsPerRequestMax)
	req.Topics = []kmsg.ProduceRequestTopic{rt}
	req.SetVersion(9)
	_, err := c.parseProduce(&request{version: 9, body: req.AppendTo(nil)})
	require.ErrorIs(t, err, errTooManyPartitions)
}

// The encoder of answers is held against kmsg.
func FuzzProduceEncoder(f *testing.F) {
	for seed := range uint64(64) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		for v := int16(0); v <= 13; v++ {
			p, want := randomProduced(rnd, v)
			req := &request{key: int16(kmsg.Produce), version: v, corr: rnd.Int32()}
			got := bytes.Join(p.response(req).vecs, nil)
			require.EqualValues(t, len(got)-4, binary.BigEndian.Uint32(got))
			require.EqualValues(t, req.corr, binary.BigEndian.Uint32(got[4:]))
			body := got[8:]
			if v >= 9 {
				require.Zero(t, body[0])
				body = body[1:]
			}
			require.Equal(t, want.AppendTo(nil), body, "v%d", v)
			require.NoError(t, want.ReadFrom(body))
		}
	})
}

// randomProduced is a request that is decided, and kmsg's answer to it.
func randomProduced(rnd *rand.Rand, version int16) (*produceRequest, *kmsg.ProduceResponse) {
	p, want := &produceRequest{acks: -1}, kmsg.NewPtrProduceResponse()
	want.SetVersion(version)
	for range rnd.IntN(4) {
		topic := producedTopic{topic: strings.Repeat("t", rnd.IntN(200)), id: federation.NewTopicID()}
		wt := kmsg.NewProduceResponseTopic()
		wt.Topic, wt.TopicID = topic.topic, topic.id
		for range rnd.IntN(200) {
			part := produced{partition: rnd.Int32(), code: int16(rnd.IntN(60) - 1)}
			part.BaseOffset, part.LogAppendTimeMs, part.LogStart = federation.LogicalOffset(rnd.Int64()), rnd.Int64(), federation.LogicalOffset(rnd.Int64())
			wp := kmsg.NewProduceResponseTopicPartition()
			wp.Partition, wp.ErrorCode, wp.BaseOffset, wp.LogAppendTime, wp.LogStartOffset = part.partition, part.code, int64(part.BaseOffset), part.LogAppendTimeMs, int64(part.LogStart)
			if part.code != 0 && part.code != kerr.DuplicateSequenceNumber.Code {
				wp.BaseOffset, wp.LogAppendTime, wp.LogStartOffset = -1, -1, -1
			}
			if rnd.IntN(4) == 0 {
				part.Err = federation.Errorf(federation.InvalidRecord, "%s", strings.Repeat("m", rnd.IntN(200)))
				wp.ErrorMessage = message(part.Err)
			}
			for i := range rnd.IntN(3) {
				re := kmsg.NewProduceResponseTopicPartitionErrorRecord()
				re.RelativeOffset = int32(i)
				e := router.RecordError{Index: int32(i)}
				if rnd.IntN(2) == 0 {
					e.Message = "bad"
					re.ErrorMessage = new("bad")
				}
				part.RecordErrors, wp.ErrorRecords = append(part.RecordErrors, e), append(wp.ErrorRecords, re)
			}
			if version >= produceHintsMin && rnd.IntN(3) == 0 {
				part.hint = randomHint(rnd)
				p.endpoints = addEndpoint(p.endpoints, part.hint)
				wp.CurrentLeader.LeaderID, wp.CurrentLeader.LeaderEpoch = int32(part.hint.leader.NodeID), int32(part.hint.epoch)
			}
			topic.partitions, wt.Partitions = append(topic.partitions, part), append(wt.Partitions, wp)
		}
		p.topics, want.Topics = append(p.topics, topic), append(want.Topics, wt)
	}
	for _, g := range p.endpoints {
		host, port := hostPort(g)
		want.Brokers = append(want.Brokers, kmsg.ProduceResponseBroker{NodeID: int32(g.NodeID), Host: host, Port: port, Rack: rack(g)})
	}
	return p, want
}

// hintable are gateways that hints name.
var hintable = []*federation.Gateway{
	{ID: "g1", NodeID: 1, KafkaAddress: "g1.example:9092"},
	{ID: "g2", NodeID: 2, KafkaAddress: strings.Repeat("g", 200) + ":9093", Zone: "z"},
	{ID: "g3", NodeID: 3, KafkaAddress: "[::1]:9094", Zone: "zone"},
}

func randomHint(rnd *rand.Rand) *leaderHint {
	return &leaderHint{leader: hintable[rnd.IntN(len(hintable))], epoch: federation.LogicalEpoch(rnd.Int32())}
}

// BenchmarkProduceAnswer encodes the answer to a request for many partitions.
func BenchmarkProduceAnswer(b *testing.B) {
	p := &produceRequest{acks: -1, topics: []producedTopic{{topic: "orders", partitions: make([]produced, 500)}}}
	req := &request{key: int16(kmsg.Produce), version: 9}
	b.ReportAllocs()
	for b.Loop() {
		p.response(req)
	}
}
