package gateway

import (
	"context"
	"net/http"
	"time"

	"connectrpc.com/connect"

	braidv1 "github.com/braidmq/braid/gen/braid/v1"
	"github.com/braidmq/braid/gen/braid/v1/braidv1connect"
	"github.com/braidmq/braid/internal/acl"
	"github.com/braidmq/braid/internal/memory"
	"github.com/braidmq/braid/internal/quota"
)

// A heldPage is the room of a page until it has been written to the client: that is after
// the method has returned it.
type heldPage struct {
	answers *memory.Budget // may be nil
	bytes   int64
}

type heldPageKey struct{}

// holdPages has pages counted while they are written.
func (g *Gateway) holdPages(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == braidv1connect.ConsumerServiceFetchProcedure {
			held := &heldPage{answers: g.deps.Answers}
			defer func() { held.answers.Uncharge(held.bytes) }()
			r = r.WithContext(context.WithValue(r.Context(), heldPageKey{}, held))
		}
		next.ServeHTTP(w, r)
	})
}

// holdPage counts a page of so many bytes of payload. Like a frame, it waits for no room.
func holdPage(ctx context.Context, bytes int64) {
	if held, ok := ctx.Value(heldPageKey{}).(*heldPage); ok && bytes > frameFreeBytes {
		held.bytes = bytes * frameCopies
		held.answers.Charge(held.bytes)
	}
}

// Fetch returns one page, waiting for records for at most max_wait_ms.
func (s *consumerService) Fetch(ctx context.Context, r *braidv1.FetchRequest) (*braidv1.FetchResponse, error) {
	res, err := s.g.fetch(ctx, r)
	if err != nil {
		return nil, s.g.fail(ctx, "Fetch", err)
	}
	if info, ok := connect.CallInfoForHandlerContext(ctx); ok {
		info.ResponseHeader().Set("Cache-Control", "no-store") // the log may have grown since
	}
	return res, nil
}

// A page is a Fetch call under way.
type page struct {
	g         *Gateway
	fetcher   fetcher
	positions []*readPosition
	window    window
	deadline  time.Time
	out       *braidv1.FetchResponse
}

func (g *Gateway) fetch(ctx context.Context, r *braidv1.FetchRequest) (*braidv1.FetchResponse, error) {
	if err := g.cluster(r.GetLogicalCluster()); err != nil {
		return nil, err
	}
	if err := maySources(ctx, g, "Fetch", acl.Read, r.GetSources()); err != nil {
		return nil, err
	}
	points, err := g.expand(g.deps.Maps.Current(), r.GetSources())
	if err != nil {
		return nil, err
	}
	d, err := newDelivery(&g.cfg, r.GetDelivery())
	if err != nil {
		return nil, err
	}
	w, wait, err := g.pageLimits(r, d)
	if err != nil {
		return nil, err
	}
	limits := g.limits(ctx, nil, r.GetClientId())
	quotaCtx, cancelQuota := g.withUnaryTimeout(ctx)
	err = g.awaitQuota(quotaCtx, limits, quota.Consume)
	cancelQuota()
	if err != nil {
		return nil, err
	}
	w.bytes = min(w.bytes, limits.AtOnce(quota.Consume))
	session := g.deps.NewSession()
	defer session.Close()
	reader := g.reader()
	defer g.readers.Put(reader)
	p := &page{g: g, window: w, out: &braidv1.FetchResponse{}, deadline: time.Now().Add(wait)}
	p.fetcher = fetcher{cfg: &g.cfg, session: session, delivery: d, reader: reader}
	defer p.fetcher.close()
	resolveCtx, cancel := g.withUnaryTimeout(ctx)
	p.positions, err = g.startPositions(resolveCtx, session, points, d.readCommitted)
	cancel()
	if err != nil {
		return nil, err
	}
	for more := true; more; {
		if more, err = p.step(ctx); err != nil {
			return nil, err
		}
	}
	limits.Take(ctx, quota.Consume, float64(w.bytes-p.window.bytes))
	holdPage(ctx, w.bytes-p.window.bytes)
	for _, at := range p.positions {
		p.out.Next = append(p.out.Next, at.offset())
	}
	return p.out, nil
}

func (g *Gateway) pageLimits(r *braidv1.FetchRequest, d *delivery) (window, time.Duration, error) {
	w := window{int64(r.GetMaxRecords()), int64(r.GetMaxBytes())}
	if w.records == 0 {
		w.records = int64(g.cfg.FetchRecordsDefault)
	}
	if w.bytes == 0 {
		w.bytes = int64(d.frameBytes)
	}
	wait := time.Duration(r.GetMaxWaitMs()) * time.Millisecond
	switch {
	case w.records < 0:
		return w, 0, invalid("max_records: %d is negative", w.records)
	case w.bytes < 0 || w.bytes > int64(g.cfg.DeliveryFrameBytesMax):
		return w, 0, invalid("max_bytes: is %d, want 1 to %d, or 0 for %d", w.bytes, g.cfg.DeliveryFrameBytesMax, d.frameBytes)
	case r.GetMaxWaitMs() < 0 || r.GetMaxWaitMs() > g.cfg.FetchWaitMax.Milliseconds():
		return w, 0, invalid("max_wait_ms: is %d, want 0 to %d", r.GetMaxWaitMs(), g.cfg.FetchWaitMax.Milliseconds())
	}
	return w, wait, nil
}

// step reads once; it reports whether another read can help.
func (p *page) step(ctx context.Context) (bool, error) {
	now := time.Now()
	asked, err := p.fetcher.fetch(ctx, p.positions, max(p.deadline.Sub(now), 0), p.g.cfg.FetchBytesMax, now)
	if err != nil {
		return false, err
	}
	moved := false
	for {
		ev, ok := p.fetcher.next(&p.window)
		if !ok {
			break
		}
		if ev.err != nil {
			p.g.logInternal("read failed", ev.position.TopicPartition, ev.err)
			if fail := ev.position.note(&p.g.cfg, ev.err, now); fail != nil {
				p.out.Failures = append(p.out.Failures, fail)
			}
			continue
		}
		moved = true
		if m := &ev.frame.message; len(m.GetRecords()) > 0 || len(m.GetKafkaBatches()) > 0 {
			p.out.Batches = append(p.out.Batches, m) // not released: it is encoded when this has returned
		} else {
			ev.frame.release()
		}
	}
	switch {
	case len(p.out.Batches) > 0 || !p.window.open() || !asked:
		return false, nil
	case moved: // all of it was filtered out: there may be more at hand
		return time.Now().Before(p.deadline), nil
	default:
		return len(p.out.Failures) == 0 && time.Now().Before(p.deadline), nil
	}
}
