package controller

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/federation/wire"
	controlv1 "github.com/braidmq/braid/gen/braid/control/v1"
	"github.com/braidmq/braid/internal/redisstore"
)

// editsMax bounds the edits that go into one map version together.
const editsMax = 256

// recentMax is how many versions back a gateway that comes again gets a delta
// instead of a snapshot.
const recentMax = 64

// A term is the time in which one controller leads. Its map is written by one
// goroutine; everything else sees published snapshots.
type term struct {
	*Controller
	fencing int64
	log     *slog.Logger
	done    chan struct{}      // closed when the term is over
	end     context.CancelFunc // ends the term
	ended   <-chan struct{}    // closed when the term is over, or about to be

	confirmed atomic.Pointer[time.Time] // the last moment at which the lead was known to hold
	published atomic.Pointer[published]
	edits     chan edit

	snapshotMu sync.Mutex // guards the following, and makes concurrent callers wait for one snapshot
	snapshot   *snapshot

	fleet   *fleet
	ops     *operations
	health  *health
	journal *mapJournal
	stamps  stamps        // of publications, for their measurement
	hints   chan struct{} // asks collect for a look; holds one

	groupsLost []string // logical clusters whose groups the store has lost; set by load

	foreign atomic.Int64 // sealed physical partitions that somebody wrote to
}

// published is one version of the map with what is sent to the gateways.
type published struct {
	m      *federation.Map
	delta  *frame            // from the version before; nil for the first of a term
	recent []*federation.Map // older versions, oldest first
	next   chan struct{}     // closed when the next version is published
}

// A snapshot is a whole map with its bytes, which are made once for many streams,
// also for those that come some versions later: they get a delta behind it.
type snapshot struct {
	m      *federation.Map
	frames []*controlv1.AttachResponse
}

// A frame is a message that many streams send: its bytes are made once.
type frame struct {
	from   federation.MapVersion
	packed *controlv1.AttachResponse // the bytes as unknown fields, for binary streams
	plain  *controlv1.AttachResponse // for JSON
}

// An edit is a change of the map that waits for the writer.
type edit struct {
	apply func(*federation.Map) (*federation.Map, error)
	done  chan edited // holds one
}

type edited struct {
	m   *federation.Map
	err error
}

// newTerm returns a term whose work is done in ctx, which end ends.
func newTerm(ctx context.Context, end context.CancelFunc, c *Controller, leader redisstore.Leader, confirmed time.Time) *term {
	t := &term{
		Controller: c,
		fencing:    leader.Fencing,
		log:        c.log.With("epoch", leader.Fencing),
		done:       make(chan struct{}),
		end:        end,
		ended:      ctx.Done(),
		edits:      make(chan edit, editsMax),
		hints:      make(chan struct{}, 1),
	}
	t.confirmed.Store(&confirmed)
	t.fleet = newFleet()
	t.health = newHealth()
	t.ops = newOperations(t)
	t.journal = newMapJournal(t)
	return t
}

// renew confirms the lead until another controller has taken it, or ctx ends. A
// store that is away ends nothing: nobody else can take the lead then, and the
// gateways' leases run out by themselves.
func (t *term) renew(ctx context.Context) {
	for {
		sleep(ctx, t.cfg.RenewInterval)
		if ctx.Err() != nil {
			return
		}
		asked := time.Now()
		call, cancel := context.WithTimeout(ctx, t.cfg.LeaseTTL)
		ok, err := t.parts.Store.RenewLeadership(call, t.cfg.LogicalCluster, t.candidate(), t.fencing, t.cfg.LeaseTTL)
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			t.log.Warn("the lead could not be confirmed; leases of gateways run on", "err", err, "last_confirmed", time.Since(*t.confirmed.Load()))
		case !ok:
			t.log.Warn("another controller has taken the lead")
			return
		default:
			t.confirmed.Store(&asked)
		}
	}
}

// load reads the map and the operations, and makes the first map of a logical
// cluster. It retries until ctx ends; false then.
func (t *term) load(ctx context.Context) bool {
	wait := t.cfg.RenewInterval
	for ctx.Err() == nil {
		err := t.tryLoad(ctx)
		if err == nil {
			return true
		}
		if ctx.Err() == nil {
			t.log.Error("the map cannot be loaded; it is tried again", "err", err)
		}
		sleep(ctx, wait)
	}
	return false
}

func (t *term) tryLoad(ctx context.Context) error {
	m, err := t.parts.Store.LoadMap(ctx, t.cfg.LogicalCluster)
	if err != nil {
		return err
	}
	ops, err := t.parts.Store.Operations(ctx, t.cfg.LogicalCluster)
	if err != nil {
		return err
	}
	mapRestored := false
	if last := t.remembered(); last != nil && last.Version > m.Version {
		if err := t.restore(ctx, m, last); err != nil {
			return err
		}
		m, mapRestored = last, true
	}
	if m.Version == 0 {
		first := *m
		first.Version = 1
		first.ClusterID = federation.NewTopicID().String() // the same form as Kafka's cluster ids
		d := wire.Diff(m, first.Seal())
		if err := t.parts.Store.WriteMap(ctx, t.cfg.LogicalCluster, t.fencing, d); err != nil {
			return err
		}
		m = &first
	}
	t.groupsLost = nil
	for _, view := range views(m) {
		if err := t.knowGroups(ctx, view, mapRestored); err != nil {
			return err
		}
	}
	t.ops.load(ops)
	now := time.Now() // later than the last moment at which another's lead was confirmed
	t.fleet.takeOver(m, now.Add(t.cfg.TakeoverGrace), now.Add(t.cfg.GatewayLease))
	t.journal.write(ctx, m)
	t.publish(m, nil)
	return nil
}

// run works until ctx ends.
func (t *term) run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { t.write(ctx) })
	wg.Go(func() { t.collect(ctx) })
	wg.Go(func() { t.watchSealed(ctx) })
	wg.Go(func() { t.watchDirect(ctx) })
	wg.Go(func() {
		for _, logical := range t.groupsLost {
			t.restoreGroups(ctx, logical)
		}
		t.backUp(ctx)
	})
	wg.Go(func() { t.sweep(ctx) })
	wg.Go(func() { t.watchAway(ctx) })
	wg.Go(func() { t.ops.run(ctx) })
	wg.Go(func() { t.adoptOrphans(ctx) })
	wg.Wait()
}

// current returns the published map.
func (t *term) current() *federation.Map { return t.published.Load().m }

// edit changes the map: apply gets the newest map and returns the next one, or
// the same if there is nothing to do. It may be called more than once, and must
// not block. The map that is returned is persisted and published, and has the
// change in it. After an error of kind StoreUnavailable the change may have been
// made, or not.
func (t *term) edit(ctx context.Context, apply func(*federation.Map) (*federation.Map, error)) (*federation.Map, error) {
	e := edit{apply: apply, done: make(chan edited, 1)}
	select {
	case t.edits <- e:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-t.done:
		return nil, errNotLeader()
	}
	select {
	case r := <-e.done:
		return r.m, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-t.done:
	}
	select {
	case r := <-e.done: // the writer's last
		return r.m, r.err
	default:
		return nil, errNotLeader() // nobody has taken it
	}
}

// settle returns when every write that is under way by now is published, or has failed, and
// what the last one left unknown is known. It waits for so long as a write may take.
func (t *term) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, t.cfg.RegisterTimeout)
	defer cancel()
	_, err := t.edit(ctx, func(m *federation.Map) (*federation.Map, error) { return m, nil })
	if ctx.Err() != nil {
		err = federation.Errorf(federation.StoreUnavailable, "the map is being written; try again").WithCause(err)
	}
	return err
}

// heed ends the term where the store has refused a write since another controller has
// taken the lead: the next confirmation would find out only some time later. It returns
// err.
func (t *term) heed(err error) error {
	if federation.KindOf(err) == federation.NotLeader {
		t.end()
	}
	return err
}

// write is the one writer of the map. Edits that arrive while a version is being
// written go into the next one together.
func (t *term) write(ctx context.Context) {
	unsure := false // the last write may have happened, or not
	for {
		var batch []edit
		select {
		case e := <-t.edits:
			batch = append(batch, e)
		case <-ctx.Done():
			return
		}
		for more := true; more && len(batch) < editsMax; {
			select {
			case e := <-t.edits:
				batch = append(batch, e)
			default:
				more = false
			}
		}
		unsure = t.commit(ctx, batch, unsure)
	}
}

// commit writes and publishes one version with all edits of the batch. It reports
// whether it is unknown if the version was written.
func (t *term) commit(ctx context.Context, batch []edit, unsure bool) bool {
	answer := func(m *federation.Map, err error) {
		for _, e := range batch {
			e.done <- edited{m, err}
		}
	}
	if unsure {
		if err := t.reload(ctx); err != nil {
			answer(nil, err)
			return true
		}
	}
	base := t.current()
	next, batch := applyAll(base, batch)
	if next == base {
		answer(base, nil)
		return false
	}
	version := *next
	version.Version = base.Version + 1
	d := wire.Diff(base, &version)
	if d.Empty() {
		answer(base, nil)
		return false
	}
	// The gateways will do just this; what they would refuse is not written.
	next, err := wire.Apply(base, d)
	if err != nil {
		t.log.Error("an edit would break the map; it was refused", "err", err)
		answer(nil, federation.Errorf(federation.Internal, "the change would break a rule of the map").WithCause(err))
		return false
	}
	err = t.heed(t.parts.Store.WriteMap(ctx, t.cfg.LogicalCluster, t.fencing, d))
	if err != nil {
		if ctx.Err() == nil {
			t.log.Warn("the map could not be written", "version", version.Version, "err", err)
		}
		answer(nil, err)
		return federation.KindOf(err) != federation.NotLeader
	}
	t.journal.write(ctx, next)
	t.publish(next, &d)
	answer(next, nil)
	return false
}

// applyAll chains the edits. One that fails is answered, and leaves no trace.
func applyAll(base *federation.Map, batch []edit) (*federation.Map, []edit) {
	next, good := base, make([]edit, 0, len(batch))
	for _, e := range batch {
		m, err := e.apply(next)
		if err != nil {
			e.done <- edited{nil, err}
			continue
		}
		next, good = m, append(good, e)
	}
	return next, good
}

// reload takes over what the store has, after a write whose outcome is unknown.
func (t *term) reload(ctx context.Context) error {
	m, err := t.parts.Store.LoadMap(ctx, t.cfg.LogicalCluster)
	if err != nil {
		return err
	}
	have := t.current()
	switch {
	case m.Version < have.Version:
		return t.restore(ctx, m, have)
	case m.Version > have.Version:
		d := wire.Diff(have, m)
		t.journal.write(ctx, m)
		t.publish(m, &d)
	}
	return nil
}

// restore writes a map that was published into a store that has lost it: it was
// restarted without its data, or a replica took over that was behind.
func (t *term) restore(ctx context.Context, have, published *federation.Map) error {
	t.health.alarm("map", "the store had lost map versions %d to %d; the map was written again from this controller's memory, but groups and offsets may be lost as well", have.Version+1, published.Version)
	t.log.Error("the store has lost map versions; writing the map again", "have", have.Version, "published", published.Version)
	return t.parts.Store.WriteMap(ctx, t.cfg.LogicalCluster, t.fencing, wire.Diff(have, published))
}

// publish makes a version visible: to calls, and to all streams.
func (t *term) publish(m *federation.Map, d *wire.Delta) {
	p := &published{m: m, next: make(chan struct{})}
	old := t.published.Load()
	if old != nil {
		p.recent = append(slices.Clone(old.recent), old.m)
		p.recent = p.recent[max(0, len(p.recent)-recentMax):]
	}
	if d != nil {
		p.delta = t.newFrame(*d)
		t.stamps.note(m.Version)
	}
	if old == nil || !maps.Equal(old.m.Clusters, m.Clusters) {
		t.parts.Clusters.Update(slices.Collect(maps.Values(m.Clusters)))
		t.hint()
	}
	t.watchPort(m)
	t.remember(m)
	t.published.Store(p)
	if old != nil {
		close(old.next)
	}
	t.log.Debug("map published", "version", m.Version)
}

// watchPort raises an alarm while there are ACLs or tenants, and clients that reach this
// controller could get around them.
func (t *term) watchPort(m *federation.Map) {
	if !t.cfg.Unguarded || len(m.ACLs) == 0 && len(m.Tenants) == 0 {
		t.health.clear(alarmPort)
		return
	}
	t.health.alarm(alarmPort, "whoever reaches the port of controller %q can change everything, past ACLs and tenants: start it with the --fleet-token-file of the gateways", t.cfg.ID)
}

// alarmPort is the alarm of watchPort.
const alarmPort = "port"

func (t *term) newFrame(d wire.Delta) *frame {
	plain := &controlv1.AttachResponse{ControllerEpoch: t.fencing, Frame: &controlv1.AttachResponse_Delta{Delta: d.Proto()}}
	return &frame{from: d.From, packed: pack(plain), plain: plain}
}

// pack returns a message that is marshalled by a copy of bytes.
func pack(plain *controlv1.AttachResponse) *controlv1.AttachResponse {
	b, err := proto.Marshal(plain)
	if err != nil {
		return plain
	}
	packed := &controlv1.AttachResponse{}
	packed.ProtoReflect().SetUnknown(b)
	return packed
}

// recentSnapshot returns a snapshot that is at most a few versions old, and not
// below least: a peer ignores what is older than its own map.
func (t *term) recentSnapshot(least federation.MapVersion) *snapshot {
	t.snapshotMu.Lock()
	defer t.snapshotMu.Unlock()
	if t.snapshot == nil || t.snapshot.m.Version < least || t.known(t.snapshot.m.Version) == nil {
		m := t.current()
		t.snapshot = &snapshot{m: m}
		for _, f := range t.snapshotFrames(m) {
			t.snapshot.frames = append(t.snapshot.frames, pack(f))
		}
	}
	return t.snapshot
}

func (t *term) snapshotFrames(m *federation.Map) []*controlv1.AttachResponse {
	var out []*controlv1.AttachResponse
	for _, part := range wire.Snapshot(m) {
		out = append(out, &controlv1.AttachResponse{ControllerEpoch: t.fencing, Frame: &controlv1.AttachResponse_Snapshot{Snapshot: part}})
	}
	return out
}

// catchUp returns what brings a stream from one version to the newest: nothing, a
// delta, or a snapshot and a delta. A stream that is one version behind gets the
// shared frame. told is the newest version that the peer said it has; it can have
// read one from the store since it registered.
func (t *term) catchUp(have *federation.Map, told federation.MapVersion, binary bool) ([]*controlv1.AttachResponse, *published) {
	var out []*controlv1.AttachResponse
	switch {
	case have != nil:
	case binary:
		s := t.recentSnapshot(told)
		have, out = s.m, slices.Clone(s.frames)
	default:
		have = t.current()
		out = t.snapshotFrames(have)
	}
	p := t.published.Load()
	if have.Version == p.m.Version {
		return out, p
	}
	f := p.delta
	if f == nil || f.from != have.Version {
		f = t.newFrame(wire.Diff(have, p.m))
	}
	if binary {
		return append(out, f.packed), p
	}
	return append(out, f.plain), p
}

// known returns the recent map of a version; nil if it is too old or unknown.
func (t *term) known(v federation.MapVersion) *federation.Map {
	p := t.published.Load()
	if p.m.Version == v {
		return p.m
	}
	for _, m := range p.recent {
		if m.Version == v {
			return m
		}
	}
	return nil
}

// hint asks collect to look at the clusters now.
func (t *term) hint() {
	select {
	case t.hints <- struct{}{}:
	default:
	}
}
