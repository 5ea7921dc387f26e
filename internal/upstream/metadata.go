package upstream

import (
	"context"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
)

// A Leader is the broker that leads a physical partition.
type Leader struct {
	Broker int32
	Epoch  federation.PhysicalEpoch
}

// metadata is what is known of a cluster's brokers and leaders. A leader that
// turns out to be wrong is reported with Stale; refreshes are shared by all who
// ask, and at least MetadataMinAge apart.
type metadata struct {
	c *Cluster

	mu      sync.Mutex // guards the following
	brokers map[int32]string
	topics  map[string]*topicMeta
	wanted  map[string]bool
	flight  *refresh // running; nil = none
	last    time.Time
}

type topicMeta struct {
	at      time.Time
	leaders []Leader // Broker -1 = none
	stale   bool
	// against is since when brokers have told of an older epoch, by partition, and of no
	// other; zero = they do not.
	against map[federation.PhysicalPartition]time.Time

	isr       [][]int32  // of each partition; only with a zone
	followers []follower // of each partition; none until a leader names one
}

type refresh struct{ done chan struct{} }

func (m *metadata) init(c *Cluster) {
	m.c = c
	m.brokers = make(map[int32]string)
	m.topics = make(map[string]*topicMeta)
	m.wanted = make(map[string]bool)
}

// Leader returns the leader of a physical partition, if it is known and fresh
// enough. If not, it starts a refresh and returns a channel that is closed when
// that ended, whatever it brought.
func (c *Cluster) Leader(topic string, p federation.PhysicalPartition) (Leader, <-chan struct{}) {
	m := &c.meta
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.currentLocked(topic, p)
}

// currentLocked is Leader; the caller holds mu.
func (m *metadata) currentLocked(topic string, p federation.PhysicalPartition) (Leader, <-chan struct{}) {
	leader, ok := m.leaderLocked(topic, p)
	if !ok {
		return Leader{Broker: -1}, m.refreshLocked(topic)
	}
	if time.Since(m.topics[topic].at) > m.c.cfg.MetadataMaxAge {
		m.refreshLocked(topic) // believed until the answer is in
	}
	return leader, nil
}

// leader returns a leader as far as it is known and not found wrong.
func (m *metadata) leader(topic string, p federation.PhysicalPartition) (Leader, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.leaderLocked(topic, p)
}

func (m *metadata) leaderLocked(topic string, p federation.PhysicalPartition) (Leader, bool) {
	t := m.topics[topic]
	if t == nil || t.stale || p < 0 || int(p) >= len(t.leaders) || t.leaders[p].Broker < 0 {
		return Leader{Broker: -1}, false
	}
	return t.leaders[p], true
}

// Stale says that a broker did not lead a partition of topic any more.
func (c *Cluster) Stale(topic string) {
	m := &c.meta
	m.mu.Lock()
	defer m.mu.Unlock()
	if t := m.topics[topic]; t != nil {
		t.stale = true
	}
}

// refreshLocked starts a refresh that covers topic, or joins the next one; the
// caller holds mu.
func (m *metadata) refreshLocked(topic string) <-chan struct{} {
	m.wanted[topic] = true
	if m.flight == nil {
		m.flight = &refresh{done: make(chan struct{})}
		go m.run(m.flight, m.c.cfg.MetadataMinAge-time.Since(m.last))
	}
	return m.flight.done
}

func (m *metadata) run(f *refresh, wait time.Duration) {
	ctx := m.c.ctx
	if wait > 0 {
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
	m.mu.Lock()
	names := make([]string, 0, len(m.wanted))
	for n := range m.wanted {
		names = append(names, n)
	}
	m.wanted = make(map[string]bool)
	m.mu.Unlock()
	// Topics applies what it reads. An error leaves the topics unknown: who needs
	// them asks again, and so starts the next refresh.
	if _, err := m.c.Topics(ctx, names...); err != nil {
		m.c.cfg.Logger.Debug("metadata refresh failed", "cluster", m.c.Name, "err", err)
	}
	m.mu.Lock()
	m.last = time.Now()
	m.flight = nil
	// Topics that were asked for after the names were taken wait for a refresh of their own.
	if len(m.wanted) > 0 && ctx.Err() == nil {
		m.flight = &refresh{done: make(chan struct{})}
		go m.run(m.flight, m.c.cfg.MetadataMinAge)
	}
	m.mu.Unlock()
	close(f.done)
}

// address returns host:port of a broker.
func (m *metadata) address(ctx context.Context, broker int32) (string, error) {
	m.mu.Lock()
	addr, ok := m.brokers[broker]
	m.mu.Unlock()
	if ok {
		return addr, nil
	}
	if _, err := m.c.Info(ctx); err != nil {
		return "", err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if addr, ok = m.brokers[broker]; ok {
		return addr, nil
	}
	return "", federation.Errorf(federation.ClusterUnavailable, "physical cluster %q has lost a broker", m.c.Name)
}

func (m *metadata) setBrokers(brokers []kmsg.MetadataResponseBroker) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.setBrokersLocked(brokers)
}

func (m *metadata) setBrokersLocked(brokers []kmsg.MetadataResponseBroker) {
	if len(brokers) == 0 {
		return
	}
	m.brokers = make(map[int32]string, len(brokers))
	for _, b := range brokers {
		m.brokers[b.NodeID] = net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port)))
	}
}

// olderEpochAfter is how long brokers must tell of an older epoch until it is believed: the
// newer one was no truth, or of a topic that was deleted and is there again.
const olderEpochAfter = 3 * time.Second

// apply takes what a Metadata response says. An older leader epoch than the one
// known is not taken over at once: brokers learn of elections at different times.
func (m *metadata) apply(resp *kmsg.MetadataResponse) {
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.setBrokersLocked(resp.Brokers)
	for _, t := range resp.Topics {
		if t.Topic == nil {
			continue
		}
		if t.ErrorCode != 0 {
			if t.ErrorCode == kerr.UnknownTopicOrPartition.Code {
				delete(m.topics, *t.Topic)
			}
			continue
		}
		old := m.topics[*t.Topic]
		fresh := &topicMeta{at: now, leaders: make([]Leader, len(t.Partitions))}
		for _, p := range t.Partitions {
			if p.Partition < 0 || int(p.Partition) >= len(fresh.leaders) {
				continue
			}
			l := Leader{Broker: p.Leader, Epoch: federation.PhysicalEpoch(p.LeaderEpoch)}
			if p.ErrorCode == kerr.LeaderNotAvailable.Code {
				l.Broker = -1
			}
			if old != nil && int(p.Partition) < len(old.leaders) && p.LeaderEpoch >= 0 && old.leaders[p.Partition].Epoch > l.Epoch {
				if since := fresh.contradict(old, federation.PhysicalPartition(p.Partition), now); now.Sub(since) < olderEpochAfter {
					l = old.leaders[p.Partition]
				}
			}
			fresh.leaders[p.Partition] = l
		}
		m.keepFollowersLocked(*t.Topic, old, fresh, t.Partitions)
		m.topics[*t.Topic] = fresh
	}
}

// contradict notes that a broker tells of an older epoch of a partition, and returns since
// when they do.
func (t *topicMeta) contradict(old *topicMeta, p federation.PhysicalPartition, now time.Time) time.Time {
	since := old.against[p]
	if since.IsZero() {
		since = now
	}
	if t.against == nil {
		t.against = make(map[federation.PhysicalPartition]time.Time)
	}
	t.against[p] = since
	return since
}

func (m *metadata) forget(topic string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.topics, topic)
}
