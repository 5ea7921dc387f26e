package groups

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/braidmq/braid/federation"
)

// An Engine coordinates the groups that Map.GroupGateway gives to its gateway. It
// is a Coordinator; calls wait until Run is running.
type Engine struct {
	cfg   Config
	spawn chan func(context.Context) // to Run, which starts every goroutine
	over  chan struct{}              // closed when Run ends

	counted counters

	live sync.Map // of group id to the *owner that runs: most requests need no lock to find it

	mu     sync.Mutex // guards the following
	groups map[string]*entry
	closed bool
}

// counters are of the engine's life.
type counters struct {
	rebalances, commits, writes, storeFailures atomic.Int64
}

// Stats are counts for metrics.
type Stats struct {
	Groups        int   // in memory
	Rebalances    int64 // new assignments
	Commits       int64 // stored offsets
	Writes        int64 // to Redis; one stores what came in while the one before was under way
	StoreFailures int64 // accesses to Redis that failed
}

// Stats returns the engine's counts since it was made.
func (e *Engine) Stats() Stats {
	return Stats{
		Groups: len(e.owners()), Rebalances: e.counted.rebalances.Load(), Commits: e.counted.commits.Load(),
		Writes: e.counted.writes.Load(), StoreFailures: e.counted.storeFailures.Load(),
	}
}

// Room is what the engine's members take from.
func (e *Engine) Room() *Room { return e.cfg.Room }

// An entry is a group that is live or being loaded.
type entry struct {
	ready chan struct{} // closed when the following are set
	owner *owner        // nil: err, or nothing of the group is stored
	err   error
	until time.Time // when err is forgotten
}

var _ Coordinator = (*Engine)(nil)

// NewEngine makes an engine; Run runs it.
func NewEngine(cfg Config) (*Engine, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	return &Engine{cfg: cfg, spawn: make(chan func(context.Context)), over: make(chan struct{}), groups: map[string]*entry{}}, nil
}

// Run serves until ctx ends, then unloads all groups. It must be called once.
func (e *Engine) Run(ctx context.Context) error {
	var tasks sync.WaitGroup
	defer close(e.over)
	defer tasks.Wait()
	tasks.Go(func() { e.every(ctx, e.cfg.OwnershipCheck, e.checkOwnership) })
	tasks.Go(func() { e.every(ctx, e.cfg.RetentionCheck, e.expireOffsets) })
	for {
		changed := e.cfg.Maps.Changed()
		e.followMap(e.cfg.Maps.Current())
		for again := true; again; {
			select {
			case <-ctx.Done():
				return nil
			case task := <-e.spawn:
				tasks.Go(func() { task(ctx) })
			case <-changed:
				again = false
			}
		}
	}
}

func (e *Engine) every(ctx context.Context, d time.Duration, do func(context.Context)) {
	ticker := time.NewTicker(d)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			do(ctx)
		}
	}
}

// Close hands all groups over: their owners finish what they are at, give the
// ownership up and end; every call is answered NotCoordinator from then on. It
// returns when all have ended, or with ctx. Run goes on until its own context ends.
func (e *Engine) Close(ctx context.Context) error {
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	for _, o := range e.owners() {
		o.end(errMoved)
	}
	for _, o := range e.owners() {
		select {
		case <-o.done:
		case <-ctx.Done():
			return federation.Errorf(federation.Timeout, "handing groups over: %w", ctx.Err())
		}
	}
	return nil
}

// end asks an owner to stop; the first reason counts.
func (o *owner) end(reason error) {
	select {
	case o.stop <- reason:
	default:
	}
}

// owners returns the owners of all live groups.
func (e *Engine) owners() []*owner {
	e.mu.Lock()
	defer e.mu.Unlock()
	all := make([]*owner, 0, len(e.groups))
	for _, en := range e.groups {
		select {
		case <-en.ready:
			if en.owner != nil {
				all = append(all, en.owner)
			}
		default:
		}
	}
	return all
}

// followMap unloads groups that moved away and tells the others of topics.
func (e *Engine) followMap(m *federation.Map) {
	for _, o := range e.owners() {
		if !e.owns(m, o.g.id) {
			o.end(errMoved)
			continue
		}
		o.ownedIn.Store(m)
		signal(o.changed)
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (e *Engine) owns(m *federation.Map, group string) bool {
	gw := m.GroupGateway(group)
	return gw != nil && gw.ID == e.cfg.Gateway
}

// running returns the owner of a group that is live, and ours in the present map;
// else nil. It takes no lock: heartbeats of thousands of members come this way.
func (e *Engine) running(group string) *owner {
	v, ok := e.live.Load(group)
	if !ok {
		return nil
	}
	o := v.(*owner)
	if m := e.cfg.Maps.Current(); o.ownedIn.Load() != m && !e.owns(m, group) {
		return nil
	}
	return o
}

func (e *Engine) forget(o *owner) {
	e.live.CompareAndDelete(o.g.id, o)
	e.mu.Lock()
	defer e.mu.Unlock()
	if en := e.groups[o.g.id]; en != nil && en.owner == o {
		delete(e.groups, o.g.id)
	}
}

// owner returns the owner of a group, loading it if need be. It is nil, without an
// error, if nothing of the group is stored and create is not set.
func (e *Engine) owner(ctx context.Context, group string, create bool) (*owner, error) {
	if group == "" {
		return nil, errNoGroupID
	}
	if o := e.running(group); o != nil {
		return o, nil
	}
	for {
		en, load, err := e.entry(group, create)
		if err != nil {
			return nil, err
		}
		if load {
			select {
			case e.spawn <- func(ctx context.Context) { e.load(ctx, group, en, create) }:
			case <-e.over:
				e.fail(group, en, errMoved, 0)
			case <-ctx.Done():
				e.fail(group, en, errGaveUp(group, ctx.Err()), 0)
			}
		}
		select {
		case <-en.ready:
		case <-ctx.Done():
			return nil, errGaveUp(group, ctx.Err())
		}
		switch {
		case en.err != nil && !load && federation.KindOf(en.err) == federation.Timeout:
			continue // whoever was loading it gave up; that is not our answer
		case en.err != nil:
			return nil, en.err
		case en.owner == nil && create && !load:
			continue // was looked up by somebody who would not create it
		}
		return en.owner, nil
	}
}

// leaving is how many groups above the limit may be in memory: those that were deleted a
// moment ago, or are only asked about. The store counts those that there are.
const leaving = 16

// entry returns the entry of a group, and whether the caller has to load it.
func (e *Engine) entry(group string, create bool) (*entry, bool, error) {
	if !e.owns(e.cfg.Maps.Current(), group) {
		return nil, false, errMoved
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, false, errMoved
	}
	if en := e.groups[group]; en != nil {
		if en.until.IsZero() || time.Now().Before(en.until) {
			return en, false, nil
		}
	} else if limit := e.cfg.limit(); create && limit > 0 && len(e.groups) >= limit+leaving {
		return nil, false, federation.Errorf(federation.GroupFull, "group %q would be one more than the %d that this logical cluster may have; delete some, or ask the operators of the deployment for more", group, limit)
	} else if len(e.groups) >= e.cfg.GroupsMax {
		e.evict()
		return nil, false, federation.Errorf(federation.CoordinatorLoading, "group %q would be one more than the %d that this gateway coordinates at a time; try again", group, e.cfg.GroupsMax)
	}
	en := &entry{ready: make(chan struct{})}
	e.groups[group] = en
	return en, true, nil
}

// evict unloads some groups that have no members: what is stored of them is loaded when
// somebody asks. A few at a time make room for who tries again.
func (e *Engine) evict() { e.evictLocked(100) }

// evictOne unloads one of them, or more while there are far too many.
func (e *Engine) evictOne() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.evictLocked(int(max(1, (e.cfg.Room.unused.Load()-e.cfg.Room.unusedMax())/unusedShareOf)))
}

func (e *Engine) evictLocked(most int) {
	const looksMax = 1000
	looks, evicted := 0, 0
	for _, en := range e.groups {
		if o := en.owner; o != nil && o.empty.Load() {
			signal(o.evict)
			evicted++
		}
		if looks++; looks >= looksMax || evicted >= most {
			return
		}
	}
}

// load claims a group and runs its owner.
func (e *Engine) load(ctx context.Context, group string, en *entry, create bool) {
	m := e.cfg.Maps.Current()
	store, cancel := context.WithTimeout(ctx, e.cfg.StoreTimeout)
	epoch, fields, err := e.cfg.Store.ClaimGroup(store, m.LogicalCluster, m.ClusterID, group, create, e.cfg.limit())
	cancel()
	if federation.KindOf(err) == federation.GroupFull {
		e.fail(group, en, err, 0)
		return
	}
	if err != nil {
		e.counted.storeFailures.Add(1)
		e.fail(group, en, errStoreAway(group, err), e.cfg.LoadRetry)
		return
	}
	if epoch == 0 {
		e.fail(group, en, nil, 0)
		return
	}
	g, err := loadGroup(group, &e.cfg, m, fields, time.Now())
	if err != nil {
		e.cfg.clients.Error("group not loaded", "group", group, "error", err)
		e.fail(group, en, err, e.cfg.LoadRetry)
		return
	}
	o := newOwner(e, m.LogicalCluster, g, epoch)
	e.live.Store(group, o)
	e.mu.Lock()
	en.owner = o
	closed := e.closed
	close(en.ready)
	e.mu.Unlock()
	e.cfg.clients.Info("group loaded", "group", group, "ownership", epoch, "members", len(g.members))
	// The map may have changed, or the engine closed, before the entry was there to be told.
	if closed || !e.owns(e.cfg.Maps.Current(), group) {
		o.end(errMoved)
	}
	o.run(ctx)
}

// fail ends the loading of a group; the error stays for a while, so that a store
// that is away is not asked by every request.
func (e *Engine) fail(group string, en *entry, err error, keep time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	en.err = err
	if keep > 0 {
		en.until = time.Now().Add(keep)
	} else if e.groups[group] == en {
		delete(e.groups, group)
	}
	close(en.ready)
}

// ask sends an event to a group and waits for the answer; absent is the answer if
// nothing of the group is stored and create is not set.
func (e *Engine) ask(ctx context.Context, group string, create bool, absent func() error, event func(*call) any) (any, error) {
	for {
		o, err := e.owner(ctx, group, create)
		if err != nil {
			return nil, err
		}
		if o == nil {
			return nil, absent()
		}
		value, err := o.ask(ctx, event)
		if !errors.Is(err, errIdle) {
			return value, err
		}
	}
}

// checkOwnership unloads the groups that another gateway claimed. Writes find that
// out too, but a group whose members only send heartbeats writes nothing.
func (e *Engine) checkOwnership(ctx context.Context) {
	const pageMax = 1000
	e.forgetFailures()
	if e.cfg.Room.tight(time.Now()) {
		for _, o := range e.owners() {
			signal(o.press)
		}
	}
	owners := e.owners()
	for len(owners) > 0 {
		page := owners[:min(len(owners), pageMax)]
		owners = owners[len(page):]
		names := make([]string, len(page))
		for i, o := range page {
			names[i] = o.g.id
		}
		store, cancel := context.WithTimeout(ctx, e.cfg.StoreTimeout)
		epochs, err := e.cfg.Store.GroupEpochs(store, page[0].logical, names)
		cancel()
		if err != nil {
			return // with the store away, what is owned stays owned
		}
		for i, o := range page {
			if epochs[i] != o.epoch {
				o.end(errMoved)
			}
		}
	}
}

// forgetFailures drops the entries of groups that could not be loaded a while ago.
func (e *Engine) forgetFailures() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for id, en := range e.groups {
		if !en.until.IsZero() && time.Now().After(en.until) {
			delete(e.groups, id)
		}
	}
}

// expireOffsets looks for offsets that are out of use for too long: in live groups,
// and in those that nobody touched for the whole retention time.
func (e *Engine) expireOffsets(ctx context.Context) {
	for _, o := range e.owners() {
		signal(o.sweep)
	}
	const pageMax = 500
	m := e.cfg.Maps.Current()
	before := time.Now().Add(-e.cfg.OffsetsRetention).UnixMilli()
	for skip := int64(0); ; skip += pageMax {
		store, cancel := context.WithTimeout(ctx, e.cfg.StoreTimeout)
		old, err := e.cfg.Store.GroupsUntouched(store, m.LogicalCluster, before, skip, pageMax)
		cancel()
		if err != nil || len(old) == 0 {
			return
		}
		for _, group := range old {
			if !e.owns(m, group) {
				continue
			}
			if o, err := e.owner(ctx, group, false); err == nil && o != nil {
				signal(o.sweep)
			}
		}
	}
}
