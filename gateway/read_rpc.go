package gateway

import (
	"context"
	"errors"
	"math"
	"time"

	"connectrpc.com/connect"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway/router"
	braidv1 "github.com/braidmq/braid/gen/braid/v1"
	"github.com/braidmq/braid/internal/acl"
	"github.com/braidmq/braid/internal/quota"
	"github.com/braidmq/braid/internal/recordbatch"
)

// consumerService serves braid.v1.ConsumerService.
type consumerService struct{ g *Gateway }

// Read streams partitions from a position on, without a group. The handler reads
// and sends in turn: a client that does not take its frames stops the reading.
func (s *consumerService) Read(ctx context.Context, r *braidv1.ReadRequest, out *connect.ServerStream[braidv1.ReadResponse]) error {
	return s.g.fail(ctx, "Read", s.g.read(ctx, r, out))
}

// A readStream is a Read call.
type readStream struct {
	g         *Gateway
	out       *connect.ServerStream[braidv1.ReadResponse]
	may       *accessCheck
	fetcher   fetcher
	positions []*readPosition
	rule      stopRule
	window    window
	lastSent  time.Time
	clientID  string
	limits    *quota.Client
}

func (g *Gateway) read(ctx context.Context, r *braidv1.ReadRequest, out *connect.ServerStream[braidv1.ReadResponse]) error {
	if err := g.enter(); err != nil {
		return err
	}
	defer g.leave()
	if err := g.cluster(r.GetLogicalCluster()); err != nil {
		return err
	}
	if err := maySources(ctx, g, "Read", acl.Read, r.GetSources()); err != nil {
		return err
	}
	points, err := g.expand(g.deps.Maps.Current(), r.GetSources())
	if err != nil {
		return err
	}
	id, err := checkClientID("client_id", r.GetClientId())
	if err != nil {
		return err
	}
	st := &readStream{g: g, clientID: id, may: g.newAccessCheck(ctx, "Read"), out: out, lastSent: time.Now(), window: window{math.MaxInt64, math.MaxInt64}}
	d, err := newDelivery(&g.cfg, r.GetDelivery())
	if err != nil {
		return err
	}
	if st.rule, err = newStopRule(r.GetStop()); err != nil {
		return err
	}
	if st.rule.records != noStop {
		st.window.records = st.rule.records
	}
	session := g.deps.NewSession()
	defer session.Close()
	reader := g.reader()
	defer g.readers.Put(reader)
	st.fetcher = fetcher{cfg: &g.cfg, session: session, delivery: d, reader: reader}
	defer st.fetcher.close()
	if st.positions, err = g.startPositions(ctx, session, points, d.readCommitted); err != nil {
		return err
	}
	if err := st.rule.apply(ctx, session, st.positions, d.readCommitted); err != nil {
		return err
	}
	requestDone(ctx)
	return st.run(ctx)
}

func (g *Gateway) reader() *recordbatch.Reader { return g.readers.Get().(*recordbatch.Reader) }

// startPositions resolves the start points of a read; one that can't be resolved
// fails the read.
func (g *Gateway) startPositions(ctx context.Context, session router.Session, points []startPoint, readCommitted bool) ([]*readPosition, error) {
	positions := make([]*readPosition, len(points))
	for i, r := range resolve(ctx, session, points, readCommitted) {
		if r.err != nil {
			return nil, r.err
		}
		positions[i] = &readPosition{TopicPartition: points[i].TopicPartition, next: r.offset, high: -1, stop: noStop, stopTime: noStop}
	}
	return positions, nil
}

func (st *readStream) run(ctx context.Context) error {
	age, stop := st.g.ageLimit()
	defer stop()
	fetchCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	cause := make(chan string, 1)
	st.g.tasks.Go(func() {
		select {
		case <-st.g.draining:
			cause <- "shutdown"
		case <-age:
			cause <- "max_age"
		case <-fetchCtx.Done():
		}
		cancel()
	})
	if !st.rule.latest {
		// There may be nothing to read for long, and many clients wait for a first frame.
		if err := st.send(&braidv1.ReadResponse{Frame: &braidv1.ReadResponse_Progress{Progress: progress(st.positions, time.Now(), 0)}}); err != nil {
			return err
		}
	}
	for !st.finished() {
		err := st.step(ctx, fetchCtx)
		if err == nil {
			continue
		}
		select {
		case c := <-cause:
			if ctx.Err() != nil || !errors.Is(err, context.Canceled) {
				return err
			}
			return st.drain(c)
		default:
			return err
		}
	}
	return st.send(&braidv1.ReadResponse{Frame: &braidv1.ReadResponse_Closed{Closed: st.closed()}})
}

// finished reports whether nothing more is to be read.
func (st *readStream) finished() bool {
	if !st.window.open() {
		return true
	}
	for _, p := range st.positions {
		if !p.done {
			return false
		}
	}
	return true
}

// step reads once and sends what came. fetchCtx ends when the stream is to end.
func (st *readStream) step(ctx, fetchCtx context.Context) error {
	flushStream(ctx)
	if err := st.pace(ctx, fetchCtx); err != nil {
		return err
	}
	wait := min(st.g.cfg.StreamPollWait, st.g.cfg.HeartbeatInterval)
	most := int32(min(int64(st.g.cfg.FetchBytesMax), st.limits.PerSecond(quota.Consume)))
	if _, err := st.fetcher.fetch(fetchCtx, st.positions, wait, most, time.Now()); err != nil {
		if kind := federation.KindOf(err); !kind.Retriable() {
			return err
		}
		return sleep(fetchCtx, st.g.cfg.PartitionRetryWait)
	}
	if err := st.readable(); err != nil {
		return err
	}
	for ctx.Err() == nil {
		if err := st.pace(ctx, fetchCtx); err != nil {
			return err
		}
		w, over := within(st.window, st.limits)
		before := w.bytes
		ev, ok := st.fetcher.next(&w)
		st.limits.Take(ctx, quota.Consume, float64(before-w.bytes))
		w.bytes += over
		st.window = w
		if !ok {
			break
		}
		msg := &braidv1.ReadResponse{}
		if ev.err == nil {
			ev.frame.count(st.g.deps.Answers, frameCopies)
			msg.Frame = &braidv1.ReadResponse_Records{Records: &ev.frame.message}
		} else {
			st.g.logInternal("read failed", ev.position.TopicPartition, ev.err)
			fail := ev.position.note(&st.g.cfg, ev.err, time.Now())
			if fail == nil {
				continue
			}
			msg.Frame = &braidv1.ReadResponse_PartitionFailure{PartitionFailure: fail}
		}
		err := st.send(msg)
		ev.frame.release()
		if err != nil {
			return err
		}
	}
	if err := st.beat(); err != nil {
		return err
	}
	return ctx.Err()
}

// beat sends a heartbeat if the stream has been quiet for long.
func (st *readStream) beat() error {
	if time.Since(st.lastSent) < st.g.cfg.HeartbeatInterval {
		return nil
	}
	return st.send(&braidv1.ReadResponse{Frame: &braidv1.ReadResponse_Progress{Progress: progress(st.positions, time.Now(), 0)}})
}

// readable ends a stream that has lost the right to read one of its topics.
func (st *readStream) readable() error {
	if !st.may.changed() {
		return nil
	}
	for _, p := range st.positions {
		// By the ACLs that changed took: newer ones are another change.
		if err := st.may.may.Check(st.may.ctx, acl.Read, acl.Topic, string(p.Topic)); err != nil {
			return err
		}
	}
	return nil
}

// progress is the heartbeat of a reading stream.
func progress(positions []*readPosition, now time.Time, nonce int64) *braidv1.Progress {
	out := &braidv1.Progress{NowMs: now.UnixMilli(), Nonce: nonce}
	for _, p := range positions {
		out.Positions = append(out.Positions, &braidv1.RecordBatch{
			Topic: string(p.Topic), Partition: int32(p.Partition),
			FirstOffset: p.next, NextOffset: p.next, HighWatermark: p.high, AssignmentEpoch: p.epoch,
		})
	}
	return out
}

func (st *readStream) send(msg *braidv1.ReadResponse) error {
	st.lastSent = time.Now()
	return st.out.Send(msg)
}

// drain tells the client to go on elsewhere, from the positions in the last frame.
func (st *readStream) drain(cause string) error {
	if err := st.send(&braidv1.ReadResponse{Frame: &braidv1.ReadResponse_Draining{Draining: st.g.drainingFrame(cause)}}); err != nil {
		return err
	}
	return st.send(&braidv1.ReadResponse{Frame: &braidv1.ReadResponse_Closed{Closed: st.closed()}})
}

func (st *readStream) closed() *braidv1.ConsumeClosed {
	out := &braidv1.ConsumeClosed{ReachedStop: st.rule.bounded && st.finished()}
	for _, p := range st.positions {
		out.ReachedStop = out.ReachedStop && (!p.done || !p.failed)
		out.Positions = append(out.Positions, p.offset())
	}
	return out
}
