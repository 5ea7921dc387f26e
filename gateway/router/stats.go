package router

import (
	"sync/atomic"

	"github.com/braidmq/braid/internal/upstream"
)

// Stats are counters since the router began; they only grow, but for
// AppendBytesInFlight, ReadAheadBytes and Lanes.
type Stats struct {
	Appends             int64 // batches submitted
	AppendBytes         int64
	AppendRequests      int64 // Produce requests to brokers
	AppendRetries       int64 // batches sent again
	AppendFailures      int64 // batches answered with an error
	AppendBytesInFlight int64
	HeldAppends         int64 // batches that waited for a head that was being moved
	RepeatedAppends     int64 // batches that were in the log from before their head was opened
	ProducerQueries     int64 // questions to brokers which producers a head knows
	TailBytes           int64 // read from the tail caches
	DirectBytes         int64 // read by direct reads
	DirectReads         int64 // partitions asked for in direct reads
	TailFetches         int64 // requests of the tails
	LeaderReadBytes     int64 // records that leaders have sent
	FollowerReadBytes   int64 // records that followers have sent, in the zone of the gateway
	ReadAheadBytes      int64 // reserved at this moment for what readers have not asked for yet
	Lanes               int64 // that clients are spread over
}

type counters struct {
	appends, appendBytes, appendRequests, appendRetries, appendFailures, inFlight atomic.Int64
	heldAppends, repeats, producerQueries                                         atomic.Int64
	tailBytes, directBytes, directReads, tailFetches                              atomic.Int64
	leaderRead, followerRead                                                      atomic.Int64
}

// from counts records that a broker has sent.
func (c *counters) from(s upstream.Source, bytes int) {
	if s.Follower {
		c.followerRead.Add(int64(bytes))
		return
	}
	c.leaderRead.Add(int64(bytes))
}

// Stats returns the counters of this moment.
func (r *Router) Stats() Stats {
	c := &r.count
	return Stats{
		Appends: c.appends.Load(), AppendBytes: c.appendBytes.Load(), AppendRequests: c.appendRequests.Load(), AppendRetries: c.appendRetries.Load(),
		AppendFailures: c.appendFailures.Load(), AppendBytesInFlight: c.inFlight.Load(),
		HeldAppends: c.heldAppends.Load(), RepeatedAppends: c.repeats.Load(), ProducerQueries: c.producerQueries.Load(),
		TailBytes: c.tailBytes.Load(), DirectBytes: c.directBytes.Load(), DirectReads: c.directReads.Load(), TailFetches: c.tailFetches.Load(),
		LeaderReadBytes: c.leaderRead.Load(), FollowerReadBytes: c.followerRead.Load(), ReadAheadBytes: r.ahead.Load(), Lanes: int64(r.lanesUsed.Load()),
	}
}
