package router_test

import (
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/federation/federationtest"
	"github.com/braidmq/braid/gateway/router"
	"github.com/braidmq/braid/internal/mark"
	"github.com/braidmq/braid/internal/recordbatch"
)

var errCut = errors.New("the test cuts the connection")

// Answers are lost after the append, before it, and by broken connections,
// under a pipelining idempotent producer: everything lands once, in order.
func TestFaultyBrokerUnderLoad(t *testing.T) {
	for name, fault := range map[string]func(c *kfake.Cluster, i int){
		"answer lost after the append": func(c *kfake.Cluster, _ int) {
			c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.RequestTimedOut})
		},
		"not enough replicas": func(c *kfake.Cluster, _ int) {
			c.ControlKey(0, func(req kmsg.Request) (kmsg.Response, error, bool) {
				return refuse(req.(*kmsg.ProduceRequest), kerr.NotEnoughReplicas.Code), nil, true
			})
		},
		"not the leader": func(c *kfake.Cluster, _ int) {
			c.ControlKey(0, func(req kmsg.Request) (kmsg.Response, error, bool) {
				return refuse(req.(*kmsg.ProduceRequest), kerr.NotLeaderForPartition.Code), nil, true
			})
		},
		"connection cut": func(c *kfake.Cluster, _ int) {
			c.ControlKey(0, func(kmsg.Request) (kmsg.Response, error, bool) { return nil, errCut, true })
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1)
			w.SetTopic("orders", nil, []*federation.Extent{federationtest.Head("a", "phys", 0)})
			s := w.r.NewSession()
			defer s.Close()
			const n = 300
			sem, errs := make(chan struct{}, 5), make(chan error, n)
			for i := range n {
				sem <- struct{}{}
				if i%20 == 10 {
					fault(w.clusters["a"], i)
				}
				b := batch(recordbatch.Producer{ID: 1<<48 + 99, Sequence: int32(i)}, strconv.Itoa(i))
				require.NoError(t, s.Produce(t.Context(), router.AcksAll, 20*time.Second, []router.Append{{TopicPartition: at("orders", 0), Batch: b}}, func(a []router.Appended) {
					err := a[0].Err
					if err == nil && a[0].BaseOffset != federation.LogicalOffset(i) {
						err = fmt.Errorf("batch %d acknowledged at %d", i, a[0].BaseOffset)
					}
					errs <- err
					<-sem
				}))
			}
			for range n {
				require.NoError(t, <-errs)
			}
			for i, v := range values(t, s, at("orders", 0), 0, n) {
				require.Equal(t, fmt.Sprintf("%d:%d", i, i), v)
			}
			require.Positive(t, w.r.Stats().AppendRetries)
		})
	}
}

func refuse(req *kmsg.ProduceRequest, code int16) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.ProduceResponse)
	for _, rt := range req.Topics {
		st := kmsg.NewProduceResponseTopic()
		st.Topic = rt.Topic
		for _, rp := range rt.Partitions {
			sp := kmsg.NewProduceResponseTopicPartition()
			sp.Partition, sp.ErrorCode, sp.BaseOffset = rp.Partition, code, -1
			st.Partitions = append(st.Partitions, sp)
		}
		resp.Topics = append(resp.Topics, st)
	}
	return resp
}

// An idempotent producer that has more to write elsewhere is told soon that a cluster
// does not take appends; whoever has nothing else waits for longer, and who could write a
// second copy as long as it may.
func TestAwayWaitIsForIdempotentProducers(t *testing.T) {
	w := newWorld(t, 1)
	w.SetTopic("orders", nil, []*federation.Extent{federationtest.Head("a", "phys", 0)}, []*federation.Extent{federationtest.Head("b", "phys", 0)})
	s := w.r.NewSession()
	defer s.Close()
	const wait, alone, timeout = 300 * time.Millisecond, 900 * time.Millisecond, 1500 * time.Millisecond
	others := &router.AwayWait{Others: wait, Alone: alone, HoldsUp: func() bool { return true }}
	nobody := &router.AwayWait{Others: wait, Alone: alone, HoldsUp: func() bool { return false }}
	attempt := func(id recordbatch.Producer, away *router.AwayWait) (took time.Duration, err error) {
		begin, done := time.Now(), make(chan error, 1)
		appends := []router.Append{{TopicPartition: at("orders", 0), Batch: batch(id, "v"), AwayWait: away}}
		require.NoError(t, s.Produce(t.Context(), router.AcksAll, timeout, appends, func(a []router.Appended) { done <- a[0].Err }))
		err = <-done
		return time.Since(begin), err
	}
	var back atomic.Bool
	w.clusters["a"].ControlKey(0, func(req kmsg.Request) (kmsg.Response, error, bool) {
		w.clusters["a"].KeepControl()
		if back.Load() {
			return nil, nil, false
		}
		return refuse(req.(*kmsg.ProduceRequest), kerr.NotLeaderForPartition.Code), nil, true
	})
	first := recordbatch.Producer{ID: 1<<48 + 7}
	took, err := attempt(first, others)
	require.True(t, federation.KindOf(err).Retriable(), "%v", err)
	require.Less(t, took, alone)
	require.GreaterOrEqual(t, took, wait)
	took, err = attempt(first, others)
	require.Error(t, err)
	require.Less(t, took, wait, "it is known that the cluster is away")
	took, err = attempt(first, nobody)
	require.Error(t, err)
	require.GreaterOrEqual(t, took, alone, "nothing else waits behind it")
	require.Less(t, took, timeout)
	took, err = attempt(first, nil)
	require.Error(t, err)
	require.GreaterOrEqual(t, took, timeout, "who does not say how long waits as long as it may")
	took, err = attempt(recordbatch.NoProducer, others)
	require.Error(t, err)
	require.GreaterOrEqual(t, took, timeout, "it may have few tries")

	begin, done := time.Now(), make(chan []router.Appended, 1)
	require.NoError(t, s.Produce(t.Context(), router.AcksAll, timeout, []router.Append{
		{TopicPartition: at("orders", 0), Batch: batch(first, "v"), AwayWait: nobody},
		{TopicPartition: at("orders", 1), Batch: batch(first, "w"), AwayWait: nobody},
	}, func(a []router.Appended) { done <- a }))
	both := <-done
	require.Error(t, both[0].Err)
	require.NoError(t, both[1].Err)
	require.Less(t, time.Since(begin), alone, "the answer of the other partition waits for it")

	back.Store(true)
	require.Eventually(t, func() bool { // as clients try
		_, err = attempt(first, others)
		return err == nil
	}, 10*time.Second, time.Millisecond, "%v", err)
	require.Equal(t, []string{"0:v"}, values(t, s, at("orders", 0), 0, 1))
}

// A batch that no broker could recognise a second time is not sent twice.
func TestUnknownOutcomeIsNotRepeated(t *testing.T) {
	w := newWorld(t, 1)
	w.SetTopic("orders", nil, []*federation.Extent{federationtest.Head("a", "phys", 0)})
	s := w.r.NewSession()
	defer s.Close()
	w.clusters["a"].Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.RequestTimedOut})
	a := produce(t, s, router.Append{TopicPartition: at("orders", 0), Batch: batch(recordbatch.NoProducer, "once")})
	require.Equal(t, federation.Timeout, federation.KindOf(a[0].Err))
	require.NoError(t, produce(t, s, router.Append{TopicPartition: at("orders", 0), Batch: batch(recordbatch.NoProducer, "next")})[0].Err)
	require.Equal(t, []string{"0:once", "1:next"}, values(t, s, at("orders", 0), 0, 2))
}

// A leader that is replaced before the other replicas have a batch answers with an error
// that says "not appended" elsewhere, and with the batch's offset. The next leader may have
// it: only a producer that can be recognised has it sent again.
func TestLeaderChangesAfterTheAppend(t *testing.T) {
	for _, code := range []*kerr.Error{kerr.NotLeaderForPartition, kerr.KafkaStorageError, kerr.UnknownTopicOrPartition} {
		t.Run(code.Message, func(t *testing.T) {
			w := newWorld(t, 1)
			w.orders()
			s := session(t, w.r)
			leaves := func(offset int64) {
				w.clusters["a"].ControlKey(0, func(req kmsg.Request) (kmsg.Response, error, bool) {
					resp := refuse(req.(*kmsg.ProduceRequest), code.Code).(*kmsg.ProduceResponse)
					sp := &resp.Topics[0].Partitions[0]
					sp.BaseOffset, sp.LogStartOffset = offset, 0
					return resp, nil, true
				})
			}
			for offset, value := range []string{"first", "second"} {
				write(t, w.clusters["a"], 0, value)
				leaves(int64(offset))
				a := answerOf(t, begin(t, s, 10*time.Second, batch(recordbatch.NoProducer, value)))
				require.Equal(t, federation.Timeout, federation.KindOf(a.Err), "%v", a.Err)
			}
			require.Zero(t, w.r.Stats().AppendRetries)

			require.EqualValues(t, 2, added(t, s, one(0, "third")))
			leaves(2)
			require.EqualValues(t, 2, added(t, s, one(0, "third")))
			require.EqualValues(t, 1, w.r.Stats().AppendRetries)
			require.EqualValues(t, 3, added(t, s, one(1, "fourth")))
			require.Equal(t, []string{"0:first", "1:second", "2:third", "3:fourth"}, values(t, s, tp0, 0, 4))
		})
	}
}

// What is wrong with a batch is told, and does not stop what follows.
func TestRefusalsReachTheSender(t *testing.T) {
	for code, kind := range map[*kerr.Error]federation.Kind{
		kerr.MessageTooLarge: federation.RecordTooLarge, kerr.InvalidRecord: federation.InvalidRecord, kerr.CorruptMessage: federation.CorruptBatch,
		kerr.InvalidTimestamp: federation.InvalidTimestamp, kerr.OutOfOrderSequenceNumber: federation.OutOfOrderSequence, kerr.InvalidProducerEpoch: federation.ProducerFenced,
		kerr.PolicyViolation: federation.PolicyViolation, kerr.UnknownServerError: federation.Internal, kerr.TopicAuthorizationFailed: federation.ClusterUnavailable,
	} {
		w := newWorld(t, 1)
		w.SetTopic("orders", nil, []*federation.Extent{federationtest.Head("a", "phys", 0)})
		s := w.r.NewSession()
		w.clusters["a"].ControlKey(0, func(req kmsg.Request) (kmsg.Response, error, bool) {
			return refuse(req.(*kmsg.ProduceRequest), code.Code), nil, true
		})
		a := produce(t, s, router.Append{TopicPartition: at("orders", 0), Batch: batch(recordbatch.NoProducer, "v")})
		require.Equal(t, kind, federation.KindOf(a[0].Err), code.Message)
		require.NotContains(t, a[0].Err.Error(), "phys", "physical names are for the log")
		require.NoError(t, produce(t, s, router.Append{TopicPartition: at("orders", 0), Batch: batch(recordbatch.NoProducer, "v")})[0].Err)
		s.Close()
	}
}

// A cluster that is away holds appends until their time is up, reads of it bring
// nothing and no error, and reads of the other cluster go on.
func TestClusterAway(t *testing.T) {
	w := newWorld(t, 1)
	w.SetTopic("orders", nil, []*federation.Extent{federationtest.Head("a", "phys", 0)}, []*federation.Extent{federationtest.Head("b", "phys", 0)})
	s := w.r.NewSession()
	defer s.Close()
	write(t, w.clusters["b"], 0, "v")
	w.clusters["a"].Close()
	ch := make(chan []router.Appended, 1)
	require.NoError(t, s.Produce(t.Context(), router.AcksAll, 500*time.Millisecond, []router.Append{{TopicPartition: at("orders", 0), Batch: batch(recordbatch.NoProducer, "v")}}, func(a []router.Appended) { ch <- a }))
	from := []router.Position{{TopicPartition: at("orders", 0), MaxBytes: 1000, CurrentEpoch: -1}, {TopicPartition: at("orders", 1), MaxBytes: 1000, CurrentEpoch: -1}}
	f, err := s.Fetch(t.Context(), from, router.FetchLimit{MinBytes: 1, MaxBytes: 1000, MaxWait: 5 * time.Second})
	require.NoError(t, err)
	require.NoError(t, f.Slices[0].Err)
	require.Zero(t, f.Slices[0].Bytes())
	require.Positive(t, f.Slices[1].Bytes())
	f.Release()
	a := <-ch
	require.Error(t, a[0].Err)
	require.True(t, federation.KindOf(a[0].Err).Retriable())
}

// Records of a leader epoch that the map does not name wait for the map, and
// then carry the epoch that it gives them.
func TestNewEpochWaitsForTheMap(t *testing.T) {
	var seen atomic.Int32
	w := newWorldWith(t, 1, router.Config{EpochWait: time.Hour}, func(_, _ string, _, epoch int32) { seen.Store(epoch) })
	head := federationtest.Head("a", "phys", 0)
	w.SetTopic("orders", nil, []*federation.Extent{head})
	s := w.r.NewSession()
	defer s.Close()
	write(t, w.clusters["a"], 0, "old")
	require.Equal(t, []string{"0:old"}, values(t, s, at("orders", 0), 0, 1))
	for i := range 3 {
		require.NoError(t, w.clusters["a"].MoveTopicPartition("phys", 0, int32(i%2)))
	}
	write(t, w.clusters["a"], 0, "new")
	from := []router.Position{{TopicPartition: at("orders", 0), Offset: 1, MaxBytes: 1000, CurrentEpoch: -1}}
	f, err := s.Fetch(t.Context(), from, router.FetchLimit{MinBytes: 1, MaxBytes: 1000, MaxWait: 700 * time.Millisecond})
	require.NoError(t, err)
	require.Zero(t, f.Slices[0].Bytes(), "records of an epoch that nobody has named")
	require.Positive(t, seen.Load(), "the control plane was not told")

	next := *head
	next.Epochs = append(next.Epochs, federation.EpochEntry{Physical: federation.PhysicalEpoch(seen.Load()), Logical: 9})
	w.SetTopic("orders", nil, []*federation.Extent{&next})
	f, err = s.Fetch(t.Context(), from, router.FetchLimit{MinBytes: 1, MaxBytes: 1000, MaxWait: 10 * time.Second})
	require.NoError(t, err)
	h, ok := recordbatch.ParseHeader(f.Slices[0].Records[0])
	require.True(t, ok)
	require.EqualValues(t, 9, h.LeaderEpoch)
	f.Release()
}

// While the controller is away, records of an epoch that the map does not name are
// given out all the same; those before them in the same answer keep their offsets.
func TestNewEpochIsGivenOutWithoutTheMapAfterAWhile(t *testing.T) {
	w := newWorldWith(t, 1, router.Config{EpochWait: time.Millisecond}, nil)
	head := federationtest.Head("a", "phys", 0)
	head.Base = 100
	w.SetTopic("orders", nil, []*federation.Extent{head})
	s := w.r.NewSession()
	defer s.Close()
	write(t, w.clusters["a"], 0, "old", "older")
	for i := range 3 {
		require.NoError(t, w.clusters["a"].MoveTopicPartition("phys", 0, int32(i%2)))
	}
	write(t, w.clusters["a"], 0, "new")
	want := []string{"100:old", "101:older", "102:new"}
	for range 3 {
		again := w.r.NewSession()
		require.Equal(t, want, values(t, again, at("orders", 0), 100, 3))
		again.Close()
	}
}

// The primer of a move that was given up can come late, to a partition that is a head
// by then: readers pass over it. A seal is the end until the map says what comes next.
func TestMarksInAHead(t *testing.T) {
	w := newWorld(t, 1)
	head := federationtest.Head("a", "phys", 0)
	w.SetTopic("orders", nil, []*federation.Extent{head})
	s := w.r.NewSession()
	defer s.Close()
	subject := mark.Subject{LogicalCluster: federation.DefaultLogicalCluster, Topic: "orders", TopicID: federation.NewTopicID(), MapVersion: 1}
	marked := func(b []byte) {
		t.Helper()
		w.append(t, head, b)
	}
	appended := func(b []byte) {
		t.Helper()
		require.NoError(t, produce(t, s, router.Append{TopicPartition: at("orders", 0), Batch: b})[0].Err)
	}
	marked(mark.Primer(subject, mark.ProducerID(1), time.Now()))
	appended(batch(recordbatch.NoProducer, "a"))
	require.Equal(t, []string{"1:a"}, values(t, s, at("orders", 0), 0, 1))
	marked(mark.Primer(subject, mark.ProducerID(2), time.Now()))
	got := make(chan valuesRead, 1)
	go func() { // it waits in the tail
		v, err := readValues(t.Context(), s, at("orders", 0), 2, 1)
		got <- valuesRead{v, err}
	}()
	marked(mark.Primer(subject, mark.ProducerID(3), time.Now()))
	appended(batch(recordbatch.NoProducer, "b"))
	read := <-got
	require.NoError(t, read.err)
	require.Equal(t, []string{"4:b"}, read.values)

	marked(mark.Seal(subject, mark.ProducerID(4), time.Now()))
	appended(batch(recordbatch.NoProducer, "late"))
	f, err := s.Fetch(t.Context(), []router.Position{{TopicPartition: at("orders", 0), Offset: 5, MaxBytes: 1000, CurrentEpoch: -1}},
		router.FetchLimit{MinBytes: 1, MaxBytes: 1000, MaxWait: 500 * time.Millisecond})
	require.NoError(t, err)
	require.Zero(t, f.Slices[0].Bytes())
	f.Release()
}
