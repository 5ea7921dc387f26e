package router_test

import (
	"fmt"
	"slices"
	"sync"
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
	s := benchSession(b, kfake.BlackholeProduce())
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

// BenchmarkFetch reads the same batches again and again, so never at the tail,
// through the whole router. What the embedded cluster allocates counts, too; the
// answer itself must not be allocated anew by the router.
func BenchmarkFetch(b *testing.B) {
	for _, size := range []int{100, 64 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("%d bytes", size), func(b *testing.B) {
			s := benchSession(b)
			data := batch(recordbatch.NoProducer, string(make([]byte, min(size, 1000<<10))))
			written := make(chan error, 1)
			err := s.Produce(b.Context(), router.AcksAll, 10*time.Second, []router.Append{{TopicPartition: tp0, Batch: data}}, func(a []router.Appended) { written <- a[0].Err })
			if err != nil {
				b.Fatal(err)
			}
			if err := <-written; err != nil {
				b.Fatal(err)
			}
			from := []router.Position{{TopicPartition: tp0, MaxBytes: 2 << 20, CurrentEpoch: -1, LastFetchedEpoch: -1}}
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				f, err := s.Fetch(b.Context(), from, router.FetchLimit{MinBytes: 1, MaxBytes: 2 << 20, MaxWait: 10 * time.Second})
				if err != nil {
					b.Fatal(err)
				}
				if f.Slices[0].Err != nil || len(f.Slices[0].Records) == 0 {
					b.Fatal("nothing was read: ", f.Slices[0].Err)
				}
				f.Release()
			}
		})
	}
}

// benchSession is a session of a router before an embedded cluster with 8 partitions.
func benchSession(b *testing.B, opts ...kfake.Opt) router.Session {
	b.Helper()
	s, _ := benchRouter(b, opts...)
	return s
}

// benchRouter is benchSession that can open more of them.
func benchRouter(b *testing.B, opts ...kfake.Opt) (router.Session, func() router.Session) {
	b.Helper()
	c, err := kfake.NewCluster(append(opts, kfake.NumBrokers(1), kfake.SeedTopics(8, "phys"))...)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(c.Close)
	w := federationtest.New(map[string][]string{"a": c.ListenAddrs()})
	var chains [][]*federation.Extent
	for i := range 8 {
		chains = append(chains, []*federation.Extent{federationtest.Head("a", "phys", i)})
	}
	w.SetTopic("orders", nil, chains...)
	pool := upstream.NewPool(upstream.Config{})
	b.Cleanup(pool.Close)
	pool.Update([]*federation.Cluster{w.Current().Clusters["a"]})
	r := router.New(b.Context(), router.Config{}, router.Deps{Maps: w, Clusters: pool, Lease: w, ProducerIDs: &ids{}})
	b.Cleanup(r.Close)
	open := func() router.Session {
		s := r.NewSession()
		b.Cleanup(s.Close)
		return s
	}
	return open(), open
}

// BenchmarkProduceAlone is how long an append takes when nothing else is under way,
// as with a client that sends now and then: the way there and back wakes every
// goroutine that it passes.
func BenchmarkProduceAlone(b *testing.B) {
	s := benchSession(b, kfake.BlackholeProduce())
	data := batch(recordbatch.NoProducer, string(make([]byte, 1024)))
	done := make(chan error, 1)
	var took []time.Duration
	pause := time.NewTicker(time.Millisecond)
	defer pause.Stop()
	for b.Loop() {
		<-pause.C
		begin := time.Now()
		err := s.Produce(b.Context(), router.AcksAll, 10*time.Second, []router.Append{{TopicPartition: tp0, Batch: data}}, func(a []router.Appended) { done <- a[0].Err })
		if err != nil {
			b.Fatal(err)
		}
		if err := <-done; err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Nanoseconds()), "p50-ns")
	b.ReportMetric(float64(took[len(took)/10].Nanoseconds()), "p10-ns")
}

// BenchmarkTail is one append that 20 readers wait for at the tail of a partition.
func BenchmarkTail(b *testing.B) {
	const readers = 20
	first, open := benchRouter(b)
	data := batch(recordbatch.NoProducer, string(make([]byte, 10<<10)))
	var wrote, served sync.WaitGroup
	begin := make([]chan federation.LogicalOffset, readers)
	defer func() {
		for _, c := range begin {
			close(c)
		}
	}()
	for i := range begin {
		begin[i] = make(chan federation.LogicalOffset, 1)
		s := open()
		go func() {
			for at := range begin[i] {
				for from := at; at == from; {
					f, err := s.Fetch(b.Context(), []router.Position{{TopicPartition: tp0, Offset: at, MaxBytes: 1 << 20, CurrentEpoch: -1, LastFetchedEpoch: -1}},
						router.FetchLimit{MinBytes: 1, MaxBytes: 2 << 20, MaxWait: 10 * time.Second})
					if err != nil {
						b.Error(err)
						break
					}
					at = f.Slices[0].Next
					f.Release()
				}
				served.Done()
			}
		}()
	}
	b.ReportAllocs()
	at := federation.LogicalOffset(0)
	for b.Loop() {
		served.Add(readers)
		for _, c := range begin {
			c <- at
		}
		wrote.Add(1)
		err := first.Produce(b.Context(), router.AcksAll, 10*time.Second, []router.Append{{TopicPartition: tp0, Batch: data}}, func(a []router.Appended) {
			if a[0].Err != nil {
				b.Error(a[0].Err)
			}
			at = a[0].BaseOffset + 1
			wrote.Done()
		})
		if err != nil {
			b.Fatal(err)
		}
		wrote.Wait()
		served.Wait()
	}
}
