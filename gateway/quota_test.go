package gateway_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.opentelemetry.io/otel/metric/noop"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway"
	"github.com/braidmq/braid/gateway/router"
	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/gen/braid/admin/v1/adminv1connect"
	braidv1 "github.com/braidmq/braid/gen/braid/v1"
	"github.com/braidmq/braid/internal/quota"
)

var (
	ofClientC = federation.QuotaEntity{ClientID: federation.NamedQuota("c")}
	ofAnybody = federation.QuotaEntity{User: federation.NamedQuota("")}
)

// withQuota has the gateway's clients be held to a quota.
func withQuota(t *testing.T, e federation.QuotaEntity, key federation.QuotaKey, rate float64) option {
	t.Helper()
	return func(_ *gateway.Config, d *gateway.Deps) {
		var err error
		d.Limiter, err = quota.New(quota.Config{Window: 100 * time.Millisecond}, d.Maps, nil, noop.Meter{})
		require.NoError(t, err)
		quotas, err := federation.Quotas{}.Apply([]federation.QuotaChange{{Entity: e, Set: map[federation.QuotaKey]float64{key: rate}}})
		require.NoError(t, err)
		d.Maps.(*world).Change(func(m *federation.Map) { m.Quotas = quotas })
	}
}

func batchOfBytes(n int) *braidv1.ProduceBatchRequest {
	return &braidv1.ProduceBatchRequest{ClientId: "c", Batch: &braidv1.ProduceFrame{Topic: "orders", Records: []*braidv1.Record{record("", strings.Repeat("x", n))}}}
}

// A call waits for its quota for half of the time that it has at most: writing takes some, too.
func TestACallLeavesItselfTime(t *testing.T) {
	w := newWorld(t, withQuota(t, ofClientC, federation.QuotaProducerByteRate, 1000))
	w.topic("orders", 1, nil)
	producer := w.producer(t)
	_, err := producer.ProduceBatch(ctxFor(t), batchOfBytes(8000))
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 12*time.Second)
	defer cancel()
	began := time.Now()
	_, err = producer.ProduceBatch(ctx, batchOfBytes(1))
	require.Equal(t, braidv1.Reason_REASON_THROTTLED, reasonOf(t, err), "%v", err)
	require.ErrorContains(t, err, "try again in 7")
	require.Less(t, time.Since(began), 5*time.Second)
}

func TestACallWithoutADeadlineDoesNotWaitForLong(t *testing.T) {
	w := newWorld(t, withController(t), withQuota(t, ofAnybody, federation.QuotaRequestRate, 0.1), func(c *gateway.Config, _ *gateway.Deps) { c.UnaryTimeout = 200 * time.Millisecond })
	w.topic("orders", 1, nil)
	list := func() error {
		_, err := w.consumer(t).ListOffsets(t.Context(), &braidv1.ListOffsetsRequest{})
		return err
	}
	_ = list()
	require.Equal(t, braidv1.Reason_REASON_THROTTLED, reasonOf(t, list()))
}

func TestCallsThatWaitEndWhenTheGatewayDrains(t *testing.T) {
	w := newWorld(t, withQuota(t, ofClientC, federation.QuotaProducerByteRate, 1000))
	w.topic("orders", 1, nil)
	producer := w.producer(t)
	_, err := producer.ProduceBatch(ctxFor(t), batchOfBytes(9000))
	require.NoError(t, err)
	began := time.Now()
	failed := make(chan error)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		_, err := producer.ProduceBatch(ctx, batchOfBytes(1))
		failed <- err
	}()
	require.NoError(t, w.g.Drain(ctxFor(t)))
	err = <-failed
	require.Equal(t, braidv1.Reason_REASON_NO_LEADER, reasonOf(t, err), "%v", err)
	require.Less(t, time.Since(began), 5*time.Second)
}

// countedSession counts how often it is asked for records.
type countedSession struct {
	router.Session
	fetches *atomic.Int64
}

func (s countedSession) Fetch(ctx context.Context, from []router.Position, limit router.FetchLimit) (*router.Fetched, error) {
	s.fetches.Add(1)
	return s.Session.Fetch(ctx, from, limit)
}

// What a consumer may not have yet is not read again and again.
func TestAThrottledConsumerDoesNotFetch(t *testing.T) {
	var fetches atomic.Int64
	w := newWorld(t, withQuota(t, ofClientC, federation.QuotaConsumerByteRate, 100), func(c *gateway.Config, d *gateway.Deps) {
		c.HoldTimeout, c.HeartbeatInterval = time.Millisecond, 100*time.Millisecond
		open := d.NewSession
		d.NewSession = func() router.Session { return countedSession{open(), &fetches} }
	})
	w.topic("orders", 1, nil)
	value := strings.Repeat("x", 400)
	for range 50 {
		_, err := w.producer(t).ProduceBatch(ctxFor(t), &braidv1.ProduceBatchRequest{Batch: &braidv1.ProduceFrame{Topic: "orders", Records: []*braidv1.Record{record("", value)}}})
		require.NoError(t, err)
	}
	c := w.consume(t, &braidv1.Subscribe{ClientId: "c", Credit: &braidv1.Credit{MaxRecords: 1000, MaxBytes: 1 << 30}, Delivery: &braidv1.Delivery{MaxFrameBytes: 1000}})
	c.await(func() bool { return c.records() > 0 })
	before := len(c.progress)
	c.await(func() bool { return len(c.progress) >= before+10 }) // a second
	require.Less(t, c.records(), 50, "the quota was not kept")
	require.LessOrEqual(t, fetches.Load(), int64(4))
	c.leave()
}

// A client hears that its stream is not read, also if there is nothing else to tell it.
func TestAProducerIsToldThatItWaits(t *testing.T) {
	w := newWorld(t, withQuota(t, ofClientC, federation.QuotaProducerByteRate, 1000))
	w.topic("orders", 1, nil)
	gate := make(chan struct{})
	w.clusters["a"].ControlKey(kmsg.Produce.Int16(), func(kmsg.Request) (kmsg.Response, error, bool) {
		w.clusters["a"].SleepControl(func() { <-gate })
		return nil, nil, false
	})
	c := w.produce(t, &braidv1.ProduceOpen{ClientId: "c"})
	c.frame(&braidv1.ProduceFrame{Topic: "orders", Records: []*braidv1.Record{record("", strings.Repeat("x", 3000))}})
	told := func() (out []*braidv1.ProduceResponse) {
		for _, m := range c.other {
			if m.GetThrottleMs() > 0 {
				out = append(out, m)
			}
		}
		return out
	}
	c.await(func() bool { return len(told()) > 0 })
	require.NotNil(t, told()[0].GetHeartbeat())
	require.InDelta(t, 2900, told()[0].GetThrottleMs(), 1000)
	close(gate)
	c.finish()
	require.Len(t, told(), 1, "once")
}

// Who calls is not charged for a topic that was not made.
func TestChangesOfTopicsThatFailAreFree(t *testing.T) {
	w := newWorld(t, withController(t), withQuota(t, ofAnybody, federation.QuotaControllerMutationRate, 0.1))
	w.topic("orders", 1, nil)
	topics := adminv1connect.NewTopicServiceClient(h2c(t), w.url)
	create := func(id string) error {
		_, err := topics.CreateTopic(ctxFor(t), &adminv1.CreateTopicRequest{TopicId: id, Topic: &adminv1.Topic{PartitionCount: 10}})
		return err
	}
	for range 3 {
		require.ErrorContains(t, create("bad"), "is wrong")
	}
	require.NoError(t, create("good"))
	require.Equal(t, braidv1.Reason_REASON_THROTTLED, reasonOf(t, create("another")))
	require.ErrorContains(t, create("orders"), "is wrong", "it exists")
}

func TestLongClientIDsAreRefused(t *testing.T) {
	w := newWorld(t)
	w.topic("orders", 1, nil)
	long := strings.Repeat("x", 1025)
	refused := func(err error) {
		t.Helper()
		require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err), "%v", err)
		require.ErrorContains(t, err, "client_id: has 1025 bytes, want at most 1024")
	}
	req := batchOfBytes(1)
	req.ClientId = long
	_, err := w.producer(t).ProduceBatch(ctxFor(t), req)
	refused(err)
	read, err := w.consumer(t).Read(ctxFor(t), &braidv1.ReadRequest{Sources: from("orders", earliest), ClientId: long})
	require.NoError(t, err)
	require.False(t, read.Receive())
	refused(read.Err())
	stream, err := w.producer(t).Produce(ctxFor(t))
	require.NoError(t, err)
	require.NoError(t, stream.Send(&braidv1.ProduceRequest{Frame: &braidv1.ProduceRequest_Open{Open: &braidv1.ProduceOpen{ClientId: long}}}))
	_, err = stream.Receive()
	refused(err)
	refused(w.consume(t, &braidv1.Subscribe{ClientId: long}).receive())
}
