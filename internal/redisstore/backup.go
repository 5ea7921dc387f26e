package redisstore

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/braidmq/braid/federation"
)

// The keys of the backup of offsets.
const (
	keyOffsetsDeleted = "group-offsets-deleted" // a sorted set of "topic id/partition/group", by ms
	keyGroupsLife     = "groups-life"           // the cluster id of the logical cluster whose groups the store holds
	keyOffsetsBackup  = "group-offsets-backup"  // a hash from physical cluster to the ms up to which it has copies
)

// A GroupAt is a group and when it was last written to.
type GroupAt struct {
	Group     string
	TouchedMs int64
}

// GroupsTouched calls visit with the groups that were written to since a time, the
// longest untouched first, in pages; a group can come twice.
func (s *Store) GroupsTouched(ctx context.Context, logicalCluster string, sinceMs int64, page int64, visit func([]GroupAt) error) error {
	for skip := int64(0); ; {
		got, err := s.rdb.ZRangeArgsWithScores(ctx, redis.ZRangeArgs{
			Key: s.key(logicalCluster, "groups"), ByScore: true,
			Start: strconv.FormatInt(sinceMs, 10), Stop: "+inf", Offset: skip, Count: page,
		}).Result()
		if err != nil {
			return unavailable(err)
		}
		groups := make([]GroupAt, len(got))
		for i, z := range got {
			groups[i] = GroupAt{Group: fmt.Sprint(z.Member), TouchedMs: int64(z.Score)}
		}
		if len(groups) > 0 {
			if err := visit(groups); err != nil {
				return err
			}
		}
		if int64(len(groups)) < page {
			return nil
		}
		// The next page begins at the last time of this one, as groups that are written to
		// meanwhile go to the end; a page of one time only is passed over by its length.
		if last := groups[len(groups)-1].TouchedMs; last > sinceMs {
			sinceMs, skip = last, 0
		} else {
			skip += page
		}
	}
}

// OffsetsOf returns all stored offsets of groups, in their order.
func (s *Store) OffsetsOf(ctx context.Context, logicalCluster string, groups []string) ([][]GroupOffset, error) {
	if len(groups) == 0 {
		return nil, nil
	}
	pipe := s.rdb.Pipeline()
	asked := make([]*redis.MapStringStringCmd, len(groups))
	for i, g := range groups {
		asked[i] = pipe.HGetAll(ctx, s.groupKeys(logicalCluster, g).offsets)
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, unavailable(err)
	}
	out := make([][]GroupOffset, len(groups))
	for i, cmd := range asked {
		for field, value := range cmd.Val() {
			o, err := parseOffset(field, value)
			if err != nil {
				return nil, federation.Errorf(federation.Internal, "group %q: %w", groups[i], err)
			}
			out[i] = append(out[i], o)
		}
	}
	return out, nil
}

// A DeletedOffset is an offset that a group had.
type DeletedOffset struct {
	Group string
	OffsetKey
	member string
}

// DeletedOffsets returns up to limit offsets that were deleted and that ForgetDeleted
// has not been told of, oldest first. Some may have been committed anew since.
func (s *Store) DeletedOffsets(ctx context.Context, logicalCluster string, limit int64) ([]DeletedOffset, error) {
	members, err := s.rdb.ZRange(ctx, s.key(logicalCluster, keyOffsetsDeleted), 0, limit-1).Result()
	if err != nil {
		return nil, unavailable(err)
	}
	out := make([]DeletedOffset, 0, len(members))
	for _, m := range members {
		d := DeletedOffset{member: m}
		if parts := strings.SplitN(m, "/", 3); len(parts) == 3 {
			id, err := federation.ParseTopicID(parts[0])
			p, err2 := strconv.ParseInt(parts[1], 10, 32)
			if err == nil && err2 == nil {
				d.Group, d.OffsetKey = parts[2], OffsetKey{Topic: id, Partition: federation.LogicalPartition(p)}
			}
		}
		out = append(out, d)
	}
	return out, nil
}

// ForgetDeleted takes offsets off the list of DeletedOffsets.
func (s *Store) ForgetDeleted(ctx context.Context, logicalCluster string, deleted []DeletedOffset) error {
	if len(deleted) == 0 {
		return nil
	}
	members := make([]any, len(deleted))
	for i, d := range deleted {
		members[i] = d.member
	}
	return unavailable(s.rdb.ZRem(ctx, s.key(logicalCluster, keyOffsetsDeleted), members...).Err())
}

// OffsetsBackup returns up to when a physical cluster has copies of all offsets, in
// ms since 1970, and whether that is known: a store that has lost its data does not
// know it.
func (s *Store) OffsetsBackup(ctx context.Context, logicalCluster string, cluster federation.ClusterName) (ms int64, known bool, err error) {
	ms, err = s.rdb.HGet(ctx, s.key(logicalCluster, keyOffsetsBackup), string(cluster)).Int64()
	if errors.Is(err, redis.Nil) {
		return 0, false, nil
	}
	return ms, err == nil, unavailable(err)
}

// KEYS backups; ARGV cluster, ms.
var raiseBackup = redis.NewScript(`
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) end
return 1
`)

// RaiseOffsetsBackup is SetOffsetsBackup for a cluster that the store knows; in a
// store that has lost its data it does nothing.
func (s *Store) RaiseOffsetsBackup(ctx context.Context, logicalCluster string, cluster federation.ClusterName, ms int64) error {
	return unavailable(raiseBackup.Run(ctx, s.rdb, []string{s.key(logicalCluster, keyOffsetsBackup)}, string(cluster), ms).Err())
}

// SetOffsetsBackup notes up to when a physical cluster has copies of all offsets.
func (s *Store) SetOffsetsBackup(ctx context.Context, logicalCluster string, cluster federation.ClusterName, ms int64) error {
	return unavailable(s.rdb.HSet(ctx, s.key(logicalCluster, keyOffsetsBackup), string(cluster), ms).Err())
}

// restoreOffsets puts offsets back, but none below or beside a higher one.
//
//	KEYS offsets, index, counter
//	ARGV now, group, the least ownership epoch, (field, offset, value)...
var restoreOffsets = redis.NewScript(`
local n = 0
for i = 4, #ARGV, 3 do
  local have = redis.call('HGET', KEYS[1], ARGV[i])
  if not have or tonumber(string.match(have, '^(-?%d+) ')) < tonumber(ARGV[i + 1]) then
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 2])
    n = n + 1
  end
end
redis.call('ZADD', KEYS[2], 'NX', ARGV[1], ARGV[2])
if tonumber(redis.call('GET', KEYS[3]) or '0') < tonumber(ARGV[3]) then redis.call('SET', KEYS[3], ARGV[3]) end
return n
`)

// restorePage bounds the offsets of one call of restoreOffsets.
const restorePage = 1000

// RestoreOffsets puts offsets of a group back that the store has lost, and returns
// how many: none where it has a higher one. Ownership epochs go on above leastEpoch.
func (s *Store) RestoreOffsets(ctx context.Context, logicalCluster, group string, offsets []GroupOffset, nowMs, leastEpoch int64) (int64, error) {
	k := s.groupKeys(logicalCluster, group)
	total := int64(0)
	for len(offsets) > 0 {
		page := offsets[:min(len(offsets), restorePage)]
		offsets = offsets[len(page):]
		args := make([]any, 0, 3+3*len(page))
		args = append(args, nowMs, group, leastEpoch)
		for _, o := range page {
			args = append(args, o.field(), int64(o.Offset), o.value())
		}
		n, err := restoreOffsets.Run(ctx, s.rdb, []string{k.offsets, k.index, k.counter}, args...).Int64()
		if err != nil {
			return total, unavailable(err)
		}
		total += n
	}
	return total, nil
}

// GroupsLost is what the store says of its groups (GroupsLife) when it has lost them.
const GroupsLost = "lost"

// GroupsLife returns the cluster id of the logical cluster whose groups the store
// holds; empty if the store does not know, GroupsLost if they are to be restored.
func (s *Store) GroupsLife(ctx context.Context, logicalCluster string) (string, error) {
	life, err := s.rdb.Get(ctx, s.key(logicalCluster, keyGroupsLife)).Result()
	if errors.Is(err, redis.Nil) {
		return "", nil
	}
	return life, unavailable(err)
}

// SetGroupsLife says that the store holds the groups of a logical cluster, all of
// those that there are.
func (s *Store) SetGroupsLife(ctx context.Context, logicalCluster, life string) error {
	return unavailable(s.rdb.Set(ctx, s.key(logicalCluster, keyGroupsLife), life, 0).Err())
}

// KnownOffsets is GroupOffsets of a store that has the groups of a life, as GroupsLife
// tells; one that has lost them does not know that there is no offset.
func (s *Store) KnownOffsets(ctx context.Context, logicalCluster, life, group string, keys []OffsetKey) ([]GroupOffset, error) {
	offsets, err := s.GroupOffsets(ctx, logicalCluster, group, keys)
	if err != nil || life == "" {
		return offsets, err
	}
	have, err := s.GroupsLife(ctx, logicalCluster) // after the offsets: it has not been lost before
	if err == nil && have != life {
		err = errGroupsLost(group)
	}
	return offsets, err
}

func errGroupsLost(group string) error {
	return federation.Errorf(federation.StoreUnavailable, "group %q: the store has lost its groups; they wait until their offsets are restored", group)
}
