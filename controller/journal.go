package controller

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/federation/wire"
	"github.com/braidmq/braid/internal/journal"
	"github.com/braidmq/braid/internal/redisstore"
	"github.com/braidmq/braid/internal/upstream"
)

// alarmJournal tells that the newest map is on no physical cluster.
const alarmJournal = "journal"

// A mapJournal keeps each version of the map on the physical clusters, so that it
// can be recovered if the store loses it. Each cluster has a keeper, which writes
// what the cluster lacks of the newest version: those that it missed are passed
// over, so one that is slow or away costs a goroutine and no more.
type mapJournal struct {
	t *term

	mu      sync.Mutex // guards the following
	target  *federation.Map
	keepers map[federation.ClusterName]*keeper
	changed chan struct{} // closed at each change of the target or of a keeper
}

// A keeper writes the journal on one cluster. log, cluster, writing and stale belong
// to its goroutine; have and err are guarded by the journal's mutex.
type keeper struct {
	j    *mapJournal
	name federation.ClusterName
	done chan struct{}

	cluster *upstream.Cluster
	log     *journal.Log
	writing *federation.Map // what the batches in the log's hands make
	stale   []string        // keys that a journal has of which no map can be made

	have *federation.Map // what the cluster has; nil = not known
	err  error           // of the last attempt
}

func newMapJournal(t *term) *mapJournal {
	return &mapJournal{t: t, keepers: make(map[federation.ClusterName]*keeper), changed: make(chan struct{})}
}

// write makes m the version that the clusters are to have, and waits until one of
// them has it. If none does within JournalWait, or none answered lately, there is an
// alarm until one has caught up.
func (j *mapJournal) write(ctx context.Context, m *federation.Map) {
	// A cluster that is new in m must be reachable before m is published.
	if old := j.t.published.Load(); old == nil || !maps.Equal(old.m.Clusters, m.Clusters) {
		all := make(map[federation.ClusterName]*federation.Cluster)
		if old != nil {
			maps.Copy(all, old.m.Clusters)
		}
		maps.Copy(all, m.Clusters)
		j.t.parts.Clusters.Update(slices.Collect(maps.Values(all)))
	}
	j.mu.Lock()
	j.target = m
	j.signalLocked()
	j.mu.Unlock()
	if len(m.Clusters) == 0 {
		return
	}
	timer := time.NewTimer(j.t.cfg.JournalWait)
	defer timer.Stop()
	for {
		written, hope, changed := j.state(m)
		if written {
			return
		}
		if !hope {
			break
		}
		select {
		case <-changed:
			continue
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		break
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if !j.writtenLocked(m) { // clear comes under the same mutex
		j.t.health.alarm(alarmJournal, "map version %d is on no physical cluster yet, only in the store: it was published without waiting any longer", m.Version)
		j.t.log.Warn("the map is in the journal of no physical cluster yet", "version", m.Version)
	}
}

func (j *mapJournal) writtenLocked(m *federation.Map) bool {
	for _, k := range j.keepers {
		if k.have != nil && k.have.Version >= m.Version {
			return true
		}
	}
	return false
}

// state reports whether a cluster has a version, whether one may have it soon, and
// a channel that is closed when that may have changed.
func (j *mapJournal) state(m *federation.Map) (written, hope bool, changed <-chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for name := range m.Clusters {
		if k := j.keepers[name]; k == nil || k.err == nil {
			hope = true
		}
	}
	return j.writtenLocked(m), hope, j.changed
}

func (j *mapJournal) signalLocked() {
	close(j.changed)
	j.changed = make(chan struct{})
}

func (j *mapJournal) look() (*federation.Map, <-chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.target, j.changed
}

// run has a keeper for each cluster of the map until ctx ends.
func (j *mapJournal) run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	stop := make(map[federation.ClusterName]context.CancelFunc)
	before := make(map[federation.ClusterName]*keeper) // that were stopped
	for ctx.Err() == nil {
		m, changed := j.look()
		for name, cancel := range stop {
			if m.Clusters[name] == nil {
				cancel()
				delete(stop, name)
				j.mu.Lock()
				before[name] = j.keepers[name]
				delete(j.keepers, name)
				j.mu.Unlock()
				j.t.health.clear(refusedKey(name))
			}
		}
		if m != nil {
			for name := range m.Clusters {
				if stop[name] != nil {
					continue
				}
				k := &keeper{j: j, name: name, done: make(chan struct{})}
				last := before[name]
				delete(before, name)
				j.mu.Lock()
				j.keepers[name] = k
				j.mu.Unlock()
				var own context.Context
				own, stop[name] = context.WithCancel(ctx)
				wg.Go(func() {
					defer close(k.done)
					if last != nil {
						<-last.done
					}
					k.run(own)
				})
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
	for _, cancel := range stop {
		cancel()
	}
}

func refusedKey(name federation.ClusterName) string { return "journal/" + string(name) }

func (k *keeper) run(ctx context.Context) {
	attempt := 0
	for ctx.Err() == nil {
		target, changed := k.j.look()
		if k.have == target {
			select {
			case <-changed:
			case <-ctx.Done():
			}
			continue
		}
		err := k.catchUp(ctx, target)
		if ctx.Err() != nil {
			return
		}
		k.tell(target, err)
		if err == nil {
			attempt = 0
			continue
		}
		sleep(ctx, backoff(attempt))
		attempt++
	}
}

// tell makes the outcome of an attempt known.
func (k *keeper) tell(target *federation.Map, err error) {
	k.j.mu.Lock()
	defer k.j.mu.Unlock()
	first := err != nil && k.err == nil
	k.err = err
	if err == nil {
		k.have = target
		if target == k.j.target {
			k.j.t.health.clear(alarmJournal)
		}
		k.j.t.health.clear(refusedKey(k.name))
	}
	k.j.signalLocked()
	if first {
		k.j.t.log.Warn("the map cannot be written to the journal of a physical cluster; it is tried again", "cluster", k.name, "version", target.Version, "err", err)
	}
}

func (k *keeper) known() *federation.Map {
	k.j.mu.Lock()
	defer k.j.mu.Unlock()
	return k.have
}

func (k *keeper) forget() {
	k.j.mu.Lock()
	defer k.j.mu.Unlock()
	k.have = nil
}

// catchUp writes what the cluster lacks of a version.
func (k *keeper) catchUp(ctx context.Context, target *federation.Map) error {
	c, err := k.j.t.parts.Clusters.Cluster(k.name)
	if err != nil {
		return err
	}
	if c != k.cluster { // its addresses changed
		k.cluster, k.log = c, nil
	}
	if k.log == nil {
		k.forget()
		k.writing = nil
		if err := k.open(ctx, target); err != nil {
			k.log = nil
			return err
		}
	}
	if k.log.Pending() {
		if err := k.log.Flush(ctx); err != nil {
			return k.failed(err)
		}
	}
	if k.writing != nil {
		k.j.mu.Lock()
		k.have, k.writing, k.stale = k.writing, nil, nil
		k.j.mu.Unlock()
	}
	d := k.lacks(target)
	if d.Empty() && d.From == d.To {
		return nil
	}
	records, err := journal.Delta(d, journal.Head{
		Version: target.Version, Fencing: k.j.t.fencing, LogicalCluster: target.LogicalCluster, ClusterID: target.ClusterID, WrittenMs: time.Now().UnixMilli(),
	})
	if err != nil {
		return err
	}
	k.writing = target
	if err := k.log.Append(ctx, records); err != nil {
		return k.failed(err)
	}
	k.writing, k.stale = nil, nil
	return nil
}

// failed notes that the journal must be opened anew after some errors.
func (k *keeper) failed(err error) error {
	switch federation.KindOf(err) {
	case federation.UnknownTopic, federation.OutOfOrderSequence, federation.UnknownProducer, federation.ProducerFenced, federation.RecordTooLarge:
		k.log = nil
	default:
	}
	return err
}

// lacks returns what makes the target of what the cluster has.
func (k *keeper) lacks(target *federation.Map) wire.Delta {
	if have := k.known(); have != nil {
		return wire.Diff(have, target)
	}
	d := wire.Diff(redisstore.EmptyMap(target.LogicalCluster), target)
	fresh := make(map[string]bool, len(d.Upserts))
	for _, e := range d.Upserts {
		fresh[e.GetKey()] = true
	}
	for _, key := range k.stale {
		if !fresh[key] {
			d.Deletes = append(d.Deletes, key)
		}
	}
	slices.Sort(d.Deletes)
	return d
}

// open reads the journal of the cluster, makes it if there is none, and fences
// former leaders. One that knows more than this controller is left as it is.
func (k *keeper) open(ctx context.Context, target *federation.Map) error {
	if cluster := target.Clusters[k.name]; cluster != nil && cluster.PhysicalID != "" {
		info, err := k.cluster.Info(ctx)
		if err != nil {
			return err
		}
		if info.ClusterID != cluster.PhysicalID {
			return federation.Errorf(federation.PolicyViolation, "physical cluster %q: its seeds lead to another Kafka cluster", k.name)
		}
	}
	var state journal.MapState
	l, err := journal.Open(ctx, k.cluster, journal.MapTopic(target.LogicalCluster), k.j.t.fencing, state.Fold)
	if err != nil {
		return err
	}
	if err := k.refuse(&state, target); err != nil {
		return err
	}
	if err := l.Claim(ctx, state.Fold); err != nil {
		return err
	}
	if err := k.refuse(&state, target); err != nil {
		return err
	}
	k.log, k.stale = l, state.Keys()
	if state.Head.Version == 0 {
		return nil
	}
	m, err := state.Map()
	if err != nil {
		k.j.t.log.Warn("the journal of a physical cluster holds no whole map; it is written anew", "cluster", k.name, "version", state.Head.Version, "err", err)
		return nil
	}
	k.j.mu.Lock()
	defer k.j.mu.Unlock()
	k.have = m
	return nil
}

// refuse returns an error, and raises an alarm, if the journal of a cluster must not
// be written to: what it has may be all that is left of a map.
func (k *keeper) refuse(s *journal.MapState, target *federation.Map) error {
	h, topic := s.Head, journal.MapTopic(target.LogicalCluster)
	var what string
	switch {
	case h.Version != 0 && h.ClusterID != target.ClusterID:
		what = fmt.Sprintf("it is of another life of this logical cluster (map version %d, cluster id %s)", h.Version, h.ClusterID)
	case h.Version > target.Version:
		what = fmt.Sprintf("it has map version %d, above this controller's %d", h.Version, target.Version)
	case s.Fencing > k.j.t.fencing:
		what = fmt.Sprintf("a controller with the number %d has written to it, above this one's %d", s.Fencing, k.j.t.fencing)
	default:
		return nil
	}
	k.j.t.health.alarm(refusedKey(k.name), "physical cluster %q: the journal of maps there is left as it is: %s. If the store has lost data, run `braid recover`; if this logical cluster began anew on purpose, delete the topic %q there", k.name, what, topic)
	return federation.Errorf(federation.Conflict, "physical cluster %q: the journal of maps is left as it is: %s", k.name, what)
}
