package controller

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/redisstore"
	"github.com/braidmq/braid/internal/rpcerror"
)

// The kinds of operations.
const (
	kindCreateTopic = "create-topic"
	kindDeleteTopic = "delete-topic"
	kindGrowTopic   = "grow-topic"
	// kindMoveHeads moves heads of a topic, kindDrainCluster those of a cluster.
	kindMoveHeads    = "move-heads"
	kindDrainCluster = "drain-cluster"
	kindAdoptTopic   = "adopt-topic"
	// kindFailoverCluster gives a cluster up, with a kindFailoverTopic for each topic that
	// has heads there; kindRestoreCluster takes it back, with a kindRestoreTopic for each
	// topic that has suspended extents there.
	kindFailoverCluster = "failover-cluster"
	kindFailoverTopic   = "failover-topic"
	kindRestoreCluster  = "restore-cluster"
	kindRestoreTopic    = "restore-topic"
	// kindAbandonCluster forgets a failed cluster.
	kindAbandonCluster = "abandon-cluster"
)

// errorCancelled is the name under which a cancelled operation keeps its error;
// it is no kind, since no call fails with it.
const errorCancelled = "CANCELLED"

var errCancelled = errors.New("the operation was cancelled")

// operations are the long-running changes of a term. Their state is in the store,
// so a leader that takes over goes on with those that run: each step can be done
// twice, and what decides a step is saved before the step begins.
//
//	created ──► running ──► done (with or without an error)
//	               └─(the leader died)─► running, at the next leader
type operations struct {
	t      *term
	launch chan *operation

	mu      sync.Mutex // guards the following
	all     map[string]*operation
	targets map[string]*operation // who works on a target; nil while one is being created
	wants   map[string]int        // targets that failovers wait for
	wanting chan struct{}         // closed when one begins to wait
}

// An operation is one of them. Its record is guarded by the mutex.
type operation struct {
	mu      sync.Mutex
	rec     redisstore.Operation
	changed chan struct{}            // closed at each change of rec
	cancel  chan struct{}            // closed when somebody asks for its end
	cause   error                    // why it is to end, if nobody cancelled it; guarded by the mutex
	ended   chan struct{}            // closed when rec.Done is set
	needs   []federation.ClusterName // that heads move to; guarded by the mutex
	firm    bool                     // it has no way back any more, and no cancel ends it; guarded by the mutex
}

func newOperations(t *term) *operations {
	return &operations{
		t:       t,
		launch:  make(chan *operation, t.cfg.OperationsMax),
		all:     make(map[string]*operation),
		targets: make(map[string]*operation),
		wants:   make(map[string]int),
		wanting: make(chan struct{}),
	}
}

func newOperation(rec redisstore.Operation) *operation {
	op := &operation{rec: rec, changed: make(chan struct{}), cancel: make(chan struct{}), ended: make(chan struct{})}
	if rec.Cancel {
		close(op.cancel)
	}
	if rec.Done {
		close(op.ended)
	}
	return op
}

// load takes over what earlier leaders left.
func (o *operations) load(recs []redisstore.Operation) {
	o.mu.Lock()
	defer o.mu.Unlock()
	clear(o.all)
	clear(o.targets)
	for _, rec := range recs {
		op := newOperation(rec)
		o.all[rec.ID] = op
		if rec.Done {
			continue
		}
		if rec.Kind == kindRestoreTopic {
			var state restoreState
			if decode(rec.State, &state) == nil && state.Roll.Ending > 0 {
				op.uses(state.Roll.clusters())
				o.targets[rec.Target] = op // nobody else may touch heads that have no way back
			}
			continue // else it takes its topic when that is its turn
		}
		o.targets[rec.Target] = op
		if rec.Kind == kindMoveHeads || rec.Kind == kindFailoverTopic {
			var state moveState
			if decode(rec.State, &state) == nil { // else the operation tells
				op.uses(state.clusters())
			}
		}
	}
}

// run works on the operations until ctx ends.
func (o *operations) run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, op := range o.running() {
		rec, _ := op.record()
		o.t.log.Info("operation goes on under this leader", "operation", rec.ID, "target", rec.Target)
		wg.Go(func() { o.work(ctx, op) })
	}
	for {
		select {
		case op := <-o.launch:
			wg.Go(func() { o.work(ctx, op) })
		case <-ctx.Done():
			return
		}
	}
}

func (o *operations) running() []*operation {
	o.mu.Lock()
	defer o.mu.Unlock()
	var out []*operation
	for _, op := range o.all {
		if rec, _ := op.record(); !rec.Done {
			out = append(out, op)
		}
	}
	return out
}

// start persists a new operation and begins to work on it. A request id that is
// known returns the operation that it began. Errors: Conflict if another
// operation works on the target, Throttled if too many run.
func (o *operations) start(ctx context.Context, kind, target, requestID string, spec any) (*operation, error) {
	return o.startFrom(ctx, kind, target, requestID, spec, nil)
}

// startFrom is start of an operation that is some way already; a nil state is none.
func (o *operations) startFrom(ctx context.Context, kind, target, requestID string, spec, state any) (*operation, error) {
	b, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	var progress json.RawMessage
	if state != nil {
		if progress, err = json.Marshal(state); err != nil {
			return nil, err
		}
	}
	release, known, err := o.reserve(kind, target, requestID)
	if err != nil || known != nil {
		return known, err
	}
	rec, fresh, err := o.t.parts.Store.CreateOperation(ctx, o.t.cfg.LogicalCluster, o.t.fencing, redisstore.Operation{
		Kind: kind, Target: target, RequestID: requestID, Spec: b, State: progress, StartedMs: time.Now().UnixMilli(),
	})
	if err != nil {
		release(nil)
		return nil, o.t.heed(err)
	}
	if !fresh { // by an earlier leader, between its write and our load
		release(nil)
		if rec.Kind != kind || rec.Target != target {
			return nil, errRequestReused(requestID, rec.Kind, rec.Target)
		}
		o.mu.Lock()
		defer o.mu.Unlock()
		if op := o.all[rec.ID]; op != nil {
			return op, nil
		}
		return nil, federation.Errorf(federation.Conflict, "the operation of request %q is just being taken over; try again", requestID)
	}
	op := newOperation(rec)
	release(op)
	select {
	case o.launch <- op:
		return op, nil
	case <-o.t.done:
		return nil, errNotLeader() // the next leader finds it
	}
}

func errRequestReused(id, kind, target string) error {
	return federation.Errorf(federation.InvalidArgument, "request id %q was used before, for %s of %s; take a new one", id, kind, target)
}

// reserve takes a target. The release function gives it to the operation, or back.
func (o *operations) reserve(kind, target, requestID string) (release func(*operation), known *operation, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if requestID != "" {
		for _, op := range o.all {
			rec, _ := op.record()
			if rec.RequestID != requestID {
				continue
			}
			if rec.Kind != kind || rec.Target != target {
				return nil, nil, errRequestReused(requestID, rec.Kind, rec.Target)
			}
			return nil, op, nil
		}
	}
	if err := o.idleLocked(target); err != nil {
		return nil, nil, err
	}
	if len(o.targets) >= o.t.cfg.OperationsMax {
		return nil, nil, federation.Errorf(federation.Throttled, "%d operations run, which is the maximum; wait until some have ended", len(o.targets))
	}
	o.targets[target] = nil
	return func(op *operation) {
		o.mu.Lock()
		defer o.mu.Unlock()
		if op == nil {
			delete(o.targets, target)
			return
		}
		rec, _ := op.record()
		o.targets[target], o.all[rec.ID] = op, op
	}, nil, nil
}

// idle returns an error of kind Conflict if an operation works on a target.
func (o *operations) idle(target string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.idleLocked(target)
}

func (o *operations) idleLocked(target string) error {
	op, busy := o.targets[target]
	if !busy {
		return nil
	}
	what := "another change"
	if op != nil {
		rec, _ := op.record()
		what = "operation " + rec.ID
	}
	return federation.Errorf(federation.Conflict, "%s: %s is at work on it; wait for its end", target, what)
}

// worksOn reports whether an operation works on a target.
func (o *operations) worksOn(target string) bool { return o.idle(target) != nil }

// free gives a target back before its operation has ended: what is left to do
// does not touch the logical topic any more.
func (o *operations) free(op *operation) {
	rec, _ := op.record()
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.targets[rec.Target] == op {
		delete(o.targets, rec.Target)
	}
}

// take gives an operation its target, when it is idle and no failover waits for it.
func (o *operations) take(ctx context.Context, op *operation) error {
	rec, _ := op.record()
	for attempt := 0; ctx.Err() == nil; attempt++ {
		o.mu.Lock()
		at, busy := o.targets[rec.Target]
		free := (!busy || at == op) && o.wants[rec.Target] == 0
		if free {
			o.targets[rec.Target] = op
		} else if at == op {
			delete(o.targets, rec.Target)
		}
		o.mu.Unlock()
		if free {
			return nil
		}
		sleep(ctx, backoff(attempt))
	}
	return ctx.Err()
}

// want notes that a failover waits for a target, until the function that it returns is
// called.
func (o *operations) want(target string) (got func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.wants[target]++
	close(o.wanting)
	o.wanting = make(chan struct{})
	return func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		if o.wants[target]--; o.wants[target] == 0 {
			delete(o.wants, target)
		}
	}
}

// nextWant returns a channel that is closed when the next failover begins to wait.
func (o *operations) nextWant() <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.wanting
}

// wanted reports whether a failover waits for the target of an operation.
func (o *operations) wanted(op *operation) bool {
	rec, _ := op.record()
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.wants[rec.Target] > 0
}

// forget drops the oldest ended operations beyond what is kept.
func (o *operations) forget() {
	o.mu.Lock()
	defer o.mu.Unlock()
	var ended []redisstore.Operation
	for _, op := range o.all {
		if rec, _ := op.record(); rec.Done {
			ended = append(ended, rec)
		}
	}
	slices.SortFunc(ended, func(a, b redisstore.Operation) int { return int(a.Sequence - b.Sequence) })
	for _, rec := range ended[:max(0, len(ended)-o.t.cfg.OperationsKeep)] {
		delete(o.all, rec.ID)
	}
}

// movesTo returns the running operation that moves heads to a cluster; "" if none does.
func (o *operations) movesTo(cluster federation.ClusterName) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, op := range o.targets {
		if op != nil && op.needsCluster(cluster) {
			rec, _ := op.record()
			return rec.ID
		}
	}
	return ""
}

// get returns an operation by id; nil if it is not known.
func (o *operations) get(id string) *operation {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.all[id]
}

// list returns all records, newest first.
func (o *operations) list() []redisstore.Operation {
	o.mu.Lock()
	defer o.mu.Unlock()
	out := make([]redisstore.Operation, 0, len(o.all))
	for _, op := range o.all {
		rec, _ := op.record()
		out = append(out, rec)
	}
	slices.SortFunc(out, func(a, b redisstore.Operation) int { return int(b.Sequence - a.Sequence) })
	return out
}

// work runs one operation to its end, or until the term is over.
func (o *operations) work(ctx context.Context, op *operation) {
	rec, _ := op.record()
	var err error
	switch rec.Kind {
	case kindCreateTopic:
		err = o.createTopic(ctx, op)
	case kindGrowTopic:
		err = o.growTopic(ctx, op)
	case kindDeleteTopic:
		err = o.deleteTopic(ctx, op)
	case kindMoveHeads:
		err = o.moveHeads(ctx, op)
	case kindAdoptTopic:
		err = o.adopt(ctx, op)
	case kindDrainCluster:
		err = o.drainCluster(ctx, op)
	case kindFailoverCluster:
		err = o.failoverCluster(ctx, op)
	case kindFailoverTopic:
		err = o.failoverTopic(ctx, op)
	case kindRestoreCluster:
		err = o.restoreCluster(ctx, op)
	case kindRestoreTopic:
		err = o.restoreTopic(ctx, op)
	case kindAbandonCluster:
		err = o.abandon(ctx, op)
	default:
		err = federation.Errorf(federation.Unsupported, "operation kind %q is not known to this build", rec.Kind)
	}
	if ctx.Err() != nil || federation.KindOf(err) == federation.NotLeader {
		return // the next leader goes on
	}
	o.finish(ctx, op, err)
}

func (o *operations) finish(ctx context.Context, op *operation, failure error) {
	end := func(rec *redisstore.Operation) {
		rec.Done, rec.EndedMs = true, time.Now().UnixMilli()
		rec.State = nil // it can be large, and nobody goes on from it
		switch {
		case failure == nil:
		case errors.Is(failure, errCancelled):
			rec.ErrorKind, rec.ErrorMessage = errorCancelled, failure.Error()
		default:
			rec.ErrorKind = rpcerror.KindName(federation.KindOf(failure))
			rec.ErrorMessage, rec.ErrorSubject = rpcerror.Error(failure).Message(), federation.SubjectOf(failure)
			if e, ok := errors.AsType[*federation.Error](failure); ok {
				rec.ErrorPublic = e.Public()
			}
		}
	}
	rec := op.toSave()
	end(&rec)
	// Persist first: what was answered as done must not run again.
	for attempt := 0; ; attempt++ {
		err := o.t.heed(o.t.parts.Store.SaveOperation(ctx, o.t.cfg.LogicalCluster, o.t.fencing, rec, o.t.cfg.OperationsKeep))
		if err == nil {
			break
		}
		if ctx.Err() != nil || federation.KindOf(err) == federation.NotLeader {
			return
		}
		sleep(ctx, backoff(attempt))
	}
	o.free(op)
	op.update(end)
	o.forget()
	if failure != nil {
		o.t.log.Warn("operation failed", "operation", rec.ID, "target", rec.Target, "err", failure, "cause", errors.Unwrap(failure))
		return
	}
	o.t.log.Info("operation done", "operation", rec.ID, "target", rec.Target)
}

// save persists the state of an operation before the step that rests on it.
func (o *operations) save(ctx context.Context, op *operation, state any) error {
	if part, ok := state.(moveState); ok && part.within != nil {
		state = part.within(part)
	}
	b, err := json.Marshal(state)
	if err != nil {
		return err
	}
	op.update(func(rec *redisstore.Operation) { rec.State = b })
	return retry(ctx, o.t.cfg.StepTimeout, func(ctx context.Context) error {
		return o.t.heed(o.t.parts.Store.SaveOperation(ctx, o.t.cfg.LogicalCluster, o.t.fencing, op.toSave(), o.t.cfg.OperationsKeep))
	})
}

// requestCancel asks an operation to end at its next safe point.
func (o *operations) requestCancel(ctx context.Context, op *operation) error {
	asked := false
	op.update(func(rec *redisstore.Operation) {
		if !rec.Done && !rec.Cancel {
			rec.Cancel, asked = true, true
			op.cause = nil
			op.stopLocked()
		}
	})
	if !asked {
		return nil
	}
	rec := op.toSave()
	if rec.Done {
		return nil
	}
	return o.t.heed(o.t.parts.Store.SaveOperation(ctx, o.t.cfg.LogicalCluster, o.t.fencing, rec, o.t.cfg.OperationsKeep))
}

// record returns a copy of the record, and a channel that is closed when it changes.
func (op *operation) record() (redisstore.Operation, <-chan struct{}) {
	op.mu.Lock()
	defer op.mu.Unlock()
	rec := op.rec
	rec.Steps = slices.Clone(rec.Steps)
	return rec, op.changed
}

// toSave returns a copy of the record that is newer than all that were returned before:
// of two saves that are under way, the store keeps the one with all changes.
func (op *operation) toSave() redisstore.Operation {
	op.mu.Lock()
	defer op.mu.Unlock()
	op.rec.Revision++
	rec := op.rec
	rec.Steps = slices.Clone(rec.Steps)
	return rec
}

func (op *operation) update(change func(*redisstore.Operation)) {
	op.mu.Lock()
	defer op.mu.Unlock()
	change(&op.rec)
	close(op.changed)
	op.changed = make(chan struct{})
	if op.rec.Done {
		select {
		case <-op.ended:
		default:
			close(op.ended)
		}
	}
}

// uses notes the clusters that an operation moves heads to: they must stay in the map.
func (op *operation) uses(clusters []federation.ClusterName) {
	op.mu.Lock()
	defer op.mu.Unlock()
	op.needs = clusters
}

func (op *operation) needsCluster(name federation.ClusterName) bool {
	op.mu.Lock()
	defer op.mu.Unlock()
	return slices.Contains(op.needs, name)
}

// step sets the progress of a step, which is added if it is new.
func (op *operation) step(name string, done, total int64, detail string) {
	op.update(func(rec *redisstore.Operation) {
		s := redisstore.OperationStep{Name: name, Done: done, Total: total, Detail: detail}
		if i := slices.IndexFunc(rec.Steps, func(x redisstore.OperationStep) bool { return x.Name == name }); i >= 0 {
			rec.Steps[i] = s
			return
		}
		rec.Steps = append(rec.Steps, s)
	})
}

// giveWay asks an operation to end at its next safe point with an error. Nothing of it is
// saved: who asks does so again after a change of leaders.
func (op *operation) giveWay(cause error) {
	op.mu.Lock()
	defer op.mu.Unlock()
	if !op.rec.Done && !op.rec.Cancel && op.cause == nil {
		op.cause = cause
		op.stopLocked()
	}
}

func (op *operation) stopLocked() {
	select {
	case <-op.cancel:
	default:
		close(op.cancel)
	}
}

// goesThrough notes that an operation has no way back any more.
func (op *operation) goesThrough() {
	op.mu.Lock()
	defer op.mu.Unlock()
	op.firm = true
}

// asked returns a channel that is closed when somebody asks for the end; nil if that
// does not matter any more.
func (op *operation) asked() <-chan struct{} {
	op.mu.Lock()
	defer op.mu.Unlock()
	if op.firm {
		return nil
	}
	return op.cancel
}

// cancelled reports whether somebody asked for the end.
func (op *operation) cancelled() error {
	select {
	case <-op.asked():
		op.mu.Lock()
		defer op.mu.Unlock()
		if op.cause != nil {
			return op.cause
		}
		return errCancelled
	default:
		return nil
	}
}

// failure returns the error of an operation that has ended.
func failure(rec redisstore.Operation) error {
	switch rec.ErrorKind {
	case "":
		return nil
	case errorCancelled:
		return federation.Errorf(federation.Conflict, "operation %s was cancelled", rec.ID)
	default:
		e := federation.Errorf(rpcerror.ParseKind(rec.ErrorKind), "%s", rec.ErrorMessage).WithPublic(rec.ErrorPublic)
		e.Subject = rec.ErrorSubject
		return e
	}
}

// retry repeats do while it fails with a kind that can pass, until limit; then
// the last error is returned.
func retry(ctx context.Context, limit time.Duration, do func(context.Context) error) error {
	deadline := time.Now().Add(limit)
	call, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	var last error
	for attempt := 0; ; attempt++ {
		err := do(call)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case call.Err() != nil && last != nil:
			return last
		case call.Err() != nil:
			return federation.Errorf(federation.Timeout, "no success within %s", limit).WithCause(err)
		case !passes(federation.KindOf(err)):
			return err
		}
		last = err
		sleep(call, backoff(attempt))
		if call.Err() != nil && ctx.Err() == nil {
			return last
		}
	}
}

// passes reports whether a step that failed is worth another try by this leader.
func passes(k federation.Kind) bool { return k.Retriable() && k != federation.NotLeader }

// backoff grows from 50 ms to 2 s, with jitter.
func backoff(attempt int) time.Duration {
	const least, most = 50 * time.Millisecond, 2 * time.Second
	d := min(most, least<<min(attempt, 10))
	return d/2 + rand.N(d/2)
}

// byRequest returns the operation that a request began; nil if there is none.
func (o *operations) byRequest(id string) *operation {
	if id == "" {
		return nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, op := range o.all {
		if rec, _ := op.record(); rec.RequestID == id {
			return op
		}
	}
	return nil
}
