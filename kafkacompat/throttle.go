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

// A mute says until when a connection is not read, and for whose quotas.
type mute struct {
	until time.Time
	of    *quota.Client
}

// mute has the connection not be read for d from now on, and the answer say so. A mute
// for quotas that have changed since counts no more.
func (c *conn) mute(req *request, d time.Duration) {
	if d <= 0 {
		return
	}
	req.until = time.Now().Add(d)
	next := &mute{req.until, req.limits}
	for {
		old := c.muted.Load()
		if old != nil && !old.until.Before(next.until) && old.of.Valid() {
			return
		}
		if c.muted.CompareAndSwap(old, next) {
			return
		}
	}
}

// awaitTurn waits while the connection is not to be read.
func (c *conn) awaitTurn(ctx context.Context) error {
	m := c.muted.Load()
	if m == nil || !time.Now().Before(m.until) {
		return nil
	}
	return m.of.Wait(ctx, m.until, c.s.draining)
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
	writeFetchThrottle(head, req, req.throttleMillis())
}

// writeFetchThrottle writes how long the client has to wait behind the head of an answer.
func writeFetchThrottle(head []byte, req *request, millis int32) {
	at := frameLengthBytes + 4 // the correlation id
	if req.version >= 12 {
		at++ // tags
	}
	binary.BigEndian.PutUint32(head[at:], uint32(millis))
}

// throttledFetch answers a Fetch request without records if its client owes for those
// that it got before, by this connection or another one (FetchContext.getThrottledResponse).
// A session that would begin does not: clients take an empty first answer as none.
func (c *conn) throttledFetch(ctx context.Context, req *request, s *fetchSession, full bool) (response, bool) {
	owed := req.limits.Refuse(ctx, quota.Consume)
	if owed <= 0 {
		return response{}, false
	}
	if full && s == c.fetches {
		c.endFetchSession(ctx)
	}
	c.mute(req, max(owed, req.limits.TakeRequest(ctx, req.work)))
	resp := encodeFetch(req, 0, s.id, nil, nil)
	// Without a time to wait, Java takes a full answer that is empty for a broken one.
	writeFetchThrottle(resp.vecs[0], req, max(1, req.throttleMillis()))
	return resp, true
}

// mutate makes a change of so many partitions of topics, and counts it if it was made. A
// client that knows the error is refused while it owes for earlier ones (KIP-599), unless
// check finds that the change is wrong anyway; others are made to wait afterwards.
func (c *conn) mutate(ctx context.Context, req *request, knows int16, partitions int, check, change func() error) error {
	n := float64(partitions)
	if !req.limits.Counts(quota.Mutations) {
		return change()
	}
	if req.version < knows {
		err := change()
		if err == nil {
			c.mute(req, req.limits.Take(ctx, quota.Mutations, n))
		}
		return err
	}
	d, ok := req.limits.Try(ctx, quota.Mutations, n)
	if !ok {
		if err := check(); err != nil {
			return err
		}
		c.mute(req, d)
		return errMutations
	}
	err := change()
	if err != nil {
		req.limits.Give(quota.Mutations, n)
	}
	return err
}

const throttledMessage = "The throttling quota has been exceeded: controller_mutation_rate. Try again after the throttle time."

// errMutations is mapped to THROTTLING_QUOTA_EXCEEDED.
var errMutations = federation.Errorf(federation.Throttled, "%s", throttledMessage)

// limitsOf finds the quotas of the client of the connection's newest request. Until it is
// known who the client is, it has none.
func (c *conn) limitsOf() *quota.Client {
	if !c.known {
		return nil
	}
	c.limits = c.s.deps.Limiter.Client(c.limits, c.user, c.clientID)
	return c.limits
}
