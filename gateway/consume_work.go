package gateway

import (
	"context"
	"time"

	"github.com/braidmq/braid/federation"
	braidv1 "github.com/braidmq/braid/gen/braid/v1"
	"github.com/braidmq/braid/internal/quota"
)

// work starts what can run beside the owner: one fetch, one lookup, one commit
// or release.
func (st *consumeStream) work(ctx context.Context) {
	now := time.Now()
	st.startFetch(ctx, now)
	st.startLookup(ctx, now)
	st.startStore(ctx)
}

func (st *consumeStream) startFetch(ctx context.Context, now time.Time) {
	w := st.s.window()
	if st.fetching || st.ending != "" || st.left || !st.subscribed || st.fetcher.holds() || !w.open() || st.out.full() {
		return
	}
	if st.owes() {
		return // what cannot be delivered would be dropped, and fetched again
	}
	limit, ok := st.fetcher.prepare(st.s.positions, st.g.cfg.StreamPollWait, st.fetchBytes(), now)
	if !ok {
		return // an event, or the tick, looks again
	}
	st.fetching = true
	fetchCtx, cancel := context.WithCancel(ctx)
	st.cancel = cancel
	st.jobs.Go(func() {
		defer cancel()
		fetched, err := st.fetcher.perform(fetchCtx, limit)
		st.fetched <- fetchDone{fetched, err}
	})
}

// fetchBytes is how much is read at a time: what the client may still get, and under a
// quota no more than a second's worth.
func (st *consumeStream) fetchBytes() int32 {
	return int32(min(int64(st.s.fetchBytes(&st.g.cfg)), st.limits.PerSecond(quota.Consume)))
}

func (st *consumeStream) fetchDone(d fetchDone) error {
	st.fetching = false
	st.cancel = func() {}
	if d.err == nil {
		st.fetcher.fetched, st.lastTaken = d.fetched, time.Now()
		if st.ending != "" {
			st.fetcher.drop()
		}
		return nil
	}
	switch kind := federation.KindOf(d.err); {
	case kind.Retriable():
		for _, p := range st.s.positions {
			p.retryAt = time.Now().Add(st.g.cfg.PartitionRetryWait)
		}
		return nil
	case isContextError(d.err):
		return nil // the positions changed: fetch anew
	default:
		return d.err
	}
}

// startLookup finds the start of partitions without a committed offset, and the
// end of those that are read up to it.
func (st *consumeStream) startLookup(ctx context.Context, now time.Time) {
	if st.looking || len(st.lookups) == 0 || now.Before(st.lookAt) {
		return
	}
	positions := st.lookups
	st.lookups, st.looking = nil, true
	starts := make([]startPoint, len(positions))
	ends := make([]startPoint, len(positions))
	for i, p := range positions {
		starts[i] = startPoint{p.TopicPartition, st.fallback}
		if p.next >= 0 {
			starts[i].at = &braidv1.Position{At: &braidv1.Position_Offset{Offset: p.next}}
		}
		ends[i].TopicPartition = p.TopicPartition
	}
	latest := st.s.rule.latest
	st.jobs.Go(func() {
		d := lookDone{positions: positions, start: resolve(ctx, st.session, starts, st.delivery.readCommitted)}
		if latest {
			d.stop = resolve(ctx, st.session, ends, st.delivery.readCommitted)
		}
		st.looked <- d
	})
}

func (st *consumeStream) lookDone(d lookDone) {
	st.looking = false
	now := time.Now()
	update := &braidv1.AssignmentUpdate{MemberEpoch: st.s.memberEpoch}
	for i, p := range d.positions {
		start, stop := d.start[i], resolved{offset: noStop}
		if d.stop != nil {
			stop = d.stop[i]
		}
		err := start.err
		if err == nil {
			err = stop.err
		}
		switch {
		case p.gone:
		case err != nil:
			if fail := p.note(&st.g.cfg, err, now); fail != nil {
				st.send(&braidv1.ConsumeResponse{Frame: &braidv1.ConsumeResponse_PartitionFailure{PartitionFailure: fail}})
			}
			st.lookups = append(st.lookups, p)
			st.lookAt = now.Add(st.g.cfg.PartitionRetryWait)
		default:
			p.failed = false
			if a := st.s.found(p, start.offset, stop.offset); a != nil {
				update.Assigned = append(update.Assigned, a)
			}
		}
	}
	if len(update.GetAssigned()) > 0 {
		st.send(&braidv1.ConsumeResponse{Frame: &braidv1.ConsumeResponse_Assignment{Assignment: update}})
		st.cancel()
	}
}

// startStore stores the newest commit; with none, it gives revoked partitions up.
// So a commit that came before Revoked is stored before the partition moves.
func (st *consumeStream) startStore(ctx context.Context) {
	if st.storing {
		return
	}
	member := st.member
	if c, ok := st.s.takeCommit(); ok {
		st.storing = true
		st.jobs.Go(func() {
			var errs []error
			var err error
			if len(c.offsets) > 0 {
				storeCtx, cancel := context.WithTimeout(ctx, st.g.cfg.UnaryTimeout)
				errs, err = member.Commit(storeCtx, c.offsets)
				cancel()
			}
			st.stored <- storeDone{c.result(errs, err)}
		})
		return
	}
	if len(st.s.revoked) == 0 {
		return
	}
	tps := st.s.revoked
	st.s.revoked, st.storing = nil, true
	st.jobs.Go(func() {
		storeCtx, cancel := context.WithTimeout(ctx, st.g.cfg.UnaryTimeout)
		err := member.Revoked(storeCtx, tps)
		cancel()
		if err != nil && ctx.Err() == nil {
			// The coordinator takes them anyway when the deadline has passed.
			st.g.log.WarnContext(ctx, "partitions could not be given up", "group", st.request.Group, "err", err)
		}
		st.stored <- storeDone{}
	})
}

func (st *consumeStream) storeDone(d storeDone) {
	st.storing = false
	if d.result != nil {
		st.send(&braidv1.ConsumeResponse{Frame: &braidv1.ConsumeResponse_CommitResult{CommitResult: d.result}})
	}
}

// close ends what the stream holds, when its jobs have been told to end. A
// dynamic member leaves its group, so that others get its partitions at once; a
// static one stays for its session timeout.
func (st *consumeStream) close(ctx context.Context) {
	st.jobs.Wait()
	select {
	case d := <-st.fetched:
		if d.err == nil {
			d.fetched.Release()
		}
	default:
	}
	if st.left || st.request.InstanceID == "" {
		leaveCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), st.g.cfg.LeaveTimeout)
		if err := st.member.Leave(leaveCtx); err != nil {
			st.g.log.InfoContext(ctx, "member could not leave; its session timeout will end it", "group", st.request.Group, "err", err)
		}
		cancel()
	}
	st.detach()
	st.fetcher.close()
	st.g.readers.Put(st.fetcher.reader)
	st.session.Close()
}
