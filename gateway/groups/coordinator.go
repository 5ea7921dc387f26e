package groups

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sort"
	"strings"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/redisstore"
)

// Join is JoinGroup; it blocks until the rebalance is over.
func (e *Engine) Join(ctx context.Context, r JoinRequest) (JoinResponse, error) {
	if err := e.roomForNew(&r); err != nil {
		return JoinResponse{}, err
	}
	value, err := e.ask(ctx, r.Group, r.MemberID == "", func() error { return errUnknownMember(r.Group, r.MemberID) }, func(c *call) any { return evJoin{c, &r} })
	res, _ := value.(JoinResponse)
	return res, err
}

// Sync is SyncGroup; it blocks until the assignment is known.
func (e *Engine) Sync(ctx context.Context, r SyncRequest) (SyncResponse, error) {
	value, err := e.ask(ctx, r.Group, false, func() error { return errUnknownMember(r.Group, r.MemberID) }, func(c *call) any { return evSync{c, r} })
	res, _ := value.(SyncResponse)
	return res, err
}

// Heartbeat keeps a classic member alive.
func (e *Engine) Heartbeat(ctx context.Context, r HeartbeatRequest) error {
	_, err := e.ask(ctx, r.Group, false, func() error { return errUnknownMember(r.Group, r.MemberID) }, func(c *call) any { return evHeartbeat{c, r} })
	return err
}

// ConsumerHeartbeat is ConsumerGroupHeartbeat.
func (e *Engine) ConsumerHeartbeat(ctx context.Context, r ConsumerHeartbeatRequest) (ConsumerHeartbeatResponse, error) {
	value, err := e.ask(ctx, r.Group, r.Epoch == epochJoin, func() error { return errUnknownMember(r.Group, r.MemberID) }, func(c *call) any { return evConsumerHeartbeat{c, r} })
	res, _ := value.(ConsumerHeartbeatResponse)
	return res, err
}

// CheckEpoch looks the member up in the store: what a member was told of is there, so any
// gateway can.
func (e *Engine) CheckEpoch(ctx context.Context, group, memberID string, epoch int32) error {
	ctx, cancel := context.WithTimeout(ctx, e.cfg.StoreTimeout)
	defer cancel()
	stored, err := e.cfg.Store.GroupFields(ctx, e.cfg.Maps.Current().LogicalCluster, []string{group}, memberPrefix+memberID)
	if err != nil {
		return errStoreAway(group, err)
	}
	var m storedMember
	switch {
	case stored[0] == nil:
		return errUnknownMember(group, memberID)
	case json.Unmarshal(stored[0], &m) != nil:
		return federation.Errorf(federation.Internal, "group %q: the stored state of member %q is damaged", group, memberID)
	case m.Modern != nil && m.Modern.Epoch != epoch:
		return errStaleEpoch(group, memberID, epoch, m.Modern.Epoch)
	}
	return nil
}

func errStaleEpoch(group, memberID string, got, want int32) error {
	return federation.Errorf(federation.StaleMemberEpoch, "group %q: member %q is in epoch %d, not %d; try again with what the next heartbeat tells", group, memberID, want, got)
}

// Leave removes members; one error for each.
func (e *Engine) Leave(ctx context.Context, group string, members []LeavingMember) ([]error, error) {
	value, err := e.ask(ctx, group, false, func() error { return federation.Errorf(federation.UnknownMember, "group %q has no members", group) },
		func(c *call) any { return evLeave{c, members} })
	errs, _ := value.([]error)
	return errs, err
}

// Commit stores offsets.
func (e *Engine) Commit(ctx context.Context, r CommitRequest) ([]error, error) {
	outside := r.Generation < 0
	value, err := e.ask(ctx, r.Group, outside, func() error { return errGeneration(r.Group, int64(r.Generation), 0) }, func(c *call) any { return evCommit{to: c, r: r} })
	errs, _ := value.([]error)
	return errs, err
}

// Committed reads stored offsets, on any gateway: what a commit was acknowledged for is
// in the store, and nothing of an earlier generation or coordinator gets into it once a
// member was told of a later one. It never refuses for want of ownership: librdkafka does
// not ask again after NOT_COORDINATOR, and its partitions would stand still for good
// (https://github.com/confluentinc/librdkafka/issues/5586).
func (e *Engine) Committed(ctx context.Context, group string, tps []federation.TopicPartition) ([]CommittedOffset, error) {
	if group == "" {
		return nil, errNoGroupID
	}
	ctx, cancel := context.WithTimeout(ctx, e.cfg.StoreTimeout)
	defer cancel()
	if tps != nil {
		got, err := e.committed(ctx, group, tps)
		if err != nil {
			return nil, errStoreAway(group, err)
		}
		return got, nil
	}
	m := e.cfg.Maps.Current()
	stored, err := e.cfg.Store.KnownOffsets(ctx, m.LogicalCluster, m.ClusterID, group, nil)
	if err != nil {
		return nil, errStoreAway(group, err)
	}
	all := make([]CommittedOffset, 0, len(stored))
	for _, o := range stored {
		if t := m.TopicByID(o.Topic); t != nil {
			all = append(all, committedOffset(federation.TopicPartition{Topic: t.Name, Partition: o.Partition}, o))
		}
	}
	slices.SortFunc(all, func(a, b CommittedOffset) int { return comparePartitions(a.TopicPartition, b.TopicPartition) })
	return all, nil
}

// committed reads the offsets of partitions, in their order.
func (e *Engine) committed(ctx context.Context, group string, tps []federation.TopicPartition) ([]CommittedOffset, error) {
	m := e.cfg.Maps.Current()
	keys := make([]redisstore.OffsetKey, len(tps))
	for i, tp := range tps {
		keys[i].Partition = tp.Partition
		if t := m.Topic(tp.Topic); t != nil {
			keys[i].Topic = t.ID
		}
	}
	stored, err := e.cfg.Store.KnownOffsets(ctx, m.LogicalCluster, m.ClusterID, group, keys)
	if err != nil {
		return nil, err
	}
	out := make([]CommittedOffset, len(tps))
	for i, tp := range tps {
		out[i] = committedOffset(tp, stored[i])
	}
	return out, nil
}

func committedOffset(tp federation.TopicPartition, o redisstore.GroupOffset) CommittedOffset {
	return CommittedOffset{TopicPartition: tp, Offset: o.Offset, Epoch: o.Epoch, Metadata: o.Metadata, CommittedMs: o.CommittedMs}
}

var errNoGroupID = federation.Errorf(federation.InvalidGroupID, "the group id is empty")

func errGroupNotFound(group string) error {
	return federation.Errorf(federation.GroupNotFound, "group %q does not exist", group)
}

// DeleteOffsets is OffsetDelete.
func (e *Engine) DeleteOffsets(ctx context.Context, group string, tps []federation.TopicPartition) ([]error, error) {
	value, err := e.ask(ctx, group, false, func() error { return errGroupNotFound(group) }, func(c *call) any { return evDeleteOffsets{c, tps} })
	errs, _ := value.([]error)
	return errs, err
}

// Describe returns a group with its members; GroupNotFound if there is none.
func (e *Engine) Describe(ctx context.Context, group string) (Description, error) {
	value, err := e.ask(ctx, group, false, func() error { return errGroupNotFound(group) }, func(c *call) any { return evDescribe{c} })
	d, _ := value.(Description)
	return d, err
}

// Delete removes a group without members, with its offsets.
func (e *Engine) Delete(ctx context.Context, group string) error {
	_, err := e.ask(ctx, group, false, func() error { return errGroupNotFound(group) }, func(c *call) any { return evDelete{c} })
	return err
}

// List returns the groups that this gateway coordinates, live or only stored, sorted.
func (e *Engine) List(ctx context.Context) ([]Listing, error) {
	m := e.cfg.Maps.Current()
	found := map[string]Listing{}
	err := e.cfg.Store.Groups(ctx, m.LogicalCluster, func(ids []string) error {
		ids = slices.DeleteFunc(ids, func(id string) bool { return !e.owns(m, id) })
		headers, err := e.cfg.Store.GroupFields(ctx, m.LogicalCluster, ids, headerField)
		for i, b := range headers {
			var h header // a group of offsets only has none
			if b != nil && json.Unmarshal(b, &h) != nil || h.State == "" {
				h.State = stateEmpty.String()
			}
			found[ids[i]] = Listing{Group: ids[i], ProtocolType: h.ProtocolType, State: h.shown(), Type: h.groupType()}
		}
		return err
	})
	if err != nil {
		return nil, federation.Errorf(federation.CoordinatorLoading, "groups cannot be listed: the store of groups (Redis) does not answer; try again").WithCause(err)
	}
	all := make([]Listing, 0, len(found))
	for _, l := range found {
		all = append(all, l)
	}
	sort.Slice(all, func(i, j int) bool { return strings.Compare(all[i].Group, all[j].Group) < 0 })
	return all, nil
}

// Subscribe makes a Connect stream a member.
func (e *Engine) Subscribe(ctx context.Context, r SubscribeRequest) (Membership, error) {
	for {
		o, err := e.owner(ctx, r.Group, r.MemberID == "")
		if err != nil {
			return nil, err
		}
		if o == nil {
			return nil, errUnknownMember(r.Group, r.MemberID)
		}
		s := newStream(o)
		value, err := o.ask(ctx, func(c *call) any { return evSubscribe{to: c, r: r, handle: s} })
		if errors.Is(err, errIdle) {
			continue
		}
		got, ok := value.(subscribed)
		if !ok {
			if err != nil && ctx.Err() != nil {
				o.detach(s) // it may still become a member that nobody waits for
			}
			return nil, err
		}
		s.id = got.id
		context.AfterFunc(ctx, func() { o.detach(s) })
		return s, nil
	}
}

// detach tells the owner that the reader of a stream is gone.
func (o *owner) detach(s *stream) {
	select {
	case o.mailbox <- evDetach{handle: s}:
	case <-o.done:
	}
}
