package gateway

import (
	"context"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway/router"
	braidv1 "github.com/braidmq/braid/gen/braid/v1"
)

// A startPoint is where reading a partition begins.
type startPoint struct {
	federation.TopicPartition
	at *braidv1.Position
}

// checkPosition refuses a position that is malformed, or committed where no
// group is. A nil position is fine: it means latest.
func checkPosition(field string, p *braidv1.Position) error {
	switch at := p.GetAt().(type) {
	case *braidv1.Position_Committed:
		return invalid("%s.committed: makes no sense here, as no group is read for", field)
	case *braidv1.Position_Offset:
		if at.Offset < 0 {
			return invalid("%s.offset: %d is negative", field, at.Offset)
		}
	case *braidv1.Position_TimestampMs:
		if at.TimestampMs < 0 {
			return invalid("%s.timestamp_ms: %d is negative", field, at.TimestampMs)
		}
	case *braidv1.Position_LastN:
		if at.LastN < 0 {
			return invalid("%s.last_n: %d is negative", field, at.LastN)
		}
	}
	return nil
}

// expand lists the partitions of a request's sources with their start points.
func (g *Gateway) expand(m *federation.Map, sources []*braidv1.ReadSource) ([]startPoint, error) {
	if len(sources) == 0 {
		return nil, invalid("sources: is empty")
	}
	var points []startPoint
	seen := make(map[federation.TopicPartition]bool)
	for i, src := range sources {
		t := m.Topic(federation.TopicName(src.GetTopic()))
		if t == nil {
			return nil, federation.Errorf(federation.UnknownTopic, "sources[%d].topic: topic %q does not exist", i, federation.TopicName(src.GetTopic()))
		}
		if err := checkPosition("sources.start", src.GetStart()); err != nil {
			return nil, err
		}
		if n := len(points) + max(len(src.GetPartitions()), len(src.GetPositions())); n > g.cfg.ReadPartitionsMax {
			return nil, g.tooManySources()
		}
		from, err := sourcePartitions(t, i, src)
		if err != nil {
			return nil, err
		}
		for _, p := range from {
			if seen[p.TopicPartition] {
				return nil, invalid("sources[%d]: partition %s is named twice", i, p.TopicPartition)
			}
			seen[p.TopicPartition] = true
		}
		if points = append(points, from...); len(points) > g.cfg.ReadPartitionsMax {
			return nil, g.tooManySources()
		}
	}
	return points, nil
}

func (g *Gateway) tooManySources() error {
	return invalid("sources: more than %d partitions; read them in several calls", g.cfg.ReadPartitionsMax)
}

func sourcePartitions(t *federation.Topic, index int, src *braidv1.ReadSource) ([]startPoint, error) {
	check := func(field string, p int32) error {
		if p < 0 || int(p) >= len(t.Partitions) {
			return federation.Errorf(federation.UnknownPartition, "sources[%d].%s: topic %q has partitions 0 to %d, not %d", index, field, t.Name, len(t.Partitions)-1, federation.LogicalPartition(p))
		}
		return nil
	}
	override := make(map[int32]*braidv1.Position)
	for _, o := range src.GetPositions() {
		if o.GetTopic() != "" && o.GetTopic() != src.GetTopic() {
			return nil, invalid("sources[%d].positions: names topic %q in a source of %q", index, o.GetTopic(), src.GetTopic())
		}
		if err := check("positions", o.GetPartition()); err != nil {
			return nil, err
		}
		position := &braidv1.Position{At: &braidv1.Position_Offset{Offset: o.GetOffset()}}
		if err := checkPosition("sources.positions", position); err != nil {
			return nil, err
		}
		override[o.GetPartition()] = position
	}
	numbers := src.GetPartitions()
	if len(numbers) == 0 {
		for p := range t.Partitions {
			numbers = append(numbers, int32(p))
		}
	}
	var out []startPoint
	for _, p := range numbers {
		if err := check("partitions", p); err != nil {
			return nil, err
		}
		at := src.GetStart()
		if o := override[p]; o != nil {
			at = o
		}
		out = append(out, startPoint{federation.TopicPartition{Topic: t.Name, Partition: federation.LogicalPartition(p)}, at})
	}
	return out, nil
}

// A resolved is the answer to a startPoint.
type resolved struct {
	offset int64
	err    error
}

// resolve turns start points into offsets, asking the clusters where it must.
func resolve(ctx context.Context, session router.Session, points []startPoint, readCommitted bool) []resolved {
	out := make([]resolved, len(points))
	var queries []router.OffsetQuery
	var asked []int // index of the point of each query
	ask := func(i int, timestamp int64) {
		queries = append(queries, router.OffsetQuery{
			TopicPartition: points[i].TopicPartition, TimestampMs: timestamp,
			CurrentEpoch: federation.NoEpoch, ReadCommitted: readCommitted,
		})
		asked = append(asked, i)
	}
	for i := range points {
		switch at := points[i].at.GetAt().(type) {
		case *braidv1.Position_Offset:
			out[i].offset = at.Offset
		case *braidv1.Position_Earliest:
			ask(i, router.TimestampEarliest)
		case *braidv1.Position_TimestampMs:
			ask(i, at.TimestampMs)
			ask(i, router.TimestampLatest)
		case *braidv1.Position_LastN:
			ask(i, router.TimestampEarliest)
			ask(i, router.TimestampLatest)
		default:
			ask(i, router.TimestampLatest)
		}
	}
	if len(queries) == 0 {
		return out
	}
	answers := session.ListOffsets(ctx, queries)
	for q := 0; q < len(answers); q++ {
		i, a := asked[q], answers[q]
		pair := q+1 < len(asked) && asked[q+1] == i
		switch at := points[i].at.GetAt().(type) {
		case *braidv1.Position_TimestampMs:
			if a.Err == nil && a.Offset < 0 && pair {
				a = answers[q+1] // no record is that young
			}
		case *braidv1.Position_LastN:
			if last := answers[q+1]; a.Err == nil && pair {
				a.Err = last.Err
				a.Offset = max(a.Offset, last.Offset-federation.LogicalOffset(min(at.LastN, int64(last.Offset))))
			}
		}
		if pair {
			q++
		}
		out[i] = resolved{int64(a.Offset), a.Err}
	}
	return out
}
