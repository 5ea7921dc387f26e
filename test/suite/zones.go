package suite

import (
	"crypto/rand"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/test/check"
	"github.com/braidmq/braid/test/world"
)

// ZoneOptions is the world that RunZones needs: each gateway in a zone of its own, and topics
// with as many replicas as there are zones.
func ZoneOptions() world.Options {
	return world.Options{Gateways: 3, Clusters: []string{"a"}, Brokers: 3, HeapMB: 256, Zones: []string{"za", "zb", "zc"}}
}

// RunZones runs the tests of consumers that say in which zone they are (client.rack).
func RunZones(t *testing.T, w *world.World) {
	s := &suite{w}
	for _, c := range []test{
		{"records come from the consumer's zone", s.testRack},
		{"offsets out of range", s.testRackOutOfRange},
		{"the gateway of the zone drains and comes back", func(t *testing.T) { s.testRackGatewayGone(t, stopped(t)) }},
		{"the gateway of the zone is killed and comes back", func(t *testing.T) { s.testRackGatewayGone(t, (*world.Node).Kill) }},
	} {
		t.Run(c.name, c.run)
	}
}

func stopped(t *testing.T) func(*world.Node) {
	return func(n *world.Node) { require.NoError(t, n.Stop()) }
}

const zonePartitions = 12

// replicated creates a topic with a replica in each zone.
func (s *suite) replicated(t *testing.T) string {
	t.Helper()
	topic := name(t)
	_, err := s.admin(t).CreateTopic(call(t), zonePartitions, 3, nil, topic)
	require.NoError(t, err)
	return topic
}

// fetched counts the bytes of Fetch answers that a client gets, by the rack of who sends them.
type fetched struct {
	mu    sync.Mutex
	bytes map[string]int
}

// OnBrokerRead implements kgo.HookBrokerRead.
func (f *fetched) OnBrokerRead(meta kgo.BrokerMetadata, key int16, bytes int, _, _ time.Duration, _ error) {
	if key != int16(kmsg.Fetch) || meta.Rack == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.bytes == nil {
		f.bytes = make(map[string]int)
	}
	f.bytes[*meta.Rack] += bytes
}

// from returns what came from a zone, and what from others.
func (f *fetched) from(zone string) (own, others int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for z, n := range f.bytes {
		if z == zone {
			own += n
		} else {
			others += n
		}
	}
	return own, others
}

// testRack has a consumer in each zone, and one in none.
func (s *suite) testRack(t *testing.T) {
	topic := s.replicated(t)
	type consumer struct {
		*member
		zone string
		fetched
	}
	var consumers []*consumer
	for _, zone := range append([]string{""}, ZoneOptions().Zones...) {
		c := &consumer{zone: zone}
		c.member = s.member(t, name(t), topic, kgo.Rack(zone), kgo.WithHooks(&c.fetched))
		consumers = append(consumers, c)
	}
	const size = 4096
	written := 0
	write := func(n int) {
		var all []*kgo.Record
		for range n {
			value := make([]byte, size)
			_, _ = rand.Read(value)
			all = append(all, &kgo.Record{Topic: topic, Key: fmt.Append(nil, written), Value: value})
			written++
		}
		send(t, s.client(t), all...)
		eventually(t, func() bool {
			return !slices.ContainsFunc(consumers, func(c *consumer) bool { _, got := c.see(); return len(got) < written })
		}, "all have read %d records", written)
	}
	for _, c := range consumers[1:] {
		eventually(t, func() bool {
			_, before := c.from(c.zone)
			write(24)
			_, now := c.from(c.zone)
			return now == before
		}, "the consumer of %s reads in its zone", c.zone)
	}
	before := make(map[*consumer][2]int)
	for _, c := range consumers {
		own, others := c.from(c.zone)
		before[c] = [2]int{own, others}
	}
	const records = 600
	write(records)
	for _, c := range consumers[1:] {
		own, others := c.from(c.zone)
		require.Greater(t, own-before[c][0], records*size, c.zone)
		require.Equal(t, before[c][1], others, "bytes that the consumer of %s had from other zones", c.zone)
	}
	zones := 0
	for _, zone := range ZoneOptions().Zones {
		if own, _ := consumers[0].from(zone); own > records*size/zonePartitions/2 {
			zones++ // chance decides how many partitions a zone leads
		}
	}
	require.GreaterOrEqual(t, zones, 2, "who has no rack reads from the leaders")
	for _, c := range consumers {
		_, got := c.see()
		require.Len(t, got, written)
		requireNoGaps(t, got)
		c.leave(t)
	}
}

// testRackOutOfRange has a consumer that reads in its zone go where there is no log.
func (s *suite) testRackOutOfRange(t *testing.T) {
	topic := s.replicated(t)
	manual := s.client(t, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	for n := range 10 {
		send(t, manual, &kgo.Record{Topic: topic, Value: fmt.Append(nil, n)})
	}
	for _, zone := range []string{"", "za", "zb", "zc"} {
		t.Run("rack "+zone, func(t *testing.T) {
			client := s.client(t, kgo.Rack(zone), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().AtStart()}}),
				kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
			first := poll(t, client, 10-int(s.start(t, topic)))
			_, err := s.admin(t).DeleteRecords(call(t), offsetsOf(topic, 0, 5))
			require.NoError(t, err)
			at := func(offset int64) {
				client.SetOffsets(map[string]map[int32]kgo.EpochOffset{topic: {0: {Epoch: first[0].LeaderEpoch, Offset: offset}}})
				again := poll(t, client, 5)
				require.Equal(t, int64(5), again[0].Offset)
			}
			at(2)
			at(1000)
		})
	}
}

// start is where partition 0 of a topic begins.
func (s *suite) start(t *testing.T, topic string) int64 {
	t.Helper()
	offsets, err := s.admin(t).ListStartOffsets(call(t), topic)
	require.NoError(t, err)
	at, ok := offsets.Lookup(topic, 0)
	require.True(t, ok)
	return at.Offset
}

// testRackGatewayGone takes the gateway of a zone away and back under load. Its consumers go
// on elsewhere, and come back to it.
func (s *suite) testRackGatewayGone(t *testing.T, end func(*world.Node)) {
	topic := s.replicated(t)
	l := s.startLoad(t, topic, 2, 20)
	var readers []*reader
	var from fetched // by the reader of the second zone
	for i, g := range s.w.Gateways {
		opts := []kgo.Opt{kgo.Rack(g.Zone), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart())}
		if i == 1 {
			opts = append(opts, kgo.WithHooks(&from))
		}
		readers = append(readers, s.reader(t, topic, kgo.NewOffset().AtStart(), opts...))
	}
	read := func(r *reader) int { _, got := r.see(); return len(got) }
	advance := func(what string) {
		t.Helper()
		seen := make([]int, len(readers))
		for i, r := range readers {
			seen[i] = read(r)
		}
		eventually(t, func() bool {
			for i, r := range readers {
				if read(r) < seen[i]+200 {
					return false
				}
			}
			return true
		}, "all read on %s", what)
	}
	gone := s.w.Gateways[1]
	servesItsZone := func(what string) {
		t.Helper()
		eventually(t, func() bool {
			own, others := from.from(gone.Zone)
			l.more(t, 200)
			advance("in its zone")
			ownNow, othersNow := from.from(gone.Zone)
			return ownNow > own && othersNow == others
		}, "the zone's consumer reads in its zone %s", what)
	}
	servesItsZone("from the start")
	s.endFor(t, gone, end)
	advance("without it")
	require.NoError(t, gone.Start())
	advance("when it is back")
	servesItsZone("when its gateway is back")
	acked := l.end(t)
	s.audit(t, topic, acked)
	for _, r := range readers {
		eventually(t, func() bool {
			require.NoError(t, r.broken())
			return read(r) >= len(acked)
		}, "each reader has read all")
		_, got := r.see()
		require.Len(t, got, len(acked))
		requireNoGaps(t, got)
		requireAll(t, acked, got)
	}
}

// requireAll checks that records are those that were acknowledged.
func requireAll(t *testing.T, acked []check.Value, got []*kgo.Record) {
	t.Helper()
	want, have := make([]string, 0, len(acked)), make([]string, 0, len(got))
	for _, v := range acked {
		want = append(want, v.String())
	}
	for _, r := range got {
		have = append(have, string(r.Value))
	}
	slices.Sort(want)
	slices.Sort(have)
	require.Equal(t, want, have)
}
