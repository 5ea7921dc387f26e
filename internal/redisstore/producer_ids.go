package redisstore

import (
	"context"
	"errors"

	"github.com/redis/go-redis/v9"

	"github.com/braidmq/braid/federation"
)

// ProducerIDFirst is the first producer id that braid hands out. Kafka clusters
// allocate theirs in blocks from 0 up, so the two never meet.
const ProducerIDFirst int64 = 1 << 48

// producerIDBlock is how many ids a process takes from Redis at a time; those
// that it does not use are lost, which a range of 2^62 bears.
const producerIDBlock = 1000

// ProducerIDs hands out producer ids, unique over all logical clusters of a
// Redis: the physical clusters are shared. It is safe for concurrent use.
type ProducerIDs struct {
	s *Store

	turn      chan struct{} // capacity 1: who holds it owns the following
	next, end int64
}

// ProducerIDs makes an allocator of this process.
func (s *Store) ProducerIDs() *ProducerIDs {
	return &ProducerIDs{s: s, turn: make(chan struct{}, 1)}
}

// takeBlock raises the counter by ARGV[2] from at least ARGV[1], and returns
// where the block begins. A Redis that lost the key must not begin anew below
// ids that are in use, so a counter that is missing begins at a place that
// grows by a block each second: blocks are taken more slowly than that.
var takeBlock = redis.NewScript(`
local first, block = tonumber(ARGV[1]), tonumber(ARGV[2])
local at = tonumber(redis.call('GET', KEYS[1]) or '0')
local now = redis.call('TIME')
if at < first then
  at = first + (tonumber(now[1]) - 1700000000) * block
end
redis.call('SET', KEYS[1], string.format('%.0f', at + block))
return string.format('%.0f', at)
`)

// Given returns the range of the ids that were handed out, to anybody.
func (p *ProducerIDs) Given(ctx context.Context) (first, end int64, err error) {
	end, err = p.s.rdb.Get(ctx, p.key()).Int64()
	switch {
	case errors.Is(err, redis.Nil):
		return ProducerIDFirst, ProducerIDFirst, nil
	case err != nil:
		return 0, 0, unavailable(err)
	}
	return ProducerIDFirst, end, nil
}

func (p *ProducerIDs) key() string { return p.s.prefix + ":{fleet}:producer-ids" }

// NextProducerID returns an id that was never returned before.
func (p *ProducerIDs) NextProducerID(ctx context.Context) (int64, error) {
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	case <-ctx.Done():
		return -1, ctx.Err()
	}
	if p.next < p.end {
		p.next++
		return p.next - 1, nil
	}
	at, err := takeBlock.Run(ctx, p.s.rdb, []string{p.key()}, ProducerIDFirst, producerIDBlock).Int64()
	if err != nil {
		return -1, unavailable(err)
	}
	if at < ProducerIDFirst {
		return -1, federation.Errorf(federation.Internal, "the store handed out the producer id %d below %d", at, ProducerIDFirst)
	}
	p.next, p.end = at+1, at+producerIDBlock
	return at, nil
}
