package upstream

import (
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
)

// A leader that is asked for records by someone in a zone may name a follower there, which
// is to be read instead (KIP-392). Who follows is kept for each physical partition, for all
// who read it. Only records are read from followers: what they say of the partition's ends
// is older than what its leader would say.

// A Source is the broker that a physical partition is to be read from.
type Source struct {
	Broker int32 // -1 = not known
	// Follower is set if the broker does not lead the partition: the leader has named it.
	Follower bool
	// Itself is set if the leader has to answer itself, and must not name a follower.
	Itself bool
}

// followerAskPause is how long all others stay with a follower while one asks the leader
// whether it still is the one to read.
const followerAskPause = time.Second

// A follower is what is known of the follower that a partition's leader names.
type follower struct {
	named  bool
	broker int32
	until  time.Time                 // then the leader is asked again
	since  time.Time                 // when the leader told of end
	end    federation.PhysicalOffset // the leader's high watermark, which it has to get to
	heard  bool                      // it has answered
	at     federation.PhysicalOffset // its own high watermark, as far as it was heard of
	rest   time.Time                 // until then the leader answers itself
}

// Zone returns what requests for records name as the rack; empty = only leaders are read.
func (c *Cluster) Zone() string { return c.cfg.Zone }

// FollowerLagMax returns how long a follower may be behind, or silent.
func (c *Cluster) FollowerLagMax() time.Duration { return c.cfg.FollowerLagMax }

// Source returns where a physical partition is to be read: from its leader, as Leader
// returns it, unless that has named a follower.
func (c *Cluster) Source(topic string, p federation.PhysicalPartition) (Source, <-chan struct{}) {
	m := &c.meta
	m.mu.Lock()
	defer m.mu.Unlock()
	leader, refreshed := m.currentLocked(topic, p)
	f := m.followerLocked(topic, p)
	if f == nil {
		return Source{Broker: leader.Broker}, refreshed
	}
	now := time.Now()
	if f.named && f.heard && f.at < f.end && now.Sub(f.since) > c.cfg.FollowerLagMax {
		c.restLocked(f, topic, p, "it is too far behind its leader")
	}
	switch {
	case now.Before(f.rest):
		return Source{Broker: leader.Broker, Itself: true}, refreshed
	case !f.named, f.broker == leader.Broker:
		return Source{Broker: leader.Broker}, refreshed
	case now.After(f.until) && leader.Broker >= 0:
		f.until = now.Add(followerAskPause)
		return Source{Broker: leader.Broker}, nil
	}
	return Source{Broker: f.broker, Follower: true}, nil
}

// followerLocked returns what is known of a partition's follower, nil if nothing is; the
// caller holds mu.
func (m *metadata) followerLocked(topic string, p federation.PhysicalPartition) *follower {
	t := m.topics[topic]
	if t == nil || p < 0 || int(p) >= len(t.followers) {
		return nil
	}
	return &t.followers[p]
}

// Named takes what the broker asked, which leads a partition, has answered to a request
// that names our zone: which follower is to be read, -1 = none, and its own high watermark.
func (c *Cluster) Named(topic string, p federation.PhysicalPartition, asked, named int32, high int64) {
	m := &c.meta
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.followerLocked(topic, p)
	if named < 0 {
		if f != nil {
			f.named = false
		}
		return
	}
	t := m.topics[topic]
	if t == nil || p < 0 || int(p) >= len(t.leaders) {
		return // the next request finds out
	}
	if f == nil {
		t.followers = slices.Grow(t.followers, len(t.leaders))[:len(t.leaders)]
		f = &t.followers[p]
	}
	_, known := m.brokers[named]
	switch {
	case named == asked:
		c.restLocked(f, topic, p, "the leader names itself")
		return
	case !known || !t.inSync(p, named):
		// A leader names one that has the offset asked for, in sync or not. What is known of
		// that may be old, too.
		c.restLocked(f, topic, p, "it is not in sync")
		m.refreshLocked(topic)
		return
	}
	now := time.Now()
	if !f.named || f.broker != named {
		c.cfg.Logger.Debug("reading from a follower", "cluster", c.Name, "topic", topic, "partition", p, "broker", named)
		f.named, f.heard, f.at = false, false, -1
	}
	// One that is behind has to get to where it was to be first: to be named again gives it
	// no more time.
	if !f.named || f.at >= f.end {
		f.since, f.end = now, federation.PhysicalOffset(high)
	}
	f.named, f.broker, f.until = true, named, now.Add(c.cfg.FollowerLease)
}

// FollowerAt notes the high watermark that a follower has answered with.
func (c *Cluster) FollowerAt(topic string, p federation.PhysicalPartition, broker int32, high int64) {
	m := &c.meta
	m.mu.Lock()
	defer m.mu.Unlock()
	if f := m.followerLocked(topic, p); f != nil && f.broker == broker {
		f.heard, f.at = true, max(f.at, federation.PhysicalOffset(high))
	}
}

// Unfollow has a partition read from its leader again, which answers itself for
// FollowerRest: its follower was at fault.
func (c *Cluster) Unfollow(topic string, p federation.PhysicalPartition, broker int32, why string) {
	m := &c.meta
	m.mu.Lock()
	defer m.mu.Unlock()
	if f := m.followerLocked(topic, p); f != nil && f.named && f.broker == broker {
		c.restLocked(f, topic, p, why)
	}
}

// restLocked lets a follower rest; the caller holds the metadata's mu.
func (c *Cluster) restLocked(f *follower, topic string, p federation.PhysicalPartition, why string) {
	c.cfg.Logger.Debug("reading from the leader and not from a follower", "cluster", c.Name, "topic", topic, "partition", p, "broker", f.broker, "why", why)
	f.named, f.rest = false, time.Now().Add(c.cfg.FollowerRest)
}

// inSync reports whether a broker has a replica of a partition that is in sync, as far as
// is known.
func (t *topicMeta) inSync(p federation.PhysicalPartition, broker int32) bool {
	return int(p) < len(t.isr) && slices.Contains(t.isr[p], broker)
}

// keepFollowersLocked takes the followers over into what a Metadata response says of their
// topic, but for those that are gone, offline or out of sync; the caller holds mu.
func (m *metadata) keepFollowersLocked(topic string, old, fresh *topicMeta, parts []kmsg.MetadataResponseTopicPartition) {
	if m.c.cfg.Zone == "" {
		return
	}
	fresh.isr = make([][]int32, len(fresh.leaders))
	for i := range parts {
		if p := &parts[i]; p.Partition >= 0 && int(p.Partition) < len(fresh.isr) {
			fresh.isr[p.Partition] = slices.DeleteFunc(slices.Clone(p.ISR), func(b int32) bool { return slices.Contains(p.OfflineReplicas, b) })
		}
	}
	if old == nil {
		return
	}
	fresh.followers = old.followers
	for i := range fresh.followers {
		f, p := &fresh.followers[i], federation.PhysicalPartition(i)
		if _, known := m.brokers[f.broker]; f.named && (!known || !fresh.inSync(p, f.broker)) {
			m.c.restLocked(f, topic, p, "it is not in sync any more")
		}
	}
}
