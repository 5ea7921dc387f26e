package router_test

import (
	"context"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/federation/federationtest"
	"github.com/braidmq/braid/gateway/router"
	"github.com/braidmq/braid/internal/recordbatch"
)

// A client that asks for the offsets of many partitions costs a broker few requests, and
// each partition has its own answer: also one whose leader is not the one that was
// asked, and one that is asked for twice.
func TestOffsetsOfManyPartitions(t *testing.T) {
	const partitions = 200
	w := newWorldWith(t, partitions, router.Config{}, nil)
	var heads [][]*federation.Extent
	for p := range partitions {
		heads = append(heads, []*federation.Extent{federationtest.Head("a", "phys", p)})
	}
	w.SetTopic("orders", nil, heads...)
	s := w.r.NewSession()
	defer s.Close()
	for p := range partitions {
		for range p % 3 {
			require.NoError(t, produce(t, s, router.Append{TopicPartition: at("orders", p), Batch: batch(recordbatch.NoProducer, strconv.Itoa(p))})[0].Err)
		}
	}
	var requests, asked, refused atomic.Int64
	c := w.clusters["a"]
	c.ControlKey(int16(kmsg.ListOffsets), func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		list := req.(*kmsg.ListOffsetsRequest)
		requests.Add(1)
		<-time.After(2 * time.Millisecond) // as a broker's answer takes; what is asked meanwhile waits for the next request
		seen := map[int32]bool{}
		resp := list.ResponseKind().(*kmsg.ListOffsetsResponse)
		moved := false
		for _, topic := range list.Topics {
			rt := kmsg.NewListOffsetsResponseTopic()
			rt.Topic = topic.Topic
			for _, p := range topic.Partitions {
				if seen[p.Partition] {
					t.Errorf("partition %d twice in a request, which brokers refuse", p.Partition)
				}
				seen[p.Partition] = true
				asked.Add(1)
				moved = moved || p.Partition == 7 && p.Timestamp < 0 && refused.Add(1) <= 2
				rp := kmsg.NewListOffsetsResponseTopicPartition()
				rp.Partition, rp.Timestamp = p.Partition, -1
				rp.Offset = map[bool]int64{true: 0, false: int64(p.Partition) % 3}[p.Timestamp == router.TimestampEarliest]
				if moved && p.Partition == 7 {
					rp.ErrorCode = kerr.NotLeaderForPartition.Code
				}
				rt.Partitions = append(rt.Partitions, rp)
			}
			resp.Topics = append(resp.Topics, rt)
		}
		return resp, nil, moved // else the broker itself answers
	})
	var q []router.OffsetQuery
	for p := range partitions {
		for _, at0 := range []int64{router.TimestampLatest, router.TimestampEarliest, router.TimestampLatest, 1, 2} {
			q = append(q, router.OffsetQuery{TopicPartition: at("orders", p), TimestampMs: at0, CurrentEpoch: -1})
		}
	}
	for i, a := range s.ListOffsets(t.Context(), q) {
		require.NoError(t, a.Err, "%+v", q[i])
		want := int64(q[i].Partition) % 3
		switch {
		case q[i].TimestampMs == router.TimestampEarliest, q[i].TimestampMs > 0 && want > 0:
			want = 0
		case q[i].TimestampMs > 0:
			want = -1
		}
		require.EqualValues(t, want, a.Offset, "%+v", q[i])
	}
	require.GreaterOrEqual(t, asked.Load(), int64(len(q)))
	require.Less(t, requests.Load(), int64(len(q)/4))
	t.Logf("%d questions in %d requests", asked.Load(), requests.Load())
}

// Questions whose callers gave up while a broker was slow are not sent any more.
func TestOffsetsThatNobodyWaitsFor(t *testing.T) {
	const partitions = 10
	w := newWorldWith(t, partitions, router.Config{}, nil)
	var heads [][]*federation.Extent
	for p := range partitions {
		heads = append(heads, []*federation.Extent{federationtest.Head("a", "phys", p)})
	}
	w.SetTopic("orders", nil, heads...)
	s := w.r.NewSession()
	defer s.Close()
	ask := func(ctx context.Context, p int) error {
		return s.ListOffsets(ctx, []router.OffsetQuery{{TopicPartition: at("orders", p), TimestampMs: 1, CurrentEpoch: -1}})[0].Err
	}
	gate, asked := make(chan struct{}), make(chan int32, 100)
	c := w.clusters["a"]
	c.ControlKey(int16(kmsg.ListOffsets), func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		for _, topic := range req.(*kmsg.ListOffsetsRequest).Topics {
			for _, p := range topic.Partitions {
				if p.Timestamp == 1 {
					asked <- p.Partition
				}
			}
		}
		c.SleepControl(func() { <-gate })
		return nil, nil, false
	})
	var all sync.WaitGroup
	answers := func(p int) {
		if err := ask(t.Context(), p); err != nil {
			t.Errorf("partition %d: %v", p, err)
		}
	}
	all.Go(func() { answers(0) })
	require.EqualValues(t, 0, <-asked)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for p := 1; p < partitions-1; p++ {
		require.Error(t, ask(gone, p))
	}
	all.Go(func() { answers(partitions - 1) })
	close(gate)
	all.Wait()
	require.EqualValues(t, partitions-1, <-asked)
	require.Empty(t, asked)
}

// A Fetch of many partitions of a cluster that says nothing waits for its leaders once, and
// not once for each partition and each time that it looks again.
func TestFetchOfManyPartitionsWithoutLeaders(t *testing.T) {
	const partitions = 200
	w := newWorldWith(t, partitions, router.Config{}, nil)
	var heads [][]*federation.Extent
	var from []router.Position
	for p := range partitions {
		heads = append(heads, []*federation.Extent{federationtest.Head("a", "phys", p)})
		from = append(from, router.Position{TopicPartition: at("orders", p), MaxBytes: 1 << 20, CurrentEpoch: federation.NoEpoch, LastFetchedEpoch: federation.NoEpoch})
	}
	w.SetTopic("orders", nil, heads...)
	c, silent := w.clusters["a"], make(chan struct{})
	defer close(silent)
	c.ControlKey(int16(kmsg.Metadata), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		c.SleepControl(func() { <-silent })
		return nil, nil, false
	})
	s := session(t, w.r)
	before, most := runtime.NumGoroutine(), 0
	done := make(chan error, 1)
	go func() {
		_, err := s.Fetch(t.Context(), from, router.FetchLimit{MinBytes: 1, MaxBytes: 1 << 20, MaxWait: time.Second})
		done <- err
	}()
	for {
		select {
		case err := <-done:
			require.NoError(t, err)
			require.Less(t, most, before+100)
			return
		case <-time.After(10 * time.Millisecond):
			most = max(most, runtime.NumGoroutine())
		}
	}
}
