package controller

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/journal"
	"github.com/braidmq/braid/internal/redisstore"
	"github.com/braidmq/braid/internal/upstream"
)

const (
	// backupCopies is how many physical clusters have a backup of the offsets.
	backupCopies = 2
	// backupPage bounds the groups that are in memory at a time.
	backupPage = 200
	// backupOverlap is how much further back than the last backup is copied again: the
	// clocks of gateways differ.
	backupOverlap = time.Minute
)

// A backupID names a backup: of the offsets of a logical cluster's groups, on a physical
// cluster.
type backupID struct {
	logical string
	cluster federation.ClusterName
}

// A backupLog is a backup on one cluster. It belongs to the goroutine of backUp.
type backupLog struct {
	cluster *upstream.Cluster
	log     *journal.Log
	failed  bool // it must be read to its end before it can be written to again
}

// backUp copies the offsets that groups have committed to physical clusters, at an
// interval.
func (t *term) backUp(ctx context.Context) {
	logs := make(map[backupID]*backupLog)
	for ctx.Err() == nil {
		sleep(ctx, t.cfg.OffsetsBackupInterval)
		if ctx.Err() != nil {
			return
		}
		m := t.current()
		names := t.backupClusters(m)
		wanted := make(map[backupID]bool)
		for _, view := range views(m) {
			if view.LogicalCluster != m.LogicalCluster && !t.hasGroups(ctx, view.LogicalCluster) {
				continue // an idle tenant costs no topics on the clusters
			}
			for _, name := range names {
				wanted[backupID{view.LogicalCluster, name}] = true
			}
			t.backUpGroups(ctx, view.LogicalCluster, names, logs)
			if ctx.Err() != nil {
				return
			}
		}
		for id := range logs {
			if !wanted[id] {
				delete(logs, id)
				t.health.clear(id.alarm(t.cfg.LogicalCluster))
			}
		}
	}
}

// views are the logical clusters of a map that are served, the deployment's own first.
func views(m *federation.Map) []*federation.Map {
	s := federation.SplitMap(m, nil)
	own, _ := s.Of("")
	out := []*federation.Map{own}
	for _, name := range slices.Sorted(maps.Keys(m.Tenants)) {
		if view, served := s.Of(name); served {
			out = append(out, view)
		}
	}
	return out
}

// hasGroups reports whether a logical cluster has groups; in doubt it has.
func (t *term) hasGroups(ctx context.Context, logical string) bool {
	has := false
	err := t.parts.Store.GroupsTouched(ctx, logical, 0, 1, func(page []redisstore.GroupAt) error {
		if has = len(page) > 0; has {
			return errEnough
		}
		return nil
	})
	return has || err != nil
}

var errEnough = errors.New("one is enough")

// backUpGroups copies the offsets of the groups of one logical cluster.
func (t *term) backUpGroups(ctx context.Context, logical string, names []federation.ClusterName, logs map[backupID]*backupLog) {
	good := len(names) > 0
	for _, name := range names {
		id := backupID{logical, name}
		if logs[id] == nil {
			logs[id] = &backupLog{}
		}
		alarm := id.alarm(t.cfg.LogicalCluster)
		err := t.backUpTo(ctx, id, logs[id])
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			good, logs[id].log, logs[id].failed = false, nil, true
			t.health.alarm(alarm, "the offsets of groups%s are not copied to physical cluster %q: %v", t.ofTenant(logical), name, err)
			t.log.Warn("the offsets of groups could not be copied to a physical cluster; it is tried again", "logical_cluster", logical, "cluster", name, "err", err)
		default:
			t.health.clear(alarm)
		}
	}
	if good {
		if err := t.backUpDeletes(ctx, logical, names, logs); err != nil && ctx.Err() == nil {
			t.log.Warn("deleted offsets could not be taken out of the backups; it is tried again", "logical_cluster", logical, "err", err)
			for _, name := range names {
				id := backupID{logical, name}
				logs[id].log, logs[id].failed = nil, true
			}
		}
	}
}

// ofTenant is what texts say of a logical cluster that is not the deployment's own.
func (t *term) ofTenant(logical string) string {
	if logical == t.cfg.LogicalCluster {
		return ""
	}
	return fmt.Sprintf(" of tenant %q", logical)
}

func (id backupID) alarm(own string) string {
	if id.logical == own {
		return "backup/" + string(id.cluster)
	}
	return "backup/" + id.logical + "/" + string(id.cluster)
}

// backupClusters returns the clusters that are to have a backup: the first by name
// that answer.
func (t *term) backupClusters(m *federation.Map) []federation.ClusterName {
	away := t.health.away()
	var names []federation.ClusterName
	for _, name := range slices.Sorted(maps.Keys(m.Clusters)) {
		if m.Clusters[name].State == federation.ClusterActive && !away[name] && len(names) < backupCopies {
			names = append(names, name)
		}
	}
	return names
}

// backUpTo copies what was committed since the last time.
func (t *term) backUpTo(ctx context.Context, id backupID, b *backupLog) error {
	logical, name := id.logical, id.cluster
	c, err := t.parts.Clusters.Cluster(name)
	if err != nil {
		return err
	}
	if b.cluster != c {
		b.cluster, b.log = c, nil
	}
	start := time.Now()
	done, known, err := t.parts.Store.OffsetsBackup(ctx, logical, name)
	if err != nil {
		return err
	}
	if b.log == nil || !known {
		if err := t.openBackup(ctx, logical, b, known); err != nil {
			return err
		}
		if b.log.Created {
			done, b.log.Created = 0, false
		}
	}
	since := int64(0)
	if done > 0 {
		since = max(0, done-backupOverlap.Milliseconds())
	}
	err = t.parts.Store.GroupsTouched(ctx, logical, since, backupPage, func(page []redisstore.GroupAt) error {
		names := make([]string, len(page))
		for i, g := range page {
			names[i] = g.Group
		}
		offsets, err := t.parts.Store.OffsetsOf(ctx, logical, names)
		if err != nil {
			return err
		}
		var records []journal.Record
		for i, all := range offsets {
			for _, o := range all {
				if o.CommittedMs >= since {
					records = append(records, journal.Offset{
						OffsetKey: journal.OffsetKey{Group: names[i], Topic: o.Topic, Partition: o.Partition},
						Offset:    o.Offset, Epoch: o.Epoch, Metadata: o.Metadata, CommittedMs: o.CommittedMs,
					}.Record())
				}
			}
		}
		return b.log.Append(ctx, records)
	})
	if err != nil {
		return err
	}
	if err := b.log.Append(ctx, []journal.Record{journal.Copied(start.UnixMilli())}); err != nil {
		return err
	}
	return t.parts.Store.RaiseOffsetsBackup(ctx, logical, name, start.UnixMilli())
}

// openBackup opens the backup on a cluster. One that the store does not know of is
// left as it is: the store has lost its data, and what groups commit now may be lower
// than what the backup has.
func (t *term) openBackup(ctx context.Context, logical string, b *backupLog, known bool) error {
	topic := journal.OffsetsTopic(logical)
	if !known {
		topics, err := b.cluster.Topics(ctx, topic)
		if err != nil {
			return err
		}
		if _, ok := topics[topic]; ok {
			return fmt.Errorf("there is a backup that the store knows nothing of; if the store has lost data, run `braid recover`; if this logical cluster began anew on purpose, delete the topic %q there", topic)
		}
		if err := t.parts.Store.SetOffsetsBackup(ctx, logical, b.cluster.Name, 0); err != nil {
			return err
		}
	}
	var visit func(journal.Record)
	if b.failed { // where this leader's records end is in the log
		visit = func(journal.Record) {}
	}
	l, err := journal.Open(ctx, b.cluster, topic, t.fencing, visit)
	if err != nil {
		return err
	}
	if err := l.Claim(ctx, nil); err != nil {
		return err
	}
	b.log, b.failed = l, false
	return nil
}

// backUpDeletes takes offsets out of the backups that groups do not have any more.
func (t *term) backUpDeletes(ctx context.Context, logical string, names []federation.ClusterName, logs map[backupID]*backupLog) error {
	for {
		deleted, err := t.parts.Store.DeletedOffsets(ctx, logical, backupPage)
		if err != nil || len(deleted) == 0 {
			return err
		}
		var records []journal.Record
		for _, d := range deleted {
			now, err := t.parts.Store.GroupOffsets(ctx, logical, d.Group, []redisstore.OffsetKey{d.OffsetKey})
			if err != nil {
				return err
			}
			if now[0].Offset < 0 {
				records = append(records, journal.OffsetKey{Group: d.Group, Topic: d.Topic, Partition: d.Partition}.Deleted())
			}
		}
		for _, name := range names {
			if err := logs[backupID{logical, name}].log.Append(ctx, records); err != nil {
				return err
			}
		}
		if err := t.parts.Store.ForgetDeleted(ctx, logical, deleted); err != nil {
			return err
		}
	}
}

// knowGroups finds out whether the store has the groups of the map: one that has lost
// the map, which was restored, has lost them too. Until they are back, gateways do
// not serve groups: their members would begin at the first or the last record.
func (t *term) knowGroups(ctx context.Context, m *federation.Map, mapRestored bool) error {
	life, err := t.parts.Store.GroupsLife(ctx, m.LogicalCluster)
	switch {
	case err != nil || life == m.ClusterID:
		return err
	case life == "" && !mapRestored: // a new logical cluster, or an older build's
		return t.parts.Store.SetGroupsLife(ctx, m.LogicalCluster, m.ClusterID)
	}
	t.groupsLost = append(t.groupsLost, m.LogicalCluster)
	return t.parts.Store.SetGroupsLife(ctx, m.LogicalCluster, redisstore.GroupsLost)
}

// restoreGroups puts the offsets of the backups back into a store that has lost them.
// It is tried until all clusters have told what they have.
func (t *term) restoreGroups(ctx context.Context, logical string) {
	alarm, of := "groups", t.ofTenant(logical)
	if of != "" {
		alarm += "/" + logical
	}
	for attempt := 0; ctx.Err() == nil; attempt++ {
		all := views(t.current())
		i := slices.IndexFunc(all, func(m *federation.Map) bool { return m.LogicalCluster == logical })
		if i < 0 {
			t.health.clear(alarm)
			return // a tenant that is gone
		}
		m := all[i]
		did, err := t.tryRestoreGroups(ctx, m)
		if err == nil {
			t.health.clear(alarm)
			if did.lastMs == 0 {
				t.health.alarm(alarm+"/restored", "the store had lost the offsets of groups%s, and there was no backup yet: groups begin at their auto.offset.reset", of)
				return
			}
			t.health.alarm(alarm+"/restored", "the store had lost the offsets of groups%s; those of %d groups were restored as of %s, and what they had committed later is lost",
				of, did.groups, time.UnixMilli(did.lastMs).UTC().Format(time.RFC3339))
			t.log.Error("the store had lost the offsets of groups; they were restored from their backup", "logical_cluster", logical, "groups", did.groups, "offsets", did.offsets, "as_of", time.UnixMilli(did.lastMs))
			return
		}
		if ctx.Err() != nil {
			return
		}
		t.health.alarm(alarm, "the store has lost the offsets of groups%s, and groups wait until they are restored: %v. Without what cannot be read: `braid recover --force`", of, err)
		t.log.Error("the offsets of groups cannot be restored yet; it is tried again", "logical_cluster", logical, "err", err)
		sleep(ctx, backoff(attempt))
	}
}

func (t *term) tryRestoreGroups(ctx context.Context, m *federation.Map) (restored, error) {
	life, err := t.parts.Store.GroupsLife(ctx, m.LogicalCluster)
	if err != nil {
		return restored{}, err
	}
	if life == m.ClusterID { // braid recover was faster
		return restored{lastMs: time.Now().UnixMilli()}, nil
	}
	backups := make(map[federation.ClusterName]backup)
	for name := range m.Clusters {
		c, err := t.parts.Clusters.Cluster(name)
		if err != nil {
			return restored{}, err
		}
		b, err := readBackup(ctx, c, m.LogicalCluster)
		if err != nil {
			return restored{}, fmt.Errorf("physical cluster %q: %w", name, err)
		}
		if b.has {
			backups[name] = b
		}
	}
	return putBack(ctx, t.parts.Store, m, backups, false)
}
