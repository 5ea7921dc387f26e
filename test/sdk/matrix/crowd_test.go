//go:build real

package matrix_test

import (
	"context"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/braidmq/braid/test/sdk/matrix"
)

const (
	crowdSize = 200
	// crowdBound is a bound for a busy machine; what it really takes is printed.
	crowdBound = 2 * time.Minute
)

// tryCrowds has groups of many members by both protocols, each an unmodified client with
// connections of its own, and tells how long they take until each has its partition.
func tryCrowds(t *testing.T, f *federation, results *matrix.Results) {
	for _, protocol := range []string{"classic", "KIP-848"} {
		t.Run(strconv.Itoa(crowdSize)+" members, "+protocol, func(t *testing.T) {
			c := &crowd{federation: f, protocol: protocol, topic: "crowd-" + protocol, group: "crowd-" + protocol}
			f.MustBraid(t, "", "topic", "create", c.topic, "--partitions", strconv.Itoa(crowdSize))
			joined := c.add(t, crowdSize-1)
			one := c.add(t, 1)
			leaves := time.Now()
			c.members[0].Close() // others may have its partition before it returns
			c.settled(t, crowdSize-1)
			left := time.Since(leaves)
			t.Logf("%s: %d members have their partitions %.1f s after they began; with one more after %.1f s; without one that left after %.1f s",
				protocol, crowdSize-1, joined.Seconds(), one.Seconds(), left.Seconds())
			results.Crowd(protocol, crowdSize-1, joined, one, left)
		})
	}
}

type crowd struct {
	*federation
	protocol, topic, group string

	members []*kgo.Client
	mine    []map[int32]bool
	mu      sync.Mutex
}

// add starts members, and returns how long it took until all have their partitions.
func (c *crowd) add(t *testing.T, count int) time.Duration {
	t.Helper()
	begin := time.Now()
	for range count {
		c.mu.Lock()
		index := len(c.mine)
		c.mine = append(c.mine, make(map[int32]bool))
		c.mu.Unlock()
		change := func(has bool) func(context.Context, *kgo.Client, map[string][]int32) {
			return func(_ context.Context, _ *kgo.Client, topics map[string][]int32) {
				c.mu.Lock()
				defer c.mu.Unlock()
				for _, p := range topics[c.topic] {
					c.mine[index][p] = has
				}
			}
		}
		opts := []kgo.Opt{
			kgo.SeedBrokers(c.bootstrap()), kgo.ConsumeTopics(c.topic), kgo.ConsumerGroup(c.group),
			kgo.OnPartitionsAssigned(change(true)), kgo.OnPartitionsRevoked(change(false)), kgo.OnPartitionsLost(change(false)),
		}
		if c.protocol != "classic" {
			opts = append(opts, kgo.ServerSideBalancer())
		}
		client, err := kgo.NewClient(opts...)
		require.NoError(t, err)
		t.Cleanup(client.Close)
		c.members = append(c.members, client)
		go func() { // what an application does: rebalances go on while it polls
			for !client.PollFetches(t.Context()).IsClientClosed() && t.Context().Err() == nil {
			}
		}()
	}
	c.settled(t, len(c.mine))
	return time.Since(begin)
}

// settled returns when so many members have all partitions, each at one of them, and each
// member has one.
func (c *crowd) settled(t *testing.T, count int) {
	t.Helper()
	require.Eventually(t, func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		held := make([]int, crowdSize)
		with := 0
		for _, mine := range c.mine {
			some := 0
			for p, has := range mine {
				if has {
					held[p]++
					some = 1
				}
			}
			with += some
		}
		return with == count && !slices.ContainsFunc(held, func(n int) bool { return n != 1 })
	}, crowdBound, 20*time.Millisecond, "a stable assignment of %d members", count)
}
