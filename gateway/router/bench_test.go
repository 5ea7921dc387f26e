package router_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/federation/federationtest"
	"github.com/braidmq/braid/gateway/router"
	"github.com/braidmq/braid/internal/recordbatch"
	"github.com/braidmq/braid/internal/upstream"
)

// BenchmarkProduce appends batches through the whole router to an embedded cluster
// that throws them away; 16 are in flight.
func BenchmarkProduce(b *testing.B) {
	for _, size := range []int{100, 64 << 10} {
		b.Run(fmt.Sprintf("%d bytes", size), func(b *testing.B) {
			benchmarkProduce(b, batch(recordbatch.NoProducer, string(make([]byte, size))))
		})
		b.Run(fmt.Sprintf("%d bytes idempotent", size), func(b *testing.B) {
			prod := recordbatch.Producer{ID: 1<<48 + 1}
			benchmarkProduce(b, batch(prod, string(make([]byte, size))))
		})
	}
}

func benchmarkProduce(b *testing.B, data []byte) {
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(8, "phys"), kfake.BlackholeProduce())
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	w := federationtest.New(map[string][]string{"a": c.ListenAddrs()})
	var chains [][]*federation.Extent
	for i := range 8 {
		chains = append(chains, []*federation.Extent{federationtest.Head("a", "phys", i)})
	}
	w.SetTopic("orders", nil, chains...)
	pool := upstream.NewPool(upstream.Config{})
	defer pool.Close()
	pool.Update([]*federation.Cluster{w.Current().Clusters["a"]})
	r := router.New(b.Context(), router.Config{}, router.Deps{Maps: w, Clusters: pool, Lease: w, ProducerIDs: &ids{}})
	defer r.Close()
	s := r.NewSession()
	defer s.Close()
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	sem := make(chan struct{}, 16)
	for i := 0; b.Loop(); i++ {
		sem <- struct{}{}
		err := s.Produce(b.Context(), router.AcksAll, 10*time.Second, []router.Append{{TopicPartition: at("orders", i%8), Batch: data}}, func(a []router.Appended) {
			if a[0].Err != nil {
				b.Error(a[0].Err)
			}
			<-sem
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	for range cap(sem) {
		sem <- struct{}{}
	}
}
