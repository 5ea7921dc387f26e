package router_test

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway/router"
	"github.com/braidmq/braid/internal/memory"
	"github.com/braidmq/braid/internal/recordbatch"
	"github.com/braidmq/braid/internal/upstream"
)

// A pair is an embedded cluster of two brokers as one with a rack-aware selector: partition
// 0 of "phys" has its leader in another zone, and a follower in the zone "z1", which the
// leader names. The follower can be behind, refuse, hang or be cut off.
type pair struct {
	c                *kfake.Cluster
	leader, follower int32

	mu      sync.Mutex // guards the following
	named   bool
	ends    bool     // the follower has only batches
	batches [][]byte // one record each, from offset 0 on
	high    int64    // of the leader, for answers that name the follower
	refuse  int16    // what the follower answers
	cut     bool     // it closes the connection
	hang    bool     // it does not answer
	asked   map[string]int
}

// followed makes a world whose cluster "a" is a pair, and a router in zone z1.
func followed(t *testing.T, cfg upstream.Config) (*world, *pair) {
	t.Helper()
	w := newWorld(t, 1)
	c := w.clusters["a"]
	p := &pair{c: c, leader: c.LeaderFor("phys", 0), named: true, asked: make(map[string]int)}
	p.follower = 1 - p.leader
	c.SetFollowers("phys", 0, []int32{p.follower})
	c.ControlKey(kmsg.Fetch.Int16(), func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		resp, handled, err := p.fetch(req.(*kmsg.FetchRequest))
		return resp, err, handled
	})
	cfg.Zone = "z1"
	w.pool = w.poolOf(t, cfg)
	w.r = w.router(t, router.Config{TailWait: 20 * time.Millisecond}, nil)
	w.orders()
	return w, p
}

// set changes what the brokers do.
func (p *pair) set(f func(p *pair)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f(p)
}

// times returns how often brokers were asked in a way.
func (p *pair) times(what string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked[what]
}

func (p *pair) fetch(req *kmsg.FetchRequest) (resp kmsg.Response, handled bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(req.Topics) == 0 && req.SessionID == 0 {
		return nil, false, nil
	}
	if p.c.CurrentNode() == p.leader {
		switch {
		case req.Version <= 10:
			p.asked["leader itself"]++
		case req.Rack != "z1":
			p.asked["without a zone"]++
		default:
			p.asked["leader"]++
			if p.named {
				return p.answer(req, func(rp *kmsg.FetchResponseTopicPartition, _ int64) {
					rp.PreferredReadReplica, rp.HighWatermark = p.follower, p.high
				}), true, nil
			}
		}
		return nil, false, nil
	}
	p.asked["follower"]++
	switch {
	case p.cut:
		return nil, true, errCut
	case p.hang:
		return nil, true, nil
	case req.Version <= 10:
		p.asked["wrongly"]++
		return p.answer(req, func(rp *kmsg.FetchResponseTopicPartition, _ int64) { rp.ErrorCode = kerr.NotLeaderForPartition.Code }), true, nil
	case p.refuse != 0:
		return p.answer(req, func(rp *kmsg.FetchResponseTopicPartition, _ int64) { rp.ErrorCode = p.refuse }), true, nil
	case !p.ends:
		return nil, false, nil
	}
	if req.MaxWaitMillis > 0 {
		p.mu.Unlock()
		p.c.SleepControl(func() { <-time.After(10 * time.Millisecond) }) // as a broker holds a fetch
		p.mu.Lock()
	}
	return p.answer(req, func(rp *kmsg.FetchResponseTopicPartition, from int64) {
		end := int64(len(p.batches))
		rp.HighWatermark, rp.LastStableOffset = end, end
		if from > end {
			rp.ErrorCode = kerr.OffsetOutOfRange.Code
		}
		for ; from < end; from++ {
			rp.RecordBatches = append(rp.RecordBatches, p.batches[from]...)
		}
	}), true, nil
}

// answer answers a Fetch without a session; f fills in a partition.
func (p *pair) answer(req *kmsg.FetchRequest, f func(rp *kmsg.FetchResponseTopicPartition, from int64)) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.FetchResponse)
	for _, t := range req.Topics {
		rt := kmsg.NewFetchResponseTopic()
		rt.Topic = t.Topic
		for _, q := range t.Partitions {
			rp := kmsg.NewFetchResponseTopicPartition()
			rp.Partition, rp.HighWatermark, rp.LogStartOffset, rp.LastStableOffset = q.Partition, -1, 0, -1
			f(&rp, q.FetchOffset)
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp
}

// behind leaves the follower with the first n records; the leader tells of all there are.
func (p *pair) behind(t *testing.T, n int) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(p.c.ListenAddrs()...))
	require.NoError(t, err)
	defer cl.Close()
	req := kmsg.NewPtrFetchRequest()
	req.ReplicaID, req.MaxBytes, req.SessionEpoch = -1, 1<<20, -1
	rt, rp := kmsg.NewFetchRequestTopic(), kmsg.NewFetchRequestTopicPartition()
	rt.Topic, rp.PartitionMaxBytes, rp.CurrentLeaderEpoch = "phys", 1<<20, -1
	rt.TopicID = p.c.TopicInfo("phys").TopicID
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	resp, err := cl.Broker(int(p.leader)).Request(t.Context(), req)
	require.NoError(t, err)
	answered := resp.(*kmsg.FetchResponse).Topics[0].Partitions[0]
	require.Zero(t, answered.ErrorCode)
	var all [][]byte
	for rest := answered.RecordBatches; len(rest) > 0; {
		one, tail := recordbatch.Next(rest)
		require.NotNil(t, one)
		all, rest = append(all, one), tail
	}
	require.GreaterOrEqual(t, len(all), n)
	p.set(func(p *pair) { p.ends, p.batches, p.high = true, all[:n], int64(len(all)) })
}

// numbered appends the records from to to-1 through a session, one batch each.
func numbered(t *testing.T, s router.Session, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		require.EqualValues(t, i, added(t, s, one(int32(i), strconv.Itoa(i))))
	}
}

// wanted are the records from to to-1 as readers see them.
func wanted(from, to int) (all []string) {
	for i := from; i < to; i++ {
		all = append(all, fmt.Sprintf("%d:%d", i, i))
	}
	return all
}

// within reads tp0 as values does, and requires that it does not take long, that no answer
// is an error, and that high watermarks do not go back.
func within(t *testing.T, most time.Duration, s router.Session, from, n int) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), most)
	defer cancel()
	var out []string
	at, high := federation.LogicalOffset(from), federation.LogicalOffset(-1)
	for len(out) < n {
		g, err := look(ctx, s, at, 50*time.Millisecond, false)
		require.NoError(t, err, "read %v", out)
		require.GreaterOrEqual(t, g.HighWatermark, high)
		out, at, high = append(out, g.values...), max(at, g.next), g.HighWatermark
	}
	return out
}

// Records come from the follower that the leader names, from the start and at the tail.
func TestFollowerIsRead(t *testing.T) {
	w, p := followed(t, upstream.Config{})
	s := session(t, w.r)
	numbered(t, s, 0, 20)
	p.set(func(p *pair) { p.high = 20 })
	require.Equal(t, wanted(0, 20), values(t, s, tp0, 0, 20))
	behind := session(t, w.r)
	for i := 20; i < 40; i++ {
		at := make(chan valuesRead, 1)
		go func() {
			v, err := readValues(t.Context(), s, tp0, federation.LogicalOffset(i), 1)
			at <- valuesRead{v, err}
		}()
		numbered(t, w.r.NewSession(), i, i+1)
		got := <-at
		require.NoError(t, got.err)
		require.Equal(t, wanted(i, i+1), got.values)
	}
	require.Equal(t, wanted(0, 40), values(t, behind, tp0, 0, 40))
	stats := w.r.Stats()
	require.Zero(t, stats.LeaderReadBytes)
	require.Positive(t, stats.FollowerReadBytes)
	require.Positive(t, stats.TailBytes)
	require.Zero(t, p.times("leader itself"))
	require.Equal(t, 1, p.times("leader"), "it was asked once which one to read")
}

// Without a zone nothing is new: the leader is read, and told none.
func TestNoZoneReadsLeaders(t *testing.T) {
	w, p := followed(t, upstream.Config{})
	w.pool = w.newPool(t)
	s := session(t, w.router(t, router.Config{}, nil))
	numbered(t, s, 0, 3)
	require.Equal(t, wanted(0, 3), values(t, s, tp0, 0, 3))
	require.Zero(t, p.times("follower"))
	require.Zero(t, p.times("leader"))
	require.Positive(t, p.times("without a zone"))
}

// A follower that is behind holds nobody up for ever, in the middle of its records, at its
// end or above it, and what it does not have is out of range for nobody.
func TestFollowerFarBehind(t *testing.T) {
	w, p := followed(t, upstream.Config{FollowerLagMax: 300 * time.Millisecond, FollowerLease: 200 * time.Millisecond, FollowerRest: 300 * time.Millisecond})
	numbered(t, session(t, w.r), 0, 10)
	p.behind(t, 5)
	for _, from := range []int{0, 4, 5, 6, 9} {
		require.Equal(t, wanted(from, 10), within(t, 5*time.Second, session(t, w.r), from, 10-from), "from %d", from)
	}
	require.Positive(t, w.r.Stats().FollowerReadBytes)
	// At the end of all there is, readers wait; beyond it they are told so, by the leader.
	g, err := look(t.Context(), session(t, w.r), 10, 50*time.Millisecond, false)
	require.NoError(t, err)
	require.EqualValues(t, 10, g.HighWatermark)
	_, err = look(t.Context(), session(t, w.r), 11, 5*time.Second, false)
	require.Equal(t, federation.OffsetOutOfRange, federation.KindOf(err))
}

// Whatever the follower refuses, its partition is read from the leader, and later from the
// follower again.
func TestFollowerRefuses(t *testing.T) {
	for _, refusal := range []*kerr.Error{kerr.OffsetOutOfRange, kerr.OffsetNotAvailable, kerr.NotLeaderForPartition, kerr.UnknownLeaderEpoch, kerr.FencedLeaderEpoch, kerr.UnknownTopicOrPartition, kerr.KafkaStorageError} {
		t.Run(refusal.Message, func(t *testing.T) {
			w, p := followed(t, upstream.Config{FollowerRest: 200 * time.Millisecond})
			s := session(t, w.r)
			numbered(t, s, 0, 3)
			p.set(func(p *pair) { p.high, p.refuse = 3, refusal.Code })
			require.Equal(t, wanted(0, 3), within(t, 5*time.Second, session(t, w.r), 0, 3))
			require.Equal(t, 1, p.times("follower"), "it rests")
			p.set(func(p *pair) { p.refuse = 0 })
			require.Zero(t, w.r.Stats().FollowerReadBytes)
			require.Eventually(t, func() bool {
				return len(within(t, 5*time.Second, session(t, w.r), 0, 3)) == 3 && w.r.Stats().FollowerReadBytes > 0
			}, 10*time.Second, 20*time.Millisecond)
			require.Zero(t, p.times("wrongly"))
		})
	}
}

// A follower that dies, or hangs, while readers wait at its tail costs them no error and no
// record.
func TestFollowerGoes(t *testing.T) {
	for name, fault := range map[string]func(p *pair){
		"cut off": func(p *pair) { p.cut = true },
		"hangs":   func(p *pair) { p.hang = true },
	} {
		t.Run(name, func(t *testing.T) {
			w, p := followed(t, upstream.Config{FollowerLagMax: 200 * time.Millisecond, RequestTimeout: time.Minute})
			begun := time.Now()
			s := session(t, w.r)
			numbered(t, s, 0, 3)
			p.set(func(p *pair) { p.high = 3 })
			require.Equal(t, wanted(0, 3), within(t, 5*time.Second, s, 0, 3))
			_, err := look(t.Context(), s, 3, 50*time.Millisecond, false) // waits in its tail
			require.NoError(t, err)
			require.Zero(t, w.r.Stats().LeaderReadBytes)
			p.set(fault)
			g, err := look(t.Context(), session(t, w.r), 0, 10*time.Second, false)
			require.NoError(t, err)
			require.Equal(t, wanted(0, 3), g.values)
			require.Less(t, time.Since(begun), 5*time.Second, "whoever waits for long learns of it, too")
			numbered(t, session(t, w.r), 3, 6)
			require.Equal(t, wanted(3, 6), within(t, 5*time.Second, s, 3, 3))
			require.Equal(t, wanted(0, 6), within(t, 5*time.Second, session(t, w.r), 0, 6))
			require.Positive(t, p.times("leader itself"))
		})
	}
}

// A read that waits here for room is no fault of the follower, which is asked after that.
func TestFollowerIsNotBlamedForWaits(t *testing.T) {
	const patience, size = 250 * time.Millisecond, 16 << 20
	w, p := followed(t, upstream.Config{FollowerLagMax: patience})
	numbered(t, session(t, w.r), 0, 3)
	p.set(func(p *pair) { p.high = 3 })
	answers := memory.NewBudget(size)
	r := router.New(t.Context(), router.Config{}.Within(0, size), router.Deps{Maps: w, Clusters: w.pool, Lease: w, ProducerIDs: &ids{}, Answers: answers})
	t.Cleanup(r.Close)
	require.Equal(t, wanted(0, 3), within(t, 5*time.Second, session(t, r), 0, 3))
	require.NoError(t, answers.Acquire(t.Context(), size))
	begun := time.Now()
	timer := time.AfterFunc(4*patience, func() { answers.Release(size) })
	defer timer.Stop()
	g, err := look(t.Context(), session(t, r), 0, 5*time.Second, false)
	require.NoError(t, err)
	require.Equal(t, wanted(0, 3), g.values)
	require.GreaterOrEqual(t, time.Since(begun), 4*patience, "it had to wait")
	require.Zero(t, p.times("leader itself"))
}

// A head is sealed and moved while its reader waits at a follower that has not got all of
// it: the reader misses nothing, whether it was at the tail or comes later.
func TestSealBeforeTheFollowerHasAll(t *testing.T) {
	both(t, func(t *testing.T, committed bool) {
		w, p := followed(t, upstream.Config{})
		s := session(t, w.r)
		numbered(t, s, 0, 10)
		p.behind(t, 5)
		tailed := session(t, w.r)
		at := federation.LogicalOffset(0)
		for at < 5 {
			g, err := look(t.Context(), tailed, at, 100*time.Millisecond, committed)
			require.NoError(t, err)
			at = g.next
		}
		g, err := look(t.Context(), tailed, 5, 50*time.Millisecond, committed)
		require.NoError(t, err)
		require.Empty(t, g.values, "the follower has no more")
		require.EqualValues(t, 10, g.HighWatermark, "the leader has told")
		w.move(t, "b", 0)
		numbered(t, s, 10, 12)
		require.Equal(t, wanted(5, 12), readTo(t, tailed, 5, 12, committed))
		require.Equal(t, wanted(0, 12), readTo(t, session(t, w.r), 0, 12, committed))
	})
}

// A broker that does not lead a partition any more, which the gateway has not heard of yet,
// answers as a follower. It has not got the end of a sealed extent: nothing is passed over.
// There is no zone in this.
func TestFormerLeaderIsBehind(t *testing.T) {
	w, p := followed(t, upstream.Config{})
	numbered(t, session(t, w.r), 0, 10)
	w.pool = w.newPool(t)
	r := w.router(t, router.Config{}, nil)
	require.Equal(t, wanted(0, 2), values(t, session(t, r), tp0, 0, 10)[:2]) // it knows the leader
	w.move(t, "b", 0)
	numbered(t, session(t, w.r), 10, 12)
	p.behind(t, 5)
	require.NoError(t, p.c.MoveTopicPartition("phys", 0, p.follower))
	p.c.SetFollowers("phys", 0, []int32{p.leader})
	p.set(func(p *pair) { p.leader, p.follower = p.follower, p.leader })
	require.Equal(t, wanted(0, 12), within(t, 5*time.Second, session(t, r), 0, 12))
	require.Positive(t, p.times("wrongly"), "the former leader was asked for its own answer, and refused")
}

// Other sessions of a partition stay with the follower while one asks the leader.
func TestFollowerLeaseEnds(t *testing.T) {
	w, p := followed(t, upstream.Config{FollowerLease: 100 * time.Millisecond})
	s := session(t, w.r)
	numbered(t, s, 0, 3)
	p.set(func(p *pair) { p.high = 3 })
	within(t, 5*time.Second, s, 0, 3)
	require.Eventually(t, func() bool {
		within(t, 5*time.Second, s, 0, 3)
		return p.times("leader") >= 3
	}, 5*time.Second, 10*time.Millisecond)
	require.Zero(t, w.r.Stats().LeaderReadBytes)
	p.set(func(p *pair) { p.named = false }) // the leader is in the zone now, say
	require.Eventually(t, func() bool {
		within(t, 5*time.Second, s, 0, 3)
		return w.r.Stats().LeaderReadBytes > 0
	}, 5*time.Second, 10*time.Millisecond)
	asked := p.times("follower")
	within(t, 5*time.Second, s, 0, 3)
	require.Equal(t, asked, p.times("follower"))
	require.Zero(t, p.times("leader itself"))
}
