package groups

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/federation"
)

// configured is a map in which group g has settings of its own, or none.
func configured(m *federation.Map, values map[string]string) *federation.Map {
	next := *m
	next.GroupConfigs = nil
	if len(values) > 0 {
		id := federation.GroupID{Group: "g"}
		next.GroupConfigs = federation.GroupConfigs{id: {GroupID: id, Values: values}}
	}
	return next.Seal()
}

// What a group sets holds at once: the next heartbeat tells the interval, and sessions that
// run end when they end with the new timeout; but none ends before a member had the time of
// a whole session to hear of it.
func TestGroupConfigInForce(t *testing.T) {
	cfg := Config{}.withDefaults()
	m := testMap(nil, "t=2")
	now := time.Unix(1000, 0)
	g := newGroup("g", &cfg, m, now)
	beat := func(epoch int32) ConsumerHeartbeatResponse {
		r := ConsumerHeartbeatRequest{Group: "g", MemberID: "m", Epoch: epoch, RebalanceTimeout: -1}
		if epoch == epochJoin {
			r.RebalanceTimeout, r.Topics, r.Owned = time.Minute, []federation.TopicName{"t"}, []federation.TopicPartition{}
		}
		fx := g.step(now, evConsumerHeartbeat{"to", r})
		require.Len(t, fx.replies, 1)
		require.NoError(t, fx.replies[0].err)
		return fx.replies[0].value.(ConsumerHeartbeatResponse)
	}
	set := func(values map[string]string) effects { return g.step(now, evTopics{configured(m, values)}) }
	ends := func(want time.Duration) {
		t.Helper()
		require.Equal(t, now.Add(want), g.members["m"].deadline)
		require.False(t, g.due().After(g.members["m"].deadline), "a tick comes in time")
	}
	set(nil)
	epoch := beat(epochJoin).Epoch
	require.Equal(t, 5*time.Second, beat(epoch).Interval)
	ends(45 * time.Second)

	now = now.Add(20 * time.Second)
	fx := set(map[string]string{federation.GroupSessionTimeout: "60000", federation.GroupHeartbeatInterval: "15000"})
	ends(40 * time.Second) // a minute after its last heartbeat
	require.Len(t, fx.records, 1, "the next coordinator gives it as long")
	require.Equal(t, 15*time.Second, beat(epoch).Interval)
	ends(60 * time.Second)
	require.Empty(t, set(map[string]string{federation.GroupSessionTimeout: "60000", federation.GroupHeartbeatInterval: "15000"}).records, "nothing has changed")

	now = now.Add(10 * time.Second)
	set(nil)
	ends(45 * time.Second) // it may not hear of it before its next heartbeat
	now = now.Add(40 * time.Second)
	set(map[string]string{federation.GroupSessionTimeout: "60000"})
	ends(20 * time.Second)
	set(nil)
	ends(20 * time.Second) // never later than it was

	// The next coordinator may have other settings, and another config.
	fields := map[string][]byte{headerField: encode(g.header()), memberPrefix + "m": encode(g.members["m"].stored())}
	other := Config{ConsumerSessionTimeout: 50 * time.Second, ConsumerHeartbeatInterval: 7 * time.Second}.withDefaults()
	loaded, err := loadGroup("g", &other, m, fields, now)
	require.NoError(t, err)
	g = loaded
	g.step(now, evTopics{m})
	ends(50 * time.Second)
	require.Equal(t, 7*time.Second, beat(epoch).Interval)
}

// A coordinator hears of a config with the map, also of a group that it has in memory.
func TestGroupConfigAtCoordinator(t *testing.T) {
	onWorlds(t, func(w *world) {
		w.gateway("a", modernly, func(c *Config) { c.ConsumerHeartbeatIntervalMin = testHeartbeat / 2 })
		w.serve("a")
		w.modern("m1")
		w.shared(6)
		interval := func() time.Duration {
			res, err := w.coordinator("g").ConsumerHeartbeat(w.t.Context(), ConsumerHeartbeatRequest{Group: "g", MemberID: "m2", RebalanceTimeout: testRebalance, Topics: []federation.TopicName{}, Owned: []federation.TopicPartition{}})
			require.NoError(w.t, err)
			return res.Interval
		}
		require.Equal(w.t, testHeartbeat, interval())
		w.maps.set(configured(w.maps.Current(), map[string]string{federation.GroupHeartbeatInterval: "60"}))
		w.eventually("the new interval", func() bool { return interval() == 60*time.Millisecond })
		w.maps.set(configured(w.maps.Current(), nil))
		w.eventually("the interval of all", func() bool { return interval() == testHeartbeat })
	})
}
