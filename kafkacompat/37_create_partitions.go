package kafkacompat

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/acl"
)

// CreatePartitions: v0-v3
//
// The answer comes when the partitions are in this gateway's map.
//
// Version notes:
// * v2: flexible

func handleCreatePartitions(ctx context.Context, c *conn, req *request, kreq *kmsg.CreatePartitionsRequest) kmsg.Response {
	resp := kreq.ResponseKind().(*kmsg.CreatePartitionsResponse)
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
		rt := kmsg.NewCreatePartitionsResponseTopic()
		rt.Topic = t.Topic
		if count[t.Topic] > 1 {
			rt.ErrorCode = req.refuse(kerr.InvalidRequest)
			rt.ErrorMessage = new(fmt.Sprintf("topic %q is in the request more than once", t.Topic))
			count[t.Topic] = -1
		} else if rt.ErrorCode = req.mayTopic(ctx, acl.Alter, t.Topic); rt.ErrorCode != 0 {
			rt.ErrorMessage = deniedMessage(rt.ErrorCode)
		} else {
			err := c.growTopic(ctx, req, t, kreq.ValidateOnly)
			if !kreq.ValidateOnly && !errors.Is(err, errMutations) {
				req.changed(ctx, acl.Alter, acl.Topic, t.Topic, err)
			}
			rt.ErrorCode, rt.ErrorMessage = req.failAdmin(err), message(err)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp
}

func (c *conn) growTopic(ctx context.Context, req *request, t *kmsg.CreatePartitionsRequestTopic, validateOnly bool) error {
	name := federation.TopicName(t.Topic)
	m := c.s.mapOrNil()
	if m == nil {
		return federation.Errorf(federation.NotLeader, "the gateway is starting")
	}
	found := m.Topics[name]
	switch {
	case found == nil:
		return federation.Errorf(federation.UnknownTopic, "topic %q does not exist", name)
	case int(t.Count) <= len(found.Partitions):
		return federation.Errorf(federation.InvalidPartitionCount,
			"topic %q has %d partitions: want more than that, not %d", name, len(found.Partitions), t.Count)
	case len(t.Assignment) > 0 && len(t.Assignment) != int(t.Count)-len(found.Partitions):
		return errAssignment
	}
	check := func() error { return c.s.deps.Admin.GrowTopic(ctx, name, t.Count, true) }
	if validateOnly {
		return check()
	}
	err := c.mutate(ctx, req, 3, int(t.Count)-len(found.Partitions), check, func() error {
		return c.s.deps.Admin.GrowTopic(ctx, name, t.Count, false)
	})
	if err != nil {
		return err
	}
	c.s.awaitMap(ctx, c.s.cfg.TopicWait, func(m *federation.Map) bool {
		grown := m.Topics[name]
		return grown == nil || len(grown.Partitions) >= int(t.Count)
	})
	return nil
}
