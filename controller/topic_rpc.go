package controller

import (
	"context"
	"encoding/hex"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/braidmq/braid/controller/planner"
	"github.com/braidmq/braid/federation"
	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/internal/rpcerror"
	"github.com/braidmq/braid/internal/upstream"
)

// configOwn begins the topic settings that are braid's own. Clusters are told none of them.
const configOwn = "braid."

// physicalConfig returns the settings of a topic that its clusters are told.
func physicalConfig(config map[string]string) map[string]string {
	out := make(map[string]string, len(config))
	for k, v := range config {
		if !strings.HasPrefix(k, configOwn) {
			out[k] = v
		}
	}
	return out
}

type topicService struct{ c *Controller }

// CreateTopic begins a create-topic operation, or finds the one that the same
// request began, and waits for its end unless it is asked not to.
func (s *topicService) CreateTopic(ctx context.Context, req *adminv1.CreateTopicRequest) (*adminv1.CreateTopicResponse, error) {
	out, err := s.c.createTopic(ctx, req)
	if err != nil {
		return nil, rpcerror.Error(err)
	}
	return out, nil
}

func (c *Controller) createTopic(ctx context.Context, req *adminv1.CreateTopicRequest) (*adminv1.CreateTopicResponse, error) {
	t, err := c.leading()
	if err != nil {
		return nil, err
	}
	spec, err := t.createSpec(req)
	if err != nil {
		return nil, err
	}
	if req.GetValidateOnly() {
		return t.validateCreate(ctx, spec)
	}
	// Said at once, rather than by an operation that fails.
	if known := t.ops.byRequest(req.GetRequestId()); known == nil {
		if err := planner.CheckNewTopic(t.current(), spec.Name); err != nil {
			return nil, err
		}
	}
	op, err := t.ops.start(ctx, kindCreateTopic, c.topicName(spec.Name), req.GetRequestId(), spec)
	if err != nil {
		return nil, err
	}
	rec, _ := op.record()
	out := &adminv1.CreateTopicResponse{Operation: collectionOperations + rec.ID}
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

func (t *term) createSpec(req *adminv1.CreateTopicRequest) (createSpec, error) {
	in := req.GetTopic()
	spec := createSpec{
		Name:              federation.TopicName(req.GetTopicId()),
		Partitions:        in.GetPartitionCount(),
		ReplicationFactor: in.GetReplicationFactor(),
		Config:            in.GetConfig(),
	}
	tenant, err := t.parseParent(req.GetParent())
	if err != nil {
		return spec, err
	}
	switch {
	case spec.Name == "" && in.GetName() != "":
		if spec.Name, err = t.parseTopic(in.GetName()); err != nil {
			return spec, err
		}
	default:
		if err := planner.CheckTopicName(spec.Name); err != nil {
			return spec, err
		}
		spec.Name = federation.Qualify(tenant, spec.Name)
	}
	if spec.Partitions == 0 || spec.Partitions == -1 {
		spec.Partitions = t.cfg.DefaultPartitions
	}
	if err := t.checkCount(spec.Name, spec.Partitions); err != nil {
		return spec, err
	}
	if spec.ReplicationFactor == 0 {
		spec.ReplicationFactor = -1
	}
	if spec.ReplicationFactor < -1 || spec.ReplicationFactor > math.MaxInt16 {
		return spec, federation.Errorf(federation.InvalidReplicationFactor, "topic %q: replication factor %d: want 1 or more, or -1 for the default of each physical cluster", spec.Name, spec.ReplicationFactor)
	}
	if err := checkConfig(spec.Name, spec.Config); err != nil {
		return spec, err
	}
	for _, n := range in.GetPlacement().GetPhysicalClusters() {
		name := federation.ClusterName(strings.TrimPrefix(n, collectionPhysical))
		if !slices.Contains(spec.Clusters, name) {
			spec.Clusters = append(spec.Clusters, name)
		}
	}
	if weights := in.GetPlacement().GetWeights(); len(weights) > 0 {
		spec.Weights = make(map[federation.ClusterName]int32, len(weights))
		for n, w := range weights {
			spec.Weights[federation.ClusterName(strings.TrimPrefix(n, collectionPhysical))] = w
		}
	}
	return spec, nil
}

func (c *Controller) checkCount(topic federation.TopicName, n int32) error {
	if n < 1 || n > c.cfg.PartitionsMax {
		return federation.Errorf(federation.InvalidPartitionCount, "topic %q: %d partitions: want 1 to %d", topic, n, c.cfg.PartitionsMax)
	}
	return nil
}

func checkConfig(topic federation.TopicName, config map[string]string) error {
	for k := range config {
		if k == "" || strings.HasPrefix(k, configOwn) && k != federation.ConfigFailoverRead {
			return federation.Errorf(federation.InvalidConfig, "topic %q: there is no setting %q", topic, federation.SettingName(k))
		}
	}
	return federation.CheckTopicConfig(topic, config)
}

func (t *term) validateCreate(ctx context.Context, spec createSpec) (*adminv1.CreateTopicResponse, error) {
	plan, err := t.planCreate(ctx, spec, 0)
	if err != nil {
		return nil, err
	}
	return &adminv1.CreateTopicResponse{Topic: t.topicProto(t.current(), &federation.Topic{
		Name: spec.Name, Config: spec.Config, Clusters: spec.Clusters, ReplicationFactor: max(0, spec.ReplicationFactor),
		Partitions: plan.Partitions(spec.Name, make([]federation.PhysicalEpoch, len(plan.Heads))),
	})}, nil
}

// wait waits for the end of an operation and returns its error. A call that is
// not answered in time fails with Timeout; the operation goes on.
func (t *term) wait(ctx context.Context, op *operation) error {
	timeout := time.NewTimer(t.cfg.RequestWait)
	defer timeout.Stop()
	rec, _ := op.record()
	select {
	case <-op.ended:
		rec, _ = op.record()
		return failure(rec)
	case <-ctx.Done():
		return ctx.Err()
	case <-t.done:
		return errNotLeader()
	case <-timeout.C:
		return federation.Errorf(federation.Timeout, "operation %s still runs after %s; `braid operation watch %s` follows it", rec.ID, t.cfg.RequestWait, rec.ID)
	}
}

// GetTopic returns one topic.
func (s *topicService) GetTopic(_ context.Context, req *adminv1.GetTopicRequest) (*adminv1.GetTopicResponse, error) {
	t, topic, err := s.c.findTopic(req.GetName())
	if err != nil {
		return nil, rpcerror.Error(err)
	}
	return &adminv1.GetTopicResponse{Topic: s.c.topicProto(t.current(), topic)}, nil
}

func (c *Controller) findTopic(name string) (*term, *federation.Topic, error) {
	t, err := c.leading()
	if err != nil {
		return nil, nil, err
	}
	id, err := t.parseTopic(name)
	if err != nil {
		return nil, nil, err
	}
	topic := t.current().Topic(id)
	if topic == nil {
		return nil, nil, errUnknownTopic(id)
	}
	return t, topic, nil
}

// ListTopics returns a page of topics, by name.
func (s *topicService) ListTopics(_ context.Context, req *adminv1.ListTopicsRequest) (*adminv1.ListTopicsResponse, error) {
	t, err := s.c.leading()
	if err != nil {
		return nil, rpcerror.Error(err)
	}
	tenant, err := t.parseParent(req.GetParent())
	if err != nil {
		return nil, rpcerror.Error(err)
	}
	m := t.current()
	names, next, err := page(planner.TenantTopics(m, tenant), func(n federation.TopicName) string { _, plain := n.Split(); return string(plain) }, req.GetPageSize(), req.GetPageToken())
	if err != nil {
		return nil, rpcerror.Error(err)
	}
	out := &adminv1.ListTopicsResponse{NextPageToken: next}
	for _, n := range names {
		out.Topics = append(out.Topics, s.c.topicProto(m, m.Topics[n]))
	}
	return out, nil
}

// ListExtents returns the extent chains of a topic's partitions.
func (s *topicService) ListExtents(_ context.Context, req *adminv1.ListExtentsRequest) (*adminv1.ListExtentsResponse, error) {
	_, topic, err := s.c.findTopic(req.GetParent())
	if err != nil {
		return nil, rpcerror.Error(err)
	}
	out := &adminv1.ListExtentsResponse{}
	for _, p := range topic.Partitions {
		part := &adminv1.Partition{Partition: int32(p.Number), Epoch: int32(p.Epoch)}
		for _, e := range p.Extents {
			part.Extents = append(part.Extents, s.c.extentProto(p, e))
		}
		out.Partitions = append(out.Partitions, part)
	}
	return out, nil
}

var extentStates = map[federation.ExtentState]adminv1.Extent_State{
	federation.ExtentOpen:      adminv1.Extent_STATE_OPEN,
	federation.ExtentSealing:   adminv1.Extent_STATE_SEALING,
	federation.ExtentSealed:    adminv1.Extent_STATE_SEALED,
	federation.ExtentSuspended: adminv1.Extent_STATE_SUSPENDED,
}

func (c *Controller) extentProto(p *federation.Partition, e *federation.Extent) *adminv1.Extent {
	out := &adminv1.Extent{
		Name:              fmt.Sprintf("%s/partitions/%d/extents/%d", c.topicName(p.Topic), p.Number, e.Number),
		PhysicalCluster:   string(e.Cluster),
		PhysicalTopic:     e.Topic,
		PhysicalPartition: int32(e.Partition),
		LogicalBase:       int64(e.Base),
		PhysicalStart:     int64(e.Start),
		State:             extentStates[e.State],
	}
	if end, ok := e.EndOffset(); ok {
		sealed := int64(end)
		out.SealedEnd = &sealed
	}
	return out
}

func (c *Controller) topicProto(m *federation.Map, t *federation.Topic) *adminv1.Topic {
	out := &adminv1.Topic{
		Name:              c.topicName(t.Name),
		PartitionCount:    int32(len(t.Partitions)),
		Config:            maps.Clone(t.Config),
		MapVersion:        int64(m.Version),
		Etag:              topicEtag(t),
		ReplicationFactor: t.ReplicationFactor,
	}
	if t.ID != (federation.TopicID{}) {
		out.Uid = uuid(t.ID)
		out.CreateTime = timestamppb.New(time.UnixMilli(t.CreatedMs))
	}
	if len(t.Clusters) > 0 {
		out.Placement = &adminv1.PlacementPolicy{}
		for _, n := range t.Clusters {
			out.Placement.PhysicalClusters = append(out.Placement.PhysicalClusters, string(n))
		}
	}
	return out
}

func uuid(id federation.TopicID) string {
	h := hex.EncodeToString(id[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// UpdateTopic changes a topic's config on all of its clusters and in the map.
func (s *topicService) UpdateTopic(ctx context.Context, req *adminv1.UpdateTopicRequest) (*adminv1.UpdateTopicResponse, error) {
	t, topic, err := s.c.findTopic(req.GetTopic().GetName())
	if err != nil {
		return nil, rpcerror.Error(err)
	}
	if err := checkEtag(fmt.Sprintf("topic %q", topic.Name), req.GetTopic().GetEtag(), topicEtag(topic)); err != nil {
		return nil, rpcerror.Error(err)
	}
	config, err := updatedConfig(topic, req)
	if err != nil {
		return nil, rpcerror.Error(err)
	}
	m, err := t.setConfig(ctx, topic, config, req.GetValidateOnly())
	if err != nil {
		return nil, rpcerror.Error(err)
	}
	updated := *m.Topic(topic.Name)
	updated.Config = config // also when it was only validated
	return &adminv1.UpdateTopicResponse{Topic: s.c.topicProto(m, &updated)}, nil
}

// updatedConfig applies the update mask; without one the whole config is replaced.
func updatedConfig(topic *federation.Topic, req *adminv1.UpdateTopicRequest) (map[string]string, error) {
	given := req.GetTopic().GetConfig()
	config := maps.Clone(topic.Config)
	if config == nil {
		config = make(map[string]string)
	}
	paths := req.GetUpdateMask().GetPaths()
	if len(paths) == 0 {
		paths = []string{"config"}
	}
	for _, path := range paths {
		key, one := strings.CutPrefix(path, "config.")
		switch {
		case path == "config":
			config = maps.Clone(given)
		case !one || key == "":
			return nil, federation.Errorf(federation.InvalidArgument, "update mask %q: only config and config.KEY of a topic can be updated", path)
		default:
			if v, ok := given[key]; ok {
				config[key] = v
			} else {
				delete(config, key)
			}
		}
	}
	return config, checkConfig(topic.Name, config)
}

// changedConfig returns the settings that differ.
func changedConfig(from, to map[string]string) (set map[string]string, unset []string) {
	set = make(map[string]string)
	for k, v := range to {
		if old, ok := from[k]; !ok || old != v {
			set[k] = v
		}
	}
	for k := range from {
		if _, ok := to[k]; !ok {
			unset = append(unset, k)
		}
	}
	return set, unset
}

// setConfig asks all clusters first, so that none refuses what another has taken.
func (t *term) setConfig(ctx context.Context, topic *federation.Topic, config map[string]string, validateOnly bool) (*federation.Map, error) {
	release, _, err := t.ops.reserve("update-topic", t.topicName(topic.Name), "")
	if err != nil {
		return nil, err
	}
	defer release(nil)
	if maps.Equal(config, topic.Config) {
		return t.current(), nil
	}
	set, unset := changedConfig(physicalConfig(topic.Config), physicalConfig(config))
	physical := t.withLeftovers(ctx, topic)
	apply := func(validate bool) error {
		if len(set) == 0 && len(unset) == 0 {
			return nil // a cluster that is away does not keep a setting of braid's own from being changed
		}
		return t.each(ctx, physical, func(ctx context.Context, pt planner.PhysicalTopic, c *upstream.Cluster) error {
			return c.SetTopicConfig(ctx, pt.Name, set, unset, validate)
		})
	}
	if err := apply(true); err != nil || validateOnly {
		return t.current(), err
	}
	if err := apply(false); err != nil {
		return nil, err
	}
	return t.edit(ctx, func(m *federation.Map) (*federation.Map, error) {
		have := m.Topic(topic.Name)
		if have == nil || have.ID != topic.ID {
			return nil, errUnknownTopic(topic.Name)
		}
		changed := *have
		changed.Config = config
		return planner.WithTopic(m, &changed), nil
	})
}

// withLeftovers returns the physical topics of a topic, also those that hold nothing of it
// any more: its heads may move there again, and must fit then. If some cluster does not
// answer, those are left out: nothing of the topic is affected.
func (t *term) withLeftovers(ctx context.Context, topic *federation.Topic) []planner.PhysicalTopic {
	out := physicalTopics(topic)
	m := t.current()
	ctx, cancel := context.WithTimeout(ctx, t.cfg.ProbeTimeout)
	defer cancel()
	existing, err := t.existing(ctx, m, t.health.away(), topic)
	if err != nil {
		t.log.Info("some cluster does not answer; old physical topics keep their settings", "topic", topic.Name, "err", err)
		return out
	}
	for _, cluster := range slices.Sorted(maps.Keys(existing[topic.Name])) {
		pt := planner.PhysicalTopic{Cluster: cluster, Name: planner.PhysicalName(m.LogicalCluster, topic.Name, topic.Generation), Exists: true}
		if existing[topic.Name][cluster] > 0 && !slices.Contains(out, pt) {
			out = append(out, pt)
		}
	}
	return out
}

// GrowTopic begins a grow-topic operation, as CreateTopic does its own.
func (s *topicService) GrowTopic(ctx context.Context, req *adminv1.GrowTopicRequest) (*adminv1.GrowTopicResponse, error) {
	out, err := s.c.growTopic(ctx, req)
	if err != nil {
		return nil, rpcerror.Error(err)
	}
	return out, nil
}

func (c *Controller) growTopic(ctx context.Context, req *adminv1.GrowTopicRequest) (*adminv1.GrowTopicResponse, error) {
	t, topic, err := c.findTopic(req.GetName())
	if err != nil {
		return nil, err
	}
	if err := c.checkCount(topic.Name, req.GetPartitionCount()); err != nil {
		return nil, err
	}
	spec := growSpec{Name: topic.Name, Total: req.GetPartitionCount()}
	known := t.ops.byRequest(req.GetRequestId())
	if known == nil && int(spec.Total) <= len(topic.Partitions) {
		return nil, federation.Errorf(federation.InvalidPartitionCount, "topic %q has %d partitions; %d would not be more", topic.Name, len(topic.Partitions), spec.Total)
	}
	if req.GetValidateOnly() {
		if _, err := t.planGrow(ctx, spec); err != nil {
			return nil, err
		}
		grown := c.topicProto(t.current(), topic)
		grown.PartitionCount = spec.Total
		return &adminv1.GrowTopicResponse{Topic: grown}, nil
	}
	op, err := t.ops.start(ctx, kindGrowTopic, c.topicName(topic.Name), req.GetRequestId(), spec)
	if err != nil {
		return nil, err
	}
	rec, _ := op.record()
	out := &adminv1.GrowTopicResponse{Operation: collectionOperations + rec.ID}
	if req.GetNoWait() {
		return out, nil
	}
	if err := t.wait(ctx, op); err != nil {
		return nil, err
	}
	if topic := t.current().Topic(topic.Name); topic != nil {
		out.Topic = c.topicProto(t.current(), topic)
	}
	return out, nil
}

// DeleteTopic begins a delete-topic operation, and answers when the topic is out
// of the map; its data is deleted after that.
func (s *topicService) DeleteTopic(ctx context.Context, req *adminv1.DeleteTopicRequest) (*adminv1.DeleteTopicResponse, error) {
	out, err := s.c.deleteTopic(ctx, req)
	if err != nil {
		return nil, rpcerror.Error(err)
	}
	return out, nil
}

func (c *Controller) deleteTopic(ctx context.Context, req *adminv1.DeleteTopicRequest) (*adminv1.DeleteTopicResponse, error) {
	t, topic, err := c.findTopic(req.GetName())
	if err != nil {
		return nil, err
	}
	if err := checkEtag(fmt.Sprintf("topic %q", topic.Name), req.GetEtag(), topicEtag(topic)); err != nil {
		return nil, err
	}
	op, err := t.ops.start(ctx, kindDeleteTopic, c.topicName(topic.Name), "", deleteSpec{Name: topic.Name, TopicID: topic.ID})
	if err != nil {
		return nil, err
	}
	rec, _ := op.record()
	return &adminv1.DeleteTopicResponse{Operation: collectionOperations + rec.ID}, t.waitRemoved(ctx, op)
}

// waitRemoved waits until a delete-topic operation has taken the topic out of the map.
func (t *term) waitRemoved(ctx context.Context, op *operation) error {
	timeout := time.NewTimer(t.cfg.RequestWait)
	defer timeout.Stop()
	for {
		rec, changed := op.record()
		if rec.Done && len(rec.Steps) < 2 {
			return failure(rec)
		}
		if len(rec.Steps) > 0 && rec.Steps[0].Done == rec.Steps[0].Total {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-t.done:
			return errNotLeader()
		case <-timeout.C:
			return federation.Errorf(federation.Timeout, "operation %s still runs after %s; `braid operation watch %s` follows it", rec.ID, t.cfg.RequestWait, rec.ID)
		}
	}
}
