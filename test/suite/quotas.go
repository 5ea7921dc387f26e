package suite

import (
	"context"
	"math"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	braidv1 "github.com/braidmq/braid/gen/braid/v1"
)

func (s *suite) quotas() []test {
	return []test{
		{"hold producers and consumers to their rates", s.testQuotas},
		{"change while clients work", s.testQuotaChanges},
		{"refuse what cannot wait", s.testQuotaRefuses},
	}
}

// What the tests send, and the quota of who sends or reads it: a tenth of a mebibyte a
// second, of which ten seconds' worth is given at once.
const (
	quotaRate    = 100 << 10
	quotaRecord  = 16 << 10
	quotaRecords = 96 // 1.5 MiB: five seconds' worth more than is given at once
)

// setQuota sets a quota of a client id by AlterClientQuotas, and waits until every gateway
// has it. It is taken away after the test.
func (s *suite) setQuota(t *testing.T, clientID string, key string, v float64) {
	t.Helper()
	client := s.client(t)
	alter := func(ctx context.Context, v float64) error {
		req := kmsg.NewPtrAlterClientQuotasRequest()
		e := kmsg.NewAlterClientQuotasRequestEntry()
		e.Entity = []kmsg.AlterClientQuotasRequestEntryEntity{{Type: "client-id", Name: &clientID}}
		e.Ops = []kmsg.AlterClientQuotasRequestEntryOp{{Key: key, Value: v, Remove: math.IsNaN(v)}}
		req.Entries = append(req.Entries, e)
		resp, err := req.RequestWith(ctx, client)
		if err != nil {
			return err
		}
		return kerr.ErrorForCode(resp.Entries[0].ErrorCode)
	}
	require.NoError(t, alter(call(t), v))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
		defer cancel()
		require.NoError(t, alter(ctx, math.NaN()))
	})
	for i, gateway := range client.SeedBrokers() {
		eventually(t, func() bool {
			req := kmsg.NewPtrDescribeClientQuotasRequest()
			req.Components = []kmsg.DescribeClientQuotasRequestComponent{{EntityType: "client-id", Match: &clientID}}
			resp, err := gateway.RetriableRequest(call(t), req)
			require.NoError(t, err)
			for _, e := range resp.(*kmsg.DescribeClientQuotasResponse).Entries {
				for _, have := range e.Values {
					if have.Key == key && have.Value == v {
						return true
					}
				}
			}
			return false
		}, "gateway %d has no quota of %s", i, clientID)
	}
}

func quotaValue() []byte { return []byte(strings.Repeat("x", quotaRecord)) }

// slowed requires that what was sent took as long as it has to, and nothing like the
// time that clients wait for an answer.
func slowed(t *testing.T, began time.Time) {
	t.Helper()
	took := time.Since(began)
	t.Logf("%d KiB took %v", quotaRecords*quotaRecord>>10, took)
	require.Greater(t, took, 3*time.Second, "the quota was not kept")
	require.Less(t, took, 20*time.Second, "slower than the quota")
}

func (s *suite) testQuotas(t *testing.T) {
	full := s.topic(t, 1)
	filler := s.client(t, kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.ProducerBatchMaxBytes(40<<10))
	for range quotaRecords {
		filler.Produce(t.Context(), &kgo.Record{Topic: full, Value: quotaValue()}, nil)
	}
	require.NoError(t, filler.Flush(call(t)))
	t.Run("all", func(t *testing.T) { // returns when the parallel tests have ended
		for what, run := range map[string]func(*testing.T, string, string){
			"Kafka producer": s.quotaKafkaProduce, "Kafka consumer": s.quotaKafkaConsume,
			"Produce": s.quotaProduce, "Read": s.quotaRead, "Consume": s.quotaConsume,
		} {
			t.Run(what, func(t *testing.T) {
				t.Parallel()
				run(t, full, name(t))
			})
		}
	})
}

func (s *suite) quotaKafkaProduce(t *testing.T, _, id string) {
	topic := s.topic(t, 1)
	s.setQuota(t, id, "producer_byte_rate", quotaRate)
	client := s.client(t, kgo.ClientID(id), kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.ProducerBatchMaxBytes(40<<10))
	began := time.Now()
	for range quotaRecords {
		client.Produce(t.Context(), &kgo.Record{Topic: topic, Value: quotaValue()}, func(_ *kgo.Record, err error) {
			if err != nil {
				t.Error(err)
			}
		})
	}
	require.NoError(t, client.Flush(call(t)))
	slowed(t, began)
	require.Equal(t, int64(quotaRecords), s.end(t, topic))
}

func (s *suite) quotaKafkaConsume(t *testing.T, full, id string) {
	s.setQuota(t, id, "consumer_byte_rate", quotaRate)
	began := time.Now()
	require.Len(t, s.read(t, full, quotaRecords, kgo.ClientID(id), kgo.FetchMaxBytes(64<<10)), quotaRecords)
	slowed(t, began)
}

func (s *suite) quotaProduce(t *testing.T, _, id string) {
	topic := s.topic(t, 1)
	s.setQuota(t, id, "producer_byte_rate", quotaRate)
	var frames []*braidv1.ProduceFrame
	for range quotaRecords {
		frames = append(frames, &braidv1.ProduceFrame{Topic: topic, Records: []*braidv1.Record{{Value: quotaValue()}}})
	}
	began := time.Now()
	for seq, a := range s.produceStream(t, &braidv1.ProduceOpen{ClientId: id}, frames) {
		for _, r := range a.GetResults() {
			require.Nil(t, r.GetFailure(), "batch %d", seq)
		}
	}
	slowed(t, began)
	require.Equal(t, int64(quotaRecords), s.end(t, topic))
}

func (s *suite) quotaRead(t *testing.T, full, id string) {
	s.setQuota(t, id, "consumer_byte_rate", quotaRate)
	began := time.Now()
	records, _ := s.readConnect(t, &braidv1.ReadRequest{Sources: fromStart(full), Stop: latestAtStart(), ClientId: id})
	require.Len(t, records, quotaRecords)
	slowed(t, began)
}

func (s *suite) quotaConsume(t *testing.T, full, id string) {
	s.setQuota(t, id, "consumer_byte_rate", quotaRate)
	began := time.Now()
	stream, err := s.consumerAPI().Consume(call(t))
	require.NoError(t, err)
	require.NoError(t, stream.Send(&braidv1.ConsumeRequest{Frame: &braidv1.ConsumeRequest_Subscribe{Subscribe: &braidv1.Subscribe{
		Group: id, Topics: []string{full}, Fallback: &braidv1.Position{At: &braidv1.Position_Earliest{Earliest: true}},
		Credit: &braidv1.Credit{MaxRecords: 1000, MaxBytes: 1 << 30}, ClientId: id,
	}}}))
	for got := 0; got < quotaRecords; {
		response, err := stream.Receive()
		require.NoError(t, err)
		got += len(response.GetRecords().GetRecords())
	}
	slowed(t, began)
	require.NoError(t, stream.CloseRequest())
}

// A producer that a quota holds up goes on at full speed when it is raised, with no error.
func (s *suite) testQuotaChanges(t *testing.T) {
	topic, id := s.topic(t, 1), name(t)
	s.w.MustBraid(t, "", "quota", "set", "producer_byte_rate=20480", "--client-id", id)
	require.Contains(t, s.w.MustBraid(t, "", "quota", "list", "--client-id", id), "20480")
	s.setQuota(t, id, "producer_byte_rate", 20480)
	client := s.client(t, kgo.ClientID(id), kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.ProducerBatchMaxBytes(40<<10))
	produce := func(n int) error {
		var all []*kgo.Record
		for range n {
			all = append(all, &kgo.Record{Topic: topic, Value: quotaValue()})
		}
		return client.ProduceSync(call(t), all...).FirstErr()
	}
	require.NoError(t, produce(14), "224 KiB: a little more than is given at once")
	began := time.Now()
	require.NoError(t, produce(4))
	require.Greater(t, time.Since(began), time.Second, "the quota was not kept")
	s.setQuota(t, id, "producer_byte_rate", 100<<20)
	require.NoError(t, produce(2)) // a client waits the time that it was told, also if that is over
	began = time.Now()
	require.NoError(t, produce(40))
	require.Less(t, time.Since(began), 10*time.Second, "held to the old quota, this would take half a minute")
	s.w.MustBraid(t, "", "quota", "delete", "--client-id", id)
	require.NotContains(t, s.w.MustBraid(t, "", "quota", "list"), id)
}

// A call whose deadline is nearer than its turn is refused, with the time, and nothing is written.
func (s *suite) testQuotaRefuses(t *testing.T) {
	topic, id := s.topic(t, 1), name(t)
	s.setQuota(t, id, "producer_byte_rate", 1000)
	req := &braidv1.ProduceBatchRequest{ClientId: id, Batch: &braidv1.ProduceFrame{Topic: topic, Records: []*braidv1.Record{{Value: quotaValue()}}}}
	var err error
	for range 4 { // one for each gateway that the call may come to, and one more
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		_, err = s.producerAPI().ProduceBatch(ctx, req)
		cancel()
		if err != nil {
			break
		}
	}
	require.Equal(t, connect.CodeResourceExhausted, connect.CodeOf(err), "%v", err)
	require.ErrorContains(t, err, "over a quota; try again in")
	end := s.end(t, topic)
	require.LessOrEqual(t, end, int64(3))
	s.setQuota(t, id, "controller_mutation_rate", 0.1) // one partition at once
	admin := s.client(t, kgo.ClientID(id), kgo.RequestRetries(0))
	for i, want := range []error{nil, kerr.ThrottlingQuotaExceeded} {
		create := kmsg.NewPtrCreateTopicsRequest()
		ct := kmsg.NewCreateTopicsRequestTopic()
		ct.Topic, ct.NumPartitions, ct.ReplicationFactor = topic+strings.Repeat("x", i+1), 20, 1
		create.Topics = append(create.Topics, ct)
		resp, err := admin.SeedBrokers()[0].Request(call(t), create)
		require.NoError(t, err)
		require.ErrorIs(t, kerr.ErrorForCode(resp.(*kmsg.CreateTopicsResponse).Topics[0].ErrorCode), want)
	}
}
