package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/braidmq/braid/controller/planner"
	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/mark"
	"github.com/braidmq/braid/internal/rpcerror"
	"github.com/braidmq/braid/internal/upstream"
)

// A suspended extent whose cluster is back is sealed, so that its end P is known. What
// lies behind the last record that a reader has seen either stays where it is (the
// topic's readers wait), or is appended again to the head (they have gone on):
//
//	suspended ──► sealed at P, for its log ──► the head is rolled ──► what was sent again is known ──► sealed, for the map
//	                                                                      └─► the rest is appended again ─┘
//
// From a rolled head on (restore_roll.go) there is no way back: a batch of the extent that
// comes again is answered as one that the log has. So the operation does not end before
// all of them are; how far it is, is saved after each batch that is appended again.

// restoreSpec is what a restore-cluster operation was asked for.
type restoreSpec struct {
	Cluster federation.ClusterName `json:"cluster"`
}

// restoreTopicSpec is what a restore-topic operation was asked for.
type restoreTopicSpec struct {
	Topic   federation.TopicName   `json:"topic"`
	TopicID federation.TopicID     `json:"topicId"`
	Cluster federation.ClusterName `json:"cluster"`
}

// restoreState is how far a restore-topic operation is.
type restoreState struct {
	Begun      bool  `json:"begun,omitempty"`
	Producer   int64 `json:"producer,omitempty"`   // of the seals
	BatchBytes int   `json:"batchBytes,omitempty"` // the largest batch that the heads take
	// InPlace says why nothing is appended again, if so.
	InPlace string            `json:"inPlace,omitempty"`
	Extents []restoringExtent `json:"extents,omitempty"` // that are left, by partition and number
	Total   int               `json:"total,omitempty"`
	Roll    moveState         `json:"roll"` // of heads, now
	// Hidden counts the batches that were sent again, Copied the records that were
	// appended again, Kept the extents whose records were left in place.
	Hidden int64  `json:"hidden,omitempty"`
	Copied int64  `json:"copied,omitempty"`
	ToCopy int64  `json:"toCopy,omitempty"`
	Kept   int64  `json:"kept,omitempty"`
	KeptAs string `json:"keptAs,omitempty"` // why, of one of them
}

// A restoringExtent is one of them.
type restoringExtent struct {
	Partition federation.LogicalPartition `json:"partition"`
	Extent    int32                       `json:"extent"`
	At        federation.PhysicalAddress  `json:"at"`
	Sealed    bool                        `json:"sealed,omitempty"`
	Seal      federation.PhysicalOffset   `json:"seal,omitempty"`
	// Carried is the number of the extent that was told first what this one knows of its
	// producers; 0 = none was. Rolled tells that one was opened, or will be, to be told.
	Carried int32 `json:"carried,omitempty"`
	Rolled  bool  `json:"rolled,omitempty"`
	// Ready tells that the following are known.
	Ready  bool                       `json:"ready,omitempty"`
	End    federation.PhysicalOffset  `json:"end,omitempty"`
	Hidden []federation.PhysicalRange `json:"hidden,omitempty"` // below Seal
	// Elsewhere is what is hidden in other extents, of what was sent again.
	Elsewhere []planner.HiddenElsewhere `json:"later,omitempty"`
	Found     int64                     `json:"found,omitempty"` // batches that are hidden
	Kept      bool                      `json:"kept,omitempty"`  // it counts in the state's Kept
	// Copier is the producer that appends again what lies from Next to Seal, with Sequence
	// next; 0 = it has not begun.
	Copier   int64                     `json:"copier,omitempty"`
	Next     federation.PhysicalOffset `json:"next,omitempty"`
	Sequence int32                     `json:"sequence,omitempty"`
}

// copies reports whether records are to be appended again.
func (x *restoringExtent) copies() bool { return x.Ready && x.End < x.Seal }

// underWay reports whether something may have been appended again, or a head rolled.
func (s *restoreState) underWay() bool {
	return slices.ContainsFunc(s.Extents, func(x restoringExtent) bool { return x.Copier != 0 || x.Rolled })
}

// restoreCluster: the cluster answers, and is the one that failed ► the suspended
// extents of each topic are sealed, by an operation of its own ► active. While the
// cluster is away again, it waits.
func (o *operations) restoreCluster(ctx context.Context, op *operation) error {
	rec, _ := op.record()
	var spec restoreSpec
	if err := decode(rec.Spec, &spec); err != nil {
		return err
	}
	if detail := o.skippedBy(spec.Cluster); detail != "" {
		op.step(stepGroups, 1, 1, detail)
	}
	for round := 0; ; round++ {
		if err := op.cancelled(); err != nil {
			return firstOf(o.cancelChildren(ctx, rec.ID), err)
		}
		extents, n := planner.Suspended(o.t.current(), spec.Cluster)
		op.step("restore", 0, int64(max(1, n)), fmt.Sprintf("%d suspended extents of %d topics", extents, n))
		later := o.t.checkReturn(ctx, spec.Cluster)
		if later == nil && extents == 0 {
			done, err := o.activate(ctx, spec.Cluster)
			if err != nil {
				return err
			}
			if done {
				op.step("restore", 1, 1, "")
				return nil
			}
			continue
		}
		if later == nil {
			var err error
			if later, err = o.restoreTopics(ctx, op, childPrefix(rec.ID)+strconv.Itoa(round)+"-", spec.Cluster); err != nil {
				return err
			}
		}
		if later == nil {
			continue
		}
		if ctx.Err() != nil || !passes(federation.KindOf(later)) {
			return firstOf(ctx.Err(), later)
		}
		op.step("restore", 0, int64(max(1, n)), rpcerror.Error(later).Message())
		if !wait(ctx, op.cancel, nil, time.Now().Add(backoff(round))) {
			return ctx.Err()
		}
	}
}

// activate sets a cluster active of which no suspended extent is left; false if there is
// one now.
func (o *operations) activate(ctx context.Context, cluster federation.ClusterName) (done bool, err error) {
	m, err := o.editUntilDecided(ctx, func(m *federation.Map) (*federation.Map, error) {
		if n, _ := planner.Suspended(m, cluster); n > 0 {
			done = false
			return m, nil
		}
		done = true
		return planner.WithClusterState(m, cluster, federation.ClusterActive)
	})
	if err == nil && done {
		// Who reads from the beginning when this is over gets what is back.
		o.t.awaitVisible(ctx, m.Version)
		o.t.tellFailed(m)
		o.t.log.Info("physical cluster is back", "cluster", cluster)
	}
	return done, err
}

// skippedBy returns what the last failover of a cluster said of groups.
func (o *operations) skippedBy(cluster federation.ClusterName) string {
	for _, rec := range o.list() { // newest first
		if rec.Kind != kindFailoverCluster || rec.Target != failoverTarget(cluster) {
			continue
		}
		for _, s := range rec.Steps {
			if s.Name == stepGroups {
				return s.Detail
			}
		}
		return ""
	}
	return ""
}

// restoreTopics restores topics, one after the other. One that cannot be restored does
// not keep the others.
func (o *operations) restoreTopics(ctx context.Context, op *operation, prefix string, cluster federation.ClusterName) (later, err error) {
	var refused []string
	var last error
	topics := topicsSuspended(o.t.current(), cluster)
	for i, t := range topics {
		op.step("restore", int64(i), int64(len(topics)), string(t.Name))
		failed, err := o.child(ctx, op, kindRestoreTopic, prefix+t.ID.String(), t.Name, restoreTopicSpec{Topic: t.Name, TopicID: t.ID, Cluster: cluster})
		if err != nil {
			return nil, err
		}
		have := o.t.current().Topic(t.Name)
		switch {
		case failed == nil, have == nil, have.ID != t.ID: // deleted meanwhile
		case passes(federation.KindOf(failed)) && !errors.Is(failed, errCancelled):
			later = failed
		default:
			refused, last = append(refused, fmt.Sprintf("%s (%s)", t.Name, rpcerror.Error(failed).Message())), failed
		}
	}
	if len(refused) > 0 {
		return nil, federation.Errorf(federation.KindOf(last), "physical cluster %q still has suspended extents of %d topics: %s", cluster, len(refused), handful(refused))
	}
	return later, nil
}

// topicsSuspended returns the topics that have suspended extents on a cluster.
func topicsSuspended(m *federation.Map, cluster federation.ClusterName) []*federation.Topic {
	var out []*federation.Topic
	for _, name := range m.TopicNames() {
		if len(suspendedExtents(m.Topics[name], cluster)) > 0 {
			out = append(out, m.Topics[name])
		}
	}
	return out
}

// suspendedExtents returns the suspended extents of a topic on a cluster, by partition
// and number.
func suspendedExtents(t *federation.Topic, cluster federation.ClusterName) []restoringExtent {
	var out []restoringExtent
	for _, p := range t.Partitions {
		for _, e := range p.Extents[:len(p.Extents)-1] {
			if e.Cluster == cluster && e.State == federation.ExtentSuspended {
				out = append(out, restoringExtent{Partition: p.Number, Extent: e.Number, At: e.PhysicalAddress})
			}
		}
	}
	return out
}

// errWanted tells that a failover of the topic has to go first.
var errWanted = errors.New("a failover of the topic goes first")

// restoreTopic has the topic to itself while it works. It gives it away while it waits:
// moves, and failovers of its other heads, go on then, and it finds the head where it is.
func (o *operations) restoreTopic(ctx context.Context, op *operation) error {
	rec, _ := op.record()
	var spec restoreTopicSpec
	var state restoreState
	if err := decode(rec.Spec, &spec); err != nil {
		return err
	}
	if err := decode(rec.State, &state); err != nil {
		return err
	}
	alarm := "restoring/" + string(spec.Topic)
	defer o.t.health.clear(alarm)
	for attempt := 0; ; attempt++ {
		if err := op.cancelled(); err != nil && !state.underWay() {
			return err
		}
		if state.Roll.Ending == 0 { // else it has it
			if err := o.take(ctx, op); err != nil {
				return err
			}
		}
		err := o.restoreExtents(ctx, op, spec, &state)
		if state.Roll.Ending == 0 {
			o.free(op)
		}
		switch {
		case err == nil || ctx.Err() != nil || federation.KindOf(err) == federation.NotLeader:
			return err
		case errors.Is(err, errWanted):
			attempt = 0
			continue
		case !state.underWay() || federation.KindOf(err) == federation.UnknownTopic && o.deleted(spec.Topic, spec.TopicID):
			return err
		case o.t.current().Clusters[spec.Cluster] == nil:
			return errUnknownCluster(spec.Cluster) // it was abandoned
		}
		o.t.health.alarm(alarm, "topic %q: records of physical cluster %q that were not seen when it failed are half way to their new places, and cannot go on yet: %v", spec.Topic, spec.Cluster, err)
		o.t.log.Warn("records cannot be appended again yet; it is tried again", "topic", spec.Topic, "cluster", spec.Cluster, "err", err)
		op.step("copy", state.Copied, state.ToCopy, rpcerror.Error(err).Message())
		sleep(ctx, backoff(attempt))
	}
}

func (o *operations) deleted(topic federation.TopicName, id federation.TopicID) bool {
	t := o.t.current().Topic(topic)
	return t == nil || t.ID != id
}

// A restorer restores the extents of one topic.
type restorer struct {
	*operations

	op    *operation
	topic *federation.Topic
	spec  restoreTopicSpec
	state *restoreState
	from  *upstream.Cluster
}

func (o *operations) restoreExtents(ctx context.Context, op *operation, spec restoreTopicSpec, state *restoreState) error {
	topic := o.t.current().Topic(spec.Topic)
	if topic == nil || topic.ID != spec.TopicID {
		return errUnknownTopic(spec.Topic)
	}
	c, err := o.t.parts.Clusters.Cluster(spec.Cluster)
	if err != nil {
		return err
	}
	r := &restorer{operations: o, op: op, topic: topic, spec: spec, state: state, from: c}
	if !state.Begun {
		if err := r.begin(ctx); err != nil {
			return err
		}
	}
	if err := r.seal(ctx); err != nil {
		return err
	}
	if err := r.roll(ctx); err != nil {
		return err
	}
	if err := r.prepare(ctx); err != nil {
		return err
	}
	// What stays where it is can be read before the rest is appended again.
	if err := r.publish(ctx, func(x *restoringExtent) bool { return !x.copies() }); err != nil {
		return err
	}
	if err := r.copyAll(ctx); err != nil {
		return err
	}
	op.step("restore", int64(state.Total), int64(state.Total), "")
	op.step(stepResults, 1, 1, r.result())
	return nil
}

// begin notes what there is to do. Only so many extents are taken that their state can be
// saved often; the next operation takes the others.
func (r *restorer) begin(ctx context.Context) error {
	if id := r.before(); id != "" {
		return federation.Errorf(federation.Conflict, "topic %q: operation %s restores it already", r.topic.Name, id)
	}
	state := restoreState{Begun: true, Extents: suspendedExtents(r.topic, r.spec.Cluster)}
	state.Extents = state.Extents[:min(len(state.Extents), r.t.cfg.SealHeadsMax)]
	state.Total = len(state.Extents)
	id, err := r.t.producerID(ctx)
	if err != nil {
		return err
	}
	state.Producer = mark.ProducerID(id)
	if r.topic.FailoverWaits() {
		state.InPlace = "readers wait for them"
	}
	for _, x := range state.Extents {
		if state.InPlace != "" {
			break
		}
		config, err := r.from.TopicConfig(ctx, x.At.Topic)
		if err != nil {
			return err
		}
		if strings.Contains(config["cleanup.policy"].Value, "compact") {
			state.InPlace = "the topic is compacted: an old record must not come behind a newer one of its key"
		}
	}
	if state.BatchBytes, err = r.batchBytes(ctx); err != nil {
		return err
	}
	if err := r.save(ctx, r.op, state); err != nil {
		return err
	}
	*r.state = state
	return nil
}

// before returns an older operation that restores the same extents; "" if there is none.
// After a change of leaders a restore may not find one again that it had begun.
func (r *restorer) before() string {
	mine, _ := r.op.record()
	for _, other := range r.running() {
		rec, _ := other.record()
		var spec restoreTopicSpec
		if rec.Kind == kindRestoreTopic && rec.Sequence < mine.Sequence && decode(rec.Spec, &spec) == nil && spec == r.spec {
			return rec.ID
		}
	}
	return ""
}

// batchBytes returns how large batches may be that are appended again.
func (r *restorer) batchBytes(ctx context.Context) (int, error) {
	const most = 256 << 10
	least := most
	for _, pt := range physicalTopics(r.topic) {
		if r.t.failed(pt.Cluster) {
			continue
		}
		c, err := r.t.parts.Clusters.Cluster(pt.Cluster)
		if err != nil {
			return 0, err
		}
		config, err := c.TopicConfig(ctx, pt.Name)
		if err != nil {
			return 0, err
		}
		if n, err := strconv.Atoi(config["max.message.bytes"].Value); err == nil {
			least = min(least, n)
		}
	}
	return least, nil
}

// extent returns an extent in the newest map, and its partition; nil if the map does not
// have it suspended any more.
func (r *restorer) extent(x *restoringExtent) (*federation.Partition, *federation.Extent) {
	p, err := r.t.current().Partition(federation.TopicPartition{Topic: r.topic.Name, Partition: x.Partition})
	if err != nil {
		return nil, nil
	}
	i := slices.IndexFunc(p.Extents, func(e *federation.Extent) bool { return e.Number == x.Extent && e.PhysicalAddress == x.At })
	if i < 0 || p.Extents[i].State != federation.ExtentSuspended {
		return nil, nil
	}
	return p, p.Extents[i]
}

// seal ends the logs of the extents. A seal that was appended already says where it is.
func (r *restorer) seal(ctx context.Context) error {
	var appends []upstream.MarkAppend
	var at []int
	now := time.Now()
	for i := range r.state.Extents {
		x := &r.state.Extents[i]
		if x.Sealed {
			continue
		}
		subject := mark.Subject{
			LogicalCluster: r.t.cfg.LogicalCluster, Topic: r.topic.Name, TopicID: r.topic.ID, Partition: x.Partition, Extent: x.Extent, MapVersion: r.t.current().Version,
		}
		appends, at = append(appends, upstream.MarkAppend{Partition: physical(x.At), Batch: mark.Seal(subject, r.state.Producer, now)}), append(at, i)
	}
	if len(appends) == 0 {
		return nil
	}
	r.op.step("seal", 0, int64(r.state.Total), "")
	var failed error
	for j, a := range r.from.AppendMarks(ctx, appends) {
		x := &r.state.Extents[at[j]]
		if a.Err != nil {
			failed = fmt.Errorf("%s-%d: %w", r.topic.Name, x.Partition, a.Err)
			continue
		}
		x.Sealed, x.Seal = true, a.Offset
		if _, e := r.extent(x); e != nil && a.Offset < e.Acknowledged {
			r.t.health.alarm("lost/"+x.At.String(), "%s-%d: physical cluster %q lost acknowledged records: %d were acknowledged up to physical offset %d, but the log ends at %d",
				r.topic.Name, x.Partition, x.At.Cluster, e.Acknowledged-a.Offset, e.Acknowledged, a.Offset)
			r.t.log.Error("a physical cluster lost acknowledged records", "topic", r.topic.Name, "partition", x.Partition, "at", x.At, "acknowledged", e.Acknowledged, "end", a.Offset)
		}
	}
	if err := r.saveUntilDecided(ctx, r.op, *r.state); err != nil {
		return err
	}
	if failed == nil {
		r.op.step("seal", int64(r.state.Total), int64(r.state.Total), "")
	}
	return failed
}

// publish seals extents for the map, and takes them off the list.
func (r *restorer) publish(ctx context.Context, which func(*restoringExtent) bool) error {
	var sealed []planner.RestoredExtent
	var left []restoringExtent
	for _, x := range r.state.Extents {
		if !which(&x) {
			left = append(left, x)
			continue
		}
		sealed = append(sealed, planner.RestoredExtent{
			TopicPartition: federation.TopicPartition{Topic: r.topic.Name, Partition: x.Partition}, Extent: x.Extent, At: x.At,
			End: x.End, Seal: x.Seal, Hidden: below(x.Hidden, x.End), Dropped: within(x.Hidden, federation.PhysicalRange{From: x.End, To: x.Seal}), Elsewhere: x.Elsewhere,
		})
	}
	if len(sealed) == 0 {
		return nil
	}
	m, err := r.editUntilDecided(ctx, func(m *federation.Map) (*federation.Map, error) {
		if t := m.Topic(r.topic.Name); t == nil || t.ID != r.topic.ID {
			return nil, errUnknownTopic(r.topic.Name)
		}
		return planner.WithRestored(m, sealed)
	})
	if err != nil {
		return err
	}
	r.t.log.Info("extents of a physical cluster are back", "topic", r.topic.Name, "cluster", r.spec.Cluster, "extents", len(sealed), "version", m.Version)
	r.state.Extents = left
	r.op.step("restore", int64(r.state.Total-len(left)), int64(r.state.Total), "")
	return r.saveUntilDecided(ctx, r.op, *r.state)
}

// result says what the operation did.
func (r *restorer) result() string {
	s := r.state
	text := fmt.Sprintf("%d records appended again, %d batches hidden that their producers had sent again", s.Copied, s.Hidden)
	if s.InPlace != "" {
		text += "; records stay in place: " + s.InPlace
	}
	if s.Kept > 0 {
		text += fmt.Sprintf("; records of %d extents stay in place at their old offsets: %s", s.Kept, s.KeptAs)
	}
	return text
}

// below returns the parts of ranges below an offset.
func below(ranges []federation.PhysicalRange, end federation.PhysicalOffset) []federation.PhysicalRange {
	return within(ranges, federation.PhysicalRange{To: end})
}

// within returns the parts of ranges that lie in another one.
func within(ranges []federation.PhysicalRange, all federation.PhysicalRange) (out []federation.PhysicalRange) {
	for _, r := range ranges {
		if r.From, r.To = max(r.From, all.From), min(r.To, all.To); r.From < r.To {
			out = append(out, r)
		}
	}
	return out
}
