package kafkacompat_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/kafkacompat"
)

// A fetcher sends the requests of a client with a session, as raw as they are.
type fetcher struct {
	w       *world
	c       *raw
	version int16
	id      int32
	epoch   int32
	waitMs  int32
}

func (w *world) fetcher(version int16) *fetcher {
	return &fetcher{w: w, c: w.dial(), version: version, waitMs: 20}
}

// at is a position: partition and offset.
type at struct {
	partition int32
	offset    int64
}

func (f *fetcher) request(topic string, positions []at, forget ...int32) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes = f.waitMs, 1, 1<<20
	req.SessionID, req.SessionEpoch = f.id, f.epoch
	var id [16]byte
	if t := f.w.Current().Topics[federation.TopicName(topic)]; t != nil {
		id = t.ID
	}
	if len(positions) > 0 {
		rt := kmsg.NewFetchRequestTopic()
		rt.Topic, rt.TopicID = topic, id
		for _, p := range positions {
			rp := kmsg.NewFetchRequestTopicPartition()
			rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes, rp.CurrentLeaderEpoch = p.partition, p.offset, 1<<20, -1
			rt.Partitions = append(rt.Partitions, rp)
		}
		req.Topics = append(req.Topics, rt)
	}
	if len(forget) > 0 {
		req.ForgottenTopics = append(req.ForgottenTopics, kmsg.FetchRequestForgottenTopic{Topic: topic, TopicID: id, Partitions: forget})
	}
	return req
}

// fetch goes on with the session, and returns the partitions that the answer names.
func (f *fetcher) fetch(topic string, positions []at, forget ...int32) []kmsg.FetchResponseTopicPartition {
	f.w.t.Helper()
	resp := exchange[*kmsg.FetchResponse](f.c, f.request(topic, positions, forget...), f.version)
	require.NoError(f.w.t, kerr.ErrorForCode(resp.ErrorCode))
	f.id = resp.SessionID
	if f.epoch++; f.id == 0 {
		f.epoch = 0
	}
	var parts []kmsg.FetchResponseTopicPartition
	for i := range resp.Topics {
		parts = append(parts, resp.Topics[i].Partitions...)
	}
	return parts
}

func (f *fetcher) fails(req *kmsg.FetchRequest, want *kerr.Error) {
	f.w.t.Helper()
	resp := exchange[*kmsg.FetchResponse](f.c, req, f.version)
	require.Equal(f.w.t, want.Code, resp.ErrorCode)
	require.Zero(f.w.t, resp.SessionID)
	require.Empty(f.w.t, resp.Topics)
}

func numbers(parts []kmsg.FetchResponseTopicPartition) (n []int32) {
	for i := range parts {
		n = append(n, parts[i].Partition)
	}
	return n
}

func (w *world) write(topic string, partition int32, n int) {
	w.t.Helper()
	cl := w.client(kgo.RecordPartitioner(kgo.ManualPartitioner()))
	for i := range n {
		require.NoError(w.t, cl.ProduceSync(w.t.Context(), &kgo.Record{Topic: topic, Partition: partition, Value: fmt.Append(nil, "v", i)}).FirstErr())
	}
}

func TestFetchSession(t *testing.T) {
	for _, version := range []int16{7, 12, 18} {
		t.Run(fmt.Sprint("v", version), func(t *testing.T) {
			w := newWorld(t)
			w.create("orders", 4, nil)
			f := w.fetcher(version)
			all := []at{{0, 0}, {1, 0}, {2, 0}, {3, 0}}
			require.Equal(t, []int32{0, 1, 2, 3}, numbers(f.fetch("orders", all)), "the first answer names all")
			require.NotZero(t, f.id)
			settle(f)

			require.Empty(t, f.fetch("orders", nil), "nothing is new")
			w.write("orders", 2, 1)
			f.waitMs = 5000
			got := f.fetch("orders", nil)
			require.Equal(t, []int32{2}, numbers(got))
			require.NotEmpty(t, got[0].RecordBatches)
			require.EqualValues(t, 1, got[0].HighWatermark)

			// It goes on behind them; the other positions are as they were.
			f.waitMs = 20
			require.Empty(t, f.fetch("orders", []at{{2, 1}}))
			w.write("orders", 1, 1)
			f.waitMs = 5000
			require.Equal(t, []int32{1}, numbers(f.fetch("orders", nil)))

			// What is forgotten is not told any more.
			f.waitMs = 20
			w.write("orders", 3, 1)
			w.write("orders", 0, 1)
			require.Equal(t, []int32{0}, numbers(settle(f, []at{{1, 1}}, 3)))
		})
	}
}

// settle fetches until an answer has no news, and returns the partitions that were told.
func settle(f *fetcher, first ...any) (told []kmsg.FetchResponseTopicPartition) {
	var positions []at
	var forget []int32
	for _, a := range first {
		switch a := a.(type) {
		case []at:
			positions = a
		case int:
			forget = append(forget, int32(a))
		}
	}
	for {
		got := f.fetch("orders", positions, forget...)
		if len(got) == 0 {
			return told
		}
		positions, forget = nil, nil
		for i := range got {
			if n := got[i].HighWatermark; len(got[i].RecordBatches) > 0 {
				positions = append(positions, at{got[i].Partition, n})
			}
			if !slices.Contains(numbers(told), got[i].Partition) {
				told = append(told, got[i])
			}
		}
	}
}

func TestFetchSessionRefuses(t *testing.T) {
	w := newWorld(t)
	w.create("orders", 2, nil)
	f := w.fetcher(12)
	f.id, f.epoch = 77, 1
	f.fails(f.request("orders", nil), kerr.FetchSessionIDNotFound)
	f.id, f.epoch = 0, 0
	f.fetch("orders", []at{{0, 0}, {1, 0}})
	id := f.id

	f.epoch = 5
	f.fails(f.request("orders", nil), kerr.InvalidFetchSessionEpoch)
	f.epoch, f.id = 1, id+1
	f.fails(f.request("orders", nil), kerr.FetchSessionIDNotFound)
	f.id, f.version = id, 13
	f.fails(f.request("orders", nil), kerr.FetchSessionTopicIDError)
	f.version = 12
	settle(f)
	require.Equal(t, id, f.id, "what was refused has not changed it")

	// Another connection does not get at it.
	other := w.fetcher(12)
	other.id, other.epoch = f.id, f.epoch
	other.fails(other.request("orders", nil), kerr.FetchSessionIDNotFound)

	// The client ends it; a request without a session is answered in full.
	f.epoch = -1
	resp := exchange[*kmsg.FetchResponse](f.c, f.request("orders", []at{{1, 0}}), 12)
	require.Zero(t, resp.SessionID)
	require.Equal(t, []int32{1}, numbers(resp.Topics[0].Partitions))
	f.epoch = 2
	f.fails(f.request("orders", nil), kerr.FetchSessionIDNotFound)
}

// An error is told in each answer until it is over; what comes then is told in any case.
func TestFetchSessionTellsErrors(t *testing.T) {
	w := newWorld(t)
	w.create("orders", 2, nil)
	f := w.fetcher(12)
	first := f.fetch("orders", []at{{0, 0}, {2, 0}})
	require.Equal(t, []int32{0, 2}, numbers(first))
	require.Equal(t, kerr.UnknownTopicOrPartition.Code, first[1].ErrorCode)
	for range 2 {
		got := f.fetch("orders", nil)
		i := slices.Index(numbers(got), 2)
		require.GreaterOrEqual(t, i, 0)
		require.Equal(t, kerr.UnknownTopicOrPartition.Code, got[i].ErrorCode)
	}
	require.NoError(t, w.GrowTopic(t.Context(), "orders", 3, false))
	require.Eventually(t, func() bool {
		got := f.fetch("orders", nil)
		i := slices.Index(numbers(got), 2)
		return i >= 0 && got[i].ErrorCode == 0
	}, 5*time.Second, time.Millisecond)
	require.Empty(t, settle(f))
}

// Partitions that gave records go behind those that did not.
func TestFetchSessionIsFair(t *testing.T) {
	w := newWorld(t)
	w.create("orders", 6, nil)
	for _, p := range []int32{0, 2, 4} { // on one cluster: others may overtake it
		w.write("orders", p, 1)
	}
	f := w.fetcher(12)
	first := f.request("orders", []at{{0, 0}, {2, 0}, {4, 0}})
	first.MaxBytes = 1 // one batch in each answer
	resp := exchange[*kmsg.FetchResponse](f.c, first, 12)
	f.id, f.epoch = resp.SessionID, 1
	served := func(resp *kmsg.FetchResponse) (n []int32) {
		for i := range resp.Topics {
			for _, p := range resp.Topics[i].Partitions {
				if len(p.RecordBatches) > 0 {
					n = append(n, p.Partition)
				}
			}
		}
		return n
	}
	seen := served(resp)
	for range 2 { // at the same positions: the client did not get it
		req := f.request("orders", nil)
		req.MaxBytes, req.MaxWaitMillis = 1, 5000
		resp = exchange[*kmsg.FetchResponse](f.c, req, 12)
		f.epoch++
		seen = append(seen, served(resp)...)
	}
	slices.Sort(seen)
	require.Equal(t, []int32{0, 2, 4}, seen)
}

// Sessions take no more room than they may; clients go on without one.
func TestFetchSessionRoom(t *testing.T) {
	w := newWorld(t, func(c *kafkacompat.Config) { c.FetchSessionPartitionsMax = 3 })
	w.create("orders", 4, nil)
	first, second := w.fetcher(12), w.fetcher(12)
	first.fetch("orders", []at{{0, 0}, {1, 0}})
	require.NotZero(t, first.id)
	require.Len(t, second.fetch("orders", []at{{0, 0}, {1, 0}}), 2)
	require.Zero(t, second.id, "declined")

	// A session that grows beyond it ends.
	first.fails(first.request("orders", []at{{2, 0}, {3, 0}}), kerr.FetchSessionIDNotFound)
	first.fails(first.request("orders", nil), kerr.FetchSessionIDNotFound)
	require.Len(t, second.fetch("orders", []at{{0, 0}, {1, 0}, {2, 0}}), 3)
	require.NotZero(t, second.id)
	second.fetch("orders", nil, 0, 1)

	// A connection that ends gives its room back, and so does a session without partitions.
	first.id, first.epoch = 0, 0
	first.fetch("orders", []at{{0, 0}, {1, 0}})
	require.NotZero(t, first.id)
	second.fetch("orders", nil, 2)
	require.Zero(t, second.id)
	require.NoError(t, first.c.c.Close())
	third := w.fetcher(12)
	require.Eventually(t, func() bool {
		third.id, third.epoch = 0, 0
		third.fetch("orders", []at{{0, 0}, {1, 0}, {2, 0}})
		return third.id != 0
	}, 5*time.Second, time.Millisecond)
}

// A consumer with a session follows partitions that come and go, and moves.
func TestFetchSessionOfAClient(t *testing.T) {
	w := newWorld(t)
	w.create("orders", 4, nil)
	cl := w.client(kgo.ConsumeTopics("orders"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	for round := range 3 {
		for p := range int32(4) {
			w.write("orders", p, 2)
		}
		n := 0
		for n < 8 {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			fetches := cl.PollFetches(ctx)
			cancel()
			require.Empty(t, fetches.Errors(), "round %d", round)
			n += fetches.NumRecords()
		}
		require.Equal(t, 8, n)
	}
}
