package controller_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2/server"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/controller"
	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/federation/wire"
	"github.com/braidmq/braid/gateway/mapwatch"
	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	controlv1 "github.com/braidmq/braid/gen/braid/control/v1"
	"github.com/braidmq/braid/internal/mark"
	"github.com/braidmq/braid/internal/recordbatch"
	"github.com/braidmq/braid/internal/upstream"
)

// A holder is what a gateway does when heads are sealing.
type holder struct {
	mu    sync.Mutex
	deaf  bool // it does not answer
	acked map[federation.TopicPartition]federation.PhysicalOffset
	seen  map[federation.TopicPartition]federation.PhysicalOffset
	holds int // how often it was asked
	// asking is called when it is asked for the first time, before it answers.
	asking func()
}

func (h *holder) config(cfg *mapwatch.Config) {
	cfg.Hold = func(ctx context.Context, m *federation.Map) ([]federation.HeldHead, error) {
		h.mu.Lock()
		h.holds++
		deaf, heads := h.deaf, slices.Clone(m.SealingHeads())
		if h.asking != nil && len(heads) > 0 {
			h.asking()
			h.asking = nil
		}
		for i := range heads {
			heads[i].AcknowledgedEnd, heads[i].SeenEnd = h.acked[heads[i].TopicPartition], h.seen[heads[i].TopicPartition]
		}
		h.mu.Unlock()
		if deaf {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return heads, nil
	}
}

func (h *holder) set(change func(*holder)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change(h)
}

func (h *holder) asked() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.holds
}

// moving makes heads move fast.
func moving(c *controller.Config) {
	c.SealWait = 300 * time.Millisecond
	c.SealedInterval = 50 * time.Millisecond
	c.DirectQuiet = 50 * time.Millisecond
}

// A federated is a world with a topic whose heads lie on cluster a, and one gateway.
type federated struct {
	*world

	nodes   []*node
	admin   *admin // of the first controller
	gateway *gateway
	holder  *holder
}

func newFederated(t *testing.T, partitions int32, change ...func(*controller.Config)) *federated {
	t.Helper()
	f := &federated{world: newWorld(t, "a", "b", "c"), holder: &holder{}}
	f.start(t, change...)
	f.makeTopic(t, "orders", partitions)
	return f
}

// newLimited is newFederated with a topic that may use cluster a only.
func newLimited(t *testing.T, partitions int32) *federated {
	t.Helper()
	f := &federated{world: newWorld(t, "a", "b", "c"), holder: &holder{}}
	f.start(t)
	f.makeTopic(t, "orders", partitions, "a")
	return f
}

// start starts a controller, and with the first one everything else.
func (f *federated) start(t *testing.T, change ...func(*controller.Config)) *node {
	t.Helper()
	n := f.controller(t, "c"+string(rune('1'+len(f.nodes))), append([]func(*controller.Config){moving}, change...)...)
	f.nodes = append(f.nodes, n)
	if len(f.nodes) > 1 {
		return n
	}
	n.leads(t)
	f.admin = adminOf(t, n.url)
	f.addClusters(t, f.admin)
	// It finds the leader by the store.
	f.gateway = f.world.gateway(t, "g1", nil, f.holder.config)
	f.gateway.awaitRegistered(t)
	return n
}

// makeTopic makes a topic on cluster a.
func (f *federated) makeTopic(t *testing.T, name string, partitions int32, limit ...string) {
	t.Helper()
	weights := make(map[string]int32)
	for cluster := range f.kafka {
		weights[cluster] = 0
	}
	weights["a"] = 1
	_, err := f.admin.create(t.Context(), name, partitions, func(r *adminv1.CreateTopicRequest) {
		r.Topic.Placement = &adminv1.PlacementPolicy{PhysicalClusters: limit, Weights: weights}
	})
	require.NoError(t, err)
}

// takeOver kills the leader; the next one has the admin API then.
func (f *federated) takeOver(t *testing.T, change ...func(*controller.Config)) {
	t.Helper()
	next := f.start(t, change...)
	f.nodes[len(f.nodes)-2].kill()
	next.leads(t)
	f.admin = adminOf(t, next.url)
}

func (f *federated) move(t *testing.T, to string, partitions ...int32) *adminv1.Operation {
	t.Helper()
	resp, err := f.admin.topics.MovePartitions(t.Context(), &adminv1.MovePartitionsRequest{Name: topicName("orders"), Partitions: partitions, PhysicalCluster: to, NoWait: true})
	require.NoError(t, err)
	return &adminv1.Operation{Name: resp.GetOperation()}
}

func (f *federated) moved(t *testing.T, op *adminv1.Operation) {
	t.Helper()
	done := f.admin.await(t, op.GetName())
	require.Zero(t, done.GetErrorCode(), done.GetErrorMessage())
	f.noneSealing(t)
}

func (f *federated) noneSealing(t *testing.T) {
	t.Helper()
	f.gateway.eventually(t, "no head is sealing", func(m *federation.Map) bool { return len(m.SealingHeads()) == 0 })
}

func (f *federated) sealing() bool { return len(f.gateway.Current().SealingHeads()) > 0 }

// partition returns a partition as the gateway knows it, when its head lies on a cluster.
func (f *federated) partition(t *testing.T, n int32, cluster federation.ClusterName) *federation.Partition {
	t.Helper()
	var p *federation.Partition
	f.gateway.eventually(t, "the head lies on "+string(cluster), func(m *federation.Map) bool {
		p = m.Topic("orders").Partitions[n]
		return p.Head().Cluster == cluster && p.Head().State == federation.ExtentOpen
	})
	return p
}

func (f *federated) alarms(t *testing.T) []string {
	t.Helper()
	s, err := f.admin.fleet.GetStatus(t.Context(), &adminv1.GetStatusRequest{})
	require.NoError(t, err)
	return s.GetAlarms()
}

func (f *federated) awaitAlarm(t *testing.T, parts ...string) string {
	t.Helper()
	var found string
	require.Eventually(t, func() bool {
		i := slices.IndexFunc(f.alarms(t), func(a string) bool { return containsAll(a, parts) })
		if i >= 0 {
			found = f.alarms(t)[i]
		}
		return i >= 0
	}, patience, 10*time.Millisecond, "alarm with %q", parts)
	return found
}

// cluster is a way to a physical cluster without braid.
func (f *federated) cluster(t *testing.T, name string) *upstream.Cluster {
	t.Helper()
	pool := upstream.NewPool(upstream.Config{})
	t.Cleanup(pool.Close)
	pool.Update([]*federation.Cluster{{Name: federation.ClusterName(name), Seeds: f.kafka[name].ListenAddrs()}})
	c, err := pool.Cluster(federation.ClusterName(name))
	require.NoError(t, err)
	return c
}

// produce appends a batch of n records at a physical partition.
func (f *federated) produce(t *testing.T, at federation.PhysicalAddress, p recordbatch.Producer, n int) federation.PhysicalOffset {
	t.Helper()
	got := f.cluster(t, string(at.Cluster)).AppendMarks(t.Context(), []upstream.MarkAppend{batchFor(at, p, n)})
	require.NoError(t, got[0].Err)
	return got[0].Offset
}

func batchFor(at federation.PhysicalAddress, p recordbatch.Producer, n int) upstream.MarkAppend {
	var b recordbatch.Builder
	b.Reset(nil)
	for range n {
		b.Add(&recordbatch.Record{TimestampMs: time.Now().UnixMilli(), Value: []byte("value")})
	}
	return upstream.MarkAppend{Partition: upstream.Partition{Topic: at.Topic, Partition: at.Partition}, Batch: b.Finish(p)}
}

// carried returns the producers that the openings of a head tell of.
func (f *federated) carried(t *testing.T, head *federation.Extent) map[int64]mark.Producer {
	t.Helper()
	out := make(map[int64]mark.Producer)
	if head.Opening == 0 {
		return out
	}
	err := f.cluster(t, string(head.Cluster)).ReadBatches(t.Context(), upstream.Partition{Topic: head.Topic, Partition: head.Partition}, head.Opening, head.Start,
		func(_ recordbatch.Header, batch []byte) bool {
			k, subject, producers, err := mark.Parse(batch)
			require.NoError(t, err)
			require.Equal(t, mark.KindOpening, k)
			require.Equal(t, head.Number, subject.Extent)
			for _, p := range producers {
				require.NotContains(t, out, p.ID)
				out[p.ID] = p
			}
			return true
		})
	require.NoError(t, err)
	return out
}

// marks returns the kinds of the marks in a physical partition.
func (f *federated) marks(t *testing.T, at federation.PhysicalAddress) []mark.Kind {
	t.Helper()
	c, p := f.cluster(t, string(at.Cluster)), upstream.Partition{Topic: at.Topic, Partition: at.Partition}
	ends := c.Ends(t.Context(), []upstream.Partition{p})
	require.NoError(t, ends[0].Err)
	var out []mark.Kind
	require.NoError(t, c.ReadBatches(t.Context(), p, ends[0].LogStart, ends[0].LogEnd, func(h recordbatch.Header, batch []byte) bool {
		if mark.IsMark(h.ProducerID) {
			k, _, _, err := mark.Parse(batch)
			require.NoError(t, err)
			out = append(out, k)
		}
		return true
	}))
	return out
}

// A gate stops the requests of a kind at a physical cluster, once.
type gate struct {
	reached chan struct{} // closed when one has come
	open    chan struct{}
}

// stopAt stops the first request that is one, before the cluster sees it.
func stopAt(k *kfake.Cluster, key kmsg.Key, is func(kmsg.Request) bool) *gate {
	g := &gate{reached: make(chan struct{}), open: make(chan struct{})}
	first := true
	k.ControlKey(int16(key), func(req kmsg.Request) (kmsg.Response, error, bool) {
		k.KeepControl()
		if first && is(req) {
			first = false
			close(g.reached)
			k.SleepControl(func() { <-g.open })
		}
		return nil, nil, false
	})
	return g
}

// appendsMark reports whether a Produce request appends a mark of a kind.
func appendsMark(want mark.Kind) func(kmsg.Request) bool {
	return func(req kmsg.Request) bool {
		for _, t := range req.(*kmsg.ProduceRequest).Topics {
			for _, p := range t.Partitions {
				if k, _, _, err := mark.Parse(p.Records); err == nil && k == want {
					return true
				}
			}
		}
		return false
	}
}

func (g *gate) await(t *testing.T) {
	t.Helper()
	select {
	case <-g.reached:
	case <-time.After(patience):
		require.Fail(t, "nobody came to the gate")
	}
}

// containsAll reports whether a text has all parts.
func containsAll(text string, parts []string) bool {
	return !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(text, p) })
}

// A storeGate stops one command at the store.
type storeGate struct {
	gate

	drop atomic.Bool // the store never sees the command
}

// stopStore stops the first command that is one, before the store sees it.
func (w *world) stopStore(is func(args []string) bool) *storeGate {
	g := &storeGate{gate: gate{reached: make(chan struct{}), open: make(chan struct{})}}
	var mu sync.Mutex
	first := true
	w.redis.Server().SetPreHook(func(c *server.Peer, _ string, args ...string) bool {
		mu.Lock()
		stop := first && is(args)
		first = first && !stop
		mu.Unlock()
		if stop {
			close(g.reached)
			<-g.open
			if g.drop.Load() {
				c.WriteError("dropped")
				return true
			}
		}
		return false
	})
	return g
}

// saves reports whether a command saves an operation whose JSON has some parts, and
// has not others.
func saves(has, not []string) func(args []string) bool { return savesOf("move-heads", has, not) }

// savesOf is saves for another kind of operation.
func savesOf(kind string, has, not []string) func(args []string) bool {
	return func(args []string) bool {
		return slices.ContainsFunc(args, func(a string) bool {
			return strings.HasPrefix(a, "{") && containsAll(a, append([]string{`"kind":"` + kind + `"`}, has...)) &&
				!slices.ContainsFunc(not, func(n string) bool { return strings.Contains(a, n) })
		})
	}
}

// writesHead reports whether a command writes a map with a partition that is so.
func writesHead(is func(extents []*controlv1.ExtentEntry) bool) func(args []string) bool {
	return func(args []string) bool {
		return slices.ContainsFunc(args, func(a string) bool {
			e, err := wire.Unmarshal([]byte(a))
			return err == nil && e.GetPartition() != nil && is(e.GetPartition().GetExtents())
		})
	}
}

// transactional makes a client of a physical cluster that writes in transactions.
func (f *federated) transactional(t *testing.T, cluster string) *kgo.Client {
	t.Helper()
	c, err := kgo.NewClient(kgo.SeedBrokers(f.kafka[cluster].ListenAddrs()...), kgo.TransactionalID("bank"), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

// begin writes a record into partition 0 of a topic, in a transaction that end commits.
func (f *federated) begin(t *testing.T, c *kgo.Client, topic string) (end func()) {
	t.Helper()
	require.NoError(t, c.BeginTransaction())
	require.NoError(t, c.ProduceSync(t.Context(), &kgo.Record{Topic: topic, Value: []byte("value")}).FirstErr())
	return func() { require.NoError(t, c.EndTransaction(t.Context(), kgo.TryCommit)) }
}
