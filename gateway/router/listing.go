package router

import (
	"context"
	"sync"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/upstream"
)

const (
	// listRequestsMax is how many ListOffsets requests of one kind a broker has to answer
	// at a time; what is asked meanwhile goes into the next one together.
	listRequestsMax = 2
	// listPartitionsMax bounds the partitions of a ListOffsets request.
	listPartitionsMax = 1000
)

// A listed is a physical answer to ListOffsets.
type listed struct {
	offset    federation.PhysicalOffset
	timestamp int64
	epoch     federation.PhysicalEpoch
}

// listPhysical asks the leader of an extent's physical partition for an offset.
func (r *Router) listPhysical(ctx context.Context, e *federation.Extent, timestamp int64, committed bool) (listed, error) {
	a := &e.PhysicalAddress
	l, err := askLeader(ctx, r, e, func(ctx context.Context, cluster *upstream.Cluster, broker int32) (listed, int16, error) {
		kind := listKind{cluster: cluster, broker: broker, committed: committed, timestamp: min(timestamp, 0)}
		p, err := r.lists.ask(ctx, r, kind, &listCall{listAddress: listAddress{a.Topic, int32(a.Partition)}, timestamp: timestamp, gone: ctx.Done(), done: make(chan struct{})})
		return listed{federation.PhysicalOffset(p.Offset), p.Timestamp, federation.PhysicalEpoch(p.LeaderEpoch)}, p.ErrorCode, err
	})
	if err != nil {
		return listed{}, err
	}
	return l, nil
}

// physicalOffset asks for an offset of an extent's physical partition.
func (r *Router) physicalOffset(ctx context.Context, e *federation.Extent, timestamp int64) (federation.PhysicalOffset, error) {
	l, err := r.listPhysical(ctx, e, timestamp, false)
	return l.offset, err
}

// A listKind is what the questions of one ListOffsets request have in common. Those for
// times are apart from those for ends, as brokers look them up on the disk; and a broker
// takes no request that names a partition twice.
type listKind struct {
	cluster   *upstream.Cluster
	broker    int32
	committed bool
	timestamp int64 // a special one, or 0 for times
}

// A listCall is one question.
type listCall struct {
	listAddress
	timestamp int64
	gone      <-chan struct{} // closed when nobody waits for the answer any more

	done     chan struct{} // closed with the following set
	answer   kmsg.ListOffsetsResponseTopicPartition
	answered bool
	err      error // if not answered
}

// lists sends the questions for offsets to the brokers, those that come while others are
// under way in one request: clients that start on a thousand partitions ask for them all.
// An answer is never older than its question. It is safe for concurrent use.
type lists struct {
	mu     sync.Mutex // guards the following
	queues map[listKind]*listQueue
}

// A listQueue exists while there are questions of a kind.
type listQueue struct {
	waiting []*listCall
	senders int
}

// ask returns a broker's answer to a question. Errors: those of the connection, and of ctx.
func (l *lists) ask(ctx context.Context, r *Router, kind listKind, c *listCall) (kmsg.ListOffsetsResponseTopicPartition, error) {
	l.mu.Lock()
	q := l.queues[kind]
	if q == nil {
		if l.queues == nil {
			l.queues = make(map[listKind]*listQueue)
		}
		q = &listQueue{}
		l.queues[kind] = q
	}
	q.waiting = append(q.waiting, c)
	start := q.senders < listRequestsMax
	if start {
		q.senders++
	}
	l.mu.Unlock()
	if start {
		r.tasks.Go(func() { l.run(r, kind, q) })
	}
	select {
	case <-c.done:
		return c.answer, c.err
	case <-ctx.Done():
		return kmsg.ListOffsetsResponseTopicPartition{}, ctx.Err()
	}
}

// run sends what waits until nothing does.
func (l *lists) run(r *Router, kind listKind, q *listQueue) {
	for {
		l.mu.Lock()
		waiting := q.waiting
		q.waiting = nil
		if len(waiting) == 0 {
			if q.senders--; q.senders == 0 {
				delete(l.queues, kind)
			}
			l.mu.Unlock()
			return
		}
		l.mu.Unlock()
		for len(waiting) > 0 {
			var calls map[listAddress]*listCall
			calls, waiting = nextCalls(waiting)
			if len(calls) > 0 {
				listOnce(r, kind, calls)
			}
		}
	}
}

// A listAddress is what a question is about.
type listAddress struct {
	topic     string
	partition int32
}

// nextCalls returns the questions of the next request, of those for one partition the
// first, and the rest. What nobody waits for any more is left out.
func nextCalls(waiting []*listCall) (calls map[listAddress]*listCall, rest []*listCall) {
	calls = make(map[listAddress]*listCall, min(len(waiting), listPartitionsMax))
	for _, c := range waiting {
		select {
		case <-c.gone:
			continue
		default:
		}
		if calls[c.listAddress] != nil || len(calls) == listPartitionsMax {
			rest = append(rest, c)
			continue
		}
		calls[c.listAddress] = c
	}
	return calls, rest
}

// listOnce sends one request and hands its answers out.
func listOnce(r *Router, kind listKind, calls map[listAddress]*listCall) {
	resp, err := listRequest(r, kind, calls)
	if err == nil {
		for i := range resp.Topics {
			for _, p := range resp.Topics[i].Partitions {
				if c := calls[listAddress{resp.Topics[i].Topic, p.Partition}]; c != nil {
					c.answer, c.answered = p, true
				}
			}
		}
		err = errLeftOut
	}
	for _, c := range calls {
		if !c.answered {
			c.err = err
		}
		close(c.done)
	}
}

func listRequest(r *Router, kind listKind, calls map[listAddress]*listCall) (*kmsg.ListOffsetsResponse, error) {
	ctx, cancel := context.WithTimeout(r.ctx, r.cfg.QueryTimeout)
	defer cancel()
	conn, err := kind.cluster.Conn(ctx, kind.broker, upstream.UseQuery, 0)
	if err != nil {
		return nil, err
	}
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID = -1
	if kind.committed {
		req.IsolationLevel = 1
	}
	topics := make(map[string]int)
	for _, c := range calls {
		i, ok := topics[c.topic]
		if !ok {
			i = len(req.Topics)
			topics[c.topic] = i
			t := kmsg.NewListOffsetsRequestTopic()
			t.Topic = c.topic
			req.Topics = append(req.Topics, t)
		}
		p := kmsg.NewListOffsetsRequestTopicPartition()
		p.Partition, p.Timestamp, p.CurrentLeaderEpoch = c.partition, c.timestamp, -1
		req.Topics[i].Partitions = append(req.Topics[i].Partitions, p)
	}
	resp, err := conn.Request(ctx, req)
	if err != nil {
		return nil, err
	}
	list, ok := resp.(*kmsg.ListOffsetsResponse)
	if !ok {
		return nil, kerr.UnknownServerError
	}
	return list, nil
}
