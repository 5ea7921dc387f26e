package kafkacompat

import (
	"context"
	"sync"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/acl"
)

// flights are the topics that are being created because a client asked for them,
// so that a crowd of clients makes one call.
type flights struct {
	// mu guards the following.
	mu      sync.Mutex
	waiting map[federation.TopicName]chan struct{} // closed when the attempt is over
}

// autoCreateTopicsMax bounds the topics that one Metadata request creates.
const autoCreateTopicsMax = 100

// autoCreate creates the topics that do not exist, if that is configured and allowed, and
// waits for them to be in the map. It reports whether it tried any.
func (s *Server) autoCreate(ctx context.Context, req *request, m *federation.Map, topics []kmsg.MetadataRequestTopic) bool {
	if !s.cfg.AutoCreateTopics {
		return false
	}
	var missing []federation.TopicName
	for _, t := range topics {
		if t.Topic == nil || !validTopicName(*t.Topic) || len(missing) == autoCreateTopicsMax {
			continue
		}
		name := federation.TopicName(*t.Topic)
		// Denials are told, and recorded, when the topics are answered for.
		if m.Topics[name] == nil && req.may.Sees(acl.Describe, acl.Topic, *t.Topic) &&
			(req.may.Sees(acl.Create, acl.Cluster, federation.ACLClusterName) || req.may.Sees(acl.Create, acl.Topic, *t.Topic)) {
			missing = append(missing, name)
		}
	}
	if len(missing) == 0 {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.TopicWait)
	defer cancel()
	created := make([]bool, len(missing))
	var wg sync.WaitGroup
	for i, name := range missing {
		wg.Go(func() {
			created[i] = s.createOnce(ctx, name)
			if created[i] {
				req.changed(ctx, acl.Create, acl.Topic, string(name), nil)
			}
		})
	}
	wg.Wait()
	for _, ok := range created {
		if ok {
			req.mutations += int(s.cfg.DefaultPartitions)
		}
	}
	s.awaitMap(ctx, s.cfg.TopicWait, func(m *federation.Map) bool {
		for i, name := range missing {
			if created[i] && m.Topics[name] == nil {
				return false
			}
		}
		return true
	})
	return true
}

// createOnce creates a topic, or waits for the attempt that is under way. It
// reports whether the topic can be expected in the map.
func (s *Server) createOnce(ctx context.Context, name federation.TopicName) bool {
	f := &s.creates
	f.mu.Lock()
	if other, ok := f.waiting[name]; ok {
		f.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
		}
		return true
	}
	if f.waiting == nil {
		f.waiting = make(map[federation.TopicName]chan struct{})
	}
	done := make(chan struct{})
	f.waiting[name] = done
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		delete(f.waiting, name)
		f.mu.Unlock()
		close(done)
	}()
	err := s.deps.Admin.CreateTopic(ctx, TopicSpec{
		Name:              name,
		Partitions:        s.cfg.DefaultPartitions,
		ReplicationFactor: s.cfg.DefaultReplicationFactor,
	})
	if err != nil && federation.KindOf(err) != federation.TopicExists {
		s.clients.Warn("topic could not be created on first use", "topic", string(name), "error", err)
		return false
	}
	return true
}
