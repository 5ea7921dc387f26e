package controller

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/braidmq/braid/controller/planner"
	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/federation/wire"
	"github.com/braidmq/braid/internal/journal"
	"github.com/braidmq/braid/internal/redisstore"
	"github.com/braidmq/braid/internal/upstream"
)

// RecoverConfig says what Recover is to do.
type RecoverConfig struct {
	// LogicalCluster is the one whose map is recovered; "default" by default.
	LogicalCluster string
	// Clusters are physical clusters to begin with; the map that they have leads to the others.
	Clusters []*federation.Cluster
	// Force goes on where something newer than what was found may exist.
	Force bool
	// DryRun changes nothing.
	DryRun bool
	// Out gets a report, line by line.
	Out io.Writer
	// LeaseTTL is how long the lead is taken for; 10 s by default.
	LeaseTTL time.Duration
	Upstream upstream.Config
}

// Recover brings the map of a logical cluster, and the offsets that groups have
// committed, from the physical clusters back into a store that has lost them. It
// never replaces a newer map or a higher offset. Controllers and gateways may run.
func Recover(ctx context.Context, cfg RecoverConfig, store *redisstore.Store) error {
	setDefault(&cfg.LogicalCluster, federation.DefaultLogicalCluster)
	setDefault(&cfg.LeaseTTL, 10*time.Second)
	if err := planner.CheckLogicalCluster(cfg.LogicalCluster); err != nil {
		return err
	}
	r := &recovery{cfg: cfg, store: store, pool: upstream.NewPool(cfg.Upstream), found: make(map[federation.ClusterName]*finding)}
	defer r.pool.Close()
	if err := store.Ping(ctx); err != nil {
		return err
	}
	if err := r.gather(ctx); err != nil {
		return err
	}
	if err := r.check(ctx); err != nil {
		return err
	}
	if err := r.decide(); err != nil {
		return err
	}
	have, err := store.LoadMap(ctx, cfg.LogicalCluster)
	if err != nil {
		return err
	}
	if _, err := r.standing(have); err != nil { // before anything is written
		return err
	}
	// Offsets come first: a leader that finds the map takes it that its groups are there.
	if err := r.offsets(ctx); err != nil {
		return err
	}
	if err := r.writeMap(ctx); err != nil {
		return err
	}
	r.say("lost with Redis: which members were in which group (they join again, one rebalance), operations and their history, and what clients of the Connect API know as their producer identity (they ask for a new one)")
	return nil
}

// A recovery is one run of Recover.
type recovery struct {
	cfg   RecoverConfig
	store *redisstore.Store
	pool  *upstream.Pool

	clusters map[federation.ClusterName]*federation.Cluster // that are to be read
	found    map[federation.ClusterName]*finding
	fencing  int64           // the highest that a journal names
	m        *federation.Map // the newest
	doubts   []string        // reasons why something newer may exist
	open     []federation.TopicPartition
}

// A finding is what one cluster has.
type finding struct {
	state journal.MapState
	has   bool
	m     *federation.Map // nil if the journal holds no whole map
	err   error           // the cluster does not answer
}

func (r *recovery) say(format string, args ...any) {
	if r.cfg.DryRun {
		format = "(dry run) " + format
	}
	_, _ = fmt.Fprintf(r.cfg.Out, format+"\n", args...)
}

func (r *recovery) doubt(format string, args ...any) {
	r.doubts = append(r.doubts, fmt.Sprintf(format, args...))
}

// gather reads the journals of the clusters that were named, and of those that the
// newest map names, until that has no others.
func (r *recovery) gather(ctx context.Context) error {
	r.clusters = make(map[federation.ClusterName]*federation.Cluster)
	for _, c := range r.cfg.Clusters {
		r.clusters[c.Name] = c
	}
	for {
		r.pool.Update(slices.Collect(maps.Values(r.clusters)))
		r.readJournals(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := r.newest(); err != nil {
			return err
		}
		more := false
		if r.m != nil {
			for name, c := range r.m.Clusters {
				if r.clusters[name] == nil {
					r.clusters[name], more = c, true
				}
			}
		}
		if !more {
			break
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.found)) {
		switch f := r.found[name]; {
		case f.err != nil:
			r.say("cluster %s: does not answer: %v", name, f.err)
			if r.m == nil || r.m.Clusters[name] != nil {
				r.doubt("cluster %s does not answer, and may know a newer map", name)
			}
		case !f.has:
			r.say("cluster %s: has no journal of maps", name)
		case f.m == nil:
			r.say("cluster %s: map version %d, not whole", name, f.state.Head.Version)
		default:
			r.say("cluster %s: map version %d of %s", name, f.m.Version, time.UnixMilli(f.state.Head.WrittenMs).UTC().Format(time.RFC3339))
		}
	}
	if r.m == nil {
		return federation.Errorf(federation.UnknownCluster, "none of the clusters has a map of logical cluster %q; name others, or check the addresses", r.cfg.LogicalCluster)
	}
	for name, f := range r.found {
		if f.has && f.err == nil && f.m == nil && f.state.Head.Version >= r.m.Version {
			r.doubt("cluster %s has begun a version behind %d, and did not get the end of it", name, f.state.Head.Version)
		}
	}
	partitions := 0
	for _, t := range r.m.Topics {
		partitions += len(t.Partitions)
	}
	r.say("newest map: version %d with %d topics, %d partitions, %d clusters", r.m.Version, len(r.m.Topics), partitions, len(r.m.Clusters))
	return nil
}

func (r *recovery) readJournals(ctx context.Context) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	for name := range r.clusters {
		if r.found[name] != nil {
			continue
		}
		f := &finding{}
		mu.Lock()
		r.found[name] = f
		mu.Unlock()
		wg.Go(func() {
			var c *upstream.Cluster
			if c, f.err = r.pool.Cluster(name); f.err != nil {
				return
			}
			if f.has, f.err = journal.Find(ctx, c, journal.MapTopic(r.cfg.LogicalCluster), f.state.Fold); f.err == nil && f.state.Head.Version > 0 {
				f.m, _ = f.state.Map() // one that is not whole is told of
			}
		})
	}
	wg.Wait()
}

// newest picks the newest map. Journals of different lives of a logical cluster
// cannot be compared.
func (r *recovery) newest() error {
	r.m, r.fencing = nil, 0
	for _, name := range slices.Sorted(maps.Keys(r.found)) {
		f := r.found[name]
		r.fencing = max(r.fencing, f.state.Fencing)
		switch {
		case f.m == nil:
		case r.m == nil || f.m.ClusterID == r.m.ClusterID && f.m.Version > r.m.Version:
			r.m = f.m
		case f.m.ClusterID != r.m.ClusterID:
			return federation.Errorf(federation.Conflict,
				"the journals are of different lives of logical cluster %q (cluster ids %s and %s); delete the topic %q on the clusters whose journal is of no use", r.cfg.LogicalCluster, r.m.ClusterID, f.m.ClusterID, journal.MapTopic(r.cfg.LogicalCluster))
		}
	}
	return nil
}

// decide refuses a map that may not be the newest.
func (r *recovery) decide() error {
	for _, d := range r.doubts {
		r.say("doubt: %s", d)
	}
	if len(r.doubts) == 0 {
		return nil
	}
	if !r.cfg.Force {
		return federation.Errorf(federation.PolicyViolation, "map version %d may not be the newest one (%d doubts, see above); nothing was changed. Bring what is missing back, or take it as it is with --force", r.m.Version, len(r.doubts))
	}
	r.say("going on all the same (--force): restart controllers and gateways afterwards, as they may hold a newer map")
	return nil
}

// writeMap writes the map into the store, unless that has it, or a newer one.
func (r *recovery) writeMap(ctx context.Context) error {
	have, err := r.store.LoadMap(ctx, r.cfg.LogicalCluster)
	if err != nil {
		return err
	}
	if done, err := r.standing(have); done || err != nil {
		if done {
			r.say("Redis has map version %d: it stays", have.Version)
		}
		return err
	}
	if r.cfg.DryRun {
		r.say("would write the map into Redis, which has version %d", have.Version)
		return nil
	}
	who := redisstore.Candidate{ID: "recover-" + rand.Text()[:8], URL: "http://recover.invalid:1", Incarnation: rand.Text(), Met: r.fencing}
	leader, err := r.store.SeizeLeadership(ctx, r.cfg.LogicalCluster, who, r.cfg.LeaseTTL)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.cfg.LeaseTTL)
		defer cancel()
		_ = r.store.ReleaseLeadership(ctx, r.cfg.LogicalCluster, leader.Fencing)
	}()
	// Whoever led may have written until a moment ago.
	if have, err = r.store.LoadMap(ctx, r.cfg.LogicalCluster); err != nil {
		return err
	}
	if done, err := r.standing(have); done || err != nil {
		return err
	}
	next := *r.m
	if len(r.open) > 0 {
		next = *reopened(r.m, r.open)
		next.Version = r.m.Version + 1
	}
	if have.ClusterID != next.ClusterID {
		next.Version = max(next.Version, have.Version+1)
	}
	if err := r.store.WriteMap(ctx, r.cfg.LogicalCluster, leader.Fencing, wire.Diff(have, next.Seal())); err != nil {
		return err
	}
	r.say("map version %d written into Redis, by the controller number %d", next.Version, leader.Fencing)
	return nil
}

// standing reports whether the map of the store stays: it is as new as the one that
// was found. One of another life is replaced only while it has no topics.
func (r *recovery) standing(have *federation.Map) (bool, error) {
	switch {
	case have.Version == 0:
		return false, nil
	case have.ClusterID == r.m.ClusterID && have.Version >= r.m.Version:
		return true, nil
	case have.ClusterID != r.m.ClusterID && len(have.Topics) > 0 && !r.cfg.Force:
		return false, federation.Errorf(federation.Conflict, "Redis has another map of logical cluster %q (version %d, %d topics), which began after the loss; it would be replaced: delete those topics, or use --force", r.cfg.LogicalCluster, have.Version, len(have.Topics))
	}
	return false, nil
}

// reopened returns the map in which heads that were being sealed take appends again.
func reopened(m *federation.Map, heads []federation.TopicPartition) *federation.Map {
	moves := make([]planner.Move, 0, len(heads))
	for _, tp := range heads {
		if p, err := m.Partition(tp); err == nil {
			moves = append(moves, planner.Move{TopicPartition: tp, Extent: p.Head().Number, From: p.Head().PhysicalAddress})
		}
	}
	return planner.WithoutSealing(m, moves)
}

// offsets puts the offsets of the backups back, those of each logical cluster.
func (r *recovery) offsets(ctx context.Context) error {
	for _, m := range views(r.m) {
		if m.LogicalCluster != r.cfg.LogicalCluster {
			r.say("tenant %s:", m.LogicalCluster)
		}
		if err := r.offsetsOf(ctx, m); err != nil {
			return err
		}
	}
	return nil
}

func (r *recovery) offsetsOf(ctx context.Context, m *federation.Map) error {
	backups := make(map[federation.ClusterName]backup)
	for _, name := range slices.Sorted(maps.Keys(r.m.Clusters)) {
		c, err := r.pool.Cluster(name)
		if err != nil {
			return err
		}
		b, err := readBackup(ctx, c, m.LogicalCluster)
		switch {
		case err != nil && !r.cfg.Force:
			return federation.Errorf(federation.ClusterUnavailable, "the backup of offsets on cluster %s cannot be read; try again, or go on without it with --force", name).WithCause(err)
		case err != nil:
			r.say("cluster %s: its backup of offsets cannot be read: %v", name, err)
		case b.has:
			r.say("cluster %s: backup of %d offsets, the last of %s", name, len(b.offsets), time.UnixMilli(b.copiedMs).UTC().Format(time.RFC3339))
			backups[name] = b
		}
	}
	did, err := putBack(ctx, r.store, m, backups, r.cfg.DryRun)
	if err != nil {
		return err
	}
	if len(backups) == 0 {
		r.say("there is no backup of offsets: groups begin at their auto.offset.reset")
		return nil
	}
	r.say("offsets of %d groups: %d written into Redis, %d are of topics that do not exist any more, the others are there already", did.groups, did.offsets, did.unknown)
	r.say("lost: what groups have committed after %s, if anything; they read those records again", time.UnixMilli(did.lastMs).UTC().Format(time.RFC3339))
	return nil
}

// A restored is what putBack did.
type restored struct {
	groups, unknown int
	offsets         int64
	lastMs          int64 // when the newest backup was brought up to date
}

// putBack writes the newest offsets of all backups into a store that has lost them,
// none below what it has. From then on groups are served.
func putBack(ctx context.Context, store *redisstore.Store, m *federation.Map, backups map[federation.ClusterName]backup, dryRun bool) (restored, error) {
	var did restored
	all := make(map[journal.OffsetKey]journal.Offset)
	for _, b := range backups {
		did.lastMs = max(did.lastMs, b.copiedMs)
		for k, o := range b.offsets {
			if have, ok := all[k]; !ok || have.CommittedMs < o.CommittedMs {
				all[k] = o
			}
		}
	}
	groups := make(map[string][]redisstore.GroupOffset)
	for k, o := range all {
		if m.TopicByID(k.Topic) == nil {
			did.unknown++
			continue
		}
		groups[k.Group] = append(groups[k.Group], redisstore.GroupOffset{
			OffsetKey: redisstore.OffsetKey{Topic: k.Topic, Partition: k.Partition}, Offset: o.Offset, Epoch: o.Epoch, Metadata: o.Metadata, CommittedMs: o.CommittedMs,
		})
	}
	did.groups = len(groups)
	if dryRun {
		return did, nil
	}
	now := time.Now()
	for _, group := range slices.Sorted(maps.Keys(groups)) {
		n, err := store.RestoreOffsets(ctx, m.LogicalCluster, group, groups[group], now.UnixMilli(), now.Unix())
		if err != nil {
			return did, err
		}
		did.offsets += n
	}
	for name := range backups { // what was committed since is copied anew
		if err := store.SetOffsetsBackup(ctx, m.LogicalCluster, name, 0); err != nil {
			return did, err
		}
	}
	return did, store.SetGroupsLife(ctx, m.LogicalCluster, m.ClusterID)
}

// A backup is what a cluster has of the offsets of groups.
type backup struct {
	has      bool
	offsets  map[journal.OffsetKey]journal.Offset
	copiedMs int64 // when it was brought up to date
}

func readBackup(ctx context.Context, c *upstream.Cluster, logicalCluster string) (backup, error) {
	b := backup{offsets: make(map[journal.OffsetKey]journal.Offset)}
	var bad error
	has, err := journal.Find(ctx, c, journal.OffsetsTopic(logicalCluster), func(rec journal.Record) {
		if ms, ok := journal.ParseCopied(rec); ok {
			b.copiedMs = ms
			return
		}
		o, deleted, ok, err := journal.ParseOffset(rec)
		switch {
		case err != nil:
			bad = err
		case !ok:
		case deleted:
			delete(b.offsets, o.OffsetKey)
		default:
			b.offsets[o.OffsetKey] = o
		}
	})
	b.has = has
	return b, errors.Join(err, bad)
}

// named lists names of things, but not too many.
func named[T fmt.Stringer](all []T) string {
	const most = 10
	texts := make([]string, 0, most)
	for _, x := range all[:min(len(all), most)] {
		texts = append(texts, x.String())
	}
	if len(all) > most {
		texts = append(texts, fmt.Sprintf("and %d more", len(all)-most))
	}
	return strings.Join(texts, ", ")
}
