//go:build real

package matrix_test

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/braidmq/braid/test/sdk"
	"github.com/braidmq/braid/test/sdk/matrix"
	"github.com/braidmq/braid/test/world"
)

// A rackWay is how a client goes about client.rack.
type rackWay struct {
	stays  bool          // reads from its leaders
	partly bool          // asks its leaders again after each answer
	late   bool          // learns of gateways that come back with its next metadata only, 5 minutes later
	frail  bool          // ends when it asks a gateway that has died for its coordinator, or gives up after some 10 s and begins anew
	again  bool          // reads some again when the coordinator of its group moves under a commit
	wait   time.Duration // of its long polls, if it is more than half a second
}

// rackWays are those of clients that do not do as they should, or not at once.
var rackWays = map[string]rackWay{
	"java-2":       {late: true},
	"franz":        {wait: 5 * time.Second},
	"sarama":       {again: true},
	"kafka-python": {partly: true, late: true, frail: true},
	"kafkajs":      {stays: true, frail: true, again: true, wait: 5 * time.Second},
}

// tryRacks has consumers in a zone of two gateways, one of which drains and dies and comes
// back, and then both: of each client in turn, since all gateways are taken away.
func tryRacks(t *testing.T, results *matrix.Results) {
	var f *federation // when somebody needs it
	rack := matrix.Features[slices.IndexFunc(matrix.Features, func(f matrix.Feature) bool { return f.ID == "rack" })]
	for _, c := range matrix.Clients {
		cases, _ := c.CasesOf(rack)
		if len(cases) == 0 || !chosen(*only, c.ID) || !chosen(*feature, rack.ID) {
			continue
		}
		if f == nil {
			f = &federation{World: world.Real(t, world.Options{
				Gateways: 3, Clusters: []string{"a"}, Brokers: 2, HeapMB: 256, Zones: []string{"za", "zb", "zb"},
			})}
		}
		results.Begin(c, rack, cases)
		for _, protocol := range cases {
			passed := t.Run(c.ID+"/"+rack.ID+"/"+protocol, func(t *testing.T) {
				s := settings(protocol)
				s.Rack = "zb"
				r := &racked{federation: f, topic: "rack-" + c.ID + "-" + protocol, rackWay: rackWays[c.ID]}
				f.MustBraid(t, "", "topic", "create", r.topic, "--partitions", strconv.Itoa(partitions), "--replication", "2")
				r.consumer = matrix.Programs[c.ID].Start(t, c.ID, f.bootstrap(), "consume", s, r.topic, "of-"+r.topic)
				r.run(t)
			})
			if passed {
				results.Passed(c, rack)
			}
		}
	}
}

// racked is a consumer of the zone of all gateways but the first.
type racked struct {
	*federation
	topic    string
	consumer *sdk.Client
	want     []sdk.Record
	rackWay
}

func (r *racked) run(t *testing.T) {
	r.writes(t, 200)
	r.readsInItsZone(t, "from the start")
	one := r.Gateways[1]
	zone, anywhere := (*racked).readsInItsZone, (*racked).reads
	r.without(t, "one drained", zone, zone, stop(t), one)
	if !r.frail {
		r.without(t, "one killed", zone, zone, (*world.Node).Kill, one)
	}
	if !r.again {
		requireOnce(t, r.want, r.consumer.Records("record"))
	}
	r.outOfRange(t)
	// Java's classic group notices that a rack is gone (KIP-881): it may read some again.
	back := zone
	if r.late {
		back = anywhere
	}
	r.without(t, "all drained", anywhere, back, stop(t), r.Gateways[1:]...)
	if !r.frail {
		r.without(t, "all killed", anywhere, back, (*world.Node).Kill, r.Gateways[1:]...)
	}
	r.consumer.Stop()
}

func stop(t *testing.T) func(*world.Node) {
	return func(n *world.Node) { require.NoError(t, n.Stop()) }
}

// without ends gateways, checks the consumer, and again when they are back.
func (r *racked) without(t *testing.T, what string, gone, back func(*racked, *testing.T, string), end func(*world.Node), nodes ...*world.Node) {
	t.Helper()
	for _, g := range nodes {
		end(g)
		t.Cleanup(func() {
			if !g.Running() {
				require.NoError(t, g.Start())
			}
		})
	}
	gone(r, t, what)
	for _, g := range nodes {
		require.NoError(t, g.Start())
	}
	back(r, t, what+", and back")
}

func (r *racked) reads(t *testing.T, what string) {
	t.Helper()
	began := time.Now()
	r.writes(t, 100)
	t.Logf("%s: read within %s", what, time.Since(began).Round(time.Millisecond))
}

// writes has the consumer read so many records of 2 KiB.
func (r *racked) writes(t *testing.T, count int) {
	t.Helper()
	records := make([]*kgo.Record, count)
	for i := range records {
		random := make([]byte, 1024)
		_, _ = rand.Read(random)
		n := len(r.want)
		records[i] = &kgo.Record{Topic: r.topic, Key: fmt.Appendf(nil, "k%d", n%keys), Value: fmt.Appendf(nil, "%d-%s", n, hex.EncodeToString(random))}
		r.want = append(r.want, sdk.Record{Key: string(records[i].Key), Value: string(records[i].Value)})
	}
	r.produce(t, kgo.NoCompression(), records...)
	sdk.Until(t, fmt.Sprintf("%d records", len(r.want)), func() bool { return r.seen(records) }, r.consumer)
}

// seen reports whether records were read.
func (r *racked) seen(records []*kgo.Record) bool {
	got := make(map[string]bool)
	for _, v := range r.consumer.Records("record") {
		got[v.Value] = true
	}
	return !slices.ContainsFunc(records, func(k *kgo.Record) bool { return !got[string(k.Value)] })
}

func (r *racked) produce(t *testing.T, codec kgo.CompressionCodec, records ...*kgo.Record) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	client := r.client(t, kgo.ProducerBatchCompression(codec), kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)))
	defer client.Close()
	require.NoError(t, client.ProduceSync(ctx, records...).FirstErr())
}

// readsInItsZone waits until the consumer's records come from its zone's gateway alone.
func (r *racked) readsInItsZone(t *testing.T, when string) {
	t.Helper()
	const count, size = 200, 2048 * 200
	began := time.Now()
	for {
		before := r.out(t)
		r.writes(t, count)
		after := r.out(t)
		all, others := 0.0, (after[0]-before[0])/size
		for i := range after {
			all += (after[i] - before[i]) / size
		}
		most := 0.1
		switch {
		case r.stays:
			most = 1
		case r.partly:
			most = 0.7
		}
		if others/all <= most {
			t.Logf("%s: after %s the gateways gave out %.2f of what was written, %.2f in another zone", when, time.Since(began).Round(time.Millisecond), all, others)
			return
		}
		require.Less(t, time.Since(began), patience, "%s: %.2f of %.2f came from another zone", when, others, all)
	}
}

// out is how many bytes each gateway has sent to Kafka clients.
func (r *racked) out(t *testing.T) []float64 { return r.metric(t, "braid_kafka_bytes_out_total") }

func (r *racked) metric(t *testing.T, name string) (all []float64) {
	t.Helper()
	for _, g := range r.Gateways {
		if !g.Running() {
			all = append(all, 0)
			continue
		}
		n, err := g.Metric(name)
		require.NoError(t, err)
		all = append(all, n)
	}
	return all
}

// outOfRange has the log begin behind the consumer's position while it is stopped: it goes on
// where its auto.offset.reset says.
func (r *racked) outOfRange(t *testing.T) {
	r.consumer.Signal(syscall.SIGSTOP)
	<-time.After(max(r.wait, time.Second) + 500*time.Millisecond) // its long polls end
	read := len(r.consumer.Records("record"))
	admin := kadm.NewClient(r.client(t, kgo.RecordPartitioner(kgo.ManualPartitioner())))
	const gone, left = 20, 5
	var records []*kgo.Record
	for p := range int32(partitions) {
		for i := range gone + left {
			records = append(records, &kgo.Record{Topic: r.topic, Partition: p, Key: []byte("k"), Value: fmt.Appendf(nil, "late-%d-%d", p, i)})
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	writer := r.client(t, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	require.NoError(t, writer.ProduceSync(ctx, records...).FirstErr())
	ends, err := admin.ListEndOffsets(ctx, r.topic)
	require.NoError(t, err)
	starts := make(kadm.Offsets)
	ends.Each(func(o kadm.ListedOffset) {
		starts.Add(kadm.Offset{Topic: o.Topic, Partition: o.Partition, At: o.Offset - left, LeaderEpoch: -1})
	})
	deleted, err := admin.DeleteRecords(ctx, starts)
	require.NoError(t, err)
	require.NoError(t, deleted.Error())
	r.consumer.Signal(syscall.SIGCONT)
	sdk.Until(t, "what is left of the log", func() bool { return len(r.consumer.Records("record")) >= read+left*partitions }, r.consumer)
	for i, got := range r.consumer.Records("record")[read:] {
		require.GreaterOrEqual(t, got.Offset, starts[r.topic][got.Partition].At, "record %d", i)
	}
	require.Len(t, r.consumer.Records("record"), read+left*partitions)
}
