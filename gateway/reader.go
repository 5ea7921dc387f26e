package gateway

import (
	"context"
	"time"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway/router"
	braidv1 "github.com/braidmq/braid/gen/braid/v1"
	"github.com/braidmq/braid/internal/recordbatch"
)

// A readPosition is where a stream stands in a partition.
type readPosition struct {
	federation.TopicPartition
	next     int64
	high     int64 // -1 until known
	stop     int64
	stopTime int64
	epoch    int64 // of the assignment; 0 without a group
	done     bool  // its stop was reached, or it failed for good
	retryAt  time.Time
	failing  federation.Kind // of the failure that the client was told of
	failed   bool

	// Of group members.
	waiting  bool // for its start to be known
	revoking bool // being given up: no more records
	paused   bool
	gone     bool // not the stream's any more
}

// readable reports whether records of the partition may be delivered.
func (p *readPosition) readable() bool {
	return !p.done && !p.waiting && !p.revoking && !p.paused && !p.gone
}

func (p *readPosition) offset() *braidv1.PartitionOffset {
	return &braidv1.PartitionOffset{Topic: string(p.Topic), Partition: int32(p.Partition), Offset: p.next}
}

// A stopRule is a StopAt of a request; the zero stopRule never stops.
type stopRule struct {
	latest  bool
	offset  int64
	time    int64
	records int64
	bounded bool
}

func newStopRule(in *braidv1.StopAt) (stopRule, error) {
	r := stopRule{offset: noStop, time: noStop, records: noStop}
	switch at := in.GetAt().(type) {
	case nil:
		return r, nil
	case *braidv1.StopAt_LatestAtStart:
		r.latest = at.LatestAtStart
	case *braidv1.StopAt_Offset:
		r.offset = at.Offset
	case *braidv1.StopAt_TimestampMs:
		r.time = at.TimestampMs
	case *braidv1.StopAt_Records:
		r.records = at.Records
	}
	if r.offset < noStop || r.time < noStop || r.records < noStop {
		return r, invalid("stop: is negative")
	}
	r.bounded = true
	return r, nil
}

// apply sets where partitions stop, asking for their ends if they stop there.
func (r *stopRule) apply(ctx context.Context, session router.Session, positions []*readPosition, readCommitted bool) error {
	for _, p := range positions {
		p.stop, p.stopTime = r.offset, r.time
	}
	if r.latest {
		points := make([]startPoint, len(positions))
		for i, p := range positions {
			points[i].TopicPartition = p.TopicPartition
		}
		for i, end := range resolve(ctx, session, points, readCommitted) {
			if end.err != nil {
				return end.err
			}
			positions[i].stop = end.offset
		}
	}
	for _, p := range positions {
		p.done = p.done || p.stop != noStop && p.next >= p.stop
	}
	return nil
}

// A fetcher reads from the router for one stream or call and turns what comes
// into frames. One goroutine owns it.
type fetcher struct {
	cfg      *Config
	session  router.Session
	delivery *delivery
	reader   *recordbatch.Reader

	turn    int // whose partition comes first, so that none starves
	from    []router.Position
	asked   []*readPosition
	fetched *router.Fetched
	index   int
	cursor  *cursor
}

// close gives back what the fetcher holds.
func (f *fetcher) close() {
	f.drop()
}

// drop forgets what was fetched but not delivered.
func (f *fetcher) drop() {
	if f.fetched != nil {
		f.fetched.Release()
	}
	f.fetched, f.cursor, f.index, f.asked = nil, nil, 0, nil
}

// holds reports whether something that was fetched is not delivered yet.
func (f *fetcher) holds() bool { return f.fetched != nil }

// boundedWait is how long a fetch up to a stop waits: there is something to read, unless
// nothing is left before the stop but a gap.
const boundedWait = 250 * time.Millisecond

// prepare chooses what to ask the router for: what follows the positions that
// are not at rest. It returns how long to wait; false if there is nothing to ask for.
func (f *fetcher) prepare(positions []*readPosition, wait time.Duration, maxBytes int32, now time.Time) (router.FetchLimit, bool) {
	f.drop()
	f.from, f.asked = f.from[:0], nil
	f.turn++
	for i := range positions {
		p := positions[(i+f.turn)%len(positions)]
		if !p.readable() {
			continue
		}
		if now.Before(p.retryAt) {
			wait = min(wait, p.retryAt.Sub(now))
			continue
		}
		if p.stop != noStop {
			wait = min(wait, boundedWait)
		}
		f.asked = append(f.asked, p)
		f.from = append(f.from, router.Position{
			TopicPartition: p.TopicPartition, Offset: federation.LogicalOffset(p.next), MaxBytes: min(f.cfg.FetchPartitionBytesMax, maxBytes),
			CurrentEpoch: federation.NoEpoch, LastFetchedEpoch: federation.NoEpoch,
		})
	}
	limit := router.FetchLimit{MinBytes: 1, MaxBytes: maxBytes, MaxWait: wait, ReadCommitted: f.delivery.readCommitted}
	return limit, len(f.from) > 0
}

// perform asks the router for what prepare chose. Meanwhile the positions may
// change, but nothing else of the fetcher may be used.
func (f *fetcher) perform(ctx context.Context, limit router.FetchLimit) (*router.Fetched, error) {
	fetched, err := f.session.Fetch(ctx, f.from, limit)
	if err == nil && f.delivery.linger > 0 {
		if n := bytesOf(fetched); n > 0 && n < f.delivery.frameBytes {
			// Something is there, but less than a frame: more may come in a moment.
			fetched.Release()
			limit.MinBytes, limit.MaxWait = int32(f.delivery.frameBytes), f.delivery.linger
			fetched, err = f.session.Fetch(ctx, f.from, limit)
		}
	}
	return fetched, err
}

// fetch is prepare and perform in one. It returns false if there was nothing to ask for.
func (f *fetcher) fetch(ctx context.Context, positions []*readPosition, wait time.Duration, maxBytes int32, now time.Time) (bool, error) {
	limit, ok := f.prepare(positions, wait, maxBytes, now)
	if !ok {
		return false, sleep(ctx, limit.MaxWait)
	}
	fetched, err := f.perform(ctx, limit)
	f.fetched = fetched
	return true, err
}

func bytesOf(f *router.Fetched) (n int) {
	for i := range f.Slices {
		n += f.Slices[i].Bytes()
	}
	return n
}

// sleep waits, or returns ctx's error.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// An event is what a fetcher has for the client: a frame, or a failure of a
// partition.
type event struct {
	position *readPosition
	frame    *recordFrame // who gets the event may release it
	err      error
}

// next returns the next event within the window, moving the position that it is
// about; false if there is none: all was delivered, or the window is closed.
// Positions that were moved, paused or given up since are passed over.
func (f *fetcher) next(w *window) (event, bool) {
	for f.fetched != nil {
		if f.index >= len(f.fetched.Slices) {
			f.drop()
			break
		}
		p, slice := f.asked[f.index], &f.fetched.Slices[f.index]
		if !p.readable() || p.next != f.at() {
			f.index, f.cursor = f.index+1, nil
			continue
		}
		if slice.Err != nil {
			f.index++
			return event{position: p, err: slice.Err}, true
		}
		if p.stop != noStop && len(slice.Records) == 0 && int64(slice.Next) >= p.stop {
			p.done = true // nothing is left before its stop but a gap
			f.index++
			continue
		}
		if f.cursor == nil {
			f.cursor = newCursor(f.delivery, f.reader, slice, p.next, p.stop, p.stopTime)
			p.high = f.cursor.high
			p.failed = false
		}
		frame, err := f.cursor.frame(w)
		p.next = f.cursor.next
		used := f.cursor.used() || err != nil
		p.done = p.done || f.cursor.stopped
		if used {
			f.index, f.cursor = f.index+1, nil
		}
		if frame != nil {
			frame.message.AssignmentEpoch = p.epoch
			if err != nil {
				p.retryAt = time.Time{} // the next fetch meets the error again, alone
			}
			return event{position: p, frame: frame}, true
		}
		if err != nil {
			return event{position: p, err: err}, true
		}
		if !used {
			return event{}, false // the window is closed
		}
	}
	return event{}, false
}

// at returns where the current slice goes on.
func (f *fetcher) at() int64 {
	if f.cursor != nil {
		return f.cursor.next
	}
	return int64(f.from[f.index].Offset)
}

// note takes a partition's error in and returns the failure to tell the client
// of; nil if it knows already. An error that does not pass by itself ends the partition.
func (p *readPosition) note(cfg *Config, err error, now time.Time) *braidv1.PartitionFailure {
	kind := federation.KindOf(err)
	p.retryAt = now.Add(cfg.PartitionRetryWait)
	if !kind.Retriable() {
		p.done = true
	} else if p.failed && p.failing == kind {
		return nil
	}
	p.failed, p.failing = true, kind
	return partitionFailure(p.TopicPartition, err)
}
