package kafkacompat

import (
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
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
			fill(rand.New(rand.NewPCG(seed, uint64(v))), reflect.ValueOf(req).Elem())
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
			fill(rand.New(rand.NewPCG(seed, uint64(v))), reflect.ValueOf(req).Elem())
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
