package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/braidmq/braid/gateway/mapwatch"
	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/gen/braid/admin/v1/adminv1connect"
	braidv1 "github.com/braidmq/braid/gen/braid/v1"
	"github.com/braidmq/braid/gen/braid/v1/braidv1connect"
	"github.com/braidmq/braid/internal/redisstore"
	"github.com/braidmq/braid/test/realparts"
)

// What each tenant has.
const (
	tenantTopics     = 4
	tenantPartitions = 2 // of each topic
	tenantUsers      = 1 // with two mechanisms
)

// tenantsRun is a gateway and a controller with many tenants.
type tenantsRun struct {
	*world
	http   *http.Client
	fleet  adminv1connect.TenantServiceClient
	topics adminv1connect.TopicServiceClient
	users  adminv1connect.CredentialServiceClient
	listen string // of the first tenant, for Kafka clients
}

func tenantID(i int) string { return fmt.Sprintf("tenant-%03d", i) }

// inTenant names a logical cluster in a header.
type inTenant struct {
	name string
	next http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (h inTenant) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Braid-Logical-Cluster", h.name)
	return h.next.RoundTrip(r)
}

// runTenants has one gateway serve one tenant, and then many, and looks what each costs,
// what a change of the map costs then, and what the first one notices of the others.
func runTenants(b *bench) report {
	w := &tenantsRun{world: b.newWorld()}
	defer w.stop()
	n := b.size(500, 4)
	w.withClusters(2, 1)
	w.begin()
	c, end := http2()
	defer end()
	w.http = c
	w.fleet, w.topics, w.users = adminv1connect.NewTenantServiceClient(c, w.api), adminv1connect.NewTopicServiceClient(c, w.api), adminv1connect.NewCredentialServiceClient(c, w.api)

	each := b.lasting(4*time.Second, time.Second)
	first := []time.Duration{w.create(0)}
	w.use(0)
	b.warm(w.listen, "topic-0")
	acked := func() []time.Duration {
		took, _ := b.latency(w.listen, "topic-0", each)
		return took
	}
	alone, aloneBefore := acked(), w.changes()

	costs := table{header: []string{"one more tenant", "how many", "gateway live heap and stack for each", "controller's", "gateway CPU with nothing to do", "took"}}
	step := func(what string, f func()) {
		live, control, begin := w.live(gateway), w.live(controller), time.Now()
		f()
		took := time.Since(begin)
		costs.rows = append(costs.rows, []string{
			what, figure(float64(n - 1)), figure((w.live(gateway)-live)/float64(n-1)/1000) + " KB", figure((w.live(controller)-control)/float64(n-1)/1000) + " KB",
			figure(w.idleCPU()) + " ms/s", fmt.Sprintf("%.1f s", took.Seconds()),
		})
	}
	var created []time.Duration
	step(fmt.Sprintf("that nobody uses: %d topics of %d partitions, %d user", tenantTopics, tenantPartitions, tenantUsers), func() {
		created = w.createAll(n)
	})
	step("in use: a group, a gateway's parts", func() { w.each(n, func(i int) { w.use(i) }) })
	idle, idleChanges := acked(), w.changes()
	stop, sent := w.useAll(n)
	busy := acked()
	rate := float64(sent.Load())
	stop()

	late := created[max(0, len(created)-20):]
	changed := table{header: []string{"a change of the map", "p50 until a follower has it", "p99", "gateway CPU/change", "controller CPU/change"}}
	for _, of := range []struct {
		with string
		c    tenantChanges
	}{{"1 tenant", aloneBefore}, {figure(float64(n)) + " tenants", idleChanges}} {
		changed.rows = append(changed.rows, []string{of.with, ms(quantile(of.c.took, 0.5)), ms(quantile(of.c.took, 0.99)), ms(of.c.gateway), ms(of.c.controller)})
	}
	latency := table{header: []string{"one tenant at 500 records/s, acknowledged", "p50", "p90", "p99", "largest"}}
	for _, of := range []struct {
		with string
		took []time.Duration
	}{{"alone", alone}, {"others idle", idle}, {"others in use", busy}} {
		row := []string{of.with}
		for _, q := range []float64{0.5, 0.9, 0.99, 1} {
			row = append(row, ms(quantile(of.took, q)))
		}
		latency.rows = append(latency.rows, row)
	}
	whole := w.wholeMap()
	return report{
		notes: []string{fmt.Sprintf("One gateway, one controller, 2 embedded clusters; %d tenants with %d topics, %s partitions and %s KB of map together. Others in use send %s batches of one record together while it is measured. A tenant is created in %s at first, in %s (p50 of the last %d) with all others there.",
			n, whole.topics, figure(float64(whole.extents)), figure(float64(whole.bytes)/1000), figure(rate), ms(quantile(first, 0.5)), ms(quantile(late, 0.5)), len(late))},
		tables: []table{costs, changed, latency, {
			header: []string{"RSS of the gateway", "of the controller"},
			rows:   [][]string{{figure(float64(rss(w.processes[gateway].PID()))/1e6) + " MB", figure(float64(rss(w.processes[controller].PID()))/1e6) + " MB"}},
		}},
		goals: []goal{
			atMost(figure(float64(n))+" tenants: a change of the map, p99", " ms", 100, millis(quantile(idleChanges.took, 0.99))),
			atMost(figure(float64(n))+" tenants: one is created in", " ms", 250, millis(quantile(late, 0.5))),
		},
	}
}

// begin starts the gateway, with a listener for the first tenant.
func (w *tenantsRun) begin() {
	api, facade := realparts.FreeAddress(w.scope), realparts.FreeAddress(w.scope)
	w.listen = realparts.FreeAddress(w.scope)
	token := filepath.Join(w.dir, "fleet.token")
	check(os.WriteFile(token, []byte(rand.Text()+rand.Text()), 0o600))
	w.start(gateway, "gateway", "--controller", w.lead, "--listen", api, "--kafka-listen", facade, "--fleet-token-file", token, "--tenants", "--tenant-kafka-listen", tenantID(0)+"="+w.listen)
	w.api, w.facade = "http://"+api, facade
}

// create makes a tenant with all that it has, and returns how long the tenant itself took.
func (w *tenantsRun) create(i int) time.Duration {
	start := time.Now()
	_, err := w.fleet.CreateTenant(w.b.ctx, &adminv1.CreateTenantRequest{TenantId: tenantID(i)})
	check(err)
	took := time.Since(start)
	parent := "logicalClusters/" + tenantID(i)
	for j := range tenantTopics {
		_, err := w.topics.CreateTopic(w.b.ctx, &adminv1.CreateTopicRequest{Parent: parent, TopicId: "topic-" + strconv.Itoa(j), Topic: &adminv1.Topic{PartitionCount: tenantPartitions}})
		check(err)
	}
	for j := range tenantUsers {
		_, err := w.users.CreateCredential(w.b.ctx, &adminv1.CreateCredentialRequest{Parent: parent, User: "user-" + strconv.Itoa(j), Password: "secret"})
		check(err)
	}
	return took
}

// createAll makes all tenants but the first, the last ones one after the other.
func (w *tenantsRun) createAll(n int) []time.Duration {
	took := make([]time.Duration, n)
	last := max(1, n-20)
	w.each(last, func(i int) { took[i] = w.create(i) })
	for i := last; i < n; i++ {
		took[i] = w.create(i)
	}
	return took[1:]
}

// each does something for all tenants but the first, some at a time.
func (w *tenantsRun) each(n int, do func(i int)) {
	var next atomic.Int64
	var workers sync.WaitGroup
	for range 8 {
		workers.Go(func() {
			for i := int(next.Add(1)); i < n; i = int(next.Add(1)) {
				do(i)
			}
		})
	}
	workers.Wait()
}

func (w *tenantsRun) client(i int) *http.Client {
	return &http.Client{Transport: inTenant{tenantID(i), w.http.Transport}}
}

// use has the gateway make its parts of a tenant, with a group.
func (w *tenantsRun) use(i int) {
	_, err := braidv1connect.NewConsumerServiceClient(w.client(i), w.api).CommitOffsets(w.b.ctx, &braidv1.CommitOffsetsRequest{
		Group: "group", Offsets: []*braidv1.PartitionOffset{{Topic: "topic-0", Partition: 0}},
	})
	check(err)
	check(w.sendOne(w.b.ctx, i))
}

// sendOne writes a record to a topic of a tenant.
func (w *tenantsRun) sendOne(ctx context.Context, i int) error {
	_, err := braidv1connect.NewProducerServiceClient(w.client(i), w.api).ProduceBatch(ctx, &braidv1.ProduceBatchRequest{
		Batch: &braidv1.ProduceFrame{Topic: "topic-1", Records: []*braidv1.Record{{Value: make([]byte, 100)}}},
	})
	return err
}

// useAll has each of the others send a record every two seconds, until stop.
func (w *tenantsRun) useAll(n int) (stop func(), sent *atomic.Int64) {
	ctx, cancel := context.WithCancel(w.b.ctx)
	sent = new(atomic.Int64)
	var senders sync.WaitGroup
	for i := 1; i < n; i++ {
		senders.Go(func() {
			tick := time.NewTicker(2 * time.Second)
			defer tick.Stop()
			for first := time.After(2 * time.Second * time.Duration(i) / time.Duration(n)); ; first = nil {
				select {
				case <-first:
				case <-tick.C:
				case <-ctx.Done():
					return
				}
				if err := w.sendOne(ctx, i); err != nil && ctx.Err() == nil {
					check(err)
				}
				sent.Add(1)
			}
		})
	}
	return func() { cancel(); senders.Wait() }, sent
}

// tenantChanges are what changes of the map cost.
type tenantChanges struct {
	took                []time.Duration
	gateway, controller time.Duration // CPU of each change
}

// changes changes the weight of a cluster, again and again.
func (w *tenantsRun) changes() (out tenantChanges) {
	n := w.b.size(100, 5)
	store, err := redisstore.Open(redisstore.Config{URL: w.redis.URL(), Prefix: redisPrefix})
	check(err)
	defer func() { _ = store.Close() }()
	ctx, cancel := context.WithCancel(w.b.ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	watch, err := mapwatch.New(mapwatch.Config{
		ID: "watch", Build: "bench", Controllers: []string{w.lead}, ConnectAddress: "127.0.0.1:1000", KafkaAddress: "127.0.0.1:1001",
	}, mapwatch.Parts{Store: store, HTTP: w.http})
	check(err)
	running.Go(func() { check(watch.Run(ctx)) })
	w.b.await("the follower to be in the map", func() bool { return watch.Current().Gateway("watch") != nil })
	gatewayBefore, controllerBefore := cpu(w.processes[gateway].PID()), cpu(w.processes[controller].PID())
	out.took = w.changeMap(ctx, []*mapwatch.Watch{watch}, n)
	out.gateway = (cpu(w.processes[gateway].PID()) - gatewayBefore) / time.Duration(n)
	out.controller = (cpu(w.processes[controller].PID()) - controllerBefore) / time.Duration(n)
	return out
}
