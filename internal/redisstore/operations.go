package redisstore

import (
	"context"
	"encoding/json"
	"fmt"
	"sort"
	"strconv"

	"github.com/redis/go-redis/v9"

	"github.com/braidmq/braid/federation"
)

// The keys of the operations.
const (
	keyOperations   = "operations"          // a hash from id to JSON
	keyOperationSeq = "operation:last"      // counts them
	keyOperationEnd = "operations:ended"    // a sorted set of the ended ones, by sequence
	keyRequests     = "operations:requests" // a hash from request id to operation id
	keyRequestOf    = "operations:request"  // the reverse, for trimming
	keyRevisions    = "operations:revision" // a hash from id to the revision that is stored
)

// An Operation is a long-running change, as Redis holds it: a leader that takes
// over goes on from State.
type Operation struct {
	ID        string          `json:"id"`
	Sequence  int64           `json:"sequence"`
	Kind      string          `json:"kind"`
	Target    string          `json:"target"`
	RequestID string          `json:"requestId,omitempty"`
	Spec      json.RawMessage `json:"spec,omitempty"`  // what was asked for
	State     json.RawMessage `json:"state,omitempty"` // how far it is
	Steps     []OperationStep `json:"steps,omitempty"`
	Cancel    bool            `json:"cancel,omitempty"` // somebody asked for its end
	Done      bool            `json:"done,omitempty"`
	// ErrorKind is the name of the error's kind; empty = no error.
	ErrorKind    string             `json:"errorKind,omitempty"`
	ErrorMessage string             `json:"errorMessage,omitempty"`
	ErrorSubject federation.Subject `json:"errorSubject,omitzero"`
	ErrorPublic  string             `json:"errorPublic,omitempty"` // what a tenant is told instead of the message
	// Revision grows with each save: one that arrives late does not undo a later one.
	Revision  int64 `json:"revision,omitempty"`
	StartedMs int64 `json:"startedMs"`
	EndedMs   int64 `json:"endedMs,omitempty"`
}

// An OperationStep is the progress of one step.
type OperationStep struct {
	Name   string `json:"name"`
	Done   int64  `json:"done"`
	Total  int64  `json:"total"`
	Detail string `json:"detail,omitempty"`
}

// KEYS fence, operations, requests, request-of; ARGV fencing, id, JSON, request id.
var operationCreate = redis.NewScript(`
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {-1, ''} end
if ARGV[4] ~= '' then
  local known = redis.call('HGET', KEYS[3], ARGV[4])
  if known then
    local op = redis.call('HGET', KEYS[2], known)
    if op and known ~= ARGV[2] then return {1, op} end
  end
  redis.call('HSET', KEYS[3], ARGV[4], ARGV[2])
  redis.call('HSET', KEYS[4], ARGV[2], ARGV[4])
end
redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
return {0, ARGV[3]}
`)

// KEYS fence, operations, requests, request-of, ended, revisions; ARGV fencing, id, JSON, 1 if done, sequence, how many ended ones to keep, revision.
var operationSave = redis.NewScript(`
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end
local stored = redis.call('HGET', KEYS[6], ARGV[2])
if stored and tonumber(stored) > tonumber(ARGV[7]) then return 0 end
if ARGV[4] ~= '1' and redis.call('ZSCORE', KEYS[5], ARGV[2]) then return 0 end
redis.call('HSET', KEYS[6], ARGV[2], ARGV[7])
redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
if ARGV[4] == '1' then
  redis.call('ZADD', KEYS[5], ARGV[5], ARGV[2])
  local surplus = redis.call('ZCARD', KEYS[5]) - tonumber(ARGV[6])
  if surplus > 0 then
    for _, id in ipairs(redis.call('ZRANGE', KEYS[5], 0, surplus - 1)) do
      local request = redis.call('HGET', KEYS[4], id)
      if request then redis.call('HDEL', KEYS[3], request) end
      redis.call('HDEL', KEYS[4], id)
      redis.call('HDEL', KEYS[2], id)
      redis.call('HDEL', KEYS[6], id)
      redis.call('ZREM', KEYS[5], id)
    end
  end
end
return 0
`)

// CreateOperation persists a new operation and gives it its id. If an operation
// with the same request id is known, that one is returned instead, and false.
// Errors: NotLeader, StoreUnavailable.
func (s *Store) CreateOperation(ctx context.Context, logicalCluster string, fencing int64, op Operation) (Operation, bool, error) {
	seq, err := s.rdb.Incr(ctx, s.key(logicalCluster, keyOperationSeq)).Result()
	if err != nil {
		return Operation{}, false, unavailable(err)
	}
	op.Sequence, op.ID = seq, op.Kind+"-"+strconv.FormatInt(seq, 10)
	b, err := json.Marshal(op)
	if err != nil {
		return Operation{}, false, fmt.Errorf("operation %s: %w", op.ID, err)
	}
	keys := []string{
		s.key(logicalCluster, keyFence), s.key(logicalCluster, keyOperations),
		s.key(logicalCluster, keyRequests), s.key(logicalCluster, keyRequestOf),
	}
	got, err := operationCreate.Run(ctx, s.rdb, keys, fencing, op.ID, b, op.RequestID).Slice()
	if err != nil {
		return Operation{}, false, unavailable(err)
	}
	switch got[0] {
	case int64(writeFenced):
		return Operation{}, false, errFenced(logicalCluster, fencing)
	case int64(writeOK):
		return op, true, nil
	}
	text, _ := got[1].(string)
	var known Operation
	if err := json.Unmarshal([]byte(text), &known); err != nil {
		return Operation{}, false, fmt.Errorf("operation of request %q: %w", op.RequestID, err)
	}
	return known, false, nil
}

// SaveOperation persists the progress of an operation. When one has ended, only
// the newest keep ended ones stay; running ones always do. A save of an older revision
// than the stored one has no effect, as what is stored has its changes; nor has one of an
// operation that has ended, unless it is its end. Errors: NotLeader,
// StoreUnavailable.
func (s *Store) SaveOperation(ctx context.Context, logicalCluster string, fencing int64, op Operation, keep int) error {
	b, err := json.Marshal(op)
	if err != nil {
		return fmt.Errorf("operation %s: %w", op.ID, err)
	}
	keys := []string{
		s.key(logicalCluster, keyFence), s.key(logicalCluster, keyOperations),
		s.key(logicalCluster, keyRequests), s.key(logicalCluster, keyRequestOf), s.key(logicalCluster, keyOperationEnd), s.key(logicalCluster, keyRevisions),
	}
	n, err := operationSave.Run(ctx, s.rdb, keys, fencing, op.ID, b, flag(op.Done), op.Sequence, keep, op.Revision).Int64()
	if err != nil {
		return unavailable(err)
	}
	if n == writeFenced {
		return errFenced(logicalCluster, fencing)
	}
	return nil
}

// Operations returns all operations that are known, newest first.
func (s *Store) Operations(ctx context.Context, logicalCluster string) ([]Operation, error) {
	all, err := s.rdb.HVals(ctx, s.key(logicalCluster, keyOperations)).Result()
	if err != nil {
		return nil, unavailable(err)
	}
	out := make([]Operation, 0, len(all))
	for _, text := range all {
		var op Operation
		if err := json.Unmarshal([]byte(text), &op); err != nil {
			return nil, fmt.Errorf("operations of logical cluster %q: %w", logicalCluster, err)
		}
		out = append(out, op)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Sequence > out[j].Sequence })
	return out, nil
}

func flag(b bool) string {
	if b {
		return "1"
	}
	return "0"
}
