package main

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway/mapwatch"
	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/gen/braid/admin/v1/adminv1connect"
	"github.com/braidmq/braid/internal/redisstore"
)

// runMaps changes the map, again and again, and looks when the last gateway has it.
// The gateways are only the part of one that follows the map, all in this process.
func runMaps(b *bench) report {
	w := b.newWorld()
	defer w.stop()
	partitions, gateways, changes := b.size(10_000, 200), b.size(50, 5), b.size(200, 10)
	w.withClusters(2, 1)
	const perTopic = 1000
	for left := partitions; left > 0; left -= perTopic {
		w.braid("topic", "create", b.topicName(), "--partitions", strconv.Itoa(min(left, perTopic)))
	}
	store, err := redisstore.Open(redisstore.Config{URL: w.redis.URL(), Prefix: redisPrefix})
	check(err)
	defer func() { _ = store.Close() }()
	ctx, cancel := context.WithCancel(b.ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	watches := make([]*mapwatch.Watch, gateways)
	for i := range watches {
		c, end := http2()
		defer end()
		watches[i], err = mapwatch.New(mapwatch.Config{
			ID: federation.GatewayID(fmt.Sprintf("watch-%d", i)), Build: "bench", Controllers: []string{w.lead},
			ConnectAddress: fmt.Sprintf("127.0.0.1:%d", 1000+2*i), KafkaAddress: fmt.Sprintf("127.0.0.1:%d", 1001+2*i),
		}, mapwatch.Parts{Store: store, HTTP: c})
		check(err)
		running.Go(func() { check(watches[i].Run(ctx)) })
	}
	b.await("all gateways to be in the map", func() bool {
		for _, watch := range watches {
			if len(watch.Current().Gateways) < gateways {
				return false
			}
		}
		return true
	})
	controllerBefore, redisBefore := cpu(w.processes[controller].PID()), cpu(w.redis.PID())
	took := w.changeMap(ctx, watches, changes)
	perChange := func(d time.Duration) string { return ms(d / time.Duration(changes)) }
	return report{
		notes: []string{fmt.Sprintf("%d gateways, %s partitions on 2 embedded clusters, %d changes of a cluster's weight, one after the other. Time is from the call to the moment when the last gateway has installed the map, with the write to Redis and to the journals.", gateways, figure(float64(partitions)), changes)},
		tables: []table{{
			header: []string{"changes", "p50", "p99", "largest", "controller CPU/change", "Redis CPU/change", "whole map"},
			rows: [][]string{{
				strconv.Itoa(len(took)), ms(quantile(took, 0.5)), ms(quantile(took, 0.99)), ms(quantile(took, 1)),
				perChange(cpu(w.processes[controller].PID()) - controllerBefore), perChange(cpu(w.redis.PID()) - redisBefore), figure(float64(w.wholeMap().bytes)/1000) + " KB",
			}},
		}},
		goals: []goal{atMost(fmt.Sprintf("map change at %d gateways with %s partitions, p99", gateways, figure(float64(partitions))), " ms", 100, millis(quantile(took, 0.99)))},
	}
}

// redisPrefix begins braid's keys by default.
const redisPrefix = "braid"

// withClusters adds embedded clusters to the world, and waits until the map has them.
func (w *world) withClusters(count, brokers int) {
	_, seeds := w.embeddedClusters(count, brokers)
	for i, s := range seeds {
		w.addCluster(i, s)
	}
}

func (w *world) addCluster(i int, seeds []string) {
	c, end := http2()
	defer end()
	_, err := adminv1connect.NewClusterServiceClient(c, w.lead).CreateCluster(w.b.ctx, &adminv1.CreateClusterRequest{
		Cluster: &adminv1.Cluster{Name: "physicalClusters/" + clusterName(i), Bootstrap: seeds},
	})
	check(err)
}

// changeMap returns how long each change took until all had it.
func (w *world) changeMap(ctx context.Context, watches []*mapwatch.Watch, changes int) []time.Duration {
	c, end := http2()
	defer end()
	clusters := adminv1connect.NewClusterServiceClient(c, w.lead)
	name := "physicalClusters/" + clusterName(0)
	have, err := clusters.GetCluster(ctx, &adminv1.GetClusterRequest{Name: name})
	check(err)
	took := make([]time.Duration, changes)
	for i := range changes {
		weight := int32(50 + i)
		have.GetCluster().Weight, have.GetCluster().Etag = weight, "" // whatever it is now
		begin := time.Now()
		var all sync.WaitGroup
		for _, watch := range watches {
			all.Go(func() {
				for ctx.Err() == nil {
					changed := watch.Changed()
					if watch.Current().Clusters[federation.ClusterName(clusterName(0))].Weight == weight {
						return
					}
					select {
					case <-changed:
					case <-ctx.Done():
					}
				}
			})
		}
		_, err := clusters.UpdateCluster(ctx, &adminv1.UpdateClusterRequest{Cluster: have.GetCluster()})
		check(err)
		all.Wait()
		took[i] = time.Since(begin)
	}
	return took
}
