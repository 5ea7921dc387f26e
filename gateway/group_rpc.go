package gateway

import (
	"context"
	"sort"
	"strings"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway/groups"
	"github.com/braidmq/braid/gateway/router"
	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	braidv1 "github.com/braidmq/braid/gen/braid/v1"
	"github.com/braidmq/braid/internal/acl"
)

// groupService serves braid.admin.v1.GroupService for all groups, wherever their
// coordinator is.
type groupService struct{ g *Gateway }

const (
	pageSizeDefault = 100
	pageSizeMax     = 1000
)

// groupName reads logicalClusters/{lc}/groups/{g}, or just {g}.
func (g *Gateway) groupName(name string) (string, error) {
	cluster, group := "", name
	if rest, ok := strings.CutPrefix(name, "logicalClusters/"); ok {
		if cluster, group, ok = strings.Cut(rest, "/groups/"); !ok {
			return "", invalid("name: is %q, want logicalClusters/{cluster}/groups/{group}", name)
		}
	}
	return group, g.checkGroup(cluster, group)
}

func (g *Gateway) groupResource(group string) string {
	return "logicalClusters/" + g.cfg.LogicalCluster + "/groups/" + group
}

// GetGroup describes a group with its members and its lag.
func (s *groupService) GetGroup(ctx context.Context, r *adminv1.GetGroupRequest) (*adminv1.GetGroupResponse, error) {
	group, err := s.g.getGroup(ctx, r.GetName())
	if err != nil {
		return nil, s.g.fail(ctx, "GetGroup", err)
	}
	return &adminv1.GetGroupResponse{Group: group}, nil
}

func (g *Gateway) getGroup(ctx context.Context, name string) (*adminv1.Group, error) {
	id, err := g.groupName(name)
	if err != nil {
		return nil, err
	}
	ctx, cancel := g.withUnaryTimeout(ctx)
	defer cancel()
	d, err := g.deps.Groups.Describe(ctx, id)
	if err != nil {
		return nil, err
	}
	m := g.deps.Maps.Current()
	committed, err := g.committed(ctx, m, id, nil)
	if err != nil {
		return nil, err
	}
	out := &adminv1.Group{Name: g.groupResource(id), State: d.State, Type: d.Type, Mode: "log", Epoch: d.Epoch, Lag: g.lag(ctx, withAssigned(committed, d.Members))}
	if c := m.GroupGateway(id); c != nil {
		out.Coordinator = string(c.ID)
	}
	for _, member := range d.Members {
		pm := &adminv1.Group_Member{MemberId: member.MemberID, ClientId: member.ClientID, Protocol: member.Protocol, Host: member.ClientHost, InstanceId: member.InstanceID}
		for _, tp := range member.Partitions {
			pm.Partitions = append(pm.Partitions, tp.String())
		}
		out.Members = append(out.Members, pm)
	}
	return out, nil
}

// withAssigned adds the partitions that members read but have not committed yet.
func withAssigned(committed []groups.CommittedOffset, members []groups.DescribedMember) []groups.CommittedOffset {
	seen := make(map[federation.TopicPartition]bool)
	for _, c := range committed {
		seen[c.TopicPartition] = true
	}
	for _, m := range members {
		for _, tp := range m.Partitions {
			if !seen[tp] {
				seen[tp] = true
				committed = append(committed, groups.CommittedOffset{TopicPartition: tp, Offset: -1})
			}
		}
	}
	sort.Slice(committed, func(i, j int) bool { return lessPartition(committed[i].TopicPartition, committed[j].TopicPartition) })
	return committed
}

func lessPartition(a, b federation.TopicPartition) bool {
	return a.Topic < b.Topic || a.Topic == b.Topic && a.Partition < b.Partition
}

// lag sets committed offsets against the ends of the logs; -1 is unknown.
func (g *Gateway) lag(ctx context.Context, committed []groups.CommittedOffset) []*adminv1.Group_PartitionLag {
	ends := g.ends(ctx, committed)
	m := g.deps.Maps.Current()
	out := make([]*adminv1.Group_PartitionLag, len(committed))
	for i, c := range committed {
		out[i] = &adminv1.Group_PartitionLag{Topic: string(c.Topic), Partition: int32(c.Partition), Committed: int64(c.Offset), HighWatermark: ends[i], Lag: -1}
		if c.Offset >= 0 && ends[i] >= 0 {
			out[i].Lag = max(ends[i]-int64(c.Offset), 0)
			if part, err := m.Partition(c.TopicPartition); err == nil {
				out[i].Lag = part.Between(c.Offset, federation.LogicalOffset(ends[i]))
			}
		}
	}
	return out
}

// ListGroups lists the groups of all gateways, by name, in pages.
func (s *groupService) ListGroups(ctx context.Context, r *adminv1.ListGroupsRequest) (*adminv1.ListGroupsResponse, error) {
	res, err := s.g.listGroups(ctx, r)
	if err != nil {
		return nil, s.g.fail(ctx, "ListGroups", err)
	}
	return res, nil
}

func (g *Gateway) listGroups(ctx context.Context, r *adminv1.ListGroupsRequest) (*adminv1.ListGroupsResponse, error) {
	if err := g.checkGroup(strings.TrimPrefix(r.GetParent(), "logicalClusters/"), "any"); err != nil {
		return nil, err
	}
	size := int(r.GetPageSize())
	if size < 0 {
		return nil, invalid("page_size: %d is negative", size)
	}
	if size == 0 {
		size = pageSizeDefault
	}
	size = min(size, pageSizeMax)
	ctx, cancel := g.withUnaryTimeout(ctx)
	defer cancel()
	all, err := g.deps.Groups.List(ctx)
	if err != nil {
		return nil, err
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Group < all[j].Group })
	from := 0
	if token := r.GetPageToken(); token != "" {
		from = sort.Search(len(all), func(i int) bool { return all[i].Group > token })
	}
	m := g.deps.Maps.Current()
	out := &adminv1.ListGroupsResponse{}
	for i := from; i < len(all); i++ {
		if len(out.Groups) == size {
			out.NextPageToken = all[i-1].Group
			break
		}
		group := &adminv1.Group{Name: g.groupResource(all[i].Group), State: all[i].State, Type: all[i].Type, Mode: "log"}
		if c := m.GroupGateway(all[i].Group); c != nil {
			group.Coordinator = string(c.ID)
		}
		out.Groups = append(out.Groups, group)
	}
	return out, nil
}

// DeleteGroup deletes a group without members, with its offsets.
func (s *groupService) DeleteGroup(ctx context.Context, r *adminv1.DeleteGroupRequest) (*adminv1.DeleteGroupResponse, error) {
	id, err := s.g.groupName(r.GetName())
	if err == nil {
		callCtx, cancel := s.g.withUnaryTimeout(ctx)
		err = s.g.deps.Groups.Delete(callCtx, id)
		cancel()
	}
	if err != nil {
		return nil, s.g.fail(ctx, "DeleteGroup", err)
	}
	return &adminv1.DeleteGroupResponse{}, nil
}

// ResetOffsets moves the committed offsets of a group without members.
func (s *groupService) ResetOffsets(ctx context.Context, r *adminv1.ResetOffsetsRequest) (*adminv1.ResetOffsetsResponse, error) {
	res, err := s.g.resetOffsets(ctx, r)
	if err != nil {
		return nil, s.g.fail(ctx, "ResetOffsets", err)
	}
	return res, nil
}

func (g *Gateway) resetOffsets(ctx context.Context, r *adminv1.ResetOffsetsRequest) (*adminv1.ResetOffsetsResponse, error) {
	id, err := g.groupName(r.GetName())
	if err != nil {
		return nil, err
	}
	ctx, cancel := g.withUnaryTimeout(ctx)
	defer cancel()
	m := g.deps.Maps.Current()
	before, err := g.resetScope(ctx, m, id, r)
	if err != nil {
		return nil, err
	}
	for i, b := range before { // the right to the group was checked with the call
		if i > 0 && b.Topic == before[i-1].Topic {
			continue
		}
		if err := g.mayTopics(ctx, "ResetOffsets", acl.Read, string(b.Topic)); err != nil {
			return nil, err
		}
	}
	if d, err := g.deps.Groups.Describe(ctx, id); err == nil && len(d.Members) > 0 {
		return nil, federation.Errorf(federation.GroupNotEmpty, "group %q has %d members; its offsets can be moved when they have left", id, len(d.Members))
	} else if err != nil && federation.KindOf(err) != federation.GroupNotFound {
		return nil, err
	}
	after, err := g.resetTargets(ctx, before, r)
	if err != nil {
		return nil, err
	}
	out := &adminv1.ResetOffsetsResponse{Before: g.lag(ctx, before), After: g.lag(ctx, after)}
	if r.GetValidateOnly() || len(after) == 0 {
		return out, nil
	}
	req := groups.CommitRequest{Group: id, Generation: -1}
	for _, a := range after {
		req.Offsets = append(req.Offsets, groups.CommitOffset{TopicPartition: a.TopicPartition, Offset: a.Offset, Epoch: federation.NoEpoch})
	}
	errs, err := g.deps.Groups.Commit(ctx, req)
	if err != nil {
		return nil, err
	}
	for _, e := range errs {
		if e != nil {
			return nil, e
		}
	}
	return out, nil
}

// resetScope returns the partitions that a reset is about, with their offsets now.
func (g *Gateway) resetScope(ctx context.Context, m *federation.Map, id string, r *adminv1.ResetOffsetsRequest) ([]groups.CommittedOffset, error) {
	if r.GetTo() == nil {
		return nil, invalid("to: one of earliest, latest, time, shift_by and offsets must be set")
	}
	if explicit := r.GetOffsets(); explicit != nil {
		var tps []federation.TopicPartition
		for _, o := range explicit.GetOffsets() {
			tp := federation.TopicPartition{Topic: federation.TopicName(o.GetTopic()), Partition: federation.LogicalPartition(o.GetPartition())}
			if _, err := m.Partition(tp); err != nil {
				return nil, err
			}
			if o.GetCommitted() < 0 {
				return nil, invalid("offsets.committed: %d of %s is negative", o.GetCommitted(), tp)
			}
			tps = append(tps, tp)
		}
		if len(tps) == 0 {
			return nil, invalid("offsets: is empty")
		}
		return g.deps.Groups.Committed(ctx, id, tps)
	}
	var topics []federation.TopicName
	for _, name := range r.GetTopics() {
		if m.Topic(federation.TopicName(name)) == nil {
			return nil, federation.Errorf(federation.UnknownTopic, "topics: topic %q does not exist", federation.TopicName(name))
		}
		topics = append(topics, federation.TopicName(name))
	}
	if len(topics) == 0 {
		// All partitions of every topic that the group has an offset of.
		own, err := g.committed(ctx, m, id, nil)
		if err != nil {
			return nil, err
		}
		if len(own) == 0 {
			return nil, federation.Errorf(federation.GroupNotFound, "group %q has no committed offsets; name topics to set some", id)
		}
		for _, c := range own {
			if len(topics) == 0 || topics[len(topics)-1] != c.Topic {
				topics = append(topics, c.Topic)
			}
		}
	}
	return g.committed(ctx, m, id, topics)
}

// resetTargets returns the offsets after a reset.
func (g *Gateway) resetTargets(ctx context.Context, before []groups.CommittedOffset, r *adminv1.ResetOffsetsRequest) ([]groups.CommittedOffset, error) {
	session := g.deps.NewSession()
	defer session.Close()
	point := &braidv1.Position{}
	switch to := r.GetTo().(type) {
	case *adminv1.ResetOffsetsRequest_Earliest:
		point.At = &braidv1.Position_Earliest{Earliest: true}
	case *adminv1.ResetOffsetsRequest_Latest:
		point.At = &braidv1.Position_Latest{Latest: true}
	case *adminv1.ResetOffsetsRequest_Time:
		point.At = &braidv1.Position_TimestampMs{TimestampMs: to.Time.AsTime().UnixMilli()}
		if err := checkPosition("time", point); err != nil {
			return nil, err
		}
	case *adminv1.ResetOffsetsRequest_ShiftBy:
		return shiftTargets(ctx, session, before, to.ShiftBy)
	case *adminv1.ResetOffsetsRequest_Offsets:
		after := make([]groups.CommittedOffset, len(before))
		for i, b := range before {
			after[i] = groups.CommittedOffset{TopicPartition: b.TopicPartition, Offset: federation.LogicalOffset(to.Offsets.GetOffsets()[i].GetCommitted())}
		}
		return after, nil
	}
	points := make([]startPoint, len(before))
	after := make([]groups.CommittedOffset, len(before))
	for i, b := range before {
		points[i] = startPoint{b.TopicPartition, point}
	}
	for i, a := range resolve(ctx, session, points, false) {
		if a.err != nil {
			return nil, a.err
		}
		after[i] = groups.CommittedOffset{TopicPartition: before[i].TopicPartition, Offset: federation.LogicalOffset(a.offset)}
	}
	return after, nil
}

// shiftTargets moves offsets, but not out of the log; partitions without one stay so.
func shiftTargets(ctx context.Context, session router.Session, before []groups.CommittedOffset, by int64) ([]groups.CommittedOffset, error) {
	var points []startPoint
	var own []groups.CommittedOffset
	for _, b := range before {
		if b.Offset >= 0 {
			own = append(own, b)
			points = append(points, startPoint{b.TopicPartition, &braidv1.Position{At: &braidv1.Position_Earliest{Earliest: true}}}, startPoint{b.TopicPartition, nil})
		}
	}
	ends := resolve(ctx, session, points, false)
	for i := range own {
		first, last := ends[2*i], ends[2*i+1]
		if first.err != nil {
			return nil, first.err
		}
		if last.err != nil {
			return nil, last.err
		}
		own[i].Offset = federation.LogicalOffset(min(max(int64(own[i].Offset)+by, first.offset), last.offset))
	}
	return own, nil
}
