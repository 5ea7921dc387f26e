package suite

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	braidv1 "github.com/braidmq/braid/gen/braid/v1"
)

func (s *suite) connect() []test {
	return []test{
		{"produced by one door, read by the other", s.testBothDoors},
		{"keys go to the partition that Kafka clients choose", s.testSamePartition},
		{"ProduceBatch is idempotent", s.testProduceBatchRepeated},
		{"Produce pipelines within its credit", s.testProducePipelined},
		{"Produce tells which records failed", s.testProduceFailures},
		{"Read ends where it was asked to", s.testReadStops},
		{"Read goes on from a position", s.testReadPositions},
		{"Fetch pages, by GET too", s.testFetchPages},
		{"ListOffsets and GetTopicInfo", s.testConnectOffsets},
		{"offsets are committed for Kafka clients too", s.testConnectCommit},
		{"Consume gives no more than its credit", s.testConsumeCredit},
		{"errors of calls say why and of what", s.testErrorReasons},
		{"errors of streams say why and of what", s.testStreamErrorReasons},
		{"errors of the admin API say why and of what", s.testAdminErrorReasons},
		{"JSON over HTTP/1.1", s.testPlainHTTP},
	}
}

func latestAtStart() *braidv1.StopAt {
	return &braidv1.StopAt{At: &braidv1.StopAt_LatestAtStart{LatestAtStart: true}}
}

func fromStart(topic string) []*braidv1.ReadSource {
	return []*braidv1.ReadSource{{Topic: topic, Start: &braidv1.Position{At: &braidv1.Position_Earliest{Earliest: true}}}}
}

// readConnect reads with Read until it ends; it requires the last frame.
func (s *suite) readConnect(t *testing.T, r *braidv1.ReadRequest) ([]*braidv1.Record, *braidv1.ConsumeClosed) {
	t.Helper()
	stream, err := s.consumerAPI().Read(call(t), r)
	require.NoError(t, err)
	defer func() { _ = stream.Close() }()
	var all []*braidv1.Record
	var closed *braidv1.ConsumeClosed
	for stream.Receive() {
		require.Nil(t, closed, "a frame after the last")
		f := stream.Msg()
		require.Nil(t, f.GetPartitionFailure())
		all = append(all, f.GetRecords().GetRecords()...)
		closed = f.GetClosed()
	}
	require.NoError(t, stream.Err())
	require.NotNil(t, closed, "the last frame")
	return all, closed
}

func (s *suite) produceBatch(t *testing.T, topic string, records ...*braidv1.Record) *braidv1.ProduceAck {
	t.Helper()
	response, err := s.producerAPI().ProduceBatch(call(t), &braidv1.ProduceBatchRequest{Batch: &braidv1.ProduceFrame{Topic: topic, Records: records}})
	require.NoError(t, err)
	return response.GetAck()
}

func (s *suite) testBothDoors(t *testing.T) {
	topic := s.topic(t, 1)
	at := time.Now().Add(-time.Hour).UnixMilli()
	ack := s.produceBatch(t, topic,
		&braidv1.Record{Key: []byte("k"), Value: []byte("v"), TimestampMs: at, Headers: []*braidv1.Header{{Key: "h", Value: []byte("1")}, {Key: "h"}}},
		&braidv1.Record{Key: []byte("k")},
		&braidv1.Record{Key: []byte{}, Value: []byte{}})
	require.Len(t, ack.GetResults(), 1)
	require.Nil(t, ack.GetResults()[0].GetFailure())
	require.Equal(t, int64(0), ack.GetResults()[0].GetBaseOffset())
	require.Equal(t, int32(3), ack.GetResults()[0].GetRecordCount())
	send(t, s.client(t, kgo.ProducerBatchCompression(kgo.ZstdCompression())), &kgo.Record{Topic: topic, Value: []byte("by Kafka")})

	byKafka := s.read(t, topic, 4)
	require.Equal(t, "v", string(byKafka[0].Value))
	require.Equal(t, at, byKafka[0].Timestamp.UnixMilli())
	require.Len(t, byKafka[0].Headers, 2)
	require.Nil(t, byKafka[0].Headers[1].Value)
	require.Nil(t, byKafka[1].Value, "a tombstone")
	require.NotNil(t, byKafka[2].Key)
	require.Empty(t, byKafka[2].Key)

	byConnect, closed := s.readConnect(t, &braidv1.ReadRequest{Sources: fromStart(topic), Stop: latestAtStart()})
	require.True(t, closed.GetReachedStop())
	require.Len(t, byConnect, 4)
	for i, r := range byConnect {
		require.Equal(t, byKafka[i].Key, r.GetKey())
		require.Equal(t, byKafka[i].Value, r.GetValue())
		require.Equal(t, byKafka[i].Offset, r.GetOffset())
		require.Equal(t, byKafka[i].Timestamp.UnixMilli(), r.GetTimestampMs())
	}
}

func (s *suite) testSamePartition(t *testing.T) {
	const partitions, keys = 7, 300
	topic := s.topic(t, partitions)
	byKafka := kgo.StickyKeyPartitioner(nil).ForTopic(topic)
	var records []*braidv1.Record
	for n := range keys {
		records = append(records, &braidv1.Record{Key: fmt.Appendf(nil, "key-%d-%s", n, strings.Repeat("x", n%65)), Value: []byte("v")})
	}
	for _, r := range s.produceBatch(t, topic, records...).GetResults() {
		require.Nil(t, r.GetFailure())
	}
	for _, r := range s.read(t, topic, keys) {
		require.Equal(t, int32(byKafka.Partition(&kgo.Record{Key: r.Key}, partitions)), r.Partition, "partition of key %q", r.Key)
	}
}

func (s *suite) testProduceBatchRepeated(t *testing.T) {
	topic := s.topic(t, 1)
	init, err := s.producerAPI().InitProducer(call(t), &braidv1.InitProducerRequest{})
	require.NoError(t, err)
	partition := int32(0)
	request := &braidv1.ProduceBatchRequest{
		Producer:  init.GetProducer(),
		Batch:     &braidv1.ProduceFrame{BatchSeq: 1, Topic: topic, Partition: &partition, Records: []*braidv1.Record{{Value: []byte("once")}}},
		Sequences: []*braidv1.PartitionSequence{{Topic: topic, Partition: 0, NextSequence: 0}},
	}
	for i := range 3 {
		response, err := s.producerAPI().ProduceBatch(call(t), request)
		require.NoError(t, err)
		result := response.GetAck().GetResults()[0]
		require.Nil(t, result.GetFailure())
		require.Equal(t, int64(0), result.GetBaseOffset(), "repeat %d", i)
		require.Equal(t, int32(1), result.GetNextSequence())
	}
	require.Equal(t, int64(1), s.end(t, topic))
	request.Producer = &braidv1.ProducerIdentity{ProducerId: init.GetProducer().GetProducerId() + 1, ProducerEpoch: 0, Token: init.GetProducer().GetToken()}
	_, err = s.producerAPI().ProduceBatch(call(t), request)
	require.Error(t, err, "an identity that was not given out")
}

// produceStream writes frames on one stream within its credit and returns all acks.
func (s *suite) produceStream(t *testing.T, open *braidv1.ProduceOpen, frames []*braidv1.ProduceFrame) map[uint64]*braidv1.ProduceAck {
	t.Helper()
	return s.produceStreamWith(call(t), t, open, frames, func(map[uint64]*braidv1.ProduceAck) {})
}

// produceStreamWith is produceStream that shows the acks whenever there are more.
func (s *suite) produceStreamWith(ctx context.Context, t *testing.T, open *braidv1.ProduceOpen, frames []*braidv1.ProduceFrame,
	seen func(map[uint64]*braidv1.ProduceAck),
) map[uint64]*braidv1.ProduceAck {
	t.Helper()
	stream, err := s.producerAPI().Produce(ctx)
	require.NoError(t, err)
	require.NoError(t, stream.Send(&braidv1.ProduceRequest{Frame: &braidv1.ProduceRequest_Open{Open: open}}))
	first, err := stream.Receive()
	require.NoError(t, err)
	require.NotNil(t, first.GetOpened(), "the first frame")
	credit := first.GetOpened().GetCredit().GetMaxBatches()
	sent, closed := 0, false
	acks := make(map[uint64]*braidv1.ProduceAck)
	for {
		for ; sent < len(frames) && int64(sent) < credit; sent++ {
			frames[sent].BatchSeq = uint64(sent + 1)
			require.NoError(t, stream.Send(&braidv1.ProduceRequest{Frame: &braidv1.ProduceRequest_Batch{Batch: frames[sent]}}))
		}
		response, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		switch f := response.GetFrame().(type) {
		case *braidv1.ProduceResponse_Credit:
			credit = max(credit, f.Credit.GetMaxBatches())
		case *braidv1.ProduceResponse_Acks:
			for _, a := range f.Acks.GetAcks() {
				require.NotContains(t, acks, a.GetBatchSeq(), "acknowledged twice")
				acks[a.GetBatchSeq()] = a
			}
			seen(acks)
			if len(acks) == len(frames) {
				require.NoError(t, stream.CloseRequest())
			}
		case *braidv1.ProduceResponse_Closed:
			closed = true
			require.Equal(t, uint64(len(frames)), f.Closed.GetStableBatchSeq())
		}
	}
	require.True(t, closed, "the last frame")
	return acks
}

func (s *suite) testProducePipelined(t *testing.T) {
	const frames, size, keys = 200, 10, 13
	topic := s.topic(t, 6)
	var all []*braidv1.ProduceFrame
	for f := range frames {
		frame := &braidv1.ProduceFrame{Topic: topic}
		for i := range size {
			n := f*size + i
			frame.Records = append(frame.Records, &braidv1.Record{Key: fmt.Append(nil, n%keys), Value: fmt.Append(nil, n)})
		}
		all = append(all, frame)
	}
	count := 0
	for seq, a := range s.produceStream(t, &braidv1.ProduceOpen{}, all) {
		for _, r := range a.GetResults() {
			require.Nil(t, r.GetFailure(), "batch %d", seq)
			count += int(r.GetRecordCount())
		}
	}
	require.Equal(t, frames*size, count)
	next := make(map[string]int)
	for _, r := range s.read(t, topic, frames*size) {
		k := string(r.Key)
		if _, ok := next[k]; !ok {
			_, err := fmt.Sscan(k, &count)
			require.NoError(t, err)
			next[k] = count
		}
		require.Equal(t, strconv.Itoa(next[k]), string(r.Value), "order of key %s", k)
		next[k] += keys
	}
}

func (s *suite) testProduceFailures(t *testing.T) {
	topic := s.topic(t, 1, "max.message.bytes=10000")
	record := func(size int) []*braidv1.Record { return []*braidv1.Record{{Value: make([]byte, size)}} }
	partition := int32(5)
	acks := s.produceStream(t, &braidv1.ProduceOpen{NonIdempotent: true}, []*braidv1.ProduceFrame{
		{Topic: topic, Records: record(10)},
		{Topic: topic, Records: record(20_000)},
		{Topic: topic + "-unknown", Records: record(10)},
		{Topic: topic, Partition: &partition, Records: record(10)},
		{Topic: topic, Records: record(10), FailureSeen: 4},
	})
	reason := func(seq uint64) braidv1.Reason {
		for _, r := range acks[seq].GetResults() {
			if r.GetFailure() != nil {
				return r.GetFailure().GetReason()
			}
		}
		for _, r := range acks[seq].GetRejected() {
			return r.GetFailure().GetReason()
		}
		return braidv1.Reason_REASON_UNSPECIFIED
	}
	require.Equal(t, braidv1.Reason_REASON_UNSPECIFIED, reason(1))
	require.Equal(t, braidv1.Reason_REASON_RECORD_TOO_LARGE, reason(2))
	require.Equal(t, braidv1.Reason_REASON_UNKNOWN_TOPIC, reason(3))
	require.Equal(t, braidv1.Reason_REASON_UNKNOWN_PARTITION, reason(4))
	require.Contains(t, []braidv1.Reason{braidv1.Reason_REASON_UNSPECIFIED, braidv1.Reason_REASON_EARLIER_FAILURE}, reason(5))
}

func (s *suite) testReadStops(t *testing.T) {
	topic := s.topic(t, 3)
	s.fill(t, topic, 0, 90)
	all, closed := s.readConnect(t, &braidv1.ReadRequest{Sources: fromStart(topic), Stop: latestAtStart()})
	require.Len(t, all, 90)
	require.True(t, closed.GetReachedStop())
	some, closed := s.readConnect(t, &braidv1.ReadRequest{Sources: fromStart(topic), Stop: &braidv1.StopAt{At: &braidv1.StopAt_Records{Records: 17}}})
	require.Len(t, some, 17)
	require.True(t, closed.GetReachedStop())
	below, _ := s.readConnect(t, &braidv1.ReadRequest{Sources: fromStart(topic), Stop: &braidv1.StopAt{At: &braidv1.StopAt_Offset{Offset: 2}}})
	require.Len(t, below, 6)
	last, _ := s.readConnect(t, &braidv1.ReadRequest{
		Sources: []*braidv1.ReadSource{{Topic: topic, Start: &braidv1.Position{At: &braidv1.Position_LastN{LastN: 2}}}}, Stop: latestAtStart(),
	})
	require.Len(t, last, 6)
	filtered, _ := s.readConnect(t, &braidv1.ReadRequest{
		Sources: fromStart(topic), Stop: latestAtStart(),
		Delivery: &braidv1.Delivery{Filter: &braidv1.Filter{KeyPrefix: []byte("1")}, TextView: true},
	})
	require.Len(t, filtered, 11) // 1 and 10 to 19
	for _, r := range filtered {
		require.Equal(t, string(r.GetKey()), r.GetValueText())
	}
}

func (s *suite) testReadPositions(t *testing.T) {
	topic := s.topic(t, 2)
	s.fill(t, topic, 0, 40)
	some, closed := s.readConnect(t, &braidv1.ReadRequest{Sources: fromStart(topic), Stop: &braidv1.StopAt{At: &braidv1.StopAt_Records{Records: 15}}})
	require.Len(t, some, 15)
	rest, _ := s.readConnect(t, &braidv1.ReadRequest{Sources: []*braidv1.ReadSource{{Topic: topic, Positions: closed.GetPositions()}}, Stop: latestAtStart()})
	require.Len(t, rest, 25)
	seen := make(map[string]bool)
	for _, r := range append(some, rest...) {
		seen[string(r.GetValue())] = true
	}
	require.Len(t, seen, 40)
}

func (s *suite) testFetchPages(t *testing.T) {
	topic := s.topic(t, 3)
	s.fill(t, topic, 0, 50)
	seen := make(map[string]bool)
	sources := fromStart(topic)
	for range 20 {
		page, err := s.consumerAPI().Fetch(call(t), &braidv1.FetchRequest{Sources: sources, MaxRecords: 8})
		require.NoError(t, err)
		n := 0
		for _, b := range page.GetBatches() {
			for _, r := range b.GetRecords() {
				seen[string(r.GetValue())] = true
				n++
			}
		}
		require.LessOrEqual(t, n, 8)
		if n == 0 {
			break
		}
		sources = []*braidv1.ReadSource{{Topic: topic, Positions: page.GetNext()}}
	}
	require.Len(t, seen, 50)

	message := `{"sources":[{"topic":"` + topic + `","start":{"earliest":true}}],"maxRecords":5}`
	query := url.Values{"connect": {"v1"}, "encoding": {"json"}, "message": {message}}
	response, err := http.Get(s.w.API() + "/braid.v1.ConsumerService/Fetch?" + query.Encode())
	require.NoError(t, err)
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, response.StatusCode, "%s", body)
	require.Contains(t, string(body), `"offset"`)

	begin := time.Now()
	sent := make(chan error, 1)
	client := s.client(t)
	time.AfterFunc(200*time.Millisecond, func() {
		sent <- client.ProduceSync(t.Context(), &kgo.Record{Topic: topic, Value: []byte("late")}).FirstErr()
	})
	latest := []*braidv1.ReadSource{{Topic: topic, Start: &braidv1.Position{At: &braidv1.Position_Latest{Latest: true}}}}
	page, err := s.consumerAPI().Fetch(call(t), &braidv1.FetchRequest{Sources: latest, MaxWaitMs: 15_000})
	require.NoError(t, err)
	require.NoError(t, <-sent)
	require.NotEmpty(t, page.GetBatches())
	require.Less(t, time.Since(begin), 10*time.Second)
}

func (s *suite) testConnectOffsets(t *testing.T) {
	topic := s.topic(t, 2, "max.message.bytes=54321")
	s.fill(t, topic, 0, 20)
	info, err := s.consumerAPI().GetTopicInfo(call(t), &braidv1.GetTopicInfoRequest{Topic: topic})
	require.NoError(t, err)
	require.Equal(t, int32(2), info.GetPartitionCount())
	require.LessOrEqual(t, info.GetMaxRecordBytes(), int32(54321))
	require.Positive(t, info.GetMaxRecordBytes())
	sum := func(p *braidv1.Position) (n int64) {
		response, err := s.consumerAPI().ListOffsets(call(t), &braidv1.ListOffsetsRequest{Sources: []*braidv1.ReadSource{{Topic: topic, Start: p}}})
		require.NoError(t, err)
		require.Empty(t, response.GetFailures())
		require.Len(t, response.GetOffsets(), 2)
		for _, o := range response.GetOffsets() {
			n += o.GetOffset()
		}
		return n
	}
	require.Equal(t, int64(0), sum(&braidv1.Position{At: &braidv1.Position_Earliest{Earliest: true}}))
	require.Equal(t, int64(20), sum(&braidv1.Position{At: &braidv1.Position_Latest{Latest: true}}))
	require.Equal(t, int64(0), sum(&braidv1.Position{At: &braidv1.Position_TimestampMs{TimestampMs: 1}}))
}

func (s *suite) testConnectCommit(t *testing.T) {
	topic, group := s.topic(t, 2), name(t)
	s.fill(t, topic, 0, 10)
	response, err := s.consumerAPI().CommitOffsets(call(t), &braidv1.CommitOffsetsRequest{
		Group: group, Offsets: []*braidv1.PartitionOffset{{Topic: topic, Partition: 1, Offset: 2, Metadata: "m"}},
	})
	require.NoError(t, err)
	require.Empty(t, response.GetFailures())
	fetched, err := s.admin(t).FetchOffsets(call(t), group)
	require.NoError(t, err)
	o, ok := fetched.Lookup(topic, 1)
	require.True(t, ok)
	require.Equal(t, int64(2), o.At)
	require.Equal(t, "m", o.Metadata)
	committed, err := s.consumerAPI().GetCommittedOffsets(call(t), &braidv1.GetCommittedOffsetsRequest{Group: group})
	require.NoError(t, err)
	require.Len(t, committed.GetOffsets(), 1)
	require.Equal(t, int64(2), committed.GetOffsets()[0].GetOffset())
}

func (s *suite) testConsumeCredit(t *testing.T) {
	topic, group := s.topic(t, 1), name(t)
	s.fill(t, topic, 0, 100)
	stream, err := s.consumerAPI().Consume(call(t))
	require.NoError(t, err)
	credit := func(records int64) *braidv1.Credit { return &braidv1.Credit{MaxRecords: records, MaxBytes: 1 << 20} }
	require.NoError(t, stream.Send(&braidv1.ConsumeRequest{Frame: &braidv1.ConsumeRequest_Subscribe{Subscribe: &braidv1.Subscribe{
		Group: group, Topics: []string{topic}, Fallback: &braidv1.Position{At: &braidv1.Position_Earliest{Earliest: true}}, Credit: credit(7),
	}}}))
	got, pinged := 0, false
	for got < 20 {
		response, err := stream.Receive()
		require.NoError(t, err)
		got += len(response.GetRecords().GetRecords())
		switch {
		case !pinged && got == 7:
			// The answer to a ping comes behind whatever else was under way.
			require.NoError(t, stream.Send(&braidv1.ConsumeRequest{Frame: &braidv1.ConsumeRequest_Ping{Ping: &braidv1.Ping{Nonce: 42}}}))
			pinged = true
		case response.GetProgress().GetNonce() == 42:
			require.Equal(t, 7, got, "no more than the credit")
			require.NoError(t, stream.Send(&braidv1.ConsumeRequest{Frame: &braidv1.ConsumeRequest_Credit{Credit: credit(20)}}))
		case !pinged:
			require.LessOrEqual(t, got, 7)
		}
	}
	require.Equal(t, 20, got)
	require.NoError(t, stream.CloseRequest())
}

func (s *suite) testPlainHTTP(t *testing.T) {
	topic := s.topic(t, 1)
	post := func(method, body string) (int, map[string]any) {
		client := &http.Client{Timeout: callTimeout}
		response, err := client.Post(s.w.API()+"/"+method, "application/json", strings.NewReader(body))
		require.NoError(t, err)
		defer func() { _ = response.Body.Close() }()
		require.Equal(t, 1, response.ProtoMajor)
		b, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		var m map[string]any
		require.NoError(t, json.Unmarshal(bytes.TrimSpace(b), &m), "%s", b)
		return response.StatusCode, m
	}
	status, ack := post("braid.v1.ProducerService/ProduceBatch", `{"batch":{"topic":"`+topic+`","records":[{"keyText":"k","valueText":"v"}]}}`)
	require.Equal(t, http.StatusOK, status)
	require.NotContains(t, fmt.Sprint(ack), "failure")
	require.Equal(t, "v", string(s.read(t, topic, 1)[0].Value))
	status, refusal := post("braid.v1.ConsumerService/GetTopicInfo", `{"topic":"no-such-topic"}`)
	require.Equal(t, http.StatusNotFound, status)
	require.Equal(t, "not_found", refusal["code"])
	status, _ = post("braid.v1.ConsumerService/GetTopicInfo", `{"topic":`)
	require.Equal(t, http.StatusBadRequest, status)
}
