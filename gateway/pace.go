package gateway

import (
	"context"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/braidmq/braid/federation"
	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	braidv1 "github.com/braidmq/braid/gen/braid/v1"
	"github.com/braidmq/braid/internal/quota"
	"github.com/braidmq/braid/internal/rpcerror"
	"github.com/braidmq/braid/internal/security"
)

// Streams over a quota are slowed down and never ended: a produce stream is not read, and
// gets no credit, until what it has sent is paid for; streams that deliver wait before
// the next frame. Calls wait before they are served, and are refused with THROTTLED,
// which names the time, if their deadline is too near.

// limits returns what the caller may take under a client id; last is what the call before
// returned for the stream, or nil.
func (g *Gateway) limits(ctx context.Context, last *quota.Client, clientID string) *quota.Client {
	if g.deps.Limiter == nil {
		return nil
	}
	return g.deps.Limiter.Client(last, security.PrincipalOf(ctx).Name, clientID)
}

// clientIDMax bounds the client id of a call or stream, which is kept as long as the
// stream, and with a group. Quotas have names of at most that.
const clientIDMax = 1 << 10

// checkClientID returns a client id without the message that it came in.
func checkClientID(field, id string) (string, error) {
	if len(id) > clientIDMax {
		return "", invalid("%s: has %d bytes, want at most %d", field, len(id), clientIDMax)
	}
	return strings.Clone(id), nil
}

// awaitQuota waits until the caller owes nothing of some kinds, and no longer than half of
// the time that it has: what it asks for takes some, too. A gateway that drains lets nobody
// wait.
func (g *Gateway) awaitQuota(ctx context.Context, c *quota.Client, of ...quota.Kind) error {
	if c == nil {
		return ctx.Err()
	}
	now := time.Now()
	end := now.Add(g.cfg.UnaryTimeout / 2)
	if deadline, ok := ctx.Deadline(); ok {
		end = now.Add(deadline.Sub(now) / 2)
	}
	for {
		owed := c.Owes(of...)
		if owed <= 0 {
			return ctx.Err()
		}
		until := time.Now().Add(owed)
		if until.After(end) {
			for _, k := range of {
				c.Refuse(ctx, k)
			}
			return overQuota(owed, "the call was not served")
		}
		if err := c.Wait(ctx, until, g.draining); err != nil {
			return err
		}
		if !c.Valid() {
			return nil
		}
		select {
		case <-g.draining:
			return federation.Errorf(federation.NoLeader, "this gateway is draining; the call was not served: use another one")
		default:
		}
	}
}

func overQuota(owed time.Duration, what string) error {
	err := federation.Errorf(federation.Throttled, "%s: the user or client id is over a quota; try again in %v (braid quota list shows the quotas)", what, owed.Round(time.Millisecond))
	err.RetryAfter = owed
	return err
}

// throttleCalls counts calls for the quotas of requests, and changes of topics for those
// of changes.
func (g *Gateway) throttleCalls(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
		id := ""
		if named, ok := r.Any().(interface{ GetClientId() string }); ok {
			var err error
			if id, err = checkClientID("client_id", named.GetClientId()); err != nil {
				return nil, rpcerror.Error(err)
			}
		}
		c := g.limits(ctx, nil, id)
		if c == nil {
			return next(ctx, r)
		}
		if err := g.awaitQuota(ctx, c, quota.Requests); err != nil {
			return nil, rpcerror.Error(err)
		}
		c.Take(ctx, quota.Requests, 1)
		n := float64(g.mutations(r.Any()))
		if n == 0 {
			return next(ctx, r)
		}
		if owed, ok := c.Try(ctx, quota.Mutations, n); !ok {
			return nil, rpcerror.Error(overQuota(owed, "the topic was not changed"))
		}
		resp, err := next(ctx, r)
		if err != nil {
			c.Give(quota.Mutations, n)
		}
		return resp, err
	}
}

// mutations returns how many partitions a call creates or deletes; 0 if it is known to fail.
func (g *Gateway) mutations(msg any) int {
	partitions := func(name string) int {
		if t := g.deps.Maps.Current().Topic(federation.TopicName(lastSegment(name, "/topics/"))); t != nil {
			return len(t.Partitions)
		}
		return 0
	}
	switch r := msg.(type) {
	case *adminv1.CreateTopicRequest:
		if !r.GetValidateOnly() && partitions(r.GetTopicId()) == 0 {
			return max(1, int(r.GetTopic().GetPartitionCount()))
		}
	case *adminv1.GrowTopicRequest:
		if !r.GetValidateOnly() {
			return max(0, int(r.GetPartitionCount())-partitions(r.GetName()))
		}
	case *adminv1.DeleteTopicRequest:
		return partitions(r.GetName())
	}
	return 0
}

// takeFrame counts a frame of a produce stream; the receiver waits for what is owed.
func (st *produceStream) takeFrame(ctx context.Context, bytes int64) {
	st.limits = st.g.limits(ctx, st.limits, st.clientID)
	if st.limits == nil {
		return
	}
	owed := max(st.limits.Take(ctx, quota.Produce, float64(bytes)), st.limits.Take(ctx, quota.Requests, 1))
	if owed > 0 {
		st.mu.Lock()
		st.throttled = time.Now().Add(owed)
		st.mu.Unlock()
	}
}

// pace waits until the frames that came are paid for.
func (st *produceStream) pace(ctx context.Context) bool {
	if st.limits == nil {
		return true
	}
	st.mu.Lock()
	until := st.throttled
	st.mu.Unlock()
	if until.IsZero() {
		return true
	}
	signal(st.wake) // the client is told
	if st.limits.Wait(ctx, until, st.g.draining) != nil {
		return false
	}
	st.mu.Lock()
	st.throttled = time.Time{}
	st.mu.Unlock()
	signal(st.wake) // for the credit
	return true
}

// tellThrottleLocked has the first of some messages say how long the stream is not read. If
// there is none, a heartbeat says so, once for each wait.
func (st *produceStream) tellThrottleLocked(out []*braidv1.ProduceResponse, now time.Time) []*braidv1.ProduceResponse {
	if len(out) == 0 {
		if st.told.Equal(st.throttled) {
			return out
		}
		out = append(out, heartbeat(now, 0))
	}
	st.told = st.throttled
	out[0].ThrottleMs = max(1, st.throttled.Sub(now).Milliseconds())
	return out
}

// within narrows a window to what a client may get at a time under its quota. What is
// returned is to be added to the window again.
func within(w window, c *quota.Client) (window, int64) {
	over := max(0, w.bytes-c.PerSecond(quota.Consume))
	w.bytes -= over
	return w, over
}

// pace waits until what was delivered is paid for, and keeps a quiet stream alive.
func (st *readStream) pace(ctx, fetchCtx context.Context) error {
	for {
		st.limits = st.g.limits(ctx, st.limits, st.clientID)
		owed := st.limits.Owes(quota.Consume)
		if owed <= 0 {
			return nil
		}
		flushStream(ctx)
		quiet := st.g.cfg.HeartbeatInterval - time.Since(st.lastSent)
		if err := st.limits.Wait(fetchCtx, time.Now().Add(min(owed, max(quiet, time.Millisecond))), nil); err != nil {
			return err
		}
		if err := st.beat(); err != nil {
			return err
		}
	}
}

// owes reports whether the stream has to wait before it delivers more, and has it look
// again then.
func (st *consumeStream) owes() bool {
	st.limits = st.g.limits(st.may.ctx, st.limits, st.clientID)
	owed := st.limits.Owes(quota.Consume)
	if owed <= 0 {
		return false
	}
	if st.paced == nil {
		st.paced = time.After(owed)
	}
	return true
}
