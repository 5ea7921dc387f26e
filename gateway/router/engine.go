package router

import (
	"context"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/memory"
	"github.com/braidmq/braid/internal/upstream"
)

// A Router is the engine. It is safe for concurrent use.
type Router struct {
	cfg  Config
	deps Deps

	lanes     []*lane
	count     counters
	bytes     *memory.Budget // of appends in flight
	ahead     atomic.Int64   // bytes that reads ahead may bring
	cache     cacheCount
	reserved  sync.Map // *upstream.Cluster to the *atomic.Int64 of what its reads have of the room
	turn      atomic.Uint32
	lanesUsed atomic.Int32 // by sessions, of lanes
	states    partStates
	lists     lists

	openings openings
	refused  earlyRefusals

	tailMu sync.Mutex // guards the following
	tails  map[tailKey]*tail

	sessions sync.Map     // of *session, those that are open; kept only with Deps.Answers
	relieved atomic.Int64 // when memory was last given back, in Unix nanoseconds

	ctx    context.Context //nolint:containedctx // the router's life: lanes and tails end with it
	cancel context.CancelFunc
	tasks  sync.WaitGroup
}

// New makes a Router and starts its lanes; they end with ctx or Close.
func New(ctx context.Context, cfg Config, deps Deps) *Router {
	cfg = cfg.withDefaults()
	ctx, cancel := context.WithCancel(ctx)
	r := &Router{cfg: cfg, deps: deps, bytes: memory.NewBudget(cfg.AppendBytesMax), tails: make(map[tailKey]*tail), ctx: ctx, cancel: cancel}
	r.cache.max = deps.Answers.Size() / 2
	deps.Answers.OnPressure(r.relieve)
	r.states.maps, r.states.parts = deps.Maps, make(map[stateKey]*partState)
	r.lanesUsed.Store(int32(cfg.Lanes))
	for i := range cfg.LanesMax { // one without sessions costs next to nothing
		l := newLane(r, i)
		r.lanes = append(r.lanes, l)
		r.tasks.Go(l.run)
	}
	return r
}

// Close ends the router: appends in flight fail with kind NoLeader. It waits for
// all its goroutines.
func (r *Router) Close() {
	r.cancel()
	r.tasks.Wait()
}

// NewSession makes a Session for one client connection or stream, pinned to the
// next lane in turn, or to a new one if all are busy.
func (r *Router) NewSession() Session {
	s := &session{r: r, lane: r.nextLane(), bytes: memory.NewBudget(r.cfg.SessionAppendBytesMax), reads: make(map[federation.TopicPartition]*read)}
	s.perRead.Store(int64(r.cfg.FetchBytesMax) / 8)
	if r.deps.Answers != nil {
		r.sessions.Store(s, nil)
	}
	return s
}

// session implements Session.
type session struct {
	r     *Router
	lane  *lane
	bytes *memory.Budget           // of appends in flight
	idle  atomic.Pointer[fetching] // memory for the next Fetch

	perRead atomic.Int64 // bytes that a read of a partition brings, of those that bring any

	mu    sync.Mutex // guards the following
	reads map[federation.TopicPartition]*read
	left  federation.TopicPartition // what the last Fetch left behind first; partition -1 = nothing
}

func (s *session) Close() {
	s.r.sessions.Delete(s)
	s.mu.Lock()
	reads := s.reads
	s.reads = nil
	s.mu.Unlock()
	for _, rd := range reads {
		rd.abandon()
	}
}

// Produce implements Session.
func (s *session) Produce(ctx context.Context, acks Acks, timeout time.Duration, appends []Append, done func([]Appended)) error {
	var size int64
	for i := range appends {
		size += int64(len(appends[i].Batch))
	}
	if err := s.bytes.Acquire(ctx, size); err != nil {
		return err
	}
	if err := s.r.bytes.Acquire(ctx, size); err != nil {
		s.bytes.Release(size)
		return err
	}
	c := &s.r.count
	c.appends.Add(int64(len(appends)))
	c.appendBytes.Add(size)
	c.inFlight.Add(size)
	sub := newSubmission(len(appends))
	sub.done = func(a []Appended) {
		c.inFlight.Add(-size)
		s.r.bytes.Release(size)
		s.bytes.Release(size)
		for i := range a {
			if a[i].Err != nil {
				c.appendFailures.Add(1)
			}
		}
		done(a)
	}
	if acks == AcksNone {
		acks = AcksLeader
	}
	sub.begun = time.Now()
	deadline := sub.begun.Add(timeout)
	for i := range appends {
		sub.ops[i] = appendOp{sub: sub, index: int32(i), tp: appends[i].TopicPartition, batch: appends[i].Batch, acks: acks, deadline: deadline, away: appends[i].AwayWait}
	}
	select {
	case s.lane.submit <- sub:
		if s.r.ctx.Err() != nil {
			go s.lane.refuseSubmissions() // the lane may have ended already
		}
		return nil
	case <-ctx.Done():
	case <-s.r.ctx.Done():
	}
	c.inFlight.Add(-size)
	s.r.bytes.Release(size)
	s.bytes.Release(size)
	if err := ctx.Err(); err != nil {
		return err
	}
	return errStopping()
}

// newSubmission makes a submission of n appends. Most have one, which is one object then.
func newSubmission(n int) *submission {
	if n == 1 {
		s := new(struct {
			submission
			op     [1]appendOp
			result [1]Appended
		})
		s.ops, s.results, s.left = s.op[:], s.result[:], 1
		return &s.submission
	}
	return &submission{ops: make([]appendOp, n), results: make([]Appended, n), left: n}
}

func errStopping() error {
	return federation.Errorf(federation.NoLeader, "this gateway is stopping; try again at another one")
}

// InitProducer implements Session.
func (s *session) InitProducer(ctx context.Context, id int64, epoch int16) (int64, int16, error) {
	return InitProducer(ctx, s.r.deps.ProducerIDs, id, epoch)
}

// InitProducer gives an idempotent producer its identity. One that raises its epoch
// keeps its id until the epochs are used up (Kafka's ProducerIdManager and
// TransactionManager.bumpIdempotentProducerEpoch).
func InitProducer(ctx context.Context, ids ProducerIDs, id int64, epoch int16) (int64, int16, error) {
	if id >= 0 && epoch >= 0 && epoch < math.MaxInt16-1 {
		return id, epoch + 1, nil
	}
	next, err := ids.NextProducerID(ctx)
	if err != nil {
		return -1, -1, err
	}
	return next, 0, nil
}

// cluster returns the physical cluster of an extent, in the words of a client.
func (r *Router) cluster(e *federation.Extent) (*upstream.Cluster, error) {
	c, err := r.deps.Clusters.Cluster(e.Cluster)
	if err != nil {
		return nil, federation.Errorf(federation.ClusterUnavailable, "a part of the topic lies on a cluster that this gateway does not know yet; try again").WithCause(err)
	}
	return c, nil
}

// partStates holds what the router saw last of each logical partition. A topic
// that is created again under its name is another one: the key has its id.
type partStates struct {
	maps Maps

	mu      sync.RWMutex // guards the following
	parts   map[stateKey]*partState
	pruneAt int // size at which states of deleted topics are dropped
}

type stateKey struct {
	topic     federation.TopicID
	partition federation.LogicalPartition
}

// A partState is what was seen last of a logical partition's head.
type partState struct {
	mu        sync.Mutex // guards the following
	high      federation.LogicalOffset
	stable    federation.LogicalOffset
	logStart  federation.LogicalOffset
	head      int32 // number of the extent that high and stable are of
	known     bool
	epochWait time.Time // since when records of the epoch waitingFor are held back; zero = never

	waitingFor federation.PhysicalEpoch

	seenOf int32                     // number of the newest extent that readers were given records of
	seen   federation.PhysicalOffset // after the last of those
}

// statesMin is how many states are kept before any are dropped.
const statesMin = 1000

// peek returns what was seen of a partition; nil if nothing was.
func (s *partStates) peek(key stateKey) *partState {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.parts[key]
}

func (s *partStates) of(tp federation.TopicPartition) *partState {
	m := s.maps.Current()
	key := stateKey{partition: tp.Partition}
	if t := m.Topic(tp.Topic); t != nil {
		key.topic = t.ID
	}
	p := s.peek(key)
	if p != nil {
		return p
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if p = s.parts[key]; p != nil {
		return p
	}
	if len(s.parts) >= max(s.pruneAt, statesMin) {
		for k := range s.parts {
			if m.TopicByID(k.topic) == nil {
				delete(s.parts, k)
			}
		}
		s.pruneAt = 2 * len(s.parts)
	}
	p = &partState{}
	s.parts[key] = p
	return p
}
