package redisstore

import (
	"context"
	"fmt"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/braidmq/braid/federation"
)

// The keys of the controllers and of the numbers that are given out once.
const (
	keyFence       = "controller:fence"  // counts the take-overs; its value is the last leader's fencing number
	keyLeader      = "controller:leader" // the lease: a hash
	keyControllers = "controllers"       // a hash from id to "expiry url"
	keyNodes       = "nodes"             // a hash from gateway id to node id
	keyNodeLast    = "node:last"
	keyGenerations = "generations" // a hash from topic name to the generation given out last
)

// A Candidate is a controller that wants to lead. The incarnation is new at each
// start of the process.
type Candidate struct {
	ID, URL, Incarnation string
	// Met is the highest fencing number that the candidate has met. The next one is
	// above it, even if Redis has lost its own count: gateways take nothing from a
	// controller with a lower one.
	Met int64
}

// A Leader is the controller that leads.
type Leader struct {
	ID, URL string
	// Fencing is raised at each take-over; every write of the leader is checked with it.
	Fencing int64
}

// A ControllerInfo is a controller that lives.
type ControllerInfo struct {
	ID, URL string
}

// leaderSeize takes the lead from whoever has it: the fence is raised, so nothing
// that the former leader sends is taken any more, its renewals neither.
//
//	KEYS fence, leader
//	ARGV as of leaderAcquire
var leaderSeize = redis.NewScript(`
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
if tonumber(redis.call('GET', KEYS[1]) or '0') < tonumber(ARGV[5]) then redis.call('SET', KEYS[1], ARGV[5]) end
local fencing = redis.call('INCR', KEYS[1])
redis.call('HSET', KEYS[2], 'id', ARGV[1], 'url', ARGV[2], 'incarnation', ARGV[3], 'fencing', fencing,
  'expires', string.format('%d', now + ARGV[4]))
redis.call('PEXPIRE', KEYS[2], ARGV[4])
return {1, ARGV[1], ARGV[2], tostring(fencing)}
`)

// The lease holds its own expiry, by the clock of Redis: the time to live of the
// key only sweeps it up.
//
//	KEYS fence, leader
//	ARGV id, url, incarnation, ttl in ms, the highest fencing number that the candidate has met
var leaderAcquire = redis.NewScript(`
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local l = redis.call('HMGET', KEYS[2], 'id', 'url', 'incarnation', 'fencing', 'expires')
if l[5] and tonumber(l[5]) > now and l[3] ~= ARGV[3] then return {0, l[1], l[2], l[4]} end
if tonumber(redis.call('GET', KEYS[1]) or '0') < tonumber(ARGV[5]) then redis.call('SET', KEYS[1], ARGV[5]) end
local fencing = redis.call('INCR', KEYS[1])
redis.call('HSET', KEYS[2], 'id', ARGV[1], 'url', ARGV[2], 'incarnation', ARGV[3], 'fencing', fencing,
  'expires', string.format('%d', now + ARGV[4]))
redis.call('PEXPIRE', KEYS[2], ARGV[4])
return {1, ARGV[1], ARGV[2], tostring(fencing)}
`)

// leaderRenew also takes back a lease that ran out, while nobody has led since.
//
//	KEYS fence, leader
//	ARGV id, url, incarnation, ttl in ms, fencing
var leaderRenew = redis.NewScript(`
if redis.call('GET', KEYS[1]) ~= ARGV[5] then return 0 end
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
redis.call('HSET', KEYS[2], 'id', ARGV[1], 'url', ARGV[2], 'incarnation', ARGV[3], 'fencing', ARGV[5],
  'expires', string.format('%d', now + ARGV[4]))
redis.call('PEXPIRE', KEYS[2], ARGV[4])
return 1
`)

// KEYS leader; ARGV fencing.
var leaderRelease = redis.NewScript(`
if redis.call('HGET', KEYS[1], 'fencing') == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
`)

// KEYS leader.
var leaderGet = redis.NewScript(`
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local l = redis.call('HMGET', KEYS[1], 'id', 'url', 'fencing', 'expires')
if not l[4] or tonumber(l[4]) <= now then return {0} end
return {1, l[1], l[2], l[3]}
`)

// KEYS controllers; ARGV id, url, ttl in ms. Sweeps up those that are gone.
var controllerAnnounce = redis.NewScript(`
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local expires = tonumber(string.match(all[i + 1], '^(%d+) '))
  if not expires or expires <= now then redis.call('HDEL', KEYS[1], all[i]) end
end
redis.call('HSET', KEYS[1], ARGV[1], string.format('%d', now + ARGV[3]) .. ' ' .. ARGV[2])
return 1
`)

// KEYS controllers. Answers with the live ones.
var controllerList = redis.NewScript(`
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local all = redis.call('HGETALL', KEYS[1])
local out = {}
for i = 1, #all, 2 do
  local expires = tonumber(string.match(all[i + 1], '^(%d+) '))
  if expires and expires > now then
    out[#out + 1] = all[i]
    out[#out + 1] = all[i + 1]
  end
end
return out
`)

// KEYS nodes, node:last; ARGV gateway id, the least id to give out.
var nodeAllocate = redis.NewScript(`
local have = redis.call('HGET', KEYS[1], ARGV[1])
if have then return tonumber(have) end
local last = tonumber(redis.call('GET', KEYS[2]) or '0')
if last + 1 < tonumber(ARGV[2]) then redis.call('SET', KEYS[2], ARGV[2] - 1) end
local n = redis.call('INCR', KEYS[2])
redis.call('HSET', KEYS[1], ARGV[1], n)
return n
`)

// AcquireLeadership takes the lead for ttl if nobody holds it, and returns the
// leader and whether that is the candidate. Each take-over gets a new, higher
// fencing number, also one by the candidate that led before.
func (s *Store) AcquireLeadership(ctx context.Context, logicalCluster string, c Candidate, ttl time.Duration) (Leader, bool, error) {
	keys := []string{s.key(logicalCluster, keyFence), s.key(logicalCluster, keyLeader)}
	got, err := leaderAcquire.Run(ctx, s.rdb, keys, c.ID, c.URL, c.Incarnation, ttl.Milliseconds(), c.Met).Slice()
	if err != nil {
		return Leader{}, false, unavailable(err)
	}
	l, err := parseLeader(got)
	return l, err == nil && got[0] == int64(1), err
}

// SeizeLeadership is AcquireLeadership that does not wait for the one who leads.
func (s *Store) SeizeLeadership(ctx context.Context, logicalCluster string, c Candidate, ttl time.Duration) (Leader, error) {
	keys := []string{s.key(logicalCluster, keyFence), s.key(logicalCluster, keyLeader)}
	got, err := leaderSeize.Run(ctx, s.rdb, keys, c.ID, c.URL, c.Incarnation, ttl.Milliseconds(), c.Met).Slice()
	if err != nil {
		return Leader{}, unavailable(err)
	}
	return parseLeader(got)
}

// RenewLeadership extends the lease; false means that another controller has
// taken the lead since.
func (s *Store) RenewLeadership(ctx context.Context, logicalCluster string, c Candidate, fencing int64, ttl time.Duration) (bool, error) {
	keys := []string{s.key(logicalCluster, keyFence), s.key(logicalCluster, keyLeader)}
	n, err := leaderRenew.Run(ctx, s.rdb, keys, c.ID, c.URL, c.Incarnation, ttl.Milliseconds(), fencing).Int64()
	return n == 1, unavailable(err)
}

// ReleaseLeadership gives the lead up, so that a standby need not wait. It does
// nothing if another controller has taken it already.
func (s *Store) ReleaseLeadership(ctx context.Context, logicalCluster string, fencing int64) error {
	return unavailable(leaderRelease.Run(ctx, s.rdb, []string{s.key(logicalCluster, keyLeader)}, fencing).Err())
}

// Leader returns who leads; false if nobody does at this moment.
func (s *Store) Leader(ctx context.Context, logicalCluster string) (Leader, bool, error) {
	got, err := leaderGet.Run(ctx, s.rdb, []string{s.key(logicalCluster, keyLeader)}).Slice()
	if err != nil {
		return Leader{}, false, unavailable(err)
	}
	if got[0] != int64(1) {
		return Leader{}, false, nil
	}
	l, err := parseLeader(got)
	return l, err == nil, err
}

// parseLeader reads {_, id, url, fencing}.
func parseLeader(got []any) (Leader, error) {
	if len(got) != 4 {
		return Leader{}, fmt.Errorf("leader lease: %d fields instead of 4", len(got))
	}
	id, _ := got[1].(string)
	url, _ := got[2].(string)
	text, _ := got[3].(string)
	fencing, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return Leader{}, fmt.Errorf("leader lease: fencing number: %w", err)
	}
	return Leader{ID: id, URL: url, Fencing: fencing}, nil
}

// AnnounceController lists a controller as alive for ttl.
func (s *Store) AnnounceController(ctx context.Context, logicalCluster string, c Candidate, ttl time.Duration) error {
	keys := []string{s.key(logicalCluster, keyControllers)}
	return unavailable(controllerAnnounce.Run(ctx, s.rdb, keys, c.ID, c.URL, ttl.Milliseconds()).Err())
}

// WithdrawController takes a controller that stops off the list.
func (s *Store) WithdrawController(ctx context.Context, logicalCluster, id string) error {
	return unavailable(s.rdb.HDel(ctx, s.key(logicalCluster, keyControllers), id).Err())
}

// Controllers returns the controllers that are alive, by id.
func (s *Store) Controllers(ctx context.Context, logicalCluster string) ([]ControllerInfo, error) {
	got, err := controllerList.Run(ctx, s.rdb, []string{s.key(logicalCluster, keyControllers)}).StringSlice()
	if err != nil {
		return nil, unavailable(err)
	}
	out := make([]ControllerInfo, 0, len(got)/2)
	for i := 0; i+1 < len(got); i += 2 {
		_, url, _ := strings.Cut(got[i+1], " ")
		out = append(out, ControllerInfo{ID: got[i], URL: url})
	}
	sort.Slice(out, func(i, j int) bool { return out[i].ID < out[j].ID })
	return out, nil
}

// NodeID returns the Kafka node id of a gateway, from 1 on. The first call for a
// gateway id gives one out, of at least least (above those in the map, in case
// Redis has lost its count); no other gateway ever gets it.
func (s *Store) NodeID(ctx context.Context, logicalCluster string, gateway federation.GatewayID, least federation.NodeID) (federation.NodeID, error) {
	keys := []string{s.key(logicalCluster, keyNodes), s.key(logicalCluster, keyNodeLast)}
	n, err := nodeAllocate.Run(ctx, s.rdb, keys, string(gateway), int32(least)).Int64()
	if err != nil {
		return 0, unavailable(err)
	}
	return federation.NodeID(n), nil
}

// NextGeneration gives out the next generation of a topic name, from 1 on: it is
// part of the names of physical topics, so that none is ever used twice. Names
// that differ only by dots and underscores count together, since Kafka takes
// them for colliding (Topic.hasCollision).
func (s *Store) NextGeneration(ctx context.Context, logicalCluster string, topic federation.TopicName) (int32, error) {
	field := strings.ReplaceAll(string(topic), ".", "_")
	n, err := s.rdb.HIncrBy(ctx, s.key(logicalCluster, keyGenerations), field, 1).Result()
	return int32(n), unavailable(err) // a name is not created two billion times
}
