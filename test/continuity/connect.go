package continuity

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"connectrpc.com/connect"

	braidv1 "github.com/braidmq/braid/gen/braid/v1"
	"github.com/braidmq/braid/gen/braid/v1/braidv1connect"
	"github.com/braidmq/braid/test/check"
)

// callTimeout bounds one call; a call that is given up is repeated.
const callTimeout = 5 * time.Second

// batchProducer sends one idempotent batch after the other to one partition, each
// until it is acknowledged, by whatever gateway answers.
func (r *run) batchProducer(ctx context.Context, name string, partition int32) {
	c := counters{producer: name}
	var producer *braidv1.ProducerIdentity
	gateway := 0
	client := func() braidv1connect.ProducerServiceClient {
		return braidv1connect.NewProducerServiceClient(r.w.Client, r.urls[gateway%len(r.urls)])
	}
	for producer == nil && ctx.Err() == nil {
		response, err := client().InitProducer(ctx, &braidv1.InitProducerRequest{})
		if err != nil {
			gateway++
			continue
		}
		producer = response.GetProducer()
	}
	for sequence := int32(0); ctx.Err() == nil; sequence++ {
		v := c.next()
		request := &braidv1.ProduceBatchRequest{
			Producer:  producer,
			Batch:     &braidv1.ProduceFrame{BatchSeq: uint64(sequence + 1), Topic: topic, Partition: &partition, Records: []*braidv1.Record{{Key: []byte(v.Key), Value: []byte(v.String())}}},
			Sequences: []*braidv1.PartitionSequence{{Topic: topic, Partition: partition, NextSequence: sequence}},
		}
		for {
			again, err := r.sendBatch(context.WithoutCancel(ctx), client(), request)
			if err != nil {
				r.fail(fmt.Errorf("%s: %w", name, err))
				return
			}
			if !again {
				break
			}
			gateway++
			wait(context.WithoutCancel(ctx), 10*pace)
		}
		r.ack(v)
		wait(ctx, pace)
	}
}

// sendBatch reports whether the same batch is to be sent again.
func (r *run) sendBatch(ctx context.Context, client braidv1connect.ProducerServiceClient, request *braidv1.ProduceBatchRequest) (again bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	response, err := client.ProduceBatch(ctx, request)
	switch connect.CodeOf(err) {
	case connect.CodeUnavailable, connect.CodeDeadlineExceeded, connect.CodeCanceled, connect.CodeUnknown, connect.CodeInternal:
		if err != nil {
			return true, nil // the outcome is unknown, and repeating does no harm
		}
	default:
	}
	if err != nil {
		return false, err
	}
	for _, result := range response.GetAck().GetResults() {
		if f := result.GetFailure(); f != nil {
			if f.GetRetriable() {
				return true, nil
			}
			return false, errors.New(f.GetMessage())
		}
	}
	for _, rejected := range response.GetAck().GetRejected() {
		return false, errors.New(rejected.GetFailure().GetMessage())
	}
	return false, nil
}

// streamProducer pipelines frames on a Produce stream. What a broken stream leaves
// without an answer it takes for lost and never sends again, so that it can be in
// the log, but not twice.
func (r *run) streamProducer(ctx context.Context, name string, gateway int) {
	c := counters{producer: name}
	for ctx.Err() == nil {
		client := braidv1connect.NewProducerServiceClient(r.w.Client, r.urls[gateway%len(r.urls)])
		if err := r.stream(ctx, client, &c); err != nil {
			r.fail(fmt.Errorf("%s: %w", name, err))
			return
		}
		gateway++
		wait(ctx, 10*pace)
	}
}

// stream runs one stream until it breaks or ctx ends. Its error is one that no
// client should see.
func (r *run) stream(ctx context.Context, client braidv1connect.ProducerServiceClient, c *counters) error {
	streamCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stream, err := client.Produce(streamCtx)
	if err != nil {
		return nil // another gateway
	}
	if stream.Send(&braidv1.ProduceRequest{Frame: &braidv1.ProduceRequest_Open{Open: &braidv1.ProduceOpen{ClientId: c.producer}}}) != nil {
		return nil
	}
	opened, err := stream.Receive()
	if err != nil {
		return nil // another gateway
	}
	var mu sync.Mutex
	credit := opened.GetOpened().GetCredit().GetMaxBatches()
	sent := make(map[uint64]check.Value)
	broken := make(chan struct{})
	var failure error
	go func() {
		defer close(broken)
		for {
			response, err := stream.Receive()
			if err != nil {
				return
			}
			mu.Lock()
			if f := response.GetCredit(); f != nil {
				credit = f.GetMaxBatches()
			}
			for _, a := range response.GetAcks().GetAcks() {
				for _, result := range a.GetResults() {
					if f := result.GetFailure(); f != nil && !f.GetRetriable() {
						failure = errors.New(f.GetMessage())
					} else if f == nil {
						r.ack(sent[a.GetBatchSeq()])
					}
				}
			}
			mu.Unlock()
		}
	}()
	for seq := uint64(1); ctx.Err() == nil; {
		mu.Lock()
		may := int64(seq) <= credit
		mu.Unlock()
		if may {
			v := c.next()
			mu.Lock()
			sent[seq] = v
			mu.Unlock()
			frame := &braidv1.ProduceFrame{BatchSeq: seq, Topic: topic, Records: []*braidv1.Record{{Key: []byte(v.Key), Value: []byte(v.String())}}}
			if stream.Send(&braidv1.ProduceRequest{Frame: &braidv1.ProduceRequest_Batch{Batch: frame}}) != nil {
				break
			}
			seq++
		}
		select {
		case <-broken:
			return failure
		case <-time.After(pace):
		}
	}
	_ = stream.CloseRequest()
	select {
	case <-broken:
	case <-time.After(callTimeout):
		cancel()
		<-broken
	}
	return failure
}

// connectMember is a member by Connect that leaves and comes back after each stay;
// 0 = it stays, and comes back only when its stream has broken.
func (r *run) connectMember(ctx context.Context, stay time.Duration, gateway int) {
	for ctx.Err() == nil {
		life, end := context.WithCancel(ctx)
		if stay > 0 {
			life, end = context.WithTimeout(ctx, stay)
		}
		client := braidv1connect.NewConsumerServiceClient(r.w.Client, r.urls[gateway%len(r.urls)])
		if err := r.connectLife(life, client); err != nil {
			r.fail(err)
		}
		end()
		gateway++
		wait(ctx, max(stay/3, 10*pace))
	}
}

// connectLife is one membership. Its error is one that no client should see.
func (r *run) connectLife(ctx context.Context, client braidv1connect.ConsumerServiceClient) error {
	streamCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stream, err := client.Consume(streamCtx)
	if err != nil {
		return nil // another gateway
	}
	var mu sync.Mutex // sends come from two goroutines
	send := func(f *braidv1.ConsumeRequest) {
		mu.Lock()
		defer mu.Unlock()
		_ = stream.Send(f) // a broken stream is seen by Receive
	}
	send(&braidv1.ConsumeRequest{Frame: &braidv1.ConsumeRequest_Subscribe{Subscribe: &braidv1.Subscribe{
		Group: group, Topics: []string{topic}, Fallback: &braidv1.Position{At: &braidv1.Position_Earliest{Earliest: true}}, ClientId: "continuity",
	}}})
	leave := context.AfterFunc(ctx, func() {
		send(&braidv1.ConsumeRequest{Frame: &braidv1.ConsumeRequest_Leave{Leave: &braidv1.Leave{}}})
		mu.Lock()
		defer mu.Unlock()
		_ = stream.CloseRequest()
		time.AfterFunc(callTimeout, cancel)
	})
	defer leave()
	var commit, bytes int64
	for {
		response, err := stream.Receive()
		if err != nil {
			if errors.Is(err, io.EOF) || connect.CodeOf(err) != connect.CodeInvalidArgument {
				return nil
			}
			return err
		}
		switch f := response.GetFrame().(type) {
		case *braidv1.ConsumeResponse_Assignment:
			if gone := f.Assignment.GetRevoking(); len(gone) > 0 {
				send(&braidv1.ConsumeRequest{Frame: &braidv1.ConsumeRequest_Revoked{Revoked: &braidv1.Revoked{MemberEpoch: f.Assignment.GetMemberEpoch(), Partitions: gone}}})
			}
		case *braidv1.ConsumeResponse_Records:
			b := f.Records
			for _, k := range b.GetRecords() {
				r.read(b.GetPartition(), k.GetOffset(), k.GetKey(), k.GetValue())
				bytes += int64(len(k.GetKey()) + len(k.GetValue()))
				commit++
			}
			send(&braidv1.ConsumeRequest{Frame: &braidv1.ConsumeRequest_Commit{Commit: &braidv1.Commit{
				CommitId: commit, Offsets: []*braidv1.PartitionOffset{{Topic: topic, Partition: b.GetPartition(), Offset: b.GetNextOffset()}},
			}}})
			send(&braidv1.ConsumeRequest{Frame: &braidv1.ConsumeRequest_Credit{Credit: &braidv1.Credit{MaxRecords: 1000 + commit, MaxBytes: 8<<20 + bytes}}})
		}
	}
}
