package router

import (
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/upstream"
)

// A gateway with a zone reads records from the follower in its zone that a partition's
// leader names (KIP-392); upstream keeps who that is. A follower says the truth about the
// records that it has, and no more: it may have less than the leader, and know of less. So
//
//   - its high watermark and last stable offset are lower bounds, and where it says that the
//     log begins is not believed;
//   - whatever it refuses is asked of the leader, above all an offset that is out of range;
//   - where it has nothing, nothing is passed over: only the leader's own answer says that
//     there is nothing up to the end of a sealed extent.
//
// Since Kafka 2.4 a broker that does not lead a partition any more answers as a follower,
// without a word about it. Only up to version 10 of Fetch does it refuse, so this is what a
// request has whose answer must be the leader's own; a leader names nobody there, either.

const (
	// fetchVersionMax is the last version of Fetch that names topics by name.
	fetchVersionMax = 12
	// fetchVersionItself is the last version that only the leader answers.
	fetchVersionItself = 10
)

// fetchVersionFor returns the highest version of Fetch to ask a broker with.
func fetchVersionFor(s upstream.Source) int16 {
	if s.Itself {
		return fetchVersionItself
	}
	return fetchVersionMax
}

// errSilent is of a read that a follower has not answered for FollowerLagMax.
var errSilent = errors.New("the follower does not answer")

// source returns where an item is to be read.
func (f *fetching) source(cluster *upstream.Cluster, extent *federation.Extent, it *fetchItem) (upstream.Source, <-chan struct{}) {
	a := &extent.PhysicalAddress
	if it.itself == it.at || it.pos.Check {
		leader, refreshed := cluster.Leader(a.Topic, a.Partition)
		return upstream.Source{Broker: leader.Broker, Itself: true}, refreshed
	}
	return cluster.Source(a.Topic, a.Partition)
}

// newRead makes a read of what an item wants next.
func (f *fetching) newRead(it *fetchItem, extent *federation.Extent, key readKey, expected int) *read {
	return &read{tp: it.pos.TopicPartition, extent: extent, from: extent.Physical(it.at), wake: f.wake, committed: f.limit.ReadCommitted, key: key, expected: expected}
}

// clock has a follower answer reads from now on: they may have waited for room for their
// answers before, for which it is not to blame. With wake, who waits for them is told.
func (k *readKey) clock(reads []wantedRead, wake bool) {
	if !k.source.Follower {
		return
	}
	until := time.Now().Add(k.cluster.FollowerLagMax())
	for _, w := range reads {
		w.rd.mu.Lock()
		w.rd.until = until
		if wake {
			notify(w.rd.wake)
		}
		w.rd.mu.Unlock()
	}
}

// silentFrom returns when a follower has taken too long to answer; zero = nothing waits for
// one.
func (rd *read) silentFrom() time.Time {
	rd.mu.Lock()
	defer rd.mu.Unlock()
	return rd.until
}

// askLeader has an item read anew where it is, from the leader alone.
func (f *fetching) askLeader(it *fetchItem) {
	it.itself = it.at
	notify(f.wake)
}

// elsewhere reports whether another broker has to answer for an item than the one that
// did, and has it asked.
func (f *fetching) elsewhere(extent *federation.Extent, head bool, it *fetchItem, rd *read, a *readAnswer) bool {
	cluster, source, at := rd.key.cluster, rd.key.source, &extent.PhysicalAddress
	switch {
	case a.err == nil && a.named >= 0:
		cluster.Named(at.Topic, at.Partition, source.Broker, a.named, a.high)
		if head && !source.Follower { // the ends that come with a name are the leader's
			f.s.r.observe(it.pos.TopicPartition, extent, a.high, a.stable, a.logStart)
		}
	case source.Follower && a.err != nil && !errors.Is(a.err, errCrowded):
		cluster.Unfollow(at.Topic, at.Partition, source.Broker, a.err.Error())
	case source.Follower && a.err == nil:
		cluster.FollowerAt(at.Topic, at.Partition, source.Broker, a.high)
		a.logStart = -1
		return false
	case errors.Is(a.err, kerr.OffsetOutOfRange) && !source.Itself:
		f.askLeader(it)
	default:
		if a.err == nil && !source.Itself && cluster.Zone() != "" {
			cluster.Named(at.Topic, at.Partition, source.Broker, -1, a.high)
		}
		return false
	}
	if a.buf != nil {
		a.buf.Release()
	}
	notify(f.wake) // it may be out of turns in this pass
	return true
}

// A tail for followed partitions, and one for those whose leaders have to answer
// themselves, have connections of their own: what waits on one holds up nothing else.
func tailLane(s upstream.Source) int {
	switch {
	case s.Follower:
		return 1
	case s.Itself:
		return 2
	}
	return 0
}

// failed notes that the tail's broker does not serve a partition.
func (t *tail) failed(key physicalKey, why string) {
	if s := t.key.source; s.Follower {
		t.key.cluster.Unfollow(key.topic, key.partition, s.Broker, why)
		return
	}
	t.key.cluster.Stale(key.topic)
}

// broken has a partition be read from its leader if what a follower sent of it is broken.
func (t *tail) broken(key physicalKey) {
	if t.key.source.Follower {
		t.failed(key, "it sends record batches whose CRC is not that of their bytes")
	}
}

// patience drops what the tail waits for if its broker, a follower, takes too long to
// answer; stop ends it.
func (t *tail) patience() (stop func()) {
	if !t.key.source.Follower {
		return func() {}
	}
	timer := time.AfterFunc(t.key.cluster.FollowerLagMax()+t.r.cfg.TailWait, func() { t.dropAll(errSilent) })
	return func() { timer.Stop() }
}
