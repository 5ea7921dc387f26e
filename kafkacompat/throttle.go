package kafkacompat

import (
	"context"
	"encoding/binary"
	"math"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/quota"
)

// A client that is over a quota is answered at once, with the time that it has to wait;
// and its connection is not read for so long, whether it waits or not (KIP-219). That is
// so for every version of every API, as at brokers since 2.0. Requests that were read
// before are answered in the meantime.

// mute has the connection not be read for d from now on, and the answer say so.
func (c *conn) mute(req *request, d time.Duration) {
	if d <= 0 {
		return
	}
	now := time.Now()
	req.until = now.Add(d)
	until := int64(req.until.Sub(c.began))
	for {
		old := c.mutedUntil.Load()
		if old >= until {
			return
		}
		if c.mutedUntil.CompareAndSwap(old, until) {
			c.mutedFor.Store(req.limits)
			return
		}
	}
}

// awaitTurn waits while the connection is not to be read.
func (c *conn) awaitTurn(ctx context.Context) error {
	until := c.mutedUntil.Load()
	if until == 0 || int64(time.Since(c.began)) >= until {
		return nil
	}
	return c.mutedFor.Load().Wait(ctx, c.began.Add(time.Duration(until)), c.s.draining)
}

// throttleMillis is what the answer says of how long its client has to wait.
func (r *request) throttleMillis() int32 {
	if r.until.IsZero() {
		return 0
	}
	left := time.Until(r.until)
	return int32(min(max((left+time.Millisecond-1).Milliseconds(), 0), math.MaxInt32))
}

// throttle counts a request for the quotas of requests, and has its answer say if the
// client has to wait.
func (c *conn) throttle(ctx context.Context, req *request, kresp kmsg.Response) {
	if req.limits == nil {
		return
	}
	c.mute(req, req.limits.TakeRequest(ctx, req.work))
	if req.mutations > 0 {
		c.mute(req, req.limits.Take(ctx, quota.Mutations, float64(req.mutations)))
	}
	if t, ok := kresp.(interface{ SetThrottle(millis int32) }); ok {
		t.SetThrottle(req.throttleMillis())
	}
}

// throttleProduce counts a Produce request when it was read: its bytes were taken.
func (c *conn) throttleProduce(ctx context.Context, req *request) {
	if req.limits == nil {
		return
	}
	bytes := req.limits.Take(ctx, quota.Produce, float64(len(req.frame.b)+frameLengthBytes))
	c.mute(req, max(bytes, req.limits.TakeRequest(ctx, req.work)))
}

// frameLengthBytes is the length that goes before a request or an answer.
const frameLengthBytes = 4

// throttleFetch counts the answer to a Fetch request, and writes into it how long the
// client has to wait.
func (c *conn) throttleFetch(ctx context.Context, req *request, resp *response) {
	if req.limits == nil {
		return
	}
	head := resp.vecs[0]
	bytes := req.limits.Take(ctx, quota.Consume, float64(binary.BigEndian.Uint32(head)+frameLengthBytes))
	c.mute(req, max(bytes, req.limits.TakeRequest(ctx, req.work)))
	writeFetchThrottle(head, req)
}

// writeFetchThrottle writes how long the client has to wait behind the head of an answer.
func writeFetchThrottle(head []byte, req *request) {
	at := frameLengthBytes + 4 // the correlation id
	if req.version >= 12 {
		at++ // tags
	}
	binary.BigEndian.PutUint32(head[at:], uint32(req.throttleMillis()))
}

// throttledFetch answers a Fetch request without records if its client owes for those
// that it got before, by this connection or another one (FetchContext.getThrottledResponse).
// A session that would begin does not: clients take an empty first answer as none.
func (c *conn) throttledFetch(ctx context.Context, req *request, s *fetchSession, full bool) (response, bool) {
	owed := req.limits.Owes(quota.Consume)
	if owed <= 0 {
		return response{}, false
	}
	if full && s == c.fetches {
		c.endFetchSession(ctx)
	}
	c.mute(req, max(owed, req.limits.TakeRequest(ctx, req.work)))
	resp := encodeFetch(req, 0, s.id, nil, nil)
	writeFetchThrottle(resp.vecs[0], req)
	return resp, true
}

// mayMutate counts a change of so many partitions of topics. A client that knows the error
// is refused while it owes for earlier ones (KIP-599); others are made to wait afterwards.
func (c *conn) mayMutate(ctx context.Context, req *request, knows int16, partitions int) bool {
	if !req.limits.Counts(quota.Mutations) {
		return true
	}
	if req.version < knows {
		c.mute(req, req.limits.Take(ctx, quota.Mutations, float64(partitions)))
		return true
	}
	d, ok := req.limits.Try(ctx, quota.Mutations, float64(partitions))
	c.mute(req, d)
	return ok
}

const throttledMessage = "The throttling quota has been exceeded: controller_mutation_rate. Try again after the throttle time."

// errMutations is mapped to THROTTLING_QUOTA_EXCEEDED.
var errMutations = federation.Errorf(federation.Throttled, "%s", throttledMessage)

// limitsOf finds the quotas of the client of the connection's newest request.
func (c *conn) limitsOf() *quota.Client {
	c.limits = c.s.deps.Limiter.Client(c.limits, c.user, c.clientID)
	return c.limits
}
