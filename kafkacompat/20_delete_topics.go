package kafkacompat

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/acl"
)

// DeleteTopics: v1-v6
//
// The answer comes when the topic has left this gateway's map.
//
// Version notes:
// * v4: flexible
// * v5: error message
// * v6: by topic id too (KIP-516)

func handleDeleteTopics(ctx context.Context, c *conn, req *request, kreq *kmsg.DeleteTopicsRequest) kmsg.Response {
	resp := kreq.ResponseKind().(*kmsg.DeleteTopicsResponse)
	ctx, cancel := c.adminContext(ctx, kreq.TimeoutMillis)
	defer cancel()
	if req.version < 6 {
		for _, name := range kreq.TopicNames {
			t := kmsg.NewDeleteTopicsRequestTopic()
			t.Topic = &name
			kreq.Topics = append(kreq.Topics, t)
		}
	}
	kreq.Topics, resp.Topics = namedOnce(req, kreq.Topics)
	m := c.s.mapOrNil()
	everyTopic := req.may.Sees(acl.Delete, acl.Cluster, federation.ACLClusterName)
	seen := make(map[federation.TopicName]bool)
	for _, t := range kreq.Topics {
		rt := kmsg.NewDeleteTopicsResponseTopic()
		rt.Topic, rt.TopicID = t.Topic, t.TopicID
		found, unknown := findTopic(m, t.Topic == nil, deref(t.Topic), t.TopicID)
		switch {
		case t.Topic == nil && t.TopicID == [16]byte{}:
			rt.ErrorCode = req.refuse(kerr.InvalidRequest)
			rt.ErrorMessage = new("give the name or the id of a topic")
		case t.Topic != nil && t.TopicID != [16]byte{}:
			rt.ErrorCode = req.refuse(kerr.InvalidRequest)
			rt.ErrorMessage = new("give either the name or the id of a topic")
		case m != nil && !everyTopic && (found != nil || t.Topic != nil) && !req.may.May(ctx, acl.Delete, acl.Topic, topicName(found, deref(t.Topic))):
			rt.ErrorCode = req.refuse(kerr.TopicAuthorizationFailed)
			rt.ErrorMessage = deniedMessage(rt.ErrorCode)
			if t.Topic == nil && req.may.Sees(acl.Describe, acl.Topic, string(found.Name)) {
				rt.Topic = new(string(found.Name))
			}
		case found == nil:
			rt.ErrorCode = req.refuse(unknown)
			rt.ErrorMessage = new(fmt.Sprintf("topic %s does not exist", nameOrID(t.Topic, t.TopicID)))
		case seen[found.Name]:
			rt.ErrorCode = req.refuse(kerr.InvalidRequest)
			rt.ErrorMessage = new("the topic is in the request more than once")
		default:
			seen[found.Name] = true
			name := string(found.Name)
			rt.Topic, rt.TopicID = &name, found.ID
			err := c.mutate(ctx, req, 5, len(found.Partitions), func() error { return nil }, func() error {
				err := c.s.deps.Admin.DeleteTopic(ctx, found.Name)
				req.changed(ctx, acl.Delete, acl.Topic, name, err)
				return err
			})
			rt.ErrorCode, rt.ErrorMessage = req.fail(err), message(err)
			if err == nil {
				c.s.awaitMap(ctx, c.s.cfg.TopicWait, func(m *federation.Map) bool { return m.TopicByID(found.ID) == nil })
			}
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp
}

// namedOnce splits topics into those that are named once, and answers for those that are
// named more often: nobody knows what was meant, so none of them is deleted
// (ControllerApis.deleteTopics).
func namedOnce(req *request, topics []kmsg.DeleteTopicsRequestTopic) (once []kmsg.DeleteTopicsRequestTopic, refused []kmsg.DeleteTopicsResponseTopic) {
	type spelling struct {
		name string
		id   [16]byte
	}
	times := make(map[spelling]int, len(topics))
	for _, t := range topics {
		times[spelling{deref(t.Topic), t.TopicID}]++
	}
	for _, t := range topics {
		s := spelling{deref(t.Topic), t.TopicID}
		proper := (t.Topic == nil) != (t.TopicID == [16]byte{})
		switch n := times[s]; {
		case !proper || n == 1:
			once = append(once, t)
		case n > 1:
			times[s] = 0 // answered
			rt := kmsg.NewDeleteTopicsResponseTopic()
			rt.Topic, rt.TopicID = t.Topic, t.TopicID
			rt.ErrorCode = req.refuse(kerr.InvalidRequest)
			rt.ErrorMessage = new(fmt.Sprintf("topic %s is in the request more than once", nameOrID(t.Topic, t.TopicID)))
			refused = append(refused, rt)
		}
	}
	return once, refused
}

func nameOrID(name *string, id federation.TopicID) string {
	if name != nil {
		return fmt.Sprintf("%q", *name)
	}
	return "with id " + id.String()
}
