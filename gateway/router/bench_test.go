package router_test

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/federation/federationtest"
	"github.com/braidmq/braid/gateway/router"
	"github.com/braidmq/braid/internal/recordbatch"
	"github.com/braidmq/braid/internal/upstream"
)

// BenchmarkProduce appends batches of 64 KiB through the whole router to an
// embedded cluster that throws them away; 16 are in flight.
func BenchmarkProduce(b *testing.B) {
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
	value := make([]byte, 64<<10)
	data := batch(recordbatch.NoProducer, string(value))
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
