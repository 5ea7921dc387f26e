package gateway_test

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/braidmq/braid/gateway"
	braidv1 "github.com/braidmq/braid/gen/braid/v1"
	"github.com/braidmq/braid/gen/braid/v1/braidv1connect"
	"github.com/braidmq/braid/internal/recordbatch"
)

var (
	earliest = &braidv1.Position{At: &braidv1.Position_Earliest{Earliest: true}}
	latest   = &braidv1.Position{At: &braidv1.Position_Latest{Latest: true}}
	toTheEnd = &braidv1.StopAt{At: &braidv1.StopAt_LatestAtStart{LatestAtStart: true}}
)

func from(topic string, start *braidv1.Position) []*braidv1.ReadSource {
	return []*braidv1.ReadSource{{Topic: topic, Start: start}}
}

// readAll reads a bounded Read to its end.
func readAll(t *testing.T, client braidv1connect.ConsumerServiceClient, req *braidv1.ReadRequest) ([]*braidv1.RecordBatch, *braidv1.ConsumeClosed) {
	t.Helper()
	stream, err := client.Read(ctxFor(t), req)
	require.NoError(t, err)
	var batches []*braidv1.RecordBatch
	var closed *braidv1.ConsumeClosed
	for stream.Receive() {
		require.Nil(t, closed, "a frame after the last")
		if b := stream.Msg().GetRecords(); b != nil {
			batches = append(batches, b)
		}
		closed = stream.Msg().GetClosed()
	}
	require.NoError(t, stream.Err())
	require.NotNil(t, closed)
	return batches, closed
}

// listed names records as partition/offset=value.
func listed(batches []*braidv1.RecordBatch) map[int32][]string {
	out := make(map[int32][]string)
	for _, b := range batches {
		for _, r := range b.GetRecords() {
			out[b.GetPartition()] = append(out[b.GetPartition()], fmt.Sprintf("%d=%s", r.GetOffset(), r.GetValue()))
		}
	}
	return out
}

func wanted(n int) (out []string) {
	for i := range n {
		out = append(out, fmt.Sprintf("%d=v%d", i, i))
	}
	return out
}

func TestReadOverEveryProtocol(t *testing.T) {
	w := newWorld(t)
	w.topic("orders", 4, nil)
	w.fill(t, "orders", 4, 100)
	clients := map[string]braidv1connect.ConsumerServiceClient{
		"http/1.1":          braidv1connect.NewConsumerServiceClient(http.DefaultClient, w.url),
		"http/1.1 json":     braidv1connect.NewConsumerServiceClient(http.DefaultClient, w.url, connect.WithProtoJSON()),
		"http/1.1 grpc-web": braidv1connect.NewConsumerServiceClient(http.DefaultClient, w.url, connect.WithGRPCWeb()),
	}
	for name, opts := range protocols {
		clients[name] = w.consumer(t, opts...)
	}
	for name, client := range clients {
		t.Run(name, func(t *testing.T) {
			batches, closed := readAll(t, client, &braidv1.ReadRequest{Sources: from("orders", earliest), Stop: toTheEnd})
			require.True(t, closed.GetReachedStop())
			got := listed(batches)
			for p := range int32(4) {
				require.Equal(t, wanted(100), got[p])
			}
			for _, at := range closed.GetPositions() {
				require.EqualValues(t, 100, at.GetOffset())
			}
		})
	}
}

func TestReadKeepsWhatARecordIs(t *testing.T) {
	w := newWorld(t)
	w.topic("orders", 1, nil)
	want := []*braidv1.Record{
		{Key: []byte("k"), Value: []byte("v"), TimestampMs: 5, Headers: []*braidv1.Header{{Key: "h", Value: []byte("1")}, {Key: "h"}, {Key: "", Value: []byte{}}}},
		{Key: []byte{}, Value: []byte{}, TimestampMs: 6},
		{TimestampMs: 7},
		{Key: []byte("tombstone"), TimestampMs: 8},
	}
	c := w.produce(t, &braidv1.ProduceOpen{})
	c.frame(&braidv1.ProduceFrame{Topic: "orders", Records: want})
	c.finish()
	batches, _ := readAll(t, w.consumer(t), &braidv1.ReadRequest{Sources: from("orders", earliest), Stop: toTheEnd})
	for i, got := range batches[0].GetRecords() {
		require.EqualValues(t, i, got.GetOffset())
		require.Equal(t, want[i].GetTimestampMs(), got.GetTimestampMs())
		require.Equal(t, want[i].Key, got.Key)
		require.Equal(t, want[i].Value, got.Value)
		require.Len(t, got.GetHeaders(), len(want[i].GetHeaders()))
		for j, h := range got.GetHeaders() {
			require.Equal(t, want[i].GetHeaders()[j].GetKey(), h.GetKey())
			require.Equal(t, want[i].GetHeaders()[j].Value, h.Value)
		}
	}
}

func TestReadPositionsAndStops(t *testing.T) {
	w := newWorld(t)
	w.topic("orders", 1, nil)
	w.fill(t, "orders", 1, 100)
	position := func(p *braidv1.Position) []*braidv1.ReadSource { return from("orders", p) }
	resume := []*braidv1.ReadSource{{Topic: "orders", Start: earliest, Positions: []*braidv1.PartitionOffset{{Offset: 90}}}}
	for name, tc := range map[string]struct {
		sources     []*braidv1.ReadSource
		stop        *braidv1.StopAt
		first, last int
	}{
		"earliest":       {position(earliest), toTheEnd, 0, 99},
		"offset":         {position(&braidv1.Position{At: &braidv1.Position_Offset{Offset: 42}}), toTheEnd, 42, 99},
		"timestamp":      {position(&braidv1.Position{At: &braidv1.Position_TimestampMs{TimestampMs: 1010}}), toTheEnd, 10, 99},
		"last n":         {position(&braidv1.Position{At: &braidv1.Position_LastN{LastN: 3}}), toTheEnd, 97, 99},
		"last too many":  {position(&braidv1.Position{At: &braidv1.Position_LastN{LastN: math.MaxInt64}}), toTheEnd, 0, 99},
		"resume":         {resume, toTheEnd, 90, 99},
		"stop offset":    {position(earliest), &braidv1.StopAt{At: &braidv1.StopAt_Offset{Offset: 7}}, 0, 6},
		"stop timestamp": {position(earliest), &braidv1.StopAt{At: &braidv1.StopAt_TimestampMs{TimestampMs: 1004}}, 0, 3},
		"stop records":   {position(earliest), &braidv1.StopAt{At: &braidv1.StopAt_Records{Records: 5}}, 0, 4},
	} {
		t.Run(name, func(t *testing.T) {
			batches, closed := readAll(t, w.consumer(t), &braidv1.ReadRequest{Sources: tc.sources, Stop: tc.stop})
			require.True(t, closed.GetReachedStop())
			got := listed(batches)[0]
			require.Len(t, got, tc.last-tc.first+1)
			require.Equal(t, fmt.Sprintf("%d=v%d", tc.first, tc.first), got[0])
			require.Equal(t, fmt.Sprintf("%d=v%d", tc.last, tc.last), got[len(got)-1])
		})
	}
	batches, closed := readAll(t, w.consumer(t), &braidv1.ReadRequest{Sources: position(latest), Stop: toTheEnd})
	require.Empty(t, batches)
	require.True(t, closed.GetReachedStop())
}

func TestReadDelivery(t *testing.T) {
	w := newWorld(t)
	w.topic("orders", 1, nil)
	w.fill(t, "orders", 1, 100)
	read := func(t *testing.T, d *braidv1.Delivery) []*braidv1.RecordBatch {
		t.Helper()
		batches, _ := readAll(t, w.consumer(t), &braidv1.ReadRequest{Sources: from("orders", earliest), Stop: toTheEnd, Delivery: d})
		return batches
	}
	t.Run("filter", func(t *testing.T) {
		batches := read(t, &braidv1.Delivery{Filter: &braidv1.Filter{KeyPrefix: []byte("k9")}})
		require.Len(t, listed(batches)[0], 11)
		require.EqualValues(t, 100, batches[len(batches)-1].GetNextOffset())
	})
	t.Run("filter without a match", func(t *testing.T) {
		batches := read(t, &braidv1.Delivery{Filter: &braidv1.Filter{All: []*braidv1.HeaderMatch{{Key: "h", Test: &braidv1.HeaderMatch_Present{Present: true}}}}})
		require.Empty(t, listed(batches))
		require.EqualValues(t, 100, batches[len(batches)-1].GetNextOffset(), "the position moves all the same")
	})
	t.Run("text", func(t *testing.T) {
		r := read(t, &braidv1.Delivery{TextView: true})[0].GetRecords()[3]
		require.Equal(t, "k3", r.GetKeyText())
		require.Equal(t, "v3", r.GetValueText())
	})
	t.Run("keys only", func(t *testing.T) {
		r := read(t, &braidv1.Delivery{KeysAndHeadersOnly: true})[0].GetRecords()[3]
		require.Nil(t, r.Value)
		require.Equal(t, "k3", string(r.GetKey()))
	})
	t.Run("small frames", func(t *testing.T) {
		batches := read(t, &braidv1.Delivery{MaxFrameBytes: 40})
		require.Greater(t, len(batches), 9)
		require.Equal(t, wanted(100), listed(batches)[0])
	})
	t.Run("linger", func(t *testing.T) {
		require.Equal(t, wanted(100), listed(read(t, &braidv1.Delivery{LingerMs: 5}))[0])
	})
	t.Run("kafka", func(t *testing.T) {
		batches := read(t, &braidv1.Delivery{Format: braidv1.RecordFormat_RECORD_FORMAT_KAFKA_V2})
		batch, rest := recordbatch.Next(batches[0].GetKafkaBatches())
		require.Empty(t, rest)
		h, ok := recordbatch.ParseHeader(batch)
		require.True(t, ok)
		require.EqualValues(t, 100, h.Count)
	})
}

func TestReadFollowsAndBeats(t *testing.T) {
	w := newWorld(t, func(c *gateway.Config, _ *gateway.Deps) { c.HeartbeatInterval = 30 * time.Millisecond })
	w.topic("orders", 2, nil)
	ctx, cancel := context.WithCancel(ctxFor(t))
	stream, err := w.consumer(t).Read(ctx, &braidv1.ReadRequest{Sources: from("orders", latest)})
	require.NoError(t, err)
	for beats := 0; beats < 2; {
		require.True(t, stream.Receive())
		if stream.Msg().GetProgress() != nil {
			beats++
		}
	}
	require.Len(t, stream.Msg().GetProgress().GetPositions(), 2)
	w.fill(t, "orders", 2, 10)
	got := 0
	for got < 20 && stream.Receive() {
		got += len(stream.Msg().GetRecords().GetRecords())
	}
	require.Equal(t, 20, got)
	cancel()
	require.Eventually(t, func() bool { return w.g.Streams() == 0 }, 5*time.Second, 5*time.Millisecond, "a cancelled read frees its state")
}

func TestReadDrains(t *testing.T) {
	w := newWorld(t)
	w.topic("orders", 1, nil)
	stream, err := w.consumer(t).Read(ctxFor(t), &braidv1.ReadRequest{Sources: from("orders", latest)})
	require.NoError(t, err)
	require.True(t, stream.Receive())
	require.Len(t, stream.Msg().GetProgress().GetPositions(), 1)
	require.NoError(t, w.g.Drain(ctxFor(t)))
	require.True(t, stream.Receive())
	require.Equal(t, "shutdown", stream.Msg().GetDraining().GetCause())
	require.True(t, stream.Receive())
	require.False(t, stream.Msg().GetClosed().GetReachedStop())
	require.False(t, stream.Receive())
	require.NoError(t, stream.Err())
}

func TestReadTellsOfAnOffsetOutOfRange(t *testing.T) {
	w := newWorld(t)
	w.topic("orders", 2, nil)
	w.fill(t, "orders", 2, 10)
	ctx, cancel := context.WithCancel(ctxFor(t))
	defer cancel()
	stream, err := w.consumer(t).Read(ctx, &braidv1.ReadRequest{Sources: []*braidv1.ReadSource{
		{Topic: "orders", Partitions: []int32{0}, Start: earliest}, {Topic: "orders", Partitions: []int32{1}, Start: &braidv1.Position{At: &braidv1.Position_Offset{Offset: 5000}}},
	}})
	require.NoError(t, err)
	for failures, records := 0, 0; failures == 0 || records < 10; {
		require.True(t, stream.Receive(), "%v", stream.Err())
		if f := stream.Msg().GetPartitionFailure(); f != nil {
			require.Equal(t, braidv1.Reason_REASON_OFFSET_OUT_OF_RANGE, f.GetFailure().GetReason())
			require.EqualValues(t, 1, f.GetPartition())
			failures++
			require.Equal(t, 1, failures)
		}
		records += len(stream.Msg().GetRecords().GetRecords())
	}
}

func TestReadRefusesBadRequests(t *testing.T) {
	w := newWorld(t)
	w.topic("orders", 2, nil)
	for name, tc := range map[string]struct {
		req  *braidv1.ReadRequest
		code connect.Code
	}{
		"no source":     {&braidv1.ReadRequest{}, connect.CodeInvalidArgument},
		"unknown topic": {&braidv1.ReadRequest{Sources: from("x", nil)}, connect.CodeNotFound},
		"partition":     {&braidv1.ReadRequest{Sources: []*braidv1.ReadSource{{Topic: "orders", Partitions: []int32{2}}}}, connect.CodeNotFound},
		"twice":         {&braidv1.ReadRequest{Sources: append(from("orders", nil), from("orders", nil)...)}, connect.CodeInvalidArgument},
		"committed":     {&braidv1.ReadRequest{Sources: from("orders", &braidv1.Position{At: &braidv1.Position_Committed{Committed: true}})}, connect.CodeInvalidArgument},
		"negative":      {&braidv1.ReadRequest{Sources: from("orders", &braidv1.Position{At: &braidv1.Position_Offset{Offset: -1}})}, connect.CodeInvalidArgument},
		"filter raw": {
			&braidv1.ReadRequest{Sources: from("orders", nil), Delivery: &braidv1.Delivery{Format: braidv1.RecordFormat_RECORD_FORMAT_KAFKA_V2, TextView: true}},
			connect.CodeInvalidArgument,
		},
		"frame size": {&braidv1.ReadRequest{Sources: from("orders", nil), Delivery: &braidv1.Delivery{MaxFrameBytes: 1 << 30}}, connect.CodeInvalidArgument},
		"stop":       {&braidv1.ReadRequest{Sources: from("orders", nil), Stop: &braidv1.StopAt{At: &braidv1.StopAt_Offset{Offset: -9}}}, connect.CodeInvalidArgument},
	} {
		stream, err := w.consumer(t).Read(ctxFor(t), tc.req)
		require.NoError(t, err)
		require.False(t, stream.Receive())
		require.Equal(t, tc.code, connect.CodeOf(stream.Err()), "%s: %v", name, stream.Err())
		require.NotEqual(t, braidv1.Reason_REASON_UNSPECIFIED, reasonOf(t, stream.Err()))
	}
}

// Records of an aborted transaction are left out, in both formats.
func TestReadLeavesOutAbortedTransactions(t *testing.T) {
	w := newWorld(t)
	w.topic("orders", 1, nil)
	ctx := ctxFor(t)
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.clusters["a"].ListenAddrs()...), kgo.TransactionalID("tx"), kgo.DefaultProduceTopic("phys"),
		kgo.RecordPartitioner(kgo.ManualPartitioner()))
	require.NoError(t, err)
	defer cl.Close()
	for i, commit := range []bool{true, false, true} {
		require.NoError(t, cl.BeginTransaction())
		require.NoError(t, cl.ProduceSync(ctx, kgo.StringRecord(fmt.Sprint("tx", i))).FirstErr())
		require.NoError(t, cl.EndTransaction(ctx, kgo.TransactionEndTry(commit)))
	}
	batches, _ := readAll(t, w.consumer(t), &braidv1.ReadRequest{Sources: from("orders", earliest), Stop: toTheEnd})
	require.Equal(t, []string{"0=tx0", "4=tx2"}, listed(batches)[0])
	require.EqualValues(t, 6, batches[len(batches)-1].GetNextOffset())
	batches, _ = readAll(t, w.consumer(t), &braidv1.ReadRequest{Sources: from("orders", earliest), Stop: toTheEnd, Delivery: &braidv1.Delivery{ReadUncommitted: true}})
	require.Len(t, listed(batches)[0], 3)
	batches, _ = readAll(t, w.consumer(t), &braidv1.ReadRequest{
		Sources: from("orders", earliest), Stop: toTheEnd,
		Delivery: &braidv1.Delivery{Format: braidv1.RecordFormat_RECORD_FORMAT_KAFKA_V2},
	})
	var raw int
	for _, b := range batches {
		for rest := b.GetKafkaBatches(); len(rest) > 0; raw++ {
			_, rest = recordbatch.Next(rest)
		}
	}
	require.Equal(t, 2, raw)
}

func TestFetch(t *testing.T) {
	w := newWorld(t)
	w.topic("orders", 2, nil)
	w.fill(t, "orders", 2, 50)
	for name, opts := range map[string][]connect.ClientOption{
		"post": nil, "get": {connect.WithHTTPGet()}, "grpc": {connect.WithGRPC()},
	} {
		t.Run(name, func(t *testing.T) {
			client := w.consumer(t, opts...)
			sources := from("orders", earliest)
			var all []*braidv1.RecordBatch
			for range 20 {
				page, err := client.Fetch(ctxFor(t), &braidv1.FetchRequest{Sources: sources, MaxRecords: 30})
				require.NoError(t, err)
				n := 0
				for _, b := range page.GetBatches() {
					n += len(b.GetRecords())
				}
				require.LessOrEqual(t, n, 30)
				all = append(all, page.GetBatches()...)
				sources = []*braidv1.ReadSource{{Topic: "orders", Positions: page.GetNext()}}
				if n == 0 {
					break
				}
			}
			require.Equal(t, map[int32][]string{0: wanted(50), 1: wanted(50)}, listed(all))
		})
	}
	t.Run("waits", func(t *testing.T) {
		client := w.consumer(t)
		page, err := client.Fetch(ctxFor(t), &braidv1.FetchRequest{Sources: from("orders", latest), MaxWaitMs: 30})
		require.NoError(t, err)
		require.Empty(t, page.GetBatches())
		got := make(chan *braidv1.FetchResponse, 1)
		go func() {
			res, _ := client.Fetch(ctxFor(t), &braidv1.FetchRequest{Sources: []*braidv1.ReadSource{{Topic: "orders", Positions: page.GetNext()}}, MaxWaitMs: 20000})
			got <- res
		}()
		w.fill(t, "orders", 2, 1)
		require.NotEmpty(t, (<-got).GetBatches())
	})
	t.Run("bad", func(t *testing.T) {
		for _, r := range []*braidv1.FetchRequest{
			{}, {Sources: from("orders", nil), MaxWaitMs: 1 << 40}, {Sources: from("orders", nil), MaxRecords: -1}, {Sources: from("orders", nil), MaxBytes: -1},
		} {
			_, err := w.consumer(t).Fetch(ctxFor(t), r)
			require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err))
		}
	})
}

func TestListOffsetsAndTopicInfo(t *testing.T) {
	w := newWorld(t)
	w.topic("orders", 2, map[string]string{"cleanup.policy": "compact", "max.message.bytes": "12345"})
	w.fill(t, "orders", 2, 10)
	client := w.consumer(t, connect.WithHTTPGet())
	for _, tc := range []struct {
		at   *braidv1.Position
		want int64
	}{
		{nil, 10},
		{latest, 10},
		{earliest, 0},
		{&braidv1.Position{At: &braidv1.Position_TimestampMs{TimestampMs: 1004}}, 4},
		{&braidv1.Position{At: &braidv1.Position_TimestampMs{TimestampMs: 99999999}}, 10},
		{&braidv1.Position{At: &braidv1.Position_LastN{LastN: 4}}, 6},
	} {
		res, err := client.ListOffsets(ctxFor(t), &braidv1.ListOffsetsRequest{Sources: from("orders", tc.at)})
		require.NoError(t, err)
		require.Empty(t, res.GetFailures())
		require.Len(t, res.GetOffsets(), 2)
		require.Equal(t, tc.want, res.GetOffsets()[1].GetOffset(), "%v", tc.at)
	}
	info, err := client.GetTopicInfo(ctxFor(t), &braidv1.GetTopicInfoRequest{Topic: "orders"})
	require.NoError(t, err)
	require.EqualValues(t, 2, info.GetPartitionCount())
	require.EqualValues(t, 12345, info.GetMaxRecordBytes())
	require.True(t, info.GetCompacted())
	_, err = client.GetTopicInfo(ctxFor(t), &braidv1.GetTopicInfoRequest{Topic: "x"})
	require.Equal(t, braidv1.Reason_REASON_UNKNOWN_TOPIC, reasonOf(t, err))
}
