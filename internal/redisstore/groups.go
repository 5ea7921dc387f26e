package redisstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/braidmq/braid/federation"
)

// A GroupRecord changes one field of a group's state; a nil Value removes it.
type GroupRecord struct {
	Field string
	Value []byte
}

// An OffsetKey names a stored offset: by topic id, so that a topic that is
// created again under its old name does not inherit one.
type OffsetKey struct {
	Topic     federation.TopicID
	Partition federation.LogicalPartition
}

// A GroupOffset is a stored offset.
type GroupOffset struct {
	OffsetKey
	Offset      federation.LogicalOffset // -1 if there is none
	Epoch       federation.LogicalEpoch
	Metadata    string
	CommittedMs int64
}

// A GroupWrite is one atomic change of a group by its owner.
type GroupWrite struct {
	// Epoch is the ownership epoch that ClaimGroup gave; Sequence counts the owner's
	// writes from 1. A write that was delayed on its way and comes after a later one
	// changes nothing.
	Epoch, Sequence int64
	NowMs           int64
	Records         []GroupRecord
	Offsets         []GroupOffset
	DeleteOffsets   []OffsetKey
}

type groupKeys struct{ owner, state, offsets, index, counter, deleted, life string }

func (s *Store) groupKeys(logicalCluster, group string) groupKeys {
	return groupKeys{
		owner:   s.key(logicalCluster, "group-owner:"+group),
		state:   s.key(logicalCluster, "group-state:"+group),
		offsets: s.key(logicalCluster, "group-offsets:"+group),
		index:   s.key(logicalCluster, "groups"),
		counter: s.key(logicalCluster, "group-epoch"),
		deleted: s.key(logicalCluster, keyOffsetsDeleted),
		life:    s.key(logicalCluster, keyGroupsLife),
	}
}

// Ownership epochs come from one counter per logical cluster, so none is given
// twice, not even to a group that was deleted and created again.
//
//	KEYS owner, state, offsets, counter, life, index
//	ARGV create (0 or 1), life, how many groups there may be (0 = any number)
var groupClaim = redis.NewScript(`
if ARGV[2] ~= '' and redis.call('GET', KEYS[5]) ~= ARGV[2] then return {-1, {}} end
if ARGV[1] == '0' and redis.call('EXISTS', KEYS[2], KEYS[3]) == 0 then return {0, {}} end
if ARGV[3] ~= '0' and redis.call('EXISTS', KEYS[2], KEYS[3]) == 0 and redis.call('ZCARD', KEYS[6]) >= tonumber(ARGV[3]) then return {-2, {}} end
local epoch = redis.call('INCR', KEYS[4])
redis.call('HSET', KEYS[1], 'epoch', epoch, 'sequence', 0)
return {epoch, redis.call('HGETALL', KEYS[2])}
`)

// KEYS owner, state, offsets, index, deleted
// ARGV epoch, sequence, now, group, counts of (field, value)..., field..., (offset
// field, value)..., offset field...
var groupWrite = redis.NewScript(`
local held = redis.call('HMGET', KEYS[1], 'epoch', 'sequence')
if held[1] ~= ARGV[1] then return 0 end
if tonumber(held[2]) >= tonumber(ARGV[2]) then return 1 end
redis.call('HSET', KEYS[1], 'sequence', ARGV[2])
local at = 9
for i = 1, tonumber(ARGV[5]) do redis.call('HSET', KEYS[2], ARGV[at], ARGV[at + 1]); at = at + 2 end
for i = 1, tonumber(ARGV[6]) do redis.call('HDEL', KEYS[2], ARGV[at]); at = at + 1 end
for i = 1, tonumber(ARGV[7]) do redis.call('HSET', KEYS[3], ARGV[at], ARGV[at + 1]); at = at + 2 end
for i = 1, tonumber(ARGV[8]) do
  if redis.call('HDEL', KEYS[3], ARGV[at]) == 1 then redis.call('ZADD', KEYS[5], ARGV[3], ARGV[at] .. '/' .. ARGV[4]) end
  at = at + 1
end
redis.call('ZADD', KEYS[4], ARGV[3], ARGV[4])
return 1
`)

// KEYS owner; ARGV epoch
var groupRelease = redis.NewScript(`
if redis.call('HGET', KEYS[1], 'epoch') == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 1
`)

// KEYS owner, state, offsets, index, deleted; ARGV epoch, group
var groupDelete = redis.NewScript(`
if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] then return 0 end
local now = redis.call('TIME')[1] * 1000
for _, field in ipairs(redis.call('HKEYS', KEYS[3])) do redis.call('ZADD', KEYS[5], now, field .. '/' .. ARGV[2]) end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
redis.call('ZREM', KEYS[4], ARGV[2])
return 1
`)

// ClaimGroup takes a group over: all writes of its former owner fail from now
// on. It returns the ownership epoch and the state as it was stored. A group of
// which nothing is stored is claimed only if create is set; else the epoch is 0.
// If life is not empty, nothing is claimed in a store that holds the groups of
// another one (GroupsLife). If limit is not 0, and something is stored of as many groups,
// a new one is refused with GroupFull.
func (s *Store) ClaimGroup(ctx context.Context, logicalCluster, life, group string, create bool, limit int) (int64, map[string][]byte, error) {
	k := s.groupKeys(logicalCluster, group)
	got, err := groupClaim.Run(ctx, s.rdb, []string{k.owner, k.state, k.offsets, k.counter, k.life, k.index}, flag(create), life, limit).Slice()
	if err != nil {
		return 0, nil, unavailable(err)
	}
	if len(got) != 2 {
		return 0, nil, federation.Errorf(federation.Internal, "group %q: the store answered a claim with %d values", group, len(got))
	}
	epoch, _ := got[0].(int64)
	switch {
	case epoch == -2:
		return 0, nil, federation.Errorf(federation.GroupFull, "group %q would be one more than the %d that logical cluster %q may have: delete some, or ask the operators of the deployment for more", group, limit, logicalCluster)
	case epoch < 0:
		return 0, nil, errGroupsLost(group)
	}
	fields, _ := got[1].([]any)
	state := make(map[string][]byte, len(fields)/2)
	for i := 0; i+1 < len(fields); i += 2 {
		name, _ := fields[i].(string)
		value, _ := fields[i+1].(string)
		state[name] = []byte(value)
	}
	return epoch, state, nil
}

// WriteGroup stores a change; the error is of kind NotCoordinator if the group
// has another owner by now. It shares its round trip with the writes of other groups.
func (s *Store) WriteGroup(ctx context.Context, logicalCluster, group string, w GroupWrite) error {
	k := s.groupKeys(logicalCluster, group)
	var sets, removals []any
	for _, r := range w.Records {
		if r.Value == nil {
			removals = append(removals, r.Field)
		} else {
			sets = append(sets, r.Field, r.Value)
		}
	}
	args := make([]any, 0, 8+len(sets)+len(removals)+2*len(w.Offsets)+len(w.DeleteOffsets))
	args = append(args, w.Epoch, w.Sequence, w.NowMs, group, len(sets)/2, len(removals), len(w.Offsets), len(w.DeleteOffsets))
	args = append(append(args, sets...), removals...)
	for _, o := range w.Offsets {
		args = append(args, o.field(), o.value())
	}
	for _, o := range w.DeleteOffsets {
		args = append(args, o.field())
	}
	return s.groups.write(ctx, group, []string{k.owner, k.state, k.offsets, k.index, k.deleted}, args)
}

// ReleaseGroup gives a group up, if it is still owned in that epoch.
func (s *Store) ReleaseGroup(ctx context.Context, logicalCluster, group string, epoch int64) error {
	k := s.groupKeys(logicalCluster, group)
	return unavailable(groupRelease.Run(ctx, s.rdb, []string{k.owner}, epoch).Err())
}

// DeleteGroup removes a group with its offsets and gives it up.
func (s *Store) DeleteGroup(ctx context.Context, logicalCluster, group string, epoch int64) error {
	k := s.groupKeys(logicalCluster, group)
	ok, err := groupDelete.Run(ctx, s.rdb, []string{k.owner, k.state, k.offsets, k.index, k.deleted}, epoch, group).Bool()
	if err != nil {
		return unavailable(err)
	}
	if !ok {
		return errGroupTaken(group)
	}
	return nil
}

// GroupEpochs returns the ownership epochs of groups, in their order; 0 = not owned.
func (s *Store) GroupEpochs(ctx context.Context, logicalCluster string, groups []string) ([]int64, error) {
	epochs := make([]int64, len(groups))
	err := s.eachGroup(ctx, groups, func(p redis.Pipeliner, group string) *redis.StringCmd {
		return p.HGet(ctx, s.groupKeys(logicalCluster, group).owner, "epoch")
	}, func(i int, value string) { epochs[i], _ = strconv.ParseInt(value, 10, 64) })
	return epochs, err
}

// GroupFields returns one field of the state of each group, nil where there is none.
func (s *Store) GroupFields(ctx context.Context, logicalCluster string, groups []string, field string) ([][]byte, error) {
	values := make([][]byte, len(groups))
	err := s.eachGroup(ctx, groups, func(p redis.Pipeliner, group string) *redis.StringCmd {
		return p.HGet(ctx, s.groupKeys(logicalCluster, group).state, field)
	}, func(i int, value string) { values[i] = []byte(value) })
	return values, err
}

func (s *Store) eachGroup(ctx context.Context, groups []string, ask func(redis.Pipeliner, string) *redis.StringCmd, use func(int, string)) error {
	if len(groups) == 0 {
		return nil
	}
	pipe := s.rdb.Pipeline()
	asked := make([]*redis.StringCmd, len(groups))
	for i, g := range groups {
		asked[i] = ask(pipe, g)
	}
	if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		return unavailable(err)
	}
	for i, cmd := range asked {
		value, err := cmd.Result()
		switch {
		case errors.Is(err, redis.Nil):
		case err != nil:
			return unavailable(err)
		default:
			use(i, value)
		}
	}
	return nil
}

// GroupsCount returns how many groups something is stored of.
func (s *Store) GroupsCount(ctx context.Context, logicalCluster string) (int64, error) {
	n, err := s.rdb.ZCard(ctx, s.key(logicalCluster, "groups")).Result()
	return n, unavailable(err)
}

// Groups calls visit with the ids of all groups, in pages; an id can come twice.
func (s *Store) Groups(ctx context.Context, logicalCluster string, visit func([]string) error) error {
	var cursor uint64
	for {
		page, next, err := s.rdb.ZScan(ctx, s.key(logicalCluster, "groups"), cursor, "", 500).Result()
		if err != nil {
			return unavailable(err)
		}
		ids := make([]string, 0, len(page)/2)
		for i := 0; i < len(page); i += 2 { // member, score, ...
			ids = append(ids, page[i])
		}
		if err := visit(ids); err != nil {
			return err
		}
		if cursor = next; cursor == 0 {
			return nil
		}
	}
}

// GroupsUntouched returns up to limit groups that were last written before a
// time, oldest first, after skipping the first skip.
func (s *Store) GroupsUntouched(ctx context.Context, logicalCluster string, beforeMs int64, skip, limit int64) ([]string, error) {
	ids, err := s.rdb.ZRangeArgs(ctx, redis.ZRangeArgs{
		Key: s.key(logicalCluster, "groups"), ByScore: true,
		Start: "-inf", Stop: "(" + strconv.FormatInt(beforeMs, 10), Offset: skip, Count: limit,
	}).Result()
	return ids, unavailable(err)
}

// GroupOffsets returns stored offsets: those of keys, in their order, with
// Offset -1 where there is none; or all of the group's if keys is nil.
func (s *Store) GroupOffsets(ctx context.Context, logicalCluster, group string, keys []OffsetKey) ([]GroupOffset, error) {
	name := s.groupKeys(logicalCluster, group).offsets
	if keys == nil {
		all, err := s.rdb.HGetAll(ctx, name).Result()
		if err != nil {
			return nil, unavailable(err)
		}
		offsets := make([]GroupOffset, 0, len(all))
		for field, value := range all {
			o, err := parseOffset(field, value)
			if err != nil {
				return nil, federation.Errorf(federation.Internal, "group %q: %w", group, err)
			}
			offsets = append(offsets, o)
		}
		return offsets, nil
	}
	if len(keys) == 0 {
		return nil, nil
	}
	fields := make([]string, len(keys))
	for i, k := range keys {
		fields[i] = k.field()
	}
	values, err := s.rdb.HMGet(ctx, name, fields...).Result()
	if err != nil {
		return nil, unavailable(err)
	}
	offsets := make([]GroupOffset, len(keys))
	for i, v := range values {
		offsets[i] = GroupOffset{OffsetKey: keys[i], Offset: -1, Epoch: federation.NoEpoch}
		if value, ok := v.(string); ok {
			if offsets[i], err = parseOffset(fields[i], value); err != nil {
				return nil, federation.Errorf(federation.Internal, "group %q: %w", group, err)
			}
		}
	}
	return offsets, nil
}

func (k OffsetKey) field() string { return k.Topic.String() + "/" + strconv.Itoa(int(k.Partition)) }

func (o GroupOffset) value() []byte {
	b := strconv.AppendInt(nil, int64(o.Offset), 10)
	b = strconv.AppendInt(append(b, ' '), int64(o.Epoch), 10)
	b = strconv.AppendInt(append(b, ' '), o.CommittedMs, 10)
	return append(append(b, ' '), o.Metadata...)
}

// parseOffset reads what field and value wrote.
func parseOffset(field, value string) (GroupOffset, error) {
	bad := fmt.Errorf("stored offset %q = %.40q is not one of ours", field, value)
	topic, partition, ok := strings.Cut(field, "/")
	if !ok {
		return GroupOffset{}, bad
	}
	id, err := federation.ParseTopicID(topic)
	if err != nil {
		return GroupOffset{}, bad
	}
	p, err := strconv.ParseInt(partition, 10, 32)
	if err != nil {
		return GroupOffset{}, bad
	}
	parts := bytes.SplitN([]byte(value), []byte{' '}, 4)
	if len(parts) != 4 {
		return GroupOffset{}, bad
	}
	var n [3]int64
	for i := range n {
		if n[i], err = strconv.ParseInt(string(parts[i]), 10, 64); err != nil {
			return GroupOffset{}, bad
		}
	}
	return GroupOffset{
		OffsetKey:   OffsetKey{Topic: id, Partition: federation.LogicalPartition(p)},
		Offset:      federation.LogicalOffset(n[0]),
		Epoch:       federation.LogicalEpoch(n[1]),
		CommittedMs: n[2],
		Metadata:    string(parts[3]),
	}, nil
}

func errGroupTaken(group string) error {
	return federation.Errorf(federation.NotCoordinator, "group %q is coordinated by another gateway by now; look its coordinator up again", group)
}
