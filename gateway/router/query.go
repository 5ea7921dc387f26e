package router

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/upstream"
)

// queriesMax bounds the questions that one call asks the clusters at a time.
const queriesMax = 256

// eachQuery runs f for 0 to n-1, a bounded number at a time, and waits.
func eachQuery(n int, f func(i int)) {
	sem := make(chan struct{}, queriesMax)
	var wg sync.WaitGroup
	for i := range n {
		sem <- struct{}{}
		wg.Go(func() {
			defer func() { <-sem }()
			f(i)
		})
	}
	wg.Wait()
}

// ask sends a request about one physical partition to its leader, and again to
// the next leader while code, which reads the partition's error from the answer,
// says that it moved.
func ask[R kmsg.Response](ctx context.Context, r *Router, e *federation.Extent, req kmsg.Request, code func(R) (int16, bool)) (R, error) {
	return askLeader(ctx, r, e, func(ctx context.Context, cluster *upstream.Cluster, broker int32) (resp R, c int16, err error) {
		conn, err := cluster.Conn(ctx, broker, upstream.UseQuery, 0)
		if err != nil {
			return resp, 0, err
		}
		answer, err := conn.Request(ctx, req)
		if err != nil {
			return resp, 0, err
		}
		resp = answer.(R)
		c, present := code(resp)
		if !present {
			err = errLeftOut
		}
		return resp, c, err
	})
}

// askLeader has once ask the leader of one physical partition, and the next leader again
// while the error code of its answer says that it moved, or none comes.
func askLeader[R any](ctx context.Context, r *Router, e *federation.Extent, once func(context.Context, *upstream.Cluster, int32) (R, int16, error)) (R, error) {
	var zero R
	patience := r.cfg.QueryTimeout
	if failed(r.deps.Maps.Current(), e.Cluster) { // it may answer, but is not expected to
		patience = min(patience, readFloor)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	cluster, err := r.cluster(e)
	if err != nil {
		return zero, err
	}
	ctx, stop := r.whileAnswering(ctx, cluster)
	defer stop()
	topic, partition := e.PhysicalAddress.Topic, e.PhysicalAddress.Partition
	for {
		broker, err := awaitLeader(ctx, cluster, topic, partition)
		if err == nil {
			var resp R
			var c int16
			resp, c, err = once(ctx, cluster, broker)
			switch {
			case err != nil:
			case c == 0:
				return resp, nil
			case !kerr.IsRetriable(kerr.ErrorForCode(c)):
				return zero, kerr.ErrorForCode(c)
			default:
				err = kerr.ErrorForCode(c)
			}
		}
		cluster.Stale(topic)
		timer := time.NewTimer(leaderPause)
		select {
		case <-timer.C:
			if !failed(r.deps.Maps.Current(), e.Cluster) || patience <= readFloor {
				continue
			}
		case <-ctx.Done():
			timer.Stop()
		}
		return zero, federation.Errorf(federation.ClusterUnavailable, "a cluster that holds a part of the partition does not answer; try again").WithCause(err)
	}
}

// awaitLeader returns the broker that leads a physical partition, once that is known.
func awaitLeader(ctx context.Context, cluster *upstream.Cluster, topic string, partition federation.PhysicalPartition) (int32, error) {
	leader, refreshed := cluster.Leader(topic, partition)
	for leader.Broker < 0 {
		select {
		case <-refreshed:
		case <-ctx.Done():
			return -1, ctx.Err()
		}
		if leader, refreshed = cluster.Leader(topic, partition); leader.Broker < 0 {
			return -1, kerr.LeaderNotAvailable
		}
	}
	return leader.Broker, nil
}

// ends returns the ends of a partition as seen last, and asks if nothing was.
func (r *Router) ends(ctx context.Context, m *federation.Map, tp federation.TopicPartition) (Watermarks, bool) {
	st := r.states.of(tp)
	if w, ok := st.ends(); ok {
		return w, true
	}
	part, err := m.Partition(tp)
	if err != nil {
		return Watermarks{}, false
	}
	// A partition of which a cluster is away must not hold up the answer: neither the
	// head's, nor that of the extent that the log begins with.
	if r.absent(m, part.Head()) {
		return Watermarks{}, false
	}
	ctx, cancel := context.WithTimeout(ctx, readFloor)
	defer cancel()
	if slices.ContainsFunc(part.Extents, func(e *federation.Extent) bool { return r.absent(m, e) }) {
		_, err = r.headEnds(ctx, part)
	} else {
		_, err = r.watermarks(ctx, part)
	}
	if err != nil {
		return Watermarks{}, false
	}
	return st.ends()
}

// settled calls f with a partition whose head takes appends, and again if that
// changed meanwhile: what is known of the end of a head that is being sealed may lie
// behind its seal.
func (r *Router) settled(ctx context.Context, tp federation.TopicPartition, f func(ctx context.Context, m *federation.Map, part *federation.Partition) error) error {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.QueryTimeout)
	defer cancel()
	began := time.Now()
	for {
		changed := r.deps.Maps.Changed()
		m := r.deps.Maps.Current()
		part, err := m.Partition(tp)
		if err != nil {
			return err
		}
		if r.isCurrent(tp, part.Head()) {
			asked, cancel := r.whileHead(ctx, tp, part.Head())
			err := f(asked, m, part)
			cancel()
			if err != nil && r.isHead(tp, part.Head()) || err == nil && r.isCurrent(tp, part.Head()) {
				return err
			}
		}
		if head := part.Head(); head.State == federation.ExtentSuspended || closed(m, head) && time.Since(began) >= readFloor {
			return errHeadClosed(part) // the next head can take as long as a lease
		}
		timer := time.NewTimer(leaderPause)
		select {
		case <-changed:
		case <-timer.C: // the lease may be back
		case <-ctx.Done():
			timer.Stop()
			return federation.Errorf(federation.NoLeader, "%s is being moved, or this gateway lost touch with the control plane; try again", tp)
		}
		timer.Stop()
	}
}

// Watermarks implements Session.
func (s *session) Watermarks(ctx context.Context, tp federation.TopicPartition) (w Watermarks, err error) {
	err = s.r.settled(ctx, tp, func(ctx context.Context, _ *federation.Map, part *federation.Partition) error {
		w, err = s.r.watermarks(ctx, part)
		return err
	})
	return w, err
}

func (r *Router) watermarks(ctx context.Context, part *federation.Partition) (w Watermarks, err error) {
	var start federation.LogicalOffset
	var errs [2]error
	eachQuery(len(errs), func(i int) {
		switch i {
		case 0:
			w, errs[i] = r.headEnds(ctx, part)
		case 1:
			start, errs[i] = r.logStart(ctx, part)
		}
	})
	if err := firstError(errs[:]); err != nil {
		return Watermarks{}, clientError(part, err)
	}
	w.LogStart = start
	r.noteStart(part, start)
	return w, nil
}

// headEnds asks for the ends of a partition's head.
func (r *Router) headEnds(ctx context.Context, part *federation.Partition) (w Watermarks, err error) {
	head := part.Head()
	var errs [2]error
	eachQuery(len(errs), func(i int) {
		var l listed
		l, errs[i] = r.listPhysical(ctx, head, TimestampLatest, i == 1)
		if i == 0 {
			w.HighWatermark = head.Logical(l.offset)
		} else {
			w.LastStable = head.Logical(l.offset)
		}
	})
	if err := firstError(errs[:]); err != nil {
		return Watermarks{}, err
	}
	tp := federation.TopicPartition{Topic: part.Topic, Partition: part.Number}
	r.observe(tp, head, int64(head.Physical(w.HighWatermark)), int64(head.Physical(w.LastStable)), -1)
	return w, nil
}

// noteStart notes where the log begins.
func (r *Router) noteStart(part *federation.Partition, start federation.LogicalOffset) {
	st := r.states.of(federation.TopicPartition{Topic: part.Topic, Partition: part.Number})
	st.mu.Lock()
	defer st.mu.Unlock()
	st.logStart = max(st.logStart, start)
}

func firstError(errs []error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// logStart returns the logical offset of the first record there is: the start of
// the first extent that retention has not emptied.
func (r *Router) logStart(ctx context.Context, part *federation.Partition) (federation.LogicalOffset, error) {
	extents, err := r.listable(part)
	if err != nil {
		return 0, err
	}
	for i, e := range extents {
		p, err := r.physicalOffset(ctx, e, TimestampEarliest)
		if err != nil {
			return 0, err
		}
		if e.Sealed() && p >= e.End && i < len(extents)-1 {
			continue
		}
		return e.Logical(e.PastHidden(max(p, e.Physical(e.First())))), nil
	}
	return 0, nil
}

// clientError turns what a query met into an error that a client may see.
func clientError(part *federation.Partition, err error) error {
	var fe *federation.Error
	var ke *kerr.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &fe):
		return err
	case errors.As(err, &ke) && errors.Is(err, kerr.OffsetOutOfRange):
		return federation.Errorf(federation.OffsetOutOfRange, "%s-%d: the offset is outside of the log", part.Topic, part.Number)
	case errors.Is(err, kerr.PolicyViolation):
		return federation.Errorf(federation.PolicyViolation, "%s-%d: the cluster's policy refuses this for the topic (cleanup.policy must include delete)", part.Topic, part.Number).WithCause(err)
	default:
		return federation.Errorf(federation.ClusterUnavailable, "the cluster that holds %s-%d does not answer; try again", part.Topic, part.Number).WithCause(err)
	}
}

// ListOffsets implements Session.
func (s *session) ListOffsets(ctx context.Context, q []OffsetQuery) []OffsetAnswer {
	out := make([]OffsetAnswer, len(q))
	eachQuery(len(q), func(i int) {
		err := s.r.settled(awayWaiting(ctx, q[i].AwayWait), q[i].TopicPartition, func(ctx context.Context, m *federation.Map, part *federation.Partition) error {
			err := checkEpoch(m, part, q[i].CurrentEpoch)
			if err == nil {
				out[i], err = s.r.listOffset(ctx, part, &q[i])
			}
			return clientError(part, err)
		})
		if err != nil {
			out[i] = OffsetAnswer{Offset: -1, TimestampMs: -1, Epoch: federation.NoEpoch, Err: err}
		}
	})
	return out
}

func checkEpoch(m *federation.Map, part *federation.Partition, epoch federation.LogicalEpoch) error {
	if e := m.LeaderEpoch(part); epoch > e {
		return federation.Errorf(federation.UnknownEpoch, "%s-%d: leader epoch %d is newer than this gateway's %d; try again", part.Topic, part.Number, epoch, e)
	}
	return nil
}

func (r *Router) listOffset(ctx context.Context, part *federation.Partition, q *OffsetQuery) (OffsetAnswer, error) {
	head := part.Head()
	switch q.TimestampMs {
	case TimestampLatest:
		l, err := r.listPhysical(ctx, head, TimestampLatest, q.ReadCommitted)
		if err != nil {
			return OffsetAnswer{}, err
		}
		return OffsetAnswer{Offset: head.Logical(l.offset), TimestampMs: -1, Epoch: head.Epoch(l.epoch)}, nil
	case TimestampEarliest, TimestampEarliestLocal: // as without tiered storage: all is as near
		at, err := r.logStart(ctx, part)
		if err != nil {
			return OffsetAnswer{}, err
		}
		return OffsetAnswer{Offset: at, TimestampMs: -1, Epoch: epochAt(part, at)}, nil
	case TimestampMax:
		return r.listMax(ctx, part, q.ReadCommitted)
	}
	if q.TimestampMs < 0 {
		return OffsetAnswer{}, federation.Errorf(federation.Unsupported, "%s-%d: the special timestamp %d is not served", part.Topic, part.Number, q.TimestampMs)
	}
	return r.listTime(ctx, part, q.TimestampMs, q.ReadCommitted)
}

// epochAt returns the epoch of the extent that holds an offset; within an extent
// the oldest, which is safe for a position at the log's start.
func epochAt(part *federation.Partition, at federation.LogicalOffset) federation.LogicalEpoch {
	e := part.Extents[part.Locate(at)]
	return e.Epochs[0].Logical
}

// fetchByName is a Fetch request that stays at the versions with topic names.
type fetchByName struct{ *kmsg.FetchRequest }

func (*fetchByName) MaxVersion() int16 { return fetchVersionMax }

// OffsetsForEpochs implements Session. Clients ask with the epochs that batches
// carry, so an epoch is looked for in the extents' epoch tables: one of an older
// extent ends where the extent was sealed, one of the head is asked of its leader.
func (s *session) OffsetsForEpochs(ctx context.Context, q []EpochQuery) []EpochAnswer {
	out := make([]EpochAnswer, len(q))
	eachQuery(len(q), func(i int) {
		out[i].Epoch, out[i].End = federation.NoEpoch, -1
		out[i].Err = s.r.settled(awayWaiting(ctx, q[i].AwayWait), q[i].TopicPartition, func(ctx context.Context, m *federation.Map, part *federation.Partition) error {
			err := checkEpoch(m, part, q[i].CurrentEpoch)
			if err == nil && q[i].Epoch <= m.LeaderEpoch(part) {
				out[i].EpochEnd, err = s.r.epochEnd(ctx, part, q[i].Epoch)
			}
			return clientError(part, err)
		})
	})
	return out
}

func (r *Router) epochEnd(ctx context.Context, part *federation.Partition, epoch federation.LogicalEpoch) (EpochEnd, error) {
	for i, e := range slices.Backward(part.Extents) {
		entry, ok := e.PhysicalEpochAt(epoch)
		if !ok {
			continue
		}
		if e.FailedOnce() && i+1 < len(part.Extents) && (!e.Sealed() || entry == e.LastEpoch()) {
			// Behind it there is nothing up to the next extent: no reader is cut back, also
			// none that was given more than this gateway knows of.
			return EpochEnd{entry.Logical, part.Extents[i+1].Base}, nil
		}
		if entry == e.LastEpoch() {
			if end, sealed := e.EndOffset(); sealed {
				if i+1 < len(part.Extents) { // what lay behind it may have been given up
					end = max(end, part.Extents[i+1].First())
				}
				return EpochEnd{entry.Logical, end}, nil
			}
			l, err := r.listPhysical(ctx, e, TimestampLatest, false)
			return EpochEnd{entry.Logical, e.Logical(l.offset)}, err
		}
		// The logical epoch covers all physical epochs up to the next entry.
		next := e.Epochs[len(e.Epochs)-1].Physical
		for _, en := range e.Epochs {
			if en.Physical > entry.Physical {
				next = en.Physical
				break
			}
		}
		end, err := r.physicalEpochEnd(ctx, e, next-1)
		if err != nil {
			return EpochEnd{}, err
		}
		return EpochEnd{entry.Logical, e.Logical(end)}, nil
	}
	if epoch < 0 {
		return EpochEnd{federation.NoEpoch, -1}, nil
	}
	// The extents of that epoch are gone: retention has emptied them, or a move of a
	// compacted topic has replaced them. They ended at the latest where the first one
	// begins that is left, as Kafka answers; and its copies are theirs.
	return EpochEnd{epoch, part.Extents[0].Base}, nil
}

func (r *Router) physicalEpochEnd(ctx context.Context, e *federation.Extent, epoch federation.PhysicalEpoch) (federation.PhysicalOffset, error) {
	p := kmsg.NewOffsetForLeaderEpochRequestTopicPartition()
	p.Partition, p.CurrentLeaderEpoch, p.LeaderEpoch = int32(e.PhysicalAddress.Partition), -1, int32(epoch)
	t := kmsg.NewOffsetForLeaderEpochRequestTopic()
	t.Topic, t.Partitions = e.PhysicalAddress.Topic, append(t.Partitions, p)
	req := kmsg.NewPtrOffsetForLeaderEpochRequest()
	req.ReplicaID, req.Topics = -1, append(req.Topics, t)
	first := func(resp *kmsg.OffsetForLeaderEpochResponse) *kmsg.OffsetForLeaderEpochResponseTopicPartition {
		if len(resp.Topics) == 0 || len(resp.Topics[0].Partitions) == 0 {
			return nil
		}
		return &resp.Topics[0].Partitions[0]
	}
	resp, err := ask(ctx, r, e, req, func(resp *kmsg.OffsetForLeaderEpochResponse) (int16, bool) {
		if p := first(resp); p != nil {
			return p.ErrorCode, true
		}
		return 0, false
	})
	if err != nil {
		return 0, err
	}
	if end := first(resp).EndOffset; end >= 0 {
		return federation.PhysicalOffset(end), nil
	}
	return e.Start, nil
}

// DeleteRecords implements Session: it deletes in every extent below the offset.
func (s *session) DeleteRecords(ctx context.Context, d []DeleteBefore) []Deleted {
	out := make([]Deleted, len(d))
	eachQuery(len(d), func(i int) {
		err := s.r.settled(ctx, d[i].TopicPartition, func(ctx context.Context, _ *federation.Map, part *federation.Partition) (err error) {
			out[i].LowWatermark, err = s.r.deleteBefore(ctx, part, d[i].Offset)
			return clientError(part, err)
		})
		if err != nil {
			out[i] = Deleted{LowWatermark: -1, Err: err}
		}
	})
	return out
}

func (r *Router) deleteBefore(ctx context.Context, part *federation.Partition, offset federation.LogicalOffset) (federation.LogicalOffset, error) {
	w, err := r.headEnds(ctx, part)
	if err != nil {
		return -1, err
	}
	if offset == -1 {
		offset = w.HighWatermark
	}
	if offset < 0 || offset > w.HighWatermark {
		return -1, federation.Errorf(federation.OffsetOutOfRange, "%s-%d: offset %d is outside of the log, which ends at %d", part.Topic, part.Number, offset, w.HighWatermark)
	}
	for _, e := range part.Extents {
		if e.State == federation.ExtentSuspended && e.First() < offset {
			return -1, federation.Errorf(federation.PolicyViolation, "%s-%d: nothing is deleted: the records from %d on lie on a physical cluster that failed; delete up to there, or when the cluster is restored", part.Topic, part.Number, e.First())
		}
	}
	for _, e := range part.Extents {
		if e.First() >= offset {
			break
		}
		upTo := e.Physical(offset)
		if e.Sealed() {
			upTo = min(upTo, e.End)
		}
		if err := r.deletePhysical(ctx, e, upTo); err != nil {
			return -1, err
		}
	}
	low := offset
	if _, err := r.listable(part); err == nil {
		if low, err = r.logStart(ctx, part); err != nil {
			return -1, err
		}
	}
	r.noteStart(part, low)
	return low, nil
}

func (r *Router) deletePhysical(ctx context.Context, e *federation.Extent, before federation.PhysicalOffset) error {
	p := kmsg.NewDeleteRecordsRequestTopicPartition()
	p.Partition, p.Offset = int32(e.PhysicalAddress.Partition), int64(before)
	t := kmsg.NewDeleteRecordsRequestTopic()
	t.Topic, t.Partitions = e.PhysicalAddress.Topic, append(t.Partitions, p)
	req := kmsg.NewPtrDeleteRecordsRequest()
	req.TimeoutMillis = int32(r.cfg.QueryTimeout.Milliseconds())
	req.Topics = append(req.Topics, t)
	_, err := ask(ctx, r, e, req, func(resp *kmsg.DeleteRecordsResponse) (int16, bool) {
		if len(resp.Topics) == 0 || len(resp.Topics[0].Partitions) == 0 {
			return 0, false
		}
		return resp.Topics[0].Partitions[0].ErrorCode, true
	})
	// An extent whose own start is above already has nothing to delete.
	if errors.Is(err, kerr.OffsetOutOfRange) {
		return nil
	}
	return err
}
