package redisstore

import (
	"context"
	"crypto/rand"
	"fmt"
	"strconv"

	"github.com/redis/go-redis/v9"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/federation/wire"
	controlv1 "github.com/braidmq/braid/gen/braid/control/v1"
)

// The keys of a logical cluster's map: a hash from entry key to entry bytes, and
// a hash with its version and the token of the write that made it.
const (
	keyMap     = "map"
	keyMapHead = "map:head"
)

// What the scripts answer that check the caller's right to write.
const (
	writeOK       = 0
	writeFenced   = -1
	writeConflict = -2
)

// mapWrite changes the map by compare and set. The token tells a repeat of this
// very write (its answer was lost, the driver sent it again) from another one.
//
//	KEYS fence, head, map
//	ARGV fencing, from, to, token, number of upserts, (key, bytes)..., deleted keys...
var mapWrite = redis.NewScript(`
local version = redis.call('HGET', KEYS[2], 'version') or '0'
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {-1, version} end
if version == ARGV[3] and redis.call('HGET', KEYS[2], 'token') == ARGV[4] then return {0, version} end
if version ~= ARGV[2] then return {-2, version} end
local last = 5 + 2 * tonumber(ARGV[5])
for i = 6, last, 2 do redis.call('HSET', KEYS[3], ARGV[i], ARGV[i + 1]) end
for i = last + 1, #ARGV do redis.call('HDEL', KEYS[3], ARGV[i]) end
redis.call('HSET', KEYS[2], 'version', ARGV[3], 'token', ARGV[4], 'fencing', ARGV[1])
return {0, ARGV[3]}
`)

// LoadMap reads the map of a logical cluster, all of one version. A logical
// cluster without a map has an empty one of version 0.
func (s *Store) LoadMap(ctx context.Context, logicalCluster string) (*federation.Map, error) {
	tx := s.rdb.TxPipeline()
	head := tx.HGetAll(ctx, s.key(logicalCluster, keyMapHead))
	all := tx.HGetAll(ctx, s.key(logicalCluster, keyMap))
	if _, err := tx.Exec(ctx); err != nil {
		return nil, unavailable(err)
	}
	if len(head.Val()) == 0 {
		return EmptyMap(logicalCluster), nil
	}
	version, err := strconv.ParseInt(head.Val()["version"], 10, 64)
	if err != nil {
		return nil, fmt.Errorf("map of logical cluster %q: version: %w", logicalCluster, err)
	}
	entries := make([]*controlv1.MapEntry, 0, len(all.Val()))
	for key, value := range all.Val() {
		e, err := wire.Unmarshal([]byte(value))
		if err != nil {
			return nil, fmt.Errorf("map of logical cluster %q: %q: %w", logicalCluster, key, err)
		}
		if e.GetKey() != key {
			return nil, fmt.Errorf("map of logical cluster %q: %q holds the entry %q", logicalCluster, key, e.GetKey())
		}
		entries = append(entries, e)
	}
	m, err := wire.Decode(federation.MapVersion(version), entries)
	if err != nil {
		return nil, fmt.Errorf("logical cluster %q: %w", logicalCluster, err)
	}
	return m, nil
}

// EmptyMap is the map of a logical cluster that has none yet: version 0.
func EmptyMap(logicalCluster string) *federation.Map {
	m := &federation.Map{
		LogicalCluster: logicalCluster,
		Clusters:       make(map[federation.ClusterName]*federation.Cluster),
		Topics:         make(map[federation.TopicName]*federation.Topic),
	}
	return m.Seal()
}

// WriteMap applies a delta to the map in one step, if the controller with this
// fencing number is still the last one that took the lead, and if the map still
// is at the version where the delta begins. Errors: NotLeader, Conflict (the map
// is at another version: load it again), StoreUnavailable. After any error but
// the first two it is not known whether the delta was written.
func (s *Store) WriteMap(ctx context.Context, logicalCluster string, fencing int64, d wire.Delta) error {
	args := make([]any, 0, 5+2*len(d.Upserts)+len(d.Deletes))
	args = append(args, fencing, int64(d.From), int64(d.To), rand.Text(), len(d.Upserts))
	for _, e := range d.Upserts {
		b, err := wire.Marshal(e)
		if err != nil {
			return err
		}
		args = append(args, e.GetKey(), b)
	}
	for _, key := range d.Deletes {
		args = append(args, key)
	}
	keys := []string{
		s.key(logicalCluster, keyFence),
		s.key(logicalCluster, keyMapHead),
		s.key(logicalCluster, keyMap),
	}
	got, err := mapWrite.Run(ctx, s.rdb, keys, args...).Slice()
	if err != nil {
		return unavailable(err)
	}
	code, _ := got[0].(int64)
	switch code {
	case writeOK:
		return nil
	case writeFenced:
		return errFenced(logicalCluster, fencing)
	default:
		return federation.Errorf(federation.Conflict, "map of logical cluster %q: is at version %v, not %d", logicalCluster, got[1], d.From)
	}
}

func errFenced(logicalCluster string, fencing int64) error {
	return federation.Errorf(federation.NotLeader, "this controller no longer leads logical cluster %q (its number was %d)", logicalCluster, fencing)
}
