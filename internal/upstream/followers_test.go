package upstream_test

import (
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/internal/upstream"
)

// sourceOf returns where partition 0 of "t" is read, once that is known.
func sourceOf(t *testing.T, c *upstream.Cluster) upstream.Source {
	t.Helper()
	for {
		s, refreshed := c.Source("t", 0)
		if s.Broker >= 0 {
			return s
		}
		select {
		case <-refreshed:
		case <-t.Context().Done():
			t.Fatal("no leader is found")
		}
	}
}

// threeBrokers is a cluster that knows the leader of partition 0 of "t", whose replicas are
// all in sync, and the two that follow.
func threeBrokers(t *testing.T, cfg upstream.Config) (k *kfake.Cluster, c *upstream.Cluster, leader int32, followers []int32) {
	t.Helper()
	k, err := kfake.NewCluster(kfake.NumBrokers(3), kfake.SeedTopics(1, "t"))
	require.NoError(t, err)
	t.Cleanup(k.Close)
	cfg.Zone = "z1"
	c = open(t, cfg, k.ListenAddrs()...)
	leader = k.LeaderFor("t", 0)
	for b := range int32(3) {
		if b != leader {
			followers = append(followers, b)
		}
	}
	require.Equal(t, upstream.Source{Broker: leader}, sourceOf(t, c))
	return k, c, leader, followers
}

func TestSourceFollowsWhatTheLeaderSays(t *testing.T) {
	_, c, leader, f := threeBrokers(t, upstream.Config{})
	followed, led, itself := upstream.Source{Broker: f[0], Follower: true}, upstream.Source{Broker: leader}, upstream.Source{Broker: leader, Itself: true}
	c.Named("t", 0, leader, -1, 10)
	require.Equal(t, led, sourceOf(t, c))
	c.Named("t", 0, leader, f[0], 10)
	require.Equal(t, followed, sourceOf(t, c))
	c.Unfollow("t", 0, f[1], "another one")
	require.Equal(t, followed, sourceOf(t, c))
	c.Stale("t") // whoever leads now: the follower has the records
	require.Equal(t, followed, sourceOf(t, c))
	require.Eventually(t, func() bool { l, _ := c.Leader("t", 0); return l.Broker == leader }, 5*time.Second, 10*time.Millisecond)
	c.Named("t", 0, leader, -1, 10)
	require.Equal(t, led, sourceOf(t, c))
	c.Named("t", 0, leader, f[0], 10)
	c.Unfollow("t", 0, f[0], "refused")
	require.Equal(t, itself, sourceOf(t, c))
	for _, itsOwn := range []bool{true, false} {
		_, c, leader, _ := threeBrokers(t, upstream.Config{})
		named := int32(7) // which there is none of
		if itsOwn {
			named = leader
		}
		c.Named("t", 0, leader, named, 10)
		require.Equal(t, upstream.Source{Broker: leader, Itself: true}, sourceOf(t, c))
	}
	c.Named("nothing", 0, leader, f[0], 10)
	c.Named("t", 5, leader, f[0], 10)
	c.FollowerAt("t", -1, f[0], 10)
}

// One asks the leader when a lease ends; if nothing comes of it, another one does.
func TestFollowerLease(t *testing.T) {
	_, c, leader, f := threeBrokers(t, upstream.Config{FollowerLease: 50 * time.Millisecond})
	followed, led := upstream.Source{Broker: f[0], Follower: true}, upstream.Source{Broker: leader}
	for range 2 {
		c.Named("t", 0, leader, f[0], 10)
		require.Equal(t, followed, sourceOf(t, c))
		for range 2 {
			require.Eventually(t, func() bool { return sourceOf(t, c) == led }, 5*time.Second, 5*time.Millisecond)
			require.Equal(t, followed, sourceOf(t, c), "the others stay")
		}
	}
}

// A follower that does not get to where its leader was is given up, and may be named again
// when it has rested.
func TestFollowerThatDoesNotMove(t *testing.T) {
	const lag, rest = 50 * time.Millisecond, 200 * time.Millisecond
	_, c, leader, f := threeBrokers(t, upstream.Config{FollowerLagMax: lag, FollowerRest: rest})
	followed, itself := upstream.Source{Broker: f[0], Follower: true}, upstream.Source{Broker: leader, Itself: true}
	c.Named("t", 0, leader, f[0], 10)
	c.FollowerAt("t", 0, f[0], 9)
	require.Eventually(t, func() bool { return sourceOf(t, c) == itself }, 5*time.Second, 5*time.Millisecond)
	require.Eventually(t, func() bool { return sourceOf(t, c) == upstream.Source{Broker: leader} }, 5*time.Second, 5*time.Millisecond)
	c.Named("t", 0, leader, f[0], 10)
	c.FollowerAt("t", 0, f[0], 10)
	for end := time.Now().Add(3 * lag); time.Now().Before(end); {
		require.Equal(t, followed, sourceOf(t, c))
	}
}

// A replica that is not in sync is not read, whatever the leader says.
// A follower that is named again before its time is over gets no more of it.
func TestFollowerThatIsNamedAgainDoesNotMove(t *testing.T) {
	_, c, leader, f := threeBrokers(t, upstream.Config{FollowerLagMax: 100 * time.Millisecond, FollowerRest: time.Minute})
	followed, itself := upstream.Source{Broker: f[0], Follower: true}, upstream.Source{Broker: leader, Itself: true}
	c.Named("t", 0, leader, f[0], 10)
	c.FollowerAt("t", 0, f[0], 9)
	require.Equal(t, followed, sourceOf(t, c))
	require.Eventually(t, func() bool {
		if s, _ := c.Source("t", 0); s == itself {
			return true
		}
		c.Named("t", 0, leader, f[0], 11)
		return false
	}, 5*time.Second, 5*time.Millisecond)
}

func TestFollowerOutOfSync(t *testing.T) {
	k, c, leader, f := threeBrokers(t, upstream.Config{})
	c.Named("t", 0, leader, f[0], 10)
	c.Named("t", 0, leader, f[1], 10)
	require.Equal(t, upstream.Source{Broker: f[1], Follower: true}, sourceOf(t, c))
	k.ControlKey(kmsg.Metadata.Int16(), func(req kmsg.Request) (kmsg.Response, error, bool) {
		k.KeepControl()
		resp := req.ResponseKind().(*kmsg.MetadataResponse)
		for i, addr := range k.ListenAddrs() {
			b := kmsg.NewMetadataResponseBroker()
			host, port, _ := net.SplitHostPort(addr)
			n, _ := strconv.Atoi(port)
			b.NodeID, b.Host, b.Port = int32(i), host, int32(n)
			resp.Brokers = append(resp.Brokers, b)
		}
		p := kmsg.NewMetadataResponseTopicPartition()
		p.Leader, p.LeaderEpoch, p.Replicas, p.ISR, p.OfflineReplicas = leader, 1, []int32{0, 1, 2}, []int32{leader, f[0], f[1]}, []int32{f[1]}
		topic := kmsg.NewMetadataResponseTopic()
		topic.Topic, topic.Partitions = new("t"), append(topic.Partitions, p)
		resp.Topics = append(resp.Topics, topic)
		return resp, nil, true
	})
	_, err := c.Topics(t.Context(), "t")
	require.NoError(t, err)
	itself := upstream.Source{Broker: leader, Itself: true}
	require.Equal(t, itself, sourceOf(t, c))
	c.Named("t", 0, leader, f[1], 10)
	require.Equal(t, itself, sourceOf(t, c))
}

func BenchmarkSource(b *testing.B) {
	k, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "t"))
	require.NoError(b, err)
	b.Cleanup(k.Close)
	for name, zone := range map[string]string{"no zone": "", "zone": "z1"} {
		b.Run(name, func(b *testing.B) {
			c := open(b, upstream.Config{Zone: zone}, k.ListenAddrs()...)
			_, refreshed := c.Source("t", 0)
			<-refreshed
			b.ReportAllocs()
			for b.Loop() {
				if s, _ := c.Source("t", 0); s.Broker < 0 {
					b.Fatal("the leader is not known")
				}
			}
		})
	}
}
