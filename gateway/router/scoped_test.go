package router

import (
	"context"
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/federation"
)

// A recorder is a session that notes which topics it is asked for.
type recorder struct{ asked []federation.TopicName }

func (r *recorder) note(tp federation.TopicPartition) { r.asked = append(r.asked, tp.Topic) }

func (r *recorder) Produce(_ context.Context, _ Acks, _ time.Duration, appends []Append, done func([]Appended)) error {
	for _, a := range appends {
		r.note(a.TopicPartition)
	}
	done(make([]Appended, len(appends)))
	return nil
}

func (r *recorder) Fetch(_ context.Context, from []Position, _ FetchLimit) (*Fetched, error) {
	f := &Fetched{}
	for _, p := range from {
		r.note(p.TopicPartition)
		f.Slices = append(f.Slices, Slice{TopicPartition: p.TopicPartition})
	}
	return f, nil
}

func (r *recorder) ListOffsets(_ context.Context, q []OffsetQuery) []OffsetAnswer {
	for _, x := range q {
		r.note(x.TopicPartition)
	}
	return nil
}

func (r *recorder) OffsetsForEpochs(_ context.Context, q []EpochQuery) []EpochAnswer {
	for _, x := range q {
		r.note(x.TopicPartition)
	}
	return nil
}

func (r *recorder) DeleteRecords(_ context.Context, d []DeleteBefore) []Deleted {
	for _, x := range d {
		r.note(x.TopicPartition)
	}
	return nil
}

func (r *recorder) Watermarks(_ context.Context, tp federation.TopicPartition) (Watermarks, error) {
	r.note(tp)
	return Watermarks{}, nil
}

func (r *recorder) Producers(_ context.Context, tps []federation.TopicPartition) []Producers {
	for _, tp := range tps {
		r.note(tp)
	}
	return nil
}

func (r *recorder) Sizes(_ context.Context, tps []federation.TopicPartition) []int64 {
	for _, tp := range tps {
		r.note(tp)
	}
	return nil
}

func (*recorder) InitProducer(context.Context, int64, int16) (int64, int16, error) { return 0, 0, nil }
func (*recorder) Close()                                                           {}

// scopedCalls are all calls that name topics.
var scopedCalls = map[string]func(ctx context.Context, s Session, tps []federation.TopicPartition){
	"Produce": func(ctx context.Context, s Session, tps []federation.TopicPartition) {
		var appends []Append
		for _, tp := range tps {
			appends = append(appends, Append{TopicPartition: tp})
		}
		_ = s.Produce(ctx, AcksAll, 0, appends, func([]Appended) {})
	},
	"Fetch": func(ctx context.Context, s Session, tps []federation.TopicPartition) {
		var from []Position
		for _, tp := range tps {
			from = append(from, Position{TopicPartition: tp})
		}
		_, _ = s.Fetch(ctx, from, FetchLimit{})
	},
	"ListOffsets": func(ctx context.Context, s Session, tps []federation.TopicPartition) {
		var q []OffsetQuery
		for _, tp := range tps {
			q = append(q, OffsetQuery{TopicPartition: tp})
		}
		s.ListOffsets(ctx, q)
	},
	"OffsetsForEpochs": func(ctx context.Context, s Session, tps []federation.TopicPartition) {
		var q []EpochQuery
		for _, tp := range tps {
			q = append(q, EpochQuery{TopicPartition: tp})
		}
		s.OffsetsForEpochs(ctx, q)
	},
	"DeleteRecords": func(ctx context.Context, s Session, tps []federation.TopicPartition) {
		var d []DeleteBefore
		for _, tp := range tps {
			d = append(d, DeleteBefore{TopicPartition: tp})
		}
		s.DeleteRecords(ctx, d)
	},
	"Watermarks": func(ctx context.Context, s Session, tps []federation.TopicPartition) {
		for _, tp := range tps {
			_, _ = s.Watermarks(ctx, tp)
		}
	},
	"Producers": func(ctx context.Context, s Session, tps []federation.TopicPartition) { s.Producers(ctx, tps) },
	"Sizes":     func(ctx context.Context, s Session, tps []federation.TopicPartition) { s.Sizes(ctx, tps) },
}

// No call of a session reaches a topic of another logical cluster, however it is spelled.
func TestScopedSessionsReachTheirOwnOnly(t *testing.T) {
	for method := range reflect.TypeFor[Session]().Methods() {
		name := method.Name
		if name != "InitProducer" && name != "Close" {
			require.Contains(t, scopedCalls, name, "a new method: it has to be scoped, and tested here")
		}
	}
	names := []federation.TopicName{"orders", "acme/orders", "beta/orders", "/orders", "orders/", "a/b/c", "/"}
	want := map[string][]federation.TopicName{
		"":     {"orders", "/", "/", "/", "/", "/", "/"},
		"acme": {"acme/orders", "/", "/", "/", "/", "/", "/"},
	}
	for method, call := range scopedCalls {
		for tenant := range want {
			rec := &recorder{}
			tps := make([]federation.TopicPartition, len(names))
			for i, name := range names {
				tps[i] = federation.TopicPartition{Topic: name, Partition: 3}
			}
			call(t.Context(), &scoped{Session: rec, tenant: tenant}, tps)
			require.Equal(t, want[tenant], rec.asked, "%s of %q", method, tenant)
			for i, name := range names {
				require.Equal(t, name, tps[i].Topic, "%s changes what it is given", method)
			}
		}
	}
}

// Answers have the names that were asked for.
func TestScopedFetchGivesNamesBack(t *testing.T) {
	s := &scoped{Session: &recorder{}, tenant: "acme"}
	f, err := s.Fetch(t.Context(), []Position{{TopicPartition: federation.TopicPartition{Topic: "orders", Partition: 1}}, {TopicPartition: federation.TopicPartition{Topic: "x/y"}}}, FetchLimit{})
	require.NoError(t, err)
	require.Equal(t, federation.TopicPartition{Topic: "orders", Partition: 1}, f.Slices[0].TopicPartition)
	require.Equal(t, federation.TopicName("x/y"), f.Slices[1].Topic)
}

// The deployment's own clients pay for tenants with a look at each name, and no memory.
func TestScopedSessionsAllocateNothingForPlainNames(t *testing.T) {
	s := &scoped{}
	appends := make([]Append, 50)
	for i := range appends {
		appends[i].Topic = "orders"
	}
	topic := func(a *Append) *federation.TopicPartition { return &a.TopicPartition }
	require.Zero(t, testing.AllocsPerRun(100, func() { translated(s, appends, topic) }))
}

func BenchmarkScoped(b *testing.B) {
	for tenant, name := range map[string]string{"": "own", "acme": "tenant"} {
		b.Run(name, func(b *testing.B) {
			s := &scoped{tenant: tenant}
			appends := make([]Append, 10) // of one request
			for i := range appends {
				appends[i].Topic = "some-topic-of-usual-length"
			}
			b.ReportAllocs()
			for b.Loop() {
				translated(s, appends, func(a *Append) *federation.TopicPartition { return &a.TopicPartition })
			}
		})
	}
}
