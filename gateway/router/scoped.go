package router

import (
	"context"
	"strings"
	"time"

	"github.com/braidmq/braid/federation"
)

// NewSessionOf makes a Session for a client of a tenant; the empty tenant is the
// deployment's own logical cluster. The client's names are plain: of what it asks for it
// reaches nothing that is not of its logical cluster, whatever it says.
func (r *Router) NewSessionOf(tenant string) Session {
	return &scoped{Session: r.NewSession(), tenant: tenant}
}

// A scoped session qualifies names on their way in, and gives them back as they came.
type scoped struct {
	Session
	tenant string
}

// nowhere is a name that no topic has.
const nowhere federation.TopicName = "/"

// plain reports whether a name means in the map what its client means by it, so that
// nothing has to be translated: always, for clients of the deployment's own.
func (s *scoped) plain(name federation.TopicName) bool {
	return s.tenant == "" && strings.IndexByte(string(name), '/') < 0
}

func (s *scoped) in(tp federation.TopicPartition) federation.TopicPartition {
	switch {
	case s.plain(tp.Topic):
	case strings.IndexByte(string(tp.Topic), '/') >= 0:
		tp.Topic = nowhere
	default:
		tp.Topic = federation.Qualify(s.tenant, tp.Topic)
	}
	return tp
}

// translated returns the elements with names of the map; the same if none needs that.
func translated[T any](s *scoped, all []T, tp func(*T) *federation.TopicPartition) []T {
	var out []T
	for i := range all {
		name := *tp(&all[i])
		if out == nil && s.plain(name.Topic) {
			continue
		}
		if out == nil {
			out = append(make([]T, 0, len(all)), all...)
		}
		*tp(&out[i]) = s.in(name)
	}
	if out == nil {
		return all
	}
	return out
}

func (s *scoped) Produce(ctx context.Context, acks Acks, timeout time.Duration, appends []Append, done func([]Appended)) error {
	return s.Session.Produce(ctx, acks, timeout, translated(s, appends, func(a *Append) *federation.TopicPartition { return &a.TopicPartition }), done)
}

func (s *scoped) Fetch(ctx context.Context, from []Position, limit FetchLimit) (*Fetched, error) {
	f, err := s.Session.Fetch(ctx, translated(s, from, func(p *Position) *federation.TopicPartition { return &p.TopicPartition }), limit)
	if err == nil && s.tenant != "" {
		for i := range f.Slices {
			f.Slices[i].TopicPartition = from[i].TopicPartition
		}
	}
	return f, err
}

func (s *scoped) ListOffsets(ctx context.Context, q []OffsetQuery) []OffsetAnswer {
	return s.Session.ListOffsets(ctx, translated(s, q, func(x *OffsetQuery) *federation.TopicPartition { return &x.TopicPartition }))
}

func (s *scoped) OffsetsForEpochs(ctx context.Context, q []EpochQuery) []EpochAnswer {
	return s.Session.OffsetsForEpochs(ctx, translated(s, q, func(x *EpochQuery) *federation.TopicPartition { return &x.TopicPartition }))
}

func (s *scoped) DeleteRecords(ctx context.Context, d []DeleteBefore) []Deleted {
	return s.Session.DeleteRecords(ctx, translated(s, d, func(x *DeleteBefore) *federation.TopicPartition { return &x.TopicPartition }))
}

func (s *scoped) Watermarks(ctx context.Context, tp federation.TopicPartition) (Watermarks, error) {
	return s.Session.Watermarks(ctx, s.in(tp))
}

func (s *scoped) Producers(ctx context.Context, tps []federation.TopicPartition) []Producers {
	return s.Session.Producers(ctx, translated(s, tps, func(x *federation.TopicPartition) *federation.TopicPartition { return x }))
}

func (s *scoped) Sizes(ctx context.Context, tps []federation.TopicPartition) []int64 {
	return s.Session.Sizes(ctx, translated(s, tps, func(x *federation.TopicPartition) *federation.TopicPartition { return x }))
}
