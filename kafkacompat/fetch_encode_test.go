package kafkacompat

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway/router"
)

// randomFetch makes the parts of a response, and what kmsg makes of them.
func randomFetch(rnd *rand.Rand, version int16) ([]*fetchPart, *kmsg.FetchResponse) {
	want := kmsg.NewPtrFetchResponse()
	want.Version = version
	var parts []*fetchPart
	var endpoints []*federation.Gateway
	for range rnd.IntN(4) {
		topic := fetchTopic{name: "topic-" + string(rune('a'+rnd.IntN(26)))}
		for j := range topic.id {
			topic.id[j] = byte(rnd.Uint32())
		}
		wt := kmsg.NewFetchResponseTopic()
		wt.Topic, wt.TopicID = topic.name, topic.id
		for range 1 + rnd.IntN(3) {
			p := &fetchPart{fetchKey: fetchKey{topic: topic}}
			wp := randomPart(rnd, p)
			if version >= fetchHintsMin && rnd.IntN(3) == 0 {
				p.hint = randomHint(rnd)
				wp.CurrentLeader.LeaderID, wp.CurrentLeader.LeaderEpoch = int32(p.hint.leader.NodeID), int32(p.hint.epoch)
				endpoints = addEndpoint(endpoints, p.hint)
			}
			if rnd.IntN(4) == 0 {
				p.near = &federation.Gateway{NodeID: federation.NodeID(rnd.Int32N(1000))}
				wp.PreferredReadReplica = int32(p.near.NodeID)
			}
			wt.Partitions = append(wt.Partitions, wp)
			parts = append(parts, p)
		}
		want.Topics = append(want.Topics, wt)
	}
	for _, g := range endpoints {
		host, port := hostPort(g)
		want.Brokers = append(want.Brokers, kmsg.FetchResponseBroker{NodeID: int32(g.NodeID), Host: host, Port: port, Rack: rack(g)})
	}
	return parts, want
}

func randomPart(rnd *rand.Rand, p *fetchPart) kmsg.FetchResponseTopicPartition {
	w := kmsg.NewFetchResponseTopicPartition()
	p.partition, p.code = rnd.Int32N(100), int16(rnd.IntN(120))
	w.Partition, w.ErrorCode = p.partition, p.code
	w.HighWatermark, w.LastStableOffset, w.LogStartOffset = -1, -1, -1
	w.RecordBatches = []byte{}
	if rnd.IntN(4) == 0 {
		return w // refused: no slice
	}
	s := &router.Slice{HighWatermark: federation.LogicalOffset(rnd.Int64()), LastStable: federation.LogicalOffset(rnd.Int64()), LogStart: federation.LogicalOffset(rnd.Int64())}
	p.slice = s
	w.HighWatermark, w.LastStableOffset, w.LogStartOffset = int64(s.HighWatermark), int64(s.LastStable), int64(s.LogStart)
	for range rnd.IntN(4) {
		b := make([]byte, rnd.IntN(3)*rnd.IntN(200))
		for k := range b {
			b[k] = byte(rnd.Uint32())
		}
		s.Records = append(s.Records, b)
		w.RecordBatches = append(w.RecordBatches, b...)
	}
	if rnd.IntN(2) == 0 {
		s.Aborted = make([]router.AbortedTxn, rnd.IntN(3))
		w.AbortedTransactions = make([]kmsg.FetchResponseTopicPartitionAbortedTransaction, len(s.Aborted))
		for k := range s.Aborted {
			s.Aborted[k] = router.AbortedTxn{ProducerID: rnd.Int64(), FirstOffset: federation.LogicalOffset(rnd.Int64())}
			w.AbortedTransactions[k].Default()
			w.AbortedTransactions[k].ProducerID, w.AbortedTransactions[k].FirstOffset = s.Aborted[k].ProducerID, int64(s.Aborted[k].FirstOffset)
		}
	}
	if rnd.IntN(3) == 0 {
		s.Diverging = &router.EpochEnd{Epoch: federation.LogicalEpoch(rnd.Int32()), End: federation.LogicalOffset(rnd.Int64())}
		w.DivergingEpoch.Epoch, w.DivergingEpoch.EndOffset = int32(s.Diverging.Epoch), int64(s.Diverging.End)
	}
	return w
}

// FuzzFetchEncoder holds the encoder against kmsg, in every version.
func FuzzFetchEncoder(f *testing.F) {
	for seed := range uint64(64) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		for v := int16(4); v <= 18; v++ {
			parts, want := randomFetch(rnd, v)
			req := &request{key: int16(kmsg.Fetch), version: v, corr: rnd.Int32()}
			session := rnd.Int32()
			if v >= sessionVersionMin {
				want.SessionID = session
			}
			resp := encodeFetch(req, 0, session, parts, nil)
			var got []byte
			for _, vec := range resp.vecs {
				require.NotEmpty(t, vec)
				got = append(got, vec...)
			}
			require.EqualValues(t, len(got)-4, binary.BigEndian.Uint32(got))
			require.EqualValues(t, req.corr, binary.BigEndian.Uint32(got[4:]))
			body := got[8:]
			if v >= 12 {
				require.Zero(t, body[0])
				body = body[1:]
			}
			require.Equal(t, want.AppendTo(nil), body, "v%d", v)
			require.NoError(t, want.ReadFrom(body))
		}
	})
}
