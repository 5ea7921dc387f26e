package kafkacompat_test

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/federation/federationtest"
	"github.com/braidmq/braid/gateway/groups"
	"github.com/braidmq/braid/gateway/router"
	"github.com/braidmq/braid/internal/recordbatch"
	"github.com/braidmq/braid/kafkacompat"
)

// instant is a router that has and takes everything at once, so that a benchmark
// shows the door alone.
type instant struct {
	router.Session
	records [][]byte
}

func (*instant) Close() {}

func (*instant) Produce(_ context.Context, _ router.Acks, _ time.Duration, appends []router.Append, done func([]router.Appended)) error {
	answers := make([]router.Appended, len(appends))
	go done(answers)
	return nil
}

func (s *instant) Fetch(_ context.Context, from []router.Position, _ router.FetchLimit) (*router.Fetched, error) {
	f := &router.Fetched{Slices: make([]router.Slice, len(from))}
	for i, p := range from {
		f.Slices[i] = router.Slice{TopicPartition: p.TopicPartition, Records: s.records, HighWatermark: 1 << 40}
	}
	return f, nil
}

func benchServer(b *testing.B, records [][]byte) *raw {
	b.Helper()
	return benchServerOf(b, records, 1)
}

func benchServerOf(b *testing.B, records [][]byte, partitions int) *raw {
	b.Helper()
	w := federationtest.New(map[string][]string{"a": {"127.0.0.1:1"}})
	chains := make([][]*federation.Extent, partitions)
	for i := range chains {
		chains[i] = []*federation.Extent{federationtest.Head("a", "p", i)}
	}
	w.SetTopic("orders", nil, chains...)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(b, err)
	s, err := kafkacompat.New(kafkacompat.Config{GatewayID: "gw-0"}, kafkacompat.Deps{
		Maps: w, NewSession: func() router.Session { return &instant{records: records} },
		Groups: struct{ groups.Coordinator }{}, Admin: struct{ kafkacompat.Admin }{}, Credentials: struct{ kafkacompat.Credentials }{},
	})
	require.NoError(b, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	b.Cleanup(func() {
		cancel()
		require.NoError(b, <-done)
	})
	c := dial(b, l.Addr().String())
	require.NoError(b, c.c.SetDeadline(time.Now().Add(10*time.Minute)))
	return c
}

func benchBatch(n int) []byte { return batch(recordbatch.NoProducer, string(make([]byte, n))) }

// BenchmarkProduce sends requests of one batch, five in flight.
func BenchmarkProduce(b *testing.B) {
	for name, size := range map[string]int{"1KiB": 1 << 10, "64KiB": 64 << 10, "1000KiB": 1000 << 10} {
		b.Run(name, func(b *testing.B) {
			c := benchServer(b, nil)
			req := kmsg.NewPtrProduceRequest()
			req.SetVersion(9)
			req.Acks, req.TimeoutMillis = -1, 1000
			req.Topics = []kmsg.ProduceRequestTopic{{Topic: "orders", Partitions: []kmsg.ProduceRequestTopicPartition{{Records: benchBatch(size)}}}}
			out := kmsg.NewRequestFormatter().AppendRequest(nil, req, 1)
			b.SetBytes(int64(len(out)))
			b.ReportAllocs()
			b.ResetTimer()
			slots := make(chan struct{}, 5)
			go func() {
				for range b.N {
					slots <- struct{}{}
					_, _ = c.c.Write(out)
				}
			}()
			buf := make([]byte, 1024)
			for range b.N {
				readFrame(b, c, buf)
				<-slots
			}
		})
	}
}

// BenchmarkFetch asks for one partition, one request in flight.
func BenchmarkFetch(b *testing.B) {
	for name, size := range map[string]int{"1KiB": 1 << 10, "64KiB": 64 << 10, "1000KiB": 1000 << 10} {
		b.Run(name, func(b *testing.B) {
			c := benchServer(b, [][]byte{benchBatch(size)})
			req := kmsg.NewPtrFetchRequest()
			req.SetVersion(12)
			req.Topics = []kmsg.FetchRequestTopic{{Topic: "orders", Partitions: []kmsg.FetchRequestTopicPartition{{PartitionMaxBytes: 1 << 20}}}}
			out := kmsg.NewRequestFormatter().AppendRequest(nil, req, 1)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			buf := make([]byte, 2<<20)
			for b.Loop() {
				_, err := c.c.Write(out)
				require.NoError(b, err)
				readFrame(b, c, buf)
			}
		})
	}
}

// BenchmarkFetchMany asks for 2,000 partitions of which none has news, with and without
// a session.
func BenchmarkFetchMany(b *testing.B) {
	const partitions = 2000
	for name, epoch := range map[string]int32{"full": -1, "session": 0} {
		b.Run(name, func(b *testing.B) {
			c := benchServerOf(b, nil, partitions)
			req := kmsg.NewPtrFetchRequest()
			req.SetVersion(12)
			req.SessionEpoch = epoch
			t := kmsg.FetchRequestTopic{Topic: "orders"}
			for i := range int32(partitions) {
				t.Partitions = append(t.Partitions, kmsg.FetchRequestTopicPartition{Partition: i, CurrentLeaderEpoch: -1, PartitionMaxBytes: 1 << 20})
			}
			req.Topics = append(req.Topics, t)
			buf := make([]byte, 1<<20)
			out := kmsg.NewRequestFormatter().AppendRequest(nil, req, 1)
			b.ReportAllocs()
			for b.Loop() {
				_, err := c.c.Write(out)
				require.NoError(b, err)
				readFrame(b, c, buf)
				if epoch >= 0 {
					epoch++
					req.SessionID, req.SessionEpoch, req.Topics = int32(binary.BigEndian.Uint32(buf[4+1+4+2:])), epoch, nil
					out = kmsg.NewRequestFormatter().AppendRequest(out[:0], req, 1)
				}
			}
		})
	}
}

func readFrame(b *testing.B, c *raw, buf []byte) {
	b.Helper()
	if _, err := io.ReadFull(c.r, buf[:4]); err != nil {
		b.Fatal(err)
	}
	if _, err := io.ReadFull(c.r, buf[:binary.BigEndian.Uint32(buf)]); err != nil {
		b.Fatal(err)
	}
}
