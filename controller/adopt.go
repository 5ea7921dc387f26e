package controller

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/braidmq/braid/controller/planner"
	"github.com/braidmq/braid/federation"
	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	braidv1 "github.com/braidmq/braid/gen/braid/v1"
	"github.com/braidmq/braid/gen/braid/v1/braidv1connect"
	"github.com/braidmq/braid/internal/journal"
	"github.com/braidmq/braid/internal/rpcerror"
	"github.com/braidmq/braid/internal/upstream"
)

// AdoptTopic makes a topic of a physical cluster a logical topic.
func (s *topicService) AdoptTopic(ctx context.Context, req *adminv1.AdoptTopicRequest) (*adminv1.AdoptTopicResponse, error) {
	out, err := s.c.adoptTopic(ctx, req)
	if err != nil {
		return nil, rpcerror.Error(err)
	}
	return out, nil
}

// adoptSpec is what an adopt-topic operation was asked for.
type adoptSpec struct {
	Name    federation.TopicName   `json:"name"`
	TopicID federation.TopicID     `json:"topicId"` // that it gets, if it is not adopted yet
	Cluster federation.ClusterName `json:"cluster"`
	// PhysicalTopic is its name on the cluster.
	PhysicalTopic string `json:"physicalTopic"`
	Groups        bool   `json:"groups,omitempty"`
}

func (c *Controller) adoptTopic(ctx context.Context, req *adminv1.AdoptTopicRequest) (*adminv1.AdoptTopicResponse, error) {
	t, err := c.leading()
	if err != nil {
		return nil, err
	}
	tenant, err := t.parseParent(req.GetParent())
	if err != nil {
		return nil, err
	}
	if tenant != "" && req.GetGroups() {
		return nil, federation.Errorf(federation.InvalidArgument, "groups of a cluster cannot be taken along into tenant %q; adopt the topic without them", tenant)
	}
	if err := planner.CheckTopicName(federation.TopicName(req.GetTopicId())); err != nil {
		return nil, err
	}
	spec := adoptSpec{
		Name: federation.Qualify(tenant, federation.TopicName(req.GetTopicId())), TopicID: federation.NewTopicID(), Groups: req.GetGroups(), PhysicalTopic: req.GetPhysicalTopic(),
		Cluster: federation.ClusterName(strings.TrimPrefix(req.GetPhysicalCluster(), collectionPhysical)),
	}
	setDefault(&spec.PhysicalTopic, req.GetTopicId())
	out := &adminv1.AdoptTopicResponse{}
	if t.ops.byRequest(req.GetRequestId()) == nil {
		topic, err := t.planAdopt(ctx, spec)
		if err != nil {
			return nil, err
		}
		if req.GetValidateOnly() {
			out.Topic = c.topicProto(t.current(), topic)
			if spec.Groups {
				out.Groups, err = t.groupsOf(ctx, spec, int32(len(topic.Partitions)))
			}
			return out, err
		}
	}
	op, err := t.ops.start(ctx, kindAdoptTopic, c.topicName(spec.Name), req.GetRequestId(), spec)
	if err != nil {
		return nil, err
	}
	rec, _ := op.record()
	out.Operation = collectionOperations + rec.ID
	if req.GetNoWait() {
		return out, nil
	}
	if err := t.wait(ctx, op); err != nil {
		return nil, err
	}
	if topic := t.current().Topic(spec.Name); topic != nil {
		out.Topic = c.topicProto(t.current(), topic)
	}
	return out, nil
}

// adopted reports whether a logical topic began as a physical one. That cannot be told
// any more when the first extents of all partitions have left the map.
func adopted(topic *federation.Topic, spec adoptSpec) bool {
	first := 0
	for _, p := range topic.Partitions {
		e := p.Extents[0]
		if e.Number != 0 {
			continue
		}
		if e.Cluster != spec.Cluster || e.Topic != spec.PhysicalTopic || int32(e.Partition) != int32(p.Number) {
			return false
		}
		first++
	}
	return first > 0
}

// planAdopt returns the logical topic that a physical one becomes, or already is. It
// changes nothing.
func (t *term) planAdopt(ctx context.Context, spec adoptSpec) (*federation.Topic, error) {
	m := t.current()
	switch cluster := m.Clusters[spec.Cluster]; {
	case cluster == nil:
		return nil, errUnknownCluster(spec.Cluster)
	case cluster.State != federation.ClusterActive:
		return nil, federation.Errorf(federation.PolicyViolation, "physical cluster %q is %s; topics of an active one can be adopted", spec.Cluster, cluster.State)
	}
	if have := m.Topic(spec.Name); have != nil {
		if adopted(have, spec) {
			return have, nil
		}
		return nil, federation.Errorf(federation.TopicExists, "topic %q exists already, and is not topic %q of physical cluster %q", spec.Name, federation.Hidden(spec.PhysicalTopic), spec.Cluster)
	}
	if err := planner.CheckNewTopic(m, spec.Name); err != nil {
		return nil, err
	}
	for _, other := range m.Topics {
		for _, pt := range physicalTopics(other) {
			if pt.Cluster == spec.Cluster && pt.Name == spec.PhysicalTopic {
				return nil, federation.Errorf(federation.TopicExists, "topic %q of physical cluster %q belongs to topic %q already", federation.Hidden(spec.PhysicalTopic), spec.Cluster, other.Name)
			}
		}
	}
	if journal.IsTopic(spec.PhysicalTopic) {
		return nil, federation.Errorf(federation.PolicyViolation, "topic %q of physical cluster %q is one of braid's own", federation.Hidden(spec.PhysicalTopic), spec.Cluster)
	}
	c, err := t.parts.Clusters.Cluster(spec.Cluster)
	if err != nil {
		return nil, err
	}
	found, err := c.Topics(ctx, spec.PhysicalTopic)
	if err != nil {
		return nil, err
	}
	info, ok := found[spec.PhysicalTopic]
	if !ok || len(info.Partitions) == 0 {
		return nil, federation.Errorf(federation.UnknownTopic, "physical cluster %q has no topic %q", spec.Cluster, federation.Hidden(spec.PhysicalTopic))
	}
	values, err := c.TopicConfig(ctx, spec.PhysicalTopic)
	if err != nil {
		return nil, err
	}
	if err := planner.CheckTenantTopic(m, spec.Name, t.cfg.TenantLimits, len(info.Partitions)); err != nil {
		return nil, err
	}
	topic := &federation.Topic{
		Name: spec.Name, ID: spec.TopicID, Config: make(map[string]string), CreatedMs: time.Now().UnixMilli(),
		ReplicationFactor: int32(len(info.Partitions[0].Replicas)),
	}
	for k, v := range values {
		if !v.Default && !v.Sensitive && !v.ReadOnly {
			topic.Config[k] = v.Value
		}
	}
	for i, p := range info.Partitions {
		if p.Leader < 0 {
			return nil, federation.Errorf(federation.NoLeader, "partition %d of topic %q of physical cluster %q has no leader; try again when it has one", i, federation.Hidden(spec.PhysicalTopic), spec.Cluster)
		}
		topic.ReplicationFactor = min(topic.ReplicationFactor, int32(len(p.Replicas)))
		// Base and start are equal: the offsets are those that clients have.
		topic.Partitions = append(topic.Partitions, &federation.Partition{
			Topic: spec.Name, Number: federation.LogicalPartition(i),
			Extents: []*federation.Extent{{
				PhysicalAddress: federation.PhysicalAddress{Cluster: spec.Cluster, Topic: spec.PhysicalTopic, Partition: federation.PhysicalPartition(i)},
				State:           federation.ExtentOpen,
				Epochs:          []federation.EpochEntry{{Physical: max(0, p.Epoch)}},
			}},
		})
	}
	return topic, nil
}

// adopt: publish ► import what groups have committed. The second step can be done
// again at any time, by another operation.
func (o *operations) adopt(ctx context.Context, op *operation) error {
	rec, _ := op.record()
	var spec adoptSpec
	if err := decode(rec.Spec, &spec); err != nil {
		return err
	}
	topic := o.t.current().Topic(spec.Name)
	if topic == nil || !adopted(topic, spec) {
		var generation int32
		err := retry(ctx, o.t.cfg.StepTimeout, func(ctx context.Context) (err error) {
			if topic, err = o.t.planAdopt(ctx, spec); err != nil {
				return err
			}
			generation, err = o.t.parts.Store.NextGeneration(ctx, o.t.cfg.LogicalCluster, spec.Name)
			return err
		})
		if err != nil {
			return err
		}
		topic.Generation = generation
		err = o.publishTopic(ctx, op, func(m *federation.Map) (*federation.Map, error) {
			if have := m.Topic(spec.Name); have != nil && have.ID == topic.ID {
				return m, nil // published before the last leader died
			}
			if err := errors.Join(planner.CheckNewTopic(m, spec.Name), planner.CheckTenantTopic(m, spec.Name, o.t.cfg.TenantLimits, len(topic.Partitions))); err != nil {
				return nil, err
			}
			return planner.WithTopic(m, topic), nil
		})
		if err != nil {
			return err
		}
	}
	if !spec.Groups {
		return nil
	}
	return o.importGroups(ctx, op, spec, int32(len(topic.Partitions)))
}

// groupsOf returns the groups of a cluster that have committed offsets of a topic.
func (t *term) groupsOf(ctx context.Context, spec adoptSpec, partitions int32) ([]string, error) {
	c, err := t.parts.Clusters.Cluster(spec.Cluster)
	if err != nil {
		return nil, err
	}
	all, err := c.Groups(ctx)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, g := range all {
		offsets, err := c.CommittedOffsets(ctx, g, spec.PhysicalTopic, partitions)
		if err != nil {
			return nil, err
		}
		if len(offsets) > 0 {
			out = append(out, g)
		}
	}
	return out, nil
}

// importGroups copies the committed offsets of all groups of the cluster that read
// the topic. An offset never goes back, and no leader epoch comes along: those of the
// cluster mean nothing here.
func (o *operations) importGroups(ctx context.Context, op *operation, spec adoptSpec, partitions int32) error {
	c, err := o.t.parts.Clusters.Cluster(spec.Cluster)
	if err != nil {
		return err
	}
	op.step("groups", 0, 1, "")
	var groups []string
	err = retry(ctx, o.t.cfg.StepTimeout, func(ctx context.Context) (err error) {
		groups, err = o.t.groupsOf(ctx, spec, partitions)
		return err
	})
	if err != nil {
		return err
	}
	var refused []string
	for i, g := range groups {
		if err := op.cancelled(); err != nil {
			return err
		}
		op.step("groups", int64(i), int64(len(groups)), g)
		err := retry(ctx, o.t.cfg.StepTimeout, func(ctx context.Context) error {
			offsets, err := c.CommittedOffsets(ctx, g, spec.PhysicalTopic, partitions)
			if err != nil {
				return err
			}
			return o.t.importOffsets(ctx, g, spec.Name, offsets)
		})
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case federation.KindOf(err) != federation.Conflict && passes(federation.KindOf(err)):
			return err
		case err != nil:
			refused = append(refused, fmt.Sprintf("%s (%v)", g, err))
		}
	}
	op.step("groups", int64(len(groups)), int64(len(groups)), "")
	if len(refused) > 0 {
		return federation.Errorf(federation.Conflict, "topic %q is adopted, but the offsets of %d groups were not imported: %s", spec.Name, len(refused), strings.Join(refused, "; "))
	}
	return nil
}

// importOffsets commits offsets of a group at a gateway, where they are higher.
func (t *term) importOffsets(ctx context.Context, group string, topic federation.TopicName, offsets []upstream.CommittedOffset) error {
	client, err := t.consumers()
	if err != nil {
		return err
	}
	have, err := client.GetCommittedOffsets(ctx, &braidv1.GetCommittedOffsetsRequest{LogicalCluster: t.cfg.LogicalCluster, Group: group, Topics: []string{string(topic)}})
	if err != nil && connect.CodeOf(err) != connect.CodeNotFound {
		return rpcerror.FromError(err)
	}
	committed := make(map[int32]int64)
	for _, o := range have.GetOffsets() {
		committed[o.GetPartition()] = o.GetOffset()
	}
	req := &braidv1.CommitOffsetsRequest{LogicalCluster: t.cfg.LogicalCluster, Group: group}
	for _, o := range offsets {
		if at, ok := committed[int32(o.Partition)]; !ok || at < int64(o.Offset) {
			req.Offsets = append(req.Offsets, &braidv1.PartitionOffset{Topic: string(topic), Partition: int32(o.Partition), Offset: int64(o.Offset), Metadata: o.Metadata})
		}
	}
	if len(req.GetOffsets()) == 0 {
		return nil
	}
	resp, err := client.CommitOffsets(ctx, req)
	if err != nil {
		return rpcerror.FromError(err)
	}
	var failed []error
	for _, f := range resp.GetFailures() {
		failed = append(failed, federation.Errorf(federation.Conflict, "partition %d: %s", f.GetPartition(), f.GetFailure().GetMessage()))
	}
	return errors.Join(failed...)
}

// consumers returns a client of some gateway.
func (t *term) consumers() (braidv1connect.ConsumerServiceClient, error) {
	ready := slices.Collect(func(yield func(*federation.Gateway) bool) {
		for _, g := range t.current().Gateways {
			if g.State == federation.GatewayReady && g.Role.Serves(federation.RoleConsume) && !yield(g) {
				return
			}
		}
	})
	if len(ready) == 0 {
		return nil, federation.Errorf(federation.NoLeader, "no gateway is ready to take offsets; try again when one is")
	}
	return braidv1connect.NewConsumerServiceClient(&http.Client{Transport: t.parts.Transport}, t.cfg.GatewayScheme+"://"+ready[0].ConnectAddress), nil
}
