package suite

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	braidv1 "github.com/braidmq/braid/gen/braid/v1"
	"github.com/braidmq/braid/test/check"
	"github.com/braidmq/braid/test/world"
)

func (s *suite) faults() []test {
	tests := []test{
		{"the leading controller is killed", s.testControllerKilled},
		{"a group's coordinator is killed: no rebalance", func(t *testing.T) { s.testCoordinatorGone(t, func(g *world.Node) { g.Kill() }) }},
		{"a group's coordinator is stopped: no rebalance", func(t *testing.T) {
			s.testCoordinatorGone(t, func(g *world.Node) { require.NoError(t, g.Stop()) })
		}},
		{"the coordinator of members of the newer protocol is killed: no rebalance", func(t *testing.T) { s.testConsumerCoordinatorGone(t, func(g *world.Node) { g.Kill() }) }},
		{"the coordinator of members of the newer protocol is stopped: no rebalance", func(t *testing.T) {
			s.testConsumerCoordinatorGone(t, func(g *world.Node) { require.NoError(t, g.Stop()) })
		}},
		{"the gateway of a Connect member is killed: it goes on at another", s.testMemberGoesOn},
		{"a gateway is killed under idempotent load", func(t *testing.T) { s.testLoad(t, func(g *world.Node) { g.Kill() }) }},
		{"a gateway is stopped under idempotent load", func(t *testing.T) {
			s.testLoad(t, func(g *world.Node) { require.NoError(t, g.Stop()) })
		}},
		{"Redis is away for a while", s.testRedisAway},
		{"a physical cluster is away for a while", s.testClusterAway},
	}
	if s.w.Clusters[0].Kill != nil {
		tests = append(tests, test{"a produce stream goes on beside a cluster that is away", s.testStreamBesideAClusterAway})
	}
	return tests
}

func (s *suite) status(t *testing.T) *adminv1.GetStatusResponse {
	t.Helper()
	status, err := s.fleetAPI().GetStatus(call(t), &adminv1.GetStatusRequest{})
	require.NoError(t, err)
	return status
}

func (s *suite) testControllerKilled(t *testing.T) {
	leader := ""
	for _, c := range s.status(t).GetControllers() {
		if c.GetLeader() {
			leader = c.GetId()
		}
	}
	var node *world.Node
	for _, c := range s.w.Controllers {
		if c.ID == leader {
			node = c
		}
	}
	require.NotNil(t, node, "the leader %q", leader)
	topic := s.topic(t, 4)
	client := s.client(t)
	version := s.status(t).GetMapVersion()
	s.endFor(t, node, func(n *world.Node) { n.Kill() })
	// Clients go on at once, and soon somebody else makes changes.
	s.fillWith(t, client, topic, 0, 100)
	eventually(t, func() bool {
		_, _, err := s.w.Braid(short(t), "", "topic", "create", topic+"-after", "--partitions", "2")
		return err == nil
	}, "a topic is created without the former leader")
	// Every gateway has it: those that were on their way to the new leader too.
	for _, g := range s.w.Gateways {
		topics, err := s.clientOf(t, g).ListTopics(call(t), topic+"-after")
		require.NoError(t, err)
		require.NoError(t, topics.Error(), "the topic at %s", g.ID)
	}
	s.fillWith(t, client, topic+"-after", 0, 100)
	s.read(t, topic, 100)
	s.read(t, topic+"-after", 100)
	require.Greater(t, s.status(t).GetMapVersion(), version)
	require.NoError(t, node.Start())
	eventually(t, func() bool {
		n := 0
		for _, c := range s.status(t).GetControllers() {
			if c.GetLeader() {
				n++
			}
		}
		return n == 1 && len(s.status(t).GetControllers()) == len(s.w.Controllers)
	}, "both controllers, one of them leading")
}

// clientOf asks one gateway alone.
func (s *suite) clientOf(t *testing.T, g *world.Node) *kadm.Client {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(g.Kafka))
	require.NoError(t, err)
	t.Cleanup(client.Close)
	return kadm.NewClient(client)
}

func (s *suite) fillWith(t *testing.T, client *kgo.Client, topic string, from, count int) {
	t.Helper()
	var records []*kgo.Record
	for n := from; n < from+count; n++ {
		records = append(records, &kgo.Record{Topic: topic, Key: fmt.Append(nil, n), Value: fmt.Append(nil, n)})
	}
	send(t, client, records...)
}

// endFor ends a node for the time of a test: whatever becomes of the test, the
// next one finds it running.
func (s *suite) endFor(t *testing.T, n *world.Node, end func(*world.Node)) {
	t.Helper()
	t.Cleanup(func() {
		if !n.Running() {
			require.NoError(t, n.Start())
		}
	})
	end(n)
}

// coordinatorNode is the gateway that coordinates a group.
func (s *suite) coordinatorNode(t *testing.T, group string) *world.Node {
	t.Helper()
	var d struct{ Coordinator string }
	out := s.w.MustBraid(t, "", "group", "describe", group, "-o", "json")
	require.NoError(t, json.Unmarshal([]byte(out), &d), out)
	return s.w.Gateway(d.Coordinator)
}

// testCoordinatorGone has two Kafka members and a Connect member, the latter on a
// gateway that stays. The next coordinator takes the group as it is: nobody has
// to join again, nothing is taken from anybody, and reading goes on.
func (s *suite) testCoordinatorGone(t *testing.T, end func(*world.Node)) {
	topic, group := s.topic(t, 6), name(t)
	first, second := s.rawMember(t, group, topic), s.rawMember(t, group, topic)
	first.heard(1)
	second.heard(1)
	gone := s.coordinatorNode(t, group)
	var stays *world.Node
	for _, g := range s.w.Gateways {
		if g != gone {
			stays = g
		}
	}
	third := s.connectMember(t, stays.URL(), group, topic)
	shared(t, []int{2}, third)
	eventually(t, func() bool {
		a, b := first.state(), second.state()
		return a.partitions == 2 && b.partitions == 2 && a.generation == b.generation
	}, "each member has its share")
	before := []rawState{first.state(), second.state()}
	mine := third.partitions()

	requireSame := func() {
		t.Helper()
		for i, m := range []*rawMember{first, second} {
			m.heard(5)
			now := m.state()
			now.beats = before[i].beats
			require.Equal(t, before[i], now, "member %d", i)
		}
		require.NoError(t, third.broken(), "the Connect member")
		require.Equal(t, mine, third.partitions(), "partitions of the Connect member")
		require.Zero(t, third.lostCount(), "partitions that were taken from the Connect member")
	}
	next := 0
	readOn := func() {
		t.Helper()
		s.fillAll(t, topic, next, 20)
		next += 20
		eventually(t, func() bool {
			requireWhole(t, third)
			_, records := third.see()
			return len(records) >= next*len(mine)
		}, "the Connect member reads on")
		requireInOrder(t, third, next)
	}
	readOn()
	s.endFor(t, gone, end)
	eventually(t, func() bool { return s.coordinatorNode(t, group) != gone }, "another coordinator")
	requireSame()
	readOn()
	require.NoError(t, gone.Start())
	eventually(t, func() bool { return len(s.status(t).GetGateways()) == len(s.w.Gateways) }, "all gateways")
	requireSame()
	readOn()
	third.leave(t)
}

// testMemberGoesOn kills the gateway that a dynamic Connect member is on. Its client goes
// to another one and says who it was: it does not wait for its own former session, 45 s.
func (s *suite) testMemberGoesOn(t *testing.T) {
	topic, group := s.topic(t, 6), name(t)
	gone, stays := s.w.Gateways[2], s.w.Gateways[1]
	other := s.connectMember(t, stays.URL(), group, topic)
	shared(t, []int{6}, other)
	member := s.connectMember(t, gone.URL(), group, topic)
	shared(t, []int{3, 3}, other, member)
	mine, others, lost := member.partitions(), other.partitions(), other.lostCount()
	begin := time.Now()
	s.endFor(t, gone, func(n *world.Node) { n.Kill() })
	<-member.done
	member.mu.Lock()
	id := member.id
	member.mu.Unlock()
	again := s.connectMemberAs(t, stays.URL(), group, topic, id)
	shared(t, []int{3, 3}, other, again)
	require.Less(t, time.Since(begin), 30*time.Second)
	require.Equal(t, mine, again.partitions())
	require.Equal(t, others, other.partitions())
	require.Equal(t, lost, other.lostCount())
	again.leave(t)
	other.leave(t)
}

// fillAll writes count numbered records to every partition.
func (s *suite) fillAll(t *testing.T, topic string, from, count int) {
	t.Helper()
	client := s.client(t, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	var records []*kgo.Record
	for n := from; n < from+count; n++ {
		for p := range int32(6) {
			records = append(records, &kgo.Record{Topic: topic, Partition: p, Value: fmt.Append(nil, n)})
		}
	}
	send(t, client, records...)
}

// requireInOrder checks that a member read each record of its partitions once, in order.
func requireInOrder(t *testing.T, m *connectMember, count int) {
	t.Helper()
	next := make(map[int32]int)
	_, records := m.see()
	for _, r := range records {
		require.Equal(t, strconv.Itoa(next[r.Partition]), string(r.Value), "partition %d offset %d", r.Partition, r.Offset)
		next[r.Partition]++
	}
	for p, n := range next {
		require.Equal(t, count, n, "records of partition %d", p)
	}
}

func (m *connectMember) partitions() []int32 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(maps.Keys(m.mine))
}

func (m *connectMember) lostCount() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.lost
}

// audit reads the whole log and compares it with what was acknowledged.
func (s *suite) audit(t *testing.T, topic string, acked []check.Value) {
	t.Helper()
	var log []check.Record
	for _, r := range s.read(t, topic, int(s.end(t, topic))) {
		log = append(log, check.Record{Partition: r.Partition, Offset: r.Offset, Key: string(r.Key), Value: string(r.Value)})
	}
	report := check.Audit(log, acked, nil)
	require.NoError(t, report.Err())
	require.NotZero(t, report.Acknowledged)
	t.Log(report)
}

func (s *suite) testLoad(t *testing.T, end func(*world.Node)) {
	topic := s.topic(t, 6)
	l := s.startLoad(t, topic, 3, 20)
	for i := range 2 {
		l.more(t, 500)
		g := s.w.Gateways[i]
		s.endFor(t, g, end)
		l.more(t, 500)
		require.NoError(t, g.Start())
	}
	l.more(t, 500)
	s.audit(t, topic, l.end(t))
}

func (s *suite) testRedisAway(t *testing.T) {
	topic, group := s.topic(t, 6), name(t)
	m := s.member(t, group, topic)
	shared(t, []int{6}, m)
	l := s.startLoad(t, topic, 2, 20)
	l.more(t, 500)
	s.w.Redis.Down()
	l.more(t, 1000) // appends and reads go on; commits wait
	_, before := m.see()
	l.more(t, 500)
	eventually(t, func() bool { _, now := m.see(); return len(now) > len(before) }, "the group reads on")
	s.w.Redis.Up()
	l.more(t, 500)
	acked := l.end(t)
	s.audit(t, topic, acked)
	eventually(t, func() bool { _, now := m.see(); return len(now) >= len(acked) }, "the group has read all")
	eventually(t, func() bool {
		offsets, err := s.admin(t).FetchOffsets(call(t), group)
		if err != nil {
			return false
		}
		var sum int64
		for _, o := range offsets[topic] {
			sum += o.At
		}
		return sum == int64(len(acked))
	}, "all is committed")
	after := s.topic(t, 2)
	s.fill(t, after, 0, 10)
	s.read(t, after, 10)
}

// testClusterAway takes a physical cluster away. What lies on it waits, the rest
// goes on, and nothing is lost.
func (s *suite) testClusterAway(t *testing.T) {
	if s.w.Clusters[0].Kill == nil {
		s.testClusterAwayFromStart(t)
		return
	}
	topic := s.topic(t, 6)
	l := s.startLoad(t, topic, 2, 20)
	l.more(t, 500)
	s.w.Clusters[1].Kill()
	live := s.client(t, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	for _, p := range s.describe(t, topic).Partitions {
		if p.Extents[0].PhysicalCluster == s.w.Clusters[0].Name {
			v := check.Value{Producer: "live", Key: fmt.Sprint("p", p.Partition), Number: 1}
			send(t, live, &kgo.Record{Topic: topic, Partition: p.Partition, Key: []byte(v.Key), Value: []byte(v.String())})
		}
	}
	s.w.Clusters[1].Restart()
	l.more(t, 500)
	s.audit(t, topic, l.end(t))
}

// A Connect stream that writes to all clusters goes on for those that are there; what it
// has sent to the one that is away is there once, in order, when that is back.
func (s *suite) testStreamBesideAClusterAway(t *testing.T) {
	const each = 100 // for a partition
	topic := s.topic(t, 4)
	var frames []*braidv1.ProduceFrame
	var acked []check.Value
	away := make(map[int32]bool)
	for _, p := range s.describe(t, topic).Partitions {
		away[p.Partition] = p.Extents[0].PhysicalCluster == s.w.Clusters[1].Name
	}
	for n := 1; n <= each; n++ {
		for p := range away {
			v := check.Value{Producer: "stream", Key: fmt.Sprint("p", p), Number: n}
			acked = append(acked, v)
			frames = append(frames, &braidv1.ProduceFrame{Topic: topic, Partition: &p, Records: []*braidv1.Record{{Key: []byte(v.Key), Value: []byte(v.String())}}})
		}
	}
	gone := 0
	for _, f := range frames {
		if away[f.GetPartition()] {
			gone++
		}
	}
	require.Positive(t, gone)
	require.Less(t, gone, len(frames))
	s.w.Clusters[1].Kill()
	back := false
	acks := s.produceStreamWith(t.Context(), t, &braidv1.ProduceOpen{}, frames, func(acks map[uint64]*braidv1.ProduceAck) {
		if !back && len(acks) == len(frames)-gone {
			back = true
			s.w.Clusters[1].Restart()
		}
	})
	require.True(t, back)
	for seq, a := range acks {
		require.Nil(t, a.GetResults()[0].GetFailure(), "frame %d", seq)
	}
	s.audit(t, topic, acked)
}

// testClusterAwayFromStart registers nothing that does not answer.
func (s *suite) testClusterAwayFromStart(t *testing.T) {
	_, stderr, err := s.w.Braid(call(t), "", "cluster", "add", "gone", "--seeds", "127.0.0.1:1")
	require.Error(t, err)
	require.Contains(t, stderr, "gone")
	s.requireAlive(t)
}
