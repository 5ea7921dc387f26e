//go:build synctests

package sim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"connectrpc.com/connect"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	braidv1 "github.com/braidmq/braid/gen/braid/v1"
	"github.com/braidmq/braid/gen/braid/v1/braidv1connect"
	"github.com/braidmq/braid/test/check"
)

const (
	group = "billing"
	// rawTimeout bounds a raw request.
	rawTimeout = 8 * time.Second
)

// A rawClient sends Kafka requests to one gateway.
type rawClient struct {
	name   string
	client *kgo.Client
}

// rawVersions are those of a client whose Fetch names topics, but for groups.
func rawVersions() *kversion.Versions {
	v := kversion.V2_8_0()
	v.SetMaxKeyVersion(kmsg.ConsumerGroupHeartbeat.Int16(), 1)
	v.SetMaxKeyVersion(kmsg.ConsumerGroupDescribe.Int16(), 1)
	v.SetMaxKeyVersion(kmsg.OffsetCommit.Int16(), 9)
	v.SetMaxKeyVersion(kmsg.OffsetFetch.Int16(), 9)
	return v
}

func (l *logical) rawClient(name string, g *node) *rawClient {
	client, err := kgo.NewClient(kgo.SeedBrokers(l.kafka(g)), kgo.ClientID(name), kgo.Dialer(l.net.Host(name).Dial), kgo.RequestRetries(0),
		kgo.MaxVersions(rawVersions()))
	if err != nil {
		l.history.problem("%s: %v", name, err)
		return nil
	}
	return &rawClient{name, client}
}

func (c *rawClient) request(ctx context.Context, req kmsg.Request) (kmsg.Response, error) {
	ctx, cancel := context.WithTimeout(ctx, rawTimeout)
	defer cancel()
	return c.client.SeedBrokers()[0].Request(ctx, req)
}

// fetch reads once from some positions, and returns the records, in order in each
// partition, and the errors of partitions. It moves the positions on, also over offsets
// that have no records.
func (c *rawClient) fetch(ctx context.Context, topic string, from map[int32]int64, wait time.Duration) (records []*kgo.Record, failed map[int32]error, err error) {
	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes = int32(wait.Milliseconds()), 1, 1<<20
	t := kmsg.NewFetchRequestTopic()
	t.Topic = topic
	for _, p := range sortedKeys(from) {
		part := kmsg.NewFetchRequestTopicPartition()
		part.Partition, part.FetchOffset, part.PartitionMaxBytes = p, from[p], 1<<16
		t.Partitions = append(t.Partitions, part)
	}
	req.Topics = append(req.Topics, t)
	resp, err := c.request(ctx, req)
	if err != nil {
		return nil, nil, err
	}
	failed = make(map[int32]error)
	for _, t := range resp.(*kmsg.FetchResponse).Topics {
		for i := range t.Partitions {
			p := &t.Partitions[i]
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				failed[p.Partition] = err
				continue
			}
			got, next := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{Offset: from[p.Partition], Topic: topic, Partition: p.Partition}, p, kgo.DefaultDecompressor(), nil)
			if got.Err != nil {
				return nil, nil, got.Err
			}
			records = append(records, got.Records...)
			from[p.Partition] = next
		}
	}
	return records, failed, nil
}

func recordOf(r *kgo.Record) check.Record {
	return check.Record{Partition: r.Partition, Offset: r.Offset, Key: string(r.Key), Value: string(r.Value)}
}

// tailReader follows the log by one gateway, from its beginning, whatever happens.
func (l *logical) tailReader(ctx context.Context, i int) {
	name := l.client("tail", i)
	c := l.rawClient(name, l.gateways[i])
	defer c.client.Close()
	at := make(map[int32]int64)
	epochs := make(check.Growing)
	for ctx.Err() == nil {
		for p := range l.partitions.Load() {
			at[p] += 0
		}
		records, failed, err := c.fetch(ctx, topic, at, 500*time.Millisecond)
		if err != nil {
			wait(ctx, 200*time.Millisecond)
			continue
		}
		l.history.failedReads(name, failed)
		for _, r := range records {
			l.history.read(name, recordOf(r))
			if problem := epochs.See(fmt.Sprintf("the epoch of partition %d that %s reads", r.Partition, name), int64(r.LeaderEpoch)); problem != "" {
				l.history.problem("%s", problem)
			}
		}
		if len(records) == 0 && len(failed) > 0 {
			wait(ctx, 50*time.Millisecond)
		}
	}
}

// failedReads notes what a reader of valid offsets must not be told.
func (h *history) failedReads(name string, failed map[int32]error) {
	for p, err := range failed {
		if errors.Is(err, kerr.OffsetOutOfRange) || !kerr.IsRetriable(err) {
			h.problem("%s: partition %d: %v", name, p, err)
		}
	}
}

// historian reads old offsets again, by any gateway.
func (l *logical) historian(ctx context.Context, rng *rand.Rand) {
	var clients []*rawClient
	for i, g := range l.gateways {
		c := l.rawClient(l.client("historian", i), g)
		defer c.client.Close()
		clients = append(clients, c)
	}
	for ctx.Err() == nil {
		wait(ctx, 300*time.Millisecond)
		c := clients[rng.IntN(len(clients))]
		p := rng.Int32N(l.partitions.Load())
		end := l.history.highest(p)
		if end == 0 {
			continue
		}
		at := rng.Int64N(end)
		if l.failing() { // most of the offsets below the end are in gaps
			at = end - 1 - rng.Int64N(min(end, 300))
		}
		records, failed, err := c.fetch(ctx, topic, map[int32]int64{p: at}, 10*time.Millisecond)
		if err != nil {
			continue
		}
		l.history.failedReads(c.name, failed)
		l.history.count("reads of old offsets", len(records))
		for _, r := range records {
			l.history.readAgain(c.name, recordOf(r))
		}
		if len(records) > 0 && records[0].Offset != at && (!l.failing() || records[0].Offset < at) {
			l.history.problem("%s asked for partition %d offset %d and got %d", c.name, p, at, records[0].Offset)
		}
	}
}

// metadataWatcher watches what a gateway says of leaders and epochs.
func (l *logical) metadataWatcher(ctx context.Context, i int) {
	name := l.client("watch", i)
	c := l.rawClient(name, l.gateways[i])
	defer c.client.Close()
	growing := make(check.Growing)
	for ctx.Err() == nil {
		wait(ctx, 250*time.Millisecond)
		req := kmsg.NewPtrMetadataRequest()
		t := kmsg.NewMetadataRequestTopic()
		t.Topic = new(topic)
		req.Topics = append(req.Topics, t)
		resp, err := c.request(ctx, req)
		if err != nil {
			continue
		}
		for _, t := range resp.(*kmsg.MetadataResponse).Topics {
			for _, p := range t.Partitions {
				if problem := growing.See(fmt.Sprintf("the epoch of partition %d at %s", p.Partition, l.gateways[i].host), int64(p.LeaderEpoch)); problem != "" {
					l.history.problem("%s", problem)
				}
			}
			if n := len(t.Partitions); n > 0 {
				if problem := growing.See("the partition count at "+l.gateways[i].host, int64(n)); problem != "" {
					l.history.problem("%s", problem)
				}
			}
		}
	}
}

// kafkaMember is a member of the group that leaves and comes back after each stay;
// 0 = it stays.
func (l *logical) kafkaMember(ctx context.Context, i int, stay time.Duration) {
	for ctx.Err() == nil {
		life, end := ctx, context.CancelFunc(func() {})
		if stay > 0 {
			life, end = context.WithTimeout(ctx, stay)
		}
		l.kafkaLife(life, l.client("member", i))
		end()
		wait(ctx, stay/3+time.Millisecond)
	}
}

func (l *logical) kafkaLife(ctx context.Context, name string) {
	client, err := kgo.NewClient(kgo.SeedBrokers(l.kafkaAddresses()...), kgo.ClientID(name), kgo.Dialer(l.net.Host(name).Dial),
		kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.AutoCommitInterval(time.Second), kgo.WithHooks(throttling{l.history}))
	if err != nil {
		l.history.problem("%s: %v", name, err)
		return
	}
	// It says goodbye, and waits for an answer; not when there is none.
	defer client.Close()
	for ctx.Err() == nil {
		// Errors of a poll are told for information: the client goes on by itself.
		client.PollFetches(ctx).EachRecord(func(r *kgo.Record) { l.history.member(group, name, recordOf(r)) })
	}
}

// connectMember is a member by Connect that leaves and comes back after each stay;
// 0 = it stays, and comes back only when its stream has broken.
func (l *logical) connectMember(ctx context.Context, group string, i int, stay time.Duration) {
	name := l.client("connect", i)
	client := l.connectClient(name, i)
	defer client.close()
	for ctx.Err() == nil {
		life, end := context.WithCancel(ctx)
		if stay > 0 {
			life, end = context.WithTimeout(ctx, stay)
		}
		if err := l.connectLife(life, client, group, name); err != nil {
			l.history.problem("%s: %v", name, err)
		}
		end()
		client.gateway++
		wait(ctx, stay/3+5*pace)
	}
}

// connectLife is one membership. Its error is one that no client should see.
func (l *logical) connectLife(ctx context.Context, client *connectClient, group, name string) error {
	streamCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stream, err := braidv1connect.NewConsumerServiceClient(client.http, client.url()).Consume(streamCtx)
	if err != nil {
		return nil // another gateway
	}
	out := make(chan *braidv1.ConsumeRequest, 1024)
	var writer sync.WaitGroup
	writer.Go(func() {
		for f := range out {
			_ = stream.Send(f) // a broken stream is seen by Receive
		}
		_ = stream.CloseRequest()
	})
	defer func() {
		cancel()
		close(out)
		writer.Wait()
		_ = stream.CloseResponse()
	}()
	send := func(f *braidv1.ConsumeRequest) {
		select {
		case out <- f:
		case <-streamCtx.Done():
		}
	}
	send(&braidv1.ConsumeRequest{Frame: &braidv1.ConsumeRequest_Subscribe{Subscribe: &braidv1.Subscribe{
		Group: group, Topics: []string{topic}, Fallback: &braidv1.Position{At: &braidv1.Position_Earliest{Earliest: true}}, ClientId: "sim",
	}}})
	left := make(chan struct{})
	leave := context.AfterFunc(ctx, func() {
		defer close(left)
		send(&braidv1.ConsumeRequest{Frame: &braidv1.ConsumeRequest_Leave{Leave: &braidv1.Leave{}}})
		wait(streamCtx, callTimeout)
		cancel()
	})
	defer func() {
		cancel()
		if !leave() {
			<-left
		}
	}()
	return l.consume(group, name, stream, send)
}

// consume reads until the stream ends.
func (l *logical) consume(group, name string, stream *connect.BidiStreamForClientSimple[braidv1.ConsumeRequest, braidv1.ConsumeResponse], send func(*braidv1.ConsumeRequest)) error {
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
				l.history.member(group, name, check.Record{Partition: b.GetPartition(), Offset: k.GetOffset(), Key: string(k.GetKey()), Value: string(k.GetValue())})
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
