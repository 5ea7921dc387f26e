package kafkacompat

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/acl"
)

// CreateTopics: v2-v7
//
// Any gateway takes it. The answer comes when the topic is in this gateway's map.
//
// Version notes:
// * v4: default partition count and replication factor with -1 (KIP-464)
// * v5: flexible; the created topic in the response (KIP-525)
// * v7: topic id

func handleCreateTopics(ctx context.Context, c *conn, req *request, kreq *kmsg.CreateTopicsRequest) kmsg.Response {
	resp := kreq.ResponseKind().(*kmsg.CreateTopicsResponse)
	ctx, cancel := c.adminContext(ctx, kreq.TimeoutMillis)
	defer cancel()
	count := make(map[string]int)
	for _, t := range kreq.Topics {
		count[t.Topic]++
	}
	for i := range kreq.Topics {
		t := &kreq.Topics[i]
		if count[t.Topic] < 0 {
			continue // a duplicate, answered already
		}
		rt := kmsg.NewCreateTopicsResponseTopic()
		rt.Topic, rt.NumPartitions, rt.ReplicationFactor = t.Topic, -1, -1
		rt.Configs = []kmsg.CreateTopicsResponseTopicConfig{} // Java fails on null
		if count[t.Topic] > 1 {
			rt.ErrorCode = req.refuse(kerr.InvalidRequest)
			rt.ErrorMessage = new(fmt.Sprintf("topic %q is in the request more than once", t.Topic))
			count[t.Topic] = -1
		} else if rt.ErrorCode = req.mayCreate(ctx, t.Topic); rt.ErrorCode != 0 {
			rt.ErrorMessage = deniedMessage(rt.ErrorCode)
		} else {
			c.createTopic(ctx, req, t, kreq.ValidateOnly, &rt)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp
}

// adminContext bounds a call by the timeout that the client gave.
func (c *conn) adminContext(ctx context.Context, timeoutMillis int32) (context.Context, context.CancelFunc) {
	d := c.s.cfg.RequestTimeout
	if timeoutMillis > 0 {
		d = min(d, time.Duration(timeoutMillis)*time.Millisecond)
	}
	return context.WithTimeout(ctx, d)
}

func (c *conn) createTopic(ctx context.Context, req *request, t *kmsg.CreateTopicsRequestTopic, validateOnly bool, rt *kmsg.CreateTopicsResponseTopic) {
	spec, err := c.topicSpec(t)
	if err == nil {
		const configBytes = 256
		err = req.room(ctx, c, int64(len(topicConfigs)+len(t.Configs))*configBytes)
	}
	if err == nil {
		check := func() error {
			only := spec
			only.ValidateOnly = true
			return c.s.deps.Admin.CreateTopic(ctx, only)
		}
		if validateOnly {
			err = check()
		} else {
			err = c.mutate(ctx, req, 6, int(spec.Partitions), check, func() error {
				err := c.s.deps.Admin.CreateTopic(ctx, spec)
				req.changed(ctx, acl.Create, acl.Topic, t.Topic, err)
				return err
			})
		}
	}
	if err != nil {
		rt.ErrorCode, rt.ErrorMessage = req.failAdmin(err), message(err)
		return
	}
	rt.NumPartitions, rt.ReplicationFactor = spec.Partitions, max(spec.ReplicationFactor, 1)
	overrides := spec.Config
	if !validateOnly && c.s.awaitMap(ctx, c.s.cfg.TopicWait, func(m *federation.Map) bool { return m.Topics[spec.Name] != nil }) {
		if created := c.s.mapOrNil().Topics[spec.Name]; created != nil {
			rt.TopicID = created.ID
			rt.NumPartitions = int32(len(created.Partitions))
			rt.ReplicationFactor = int16(max(created.ReplicationFactor, 1))
			overrides = created.Config
		}
	}
	if !req.may.Sees(acl.DescribeConfigs, acl.Topic, t.Topic) {
		rt.NumPartitions, rt.ReplicationFactor, rt.ConfigErrorCode = -1, -1, kerr.TopicAuthorizationFailed.Code
		return
	}
	for _, d := range describeTopicConfig(values(overrides)) {
		rc := kmsg.NewCreateTopicsResponseTopicConfig()
		rc.Name, rc.Value, rc.ReadOnly, rc.Source, rc.IsSensitive = d.name, d.value, d.readOnly, int8(d.source), d.sensitive
		rt.Configs = append(rt.Configs, rc)
	}
}

// topicSpec checks what a client asks for.
func (c *conn) topicSpec(t *kmsg.CreateTopicsRequestTopic) (TopicSpec, error) {
	spec := TopicSpec{Name: federation.TopicName(t.Topic), Partitions: t.NumPartitions, ReplicationFactor: t.ReplicationFactor, Config: map[string]string{}}
	if !validTopicName(t.Topic) {
		return spec, federation.Errorf(federation.InvalidTopicName,
			"topic name %q: want 1 to 249 of a-z, A-Z, 0-9, dot, underscore and dash, and not . or ..", t.Topic)
	}
	if len(t.ReplicaAssignment) > 0 {
		if err := fromAssignment(t, &spec); err != nil {
			return spec, err
		}
	}
	switch {
	case spec.Partitions == -1:
		spec.Partitions = c.s.cfg.DefaultPartitions
	case spec.Partitions < 1:
		return spec, federation.Errorf(federation.InvalidPartitionCount, "topic %q: %d partitions: want at least 1", t.Topic, spec.Partitions)
	}
	switch {
	case spec.ReplicationFactor == -1:
		spec.ReplicationFactor = c.s.cfg.DefaultReplicationFactor
	case spec.ReplicationFactor < 1:
		return spec, federation.Errorf(federation.InvalidReplicationFactor, "topic %q: replication factor %d: want at least 1", t.Topic, spec.ReplicationFactor)
	}
	for _, cfg := range t.Configs {
		if _, twice := spec.Config[cfg.Name]; twice {
			return spec, federation.Errorf(federation.InvalidConfig, "topic %q: config %q is given more than once", t.Topic, cfg.Name)
		}
		if cfg.Value == nil {
			return spec, federation.Errorf(federation.InvalidConfig, "topic %q: config %q: null is not a value", t.Topic, cfg.Name)
		}
		spec.Config[cfg.Name] = *cfg.Value
	}
	return spec, nil
}

// fromAssignment takes the counts of an explicit assignment of partitions to
// nodes. Which gateway leads what is braid's own choice.
func fromAssignment(t *kmsg.CreateTopicsRequestTopic, spec *TopicSpec) error {
	if t.NumPartitions != -1 || t.ReplicationFactor != -1 {
		return federation.Errorf(federation.InvalidArgument, "topic %q: give either an assignment or counts", t.Topic)
	}
	seen := make(map[int32]bool)
	for _, a := range t.ReplicaAssignment {
		if a.Partition < 0 || int(a.Partition) >= len(t.ReplicaAssignment) || seen[a.Partition] ||
			len(a.Replicas) == 0 || len(a.Replicas) != len(t.ReplicaAssignment[0].Replicas) {
			return errAssignment
		}
		seen[a.Partition] = true
	}
	spec.Partitions = int32(len(t.ReplicaAssignment))
	spec.ReplicationFactor = int16(len(t.ReplicaAssignment[0].Replicas))
	return nil
}

// errAssignment becomes INVALID_REPLICA_ASSIGNMENT, which no kind has.
var errAssignment = federation.Errorf(federation.InvalidArgument,
	"the assignment must name each partition from 0 on once, all with the same number of replicas")

// failAdmin is fail for admin requests.
func (r *request) failAdmin(err error) int16 {
	if errors.Is(err, errAssignment) {
		return r.refuse(kerr.InvalidReplicaAssignment)
	}
	return r.fail(err)
}
