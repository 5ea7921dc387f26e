package differential

import (
	"github.com/twmb/franz-go/pkg/kmsg"
)

// A Script asks a side. It runs on both, and must not depend on what only one answers.
type Script struct {
	Name string
	Run  func(*Side)
}

// Scripts returns all scripts, in the order in which they run.
func Scripts() []Script {
	return []Script{
		{"versions", versionsScript},
		{"topics", topicsScript},
		{"configs", configsScript},
		{"records", recordsScript},
		{"fetch", fetchScript},
		{"positions", positionsScript},
		{"coordinators", coordinatorsScript},
		{"classic group", classicScript},
		{"static members", staticScript},
		{"offsets", offsetsScript},
		{"consumer group", consumerScript},
		{"group configs", groupConfigsScript},
		{"cluster", clusterScript},
		{"placement", placementScript},
		{"security", securityScript},
		{"quotas", quotasScript},
		{"deletion", deletionScript},
	}
}

const (
	topic   = "orders"  // of 2 partitions
	never   = "never"   // does not exist
	badName = "no/good" // cannot exist
)

func versionsScript(s *Side) {
	s.each("versions", 0, func(int16) kmsg.Request {
		r := kmsg.NewPtrApiVersionsRequest()
		r.ClientSoftwareName, r.ClientSoftwareVersion = "differential", "1.0"
		return r
	})
	s.ask("a bad name of the software", 3, &kmsg.ApiVersionsRequest{ClientSoftwareName: " ", ClientSoftwareVersion: "1.0"})
	for _, key := range []int16{4, 5, 6, 7, 52, 56, 62, 67} {
		s.ask("a broker's own request", 0, kmsg.RequestForKey(key))
	}
}

func newTopic(name string, partitions int32, factor int16, configs ...string) kmsg.CreateTopicsRequestTopic {
	t := kmsg.NewCreateTopicsRequestTopic()
	t.Topic, t.NumPartitions, t.ReplicationFactor = name, partitions, factor
	for i := 0; i < len(configs); i += 2 {
		c := kmsg.NewCreateTopicsRequestTopicConfig()
		c.Name, c.Value = configs[i], new(configs[i+1])
		t.Configs = append(t.Configs, c)
	}
	return t
}

func createTopics(validate bool, topics ...kmsg.CreateTopicsRequestTopic) *kmsg.CreateTopicsRequest {
	r := kmsg.NewPtrCreateTopicsRequest()
	r.Topics, r.TimeoutMillis, r.ValidateOnly = topics, 20_000, validate
	return r
}

func metadata(names ...string) *kmsg.MetadataRequest {
	r := kmsg.NewPtrMetadataRequest()
	r.Topics = []kmsg.MetadataRequestTopic{}
	for _, name := range names {
		t := kmsg.NewMetadataRequestTopic()
		t.Topic = new(name)
		r.Topics = append(r.Topics, t)
	}
	return r
}

// led reports whether all partitions that an answer names have a leader.
func led(response kmsg.Response) bool {
	for _, t := range response.(*kmsg.MetadataResponse).Topics {
		if t.ErrorCode != 0 || len(t.Partitions) == 0 {
			return false
		}
		for _, p := range t.Partitions {
			if p.ErrorCode != 0 || p.Leader < 0 {
				return false
			}
		}
	}
	return true
}

// awaitTopics waits until topics can be used.
func (s *Side) awaitTopics(names ...string) { s.until("topics are led", 12, metadata(names...), led) }

// topicID asks for a topic's id.
func (s *Side) topicID(name string) [16]byte {
	return must[*kmsg.MetadataResponse](s, "the id of "+name, 12, metadata(name)).Topics[0].TopicID
}

// create makes a topic, which is no comparison of its own. Its partitions move before the
// first record, where they can.
func (s *Side) create(name string, partitions int32, configs ...string) {
	must[*kmsg.CreateTopicsResponse](s, "create "+name, 7, createTopics(false, newTopic(name, partitions, 1, configs...)))
	s.awaitTopics(name)
	for p := range partitions { // a broker names leaders before it leads
		s.until("partitions can be used", 11, list(name, p, -1, -1), func(response kmsg.Response) bool {
			return response.(*kmsg.ListOffsetsResponse).Topics[0].Partitions[0].ErrorCode == 0
		})
	}
	s.moved(name)
	s.moved(name)
}

func topicsScript(s *Side) {
	s.create(topic, 2)
	s.each("create", 0, func(v int16) kmsg.Request {
		return createTopics(false, newTopic("created-"+string('a'+rune(v)), 3, 1, "retention.ms", "3600000"))
	})
	s.awaitTopics("created-c", "created-d", "created-e", "created-f", "created-g", "created-h")
	s.each("create what is wrong", 0, func(int16) kmsg.Request {
		return createTopics(false, newTopic(topic, 2, 1), newTopic(badName, 1, 1), newTopic("", 1, 1), newTopic("zero", 0, 1), newTopic("less", -2, 1),
			newTopic("replicas", 1, 9), newTopic("no-replica", 1, 0), newTopic("setting", 1, 1, "no.such.setting", "1"), newTopic("value", 1, 1, "retention.ms", "soon"),
			newTopic("twice", 1, 1), newTopic("twice", 1, 1))
	})
	s.each("only look", 0, func(int16) kmsg.Request {
		return createTopics(true, newTopic("looked-at", 4, 1), newTopic(topic, 1, 1))
	})
	s.each("defaults", 4, func(int16) kmsg.Request { return createTopics(true, newTopic("defaults", -1, -1)) })
	s.each("an assignment", 0, func(int16) kmsg.Request {
		t := newTopic("assigned", 3, 1)
		t.ReplicaAssignment = []kmsg.CreateTopicsRequestTopicReplicaAssignment{{Partition: 0, Replicas: []int32{1}}}
		return createTopics(true, t)
	})
	s.each("all topics", 1, func(int16) kmsg.Request { r := metadata(); r.Topics = nil; return r })
	s.each("no topics", 0, func(int16) kmsg.Request { return metadata() })
	s.each("one topic", 0, func(int16) kmsg.Request { return metadata(topic) })
	s.each("unknown topics", 4, func(int16) kmsg.Request {
		r := metadata(never, badName, topic)
		r.AllowAutoTopicCreation = false
		return r
	})
	s.each("operations", 8, func(int16) kmsg.Request {
		r := metadata(topic)
		r.IncludeClusterAuthorizedOperations, r.IncludeTopicAuthorizedOperations = true, true
		return r
	})
	id := s.topicID(topic)
	s.each("by ids", 10, func(int16) kmsg.Request {
		r := metadata()
		for _, i := range [][16]byte{id, {1, 2, 3}} {
			r.Topics = append(r.Topics, kmsg.MetadataRequestTopic{TopicID: i})
		}
		return r
	})
	describe := func(limit int32, names ...string) *kmsg.DescribeTopicPartitionsRequest {
		r := kmsg.NewPtrDescribeTopicPartitionsRequest()
		r.ResponsePartitionLimit = limit
		for _, name := range names {
			r.Topics = append(r.Topics, kmsg.DescribeTopicPartitionsRequestTopic{Topic: name})
		}
		return r
	}
	s.ask("describe", 0, describe(100, topic, never))
	s.ask("describe in pages", 0, describe(1, topic, "created-c"))
	s.ask("describe what cannot be", 0, describe(100, badName))
	s.ask("describe with no limit", 0, describe(0, topic))
	grow := func(validate bool, name string, count int32) *kmsg.CreatePartitionsRequest {
		r := kmsg.NewPtrCreatePartitionsRequest()
		r.TimeoutMillis, r.ValidateOnly = 20_000, validate
		r.Topics = []kmsg.CreatePartitionsRequestTopic{{Topic: name, Count: count}}
		return r
	}
	s.each("grow", 0, func(v int16) kmsg.Request { return grow(false, "created-c", 4+int32(v)) })
	for _, c := range []struct {
		what string
		r    *kmsg.CreatePartitionsRequest
	}{
		{"grow to what it has", grow(false, topic, 2)},
		{"shrink", grow(false, topic, 1)},
		{"grow what is unknown", grow(false, never, 3)},
		{"look at growing", grow(true, topic, 7)},
		{"grow to less than nothing", grow(false, topic, -1)},
	} {
		s.each(c.what, 0, func(int16) kmsg.Request { return c.r })
	}
}

func configsScript(s *Side) {
	s.create("configured", 1, "retention.ms", "3600000", "cleanup.policy", "compact")
	describe := func(kind kmsg.ConfigResourceType, name string, names ...string) *kmsg.DescribeConfigsRequest {
		r := kmsg.NewPtrDescribeConfigsRequest()
		r.IncludeSynonyms, r.IncludeDocumentation = true, false
		r.Resources = []kmsg.DescribeConfigsRequestResource{{ResourceType: kind, ResourceName: name, ConfigNames: names}}
		return r
	}
	s.each("describe some", 0, func(int16) kmsg.Request {
		return describe(kmsg.ConfigResourceTypeTopic, "configured", "retention.ms", "cleanup.policy", "max.message.bytes", "no.such.setting")
	})
	s.each("describe all", 0, func(int16) kmsg.Request { return describe(kmsg.ConfigResourceTypeTopic, "configured") })
	s.each("describe an unknown topic", 0, func(int16) kmsg.Request { return describe(kmsg.ConfigResourceTypeTopic, never) })
	s.each("describe a topic that cannot be", 0, func(int16) kmsg.Request { return describe(kmsg.ConfigResourceTypeTopic, badName) })
	s.each("describe an unknown node", 0, func(int16) kmsg.Request { return describe(kmsg.ConfigResourceTypeBroker, "77") })
	s.each("describe a kind that is none", 0, func(int16) kmsg.Request { return describe(99, "x") })

	alter := func(kind kmsg.ConfigResourceType, name string, op kmsg.IncrementalAlterConfigOp, key, value string) *kmsg.IncrementalAlterConfigsRequest {
		r := kmsg.NewPtrIncrementalAlterConfigsRequest()
		c := kmsg.IncrementalAlterConfigsRequestResourceConfig{Name: key, Op: op, Value: new(value)}
		if op == kmsg.IncrementalAlterConfigOpDelete {
			c.Value = nil
		}
		r.Resources = []kmsg.IncrementalAlterConfigsRequestResource{{ResourceType: kind, ResourceName: name, Configs: []kmsg.IncrementalAlterConfigsRequestResourceConfig{c}}}
		return r
	}
	set, remove, add, subtract := kmsg.IncrementalAlterConfigOpSet, kmsg.IncrementalAlterConfigOpDelete, kmsg.IncrementalAlterConfigOpAppend, kmsg.IncrementalAlterConfigOpSubtract
	of := kmsg.ConfigResourceTypeTopic
	for _, c := range []struct {
		what string
		r    *kmsg.IncrementalAlterConfigsRequest
	}{
		{"set", alter(of, "configured", set, "max.message.bytes", "54321")},
		{"set to what is no number", alter(of, "configured", set, "max.message.bytes", "many")},
		{"set what is unknown", alter(of, "configured", set, "no.such.setting", "1")},
		{"set of an unknown topic", alter(of, never, set, "retention.ms", "1")},
		{"append", alter(of, "configured", add, "cleanup.policy", "delete")},
		{"subtract", alter(of, "configured", subtract, "cleanup.policy", "delete")},
		{"append to what is no list", alter(of, "configured", add, "retention.ms", "1")},
		{"take away", alter(of, "configured", remove, "max.message.bytes", "")},
		{"take away what is not set", alter(of, "configured", remove, "segment.bytes", "")},
	} {
		s.each(c.what, 0, func(int16) kmsg.Request { return c.r })
	}
	s.moved("configured")
	s.each("alter", 0, func(int16) kmsg.Request {
		r := kmsg.NewPtrAlterConfigsRequest()
		for name, value := range map[string]string{"configured": "7200000", never: "1"} {
			r.Resources = append(r.Resources, kmsg.AlterConfigsRequestResource{ResourceType: of, ResourceName: name, Configs: []kmsg.AlterConfigsRequestResourceConfig{{Name: "retention.ms", Value: new(value)}}})
		}
		return r
	})
	s.until("what is set after all", 4, describe(of, "configured", "retention.ms", "cleanup.policy", "max.message.bytes"), func(response kmsg.Response) bool {
		for _, c := range response.(*kmsg.DescribeConfigsResponse).Resources[0].Configs {
			if c.Name == "retention.ms" && c.Value != nil && *c.Value == "7200000" {
				return true
			}
		}
		return false
	})
	s.each("kinds", 1, func(int16) kmsg.Request { return &kmsg.ListConfigResourcesRequest{ResourceTypes: []int8{2}} })
	s.ask("kinds", 0, &kmsg.ListConfigResourcesRequest{})
	s.ask("kinds of nodes", 1, &kmsg.ListConfigResourcesRequest{ResourceTypes: []int8{4}})
}

func deletionScript(s *Side) {
	s.each("delete", 0, func(v int16) kmsg.Request {
		r := kmsg.NewPtrDeleteTopicsRequest()
		r.TimeoutMillis = 20_000
		names := []string{"created-" + string('b'+rune(v)), never}
		for _, name := range names {
			r.TopicNames = append(r.TopicNames, name)
			r.Topics = append(r.Topics, kmsg.DeleteTopicsRequestTopic{Topic: new(name)})
		}
		if v == 1 {
			r.TopicNames = r.TopicNames[1:] // created-b was never made
		}
		return r
	})
	s.ask("delete by an unknown id", 6, &kmsg.DeleteTopicsRequest{TimeoutMillis: 20_000, Topics: []kmsg.DeleteTopicsRequestTopic{{TopicID: [16]byte{9}}}})
	id := s.topicID("compacted")
	for _, v := range []int16{1, 5, 6} {
		s.ask("delete a topic that is named twice", v, &kmsg.DeleteTopicsRequest{TimeoutMillis: 20_000, TopicNames: []string{"compacted", "compacted"}, Topics: []kmsg.DeleteTopicsRequestTopic{{Topic: new("compacted")}, {Topic: new("compacted")}}})
	}
	for _, topics := range [][]kmsg.DeleteTopicsRequestTopic{
		{{TopicID: id}, {TopicID: id}},
		{{Topic: new("compacted"), TopicID: id}},
		{{}, {}},
	} {
		s.ask("delete what is named badly", 6, &kmsg.DeleteTopicsRequest{TimeoutMillis: 20_000, Topics: topics})
	}
	s.ask("still there", 12, metadata("compacted"))
	s.ask("delete by id", 6, &kmsg.DeleteTopicsRequest{TimeoutMillis: 20_000, Topics: []kmsg.DeleteTopicsRequestTopic{{TopicID: id}}})
	s.until("gone", 12, metadata("compacted"), func(response kmsg.Response) bool {
		return response.(*kmsg.MetadataResponse).Topics[0].ErrorCode != 0
	})
}
