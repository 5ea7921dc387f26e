package main

import (
	"fmt"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
	"google.golang.org/protobuf/proto"

	"github.com/braidmq/braid/federation/wire"
	"github.com/braidmq/braid/internal/redisstore"
)

// runScale builds a large federation on embedded clusters, step by step, and looks
// what each thing costs a gateway that is there from the beginning; then it starts
// one on the whole map.
func runScale(b *bench) report {
	w := b.newWorld()
	defer w.stop()
	clusters, brokers := b.size(60, 3), b.size(10, 2)
	large, extents := b.size(6000, 60), b.size(50_000, 300)
	small, conns := b.size(100, 10), b.size(1000, 50)
	_, seeds := w.embeddedClusters(clusters, brokers)
	w.addCluster(0, seeds[0])
	w.startGateway(gateway)
	costs := table{header: []string{"one more idle", "how many were added", "gateway live heap and stack for each", "gateway CPU for each", "took"}}
	step := func(what string, n int, f func()) {
		start := time.Now()
		live, idle := w.live(gateway), w.idleCPU()
		begin := time.Now()
		f()
		took := time.Since(begin)
		liveEach := (w.live(gateway) - live) / float64(n)
		idleEach := max(0, w.idleCPU()-idle) / float64(n) * 1000
		costs.rows = append(costs.rows, []string{what, figure(float64(n)), figure(liveEach/1000) + " KB", figure(idleEach) + " µs/s", fmt.Sprintf("%.1f s", took.Seconds())})
		b.tb.Logf("scale: %s x %d: %.1f s", what, n, time.Since(start).Seconds())
	}
	step(fmt.Sprintf("cluster of %d brokers", brokers), clusters-1, func() {
		for i := 1; i < clusters; i++ {
			w.addCluster(i, seeds[i])
		}
		w.awaitMap(func() bool { return w.clustersIn() == clusters })
	})
	step("topic of one partition", small, func() { w.createTopics(small, 1) })
	step("partition of a large topic", large, func() { w.createTopics(1, large) })
	perTopic := min(1000, extents)
	rest := max(1, (extents-large-small+perTopic-1)/perTopic)
	step("partition of topics of "+figure(float64(perTopic)), rest*perTopic, func() { w.createTopics(rest, perTopic) })
	var open []*rawClient
	step("connection", conns, func() {
		for range conns {
			c := dialRaw(w.facade)
			c.ask(kmsg.NewPtrApiVersionsRequest(), 3)
			open = append(open, c)
		}
	})
	for _, c := range open {
		c.close()
	}
	whole := w.wholeMap()
	begin := time.Now()
	second := w.startGateway("second")
	cold, coldCPU := time.Since(begin), cpu(second.PID())
	resident, live := float64(rss(second.PID()))/1e6, w.live("second")/1e6
	resident = max(resident, float64(rss(second.PID()))/1e6)
	wholeMB := float64(whole.bytes) / 1e6
	return report{
		notes: []string{fmt.Sprintf("%d clusters of %d embedded brokers; %d topics, %s partitions and extents, one topic of %s.", clusters, brokers, whole.topics, figure(float64(whole.extents)), figure(float64(large)))},
		tables: []table{costs, {
			header: []string{"the whole map on the wire", "RSS of a gateway started on it", "its live heap and stack", "from its start to ready", "CPU until then", "RSS of the gateway that was there", "RSS of the controller"},
			rows: [][]string{{
				figure(wholeMB) + " MB", figure(resident) + " MB", figure(live) + " MB", fmt.Sprintf("%.2f s", cold.Seconds()), ms(coldCPU),
				figure(float64(rss(w.processes[gateway].PID()))/1e6) + " MB", figure(float64(rss(w.processes[controller].PID()))/1e6) + " MB",
			}},
		}},
		goals: []goal{
			atMost("scale: map on the wire", " MB", 4, wholeMB),
			atMost("scale: RSS of a gateway", " MB", 300, resident),
			atMost("scale: cold start of a gateway", " s", 2, cold.Seconds()),
		},
	}
}

// idleCPU is the CPU of the gateway with nothing to do, in ms for each second.
func (w *world) idleCPU() float64 {
	pid := w.processes[gateway].PID()
	d := w.b.lasting(3*time.Second, 300*time.Millisecond)
	before := cpu(pid)
	w.b.wait(d)
	return millis(cpu(pid)-before) / d.Seconds()
}

func (w *world) createTopics(n, partitions int) {
	for range n {
		w.braid("topic", "create", w.b.topicName(), "--partitions", strconv.Itoa(partitions), "--replication", "1")
	}
}

func (w *world) awaitMap(f func() bool) { w.b.await("the map", f) }

// A mapSize is how large a map is.
type mapSize struct{ clusters, topics, extents, bytes int }

// wholeMap reads the map from Redis.
func (w *world) wholeMap() (s mapSize) {
	store, err := redisstore.Open(redisstore.Config{URL: w.redis.URL(), Prefix: redisPrefix})
	check(err)
	defer func() { _ = store.Close() }()
	m, err := store.LoadMap(w.b.ctx, "default")
	check(err)
	s.clusters, s.topics = len(m.Clusters), len(m.Topics)
	for _, t := range m.Topics {
		for _, p := range t.Partitions {
			s.extents += len(p.Extents)
		}
	}
	for _, part := range wire.Snapshot(m) {
		s.bytes += proto.Size(part)
	}
	return s
}

func (w *world) clustersIn() int { return w.wholeMap().clusters }
