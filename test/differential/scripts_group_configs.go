package differential

import "github.com/twmb/franz-go/pkg/kmsg"

// groupConfigsScript sets what a group has of its own, and takes it away.
func groupConfigsScript(s *Side) {
	const group, session, heartbeat = "configured-group", "consumer.session.timeout.ms", "consumer.heartbeat.interval.ms"
	describe := func(name string, names ...string) *kmsg.DescribeConfigsRequest {
		r := kmsg.NewPtrDescribeConfigsRequest()
		r.IncludeSynonyms = true
		r.Resources = []kmsg.DescribeConfigsRequestResource{{ResourceType: kmsg.ConfigResourceTypeGroupConfig, ResourceName: name, ConfigNames: names}}
		return r
	}
	op := func(op kmsg.IncrementalAlterConfigOp, key, value string) kmsg.IncrementalAlterConfigsRequestResourceConfig {
		c := kmsg.IncrementalAlterConfigsRequestResourceConfig{Name: key, Op: op, Value: new(value)}
		if value == "" {
			c.Value = nil
		}
		return c
	}
	alter := func(name string, changes ...kmsg.IncrementalAlterConfigsRequestResourceConfig) *kmsg.IncrementalAlterConfigsRequest {
		r := kmsg.NewPtrIncrementalAlterConfigsRequest()
		r.Resources = []kmsg.IncrementalAlterConfigsRequestResource{{ResourceType: kmsg.ConfigResourceTypeGroupConfig, ResourceName: name, Configs: changes}}
		return r
	}
	replace := func(name string, pairs ...string) *kmsg.AlterConfigsRequest {
		r := kmsg.NewPtrAlterConfigsRequest()
		one := kmsg.AlterConfigsRequestResource{ResourceType: kmsg.ConfigResourceTypeGroupConfig, ResourceName: name}
		for i := 0; i < len(pairs); i += 2 {
			one.Configs = append(one.Configs, kmsg.AlterConfigsRequestResourceConfig{Name: pairs[i], Value: new(pairs[i+1])})
		}
		r.Resources = []kmsg.AlterConfigsRequestResource{one}
		return r
	}
	const set, remove, add = kmsg.IncrementalAlterConfigOpSet, kmsg.IncrementalAlterConfigOpDelete, kmsg.IncrementalAlterConfigOpAppend
	shows := func(label, key, value string) {
		s.until(label, 4, describe(group, session, heartbeat), func(response kmsg.Response) bool {
			for _, c := range response.(*kmsg.DescribeConfigsResponse).Resources[0].Configs {
				if c.Name == key && c.Value != nil && *c.Value == value {
					return true
				}
			}
			return false
		})
	}

	s.each("of a group that sets nothing", 0, func(int16) kmsg.Request { return describe("not-configured") })
	s.each("of no group", 0, func(int16) kmsg.Request { return describe("") })
	for _, c := range []struct {
		what string
		r    *kmsg.IncrementalAlterConfigsRequest
	}{
		{"set", alter(group, op(set, session, "50000"), op(set, heartbeat, "6000"))},
		{"set of no group", alter("", op(set, session, "50000"))},
		{"set to what is no number", alter(group, op(set, session, "soon"))},
		{"set to null", alter(group, op(set, session, ""))},
		{"set to too little", alter(group, op(set, session, "44999"))},
		{"set to too much", alter(group, op(set, session, "60001"))},
		{"a heartbeat too often", alter(group, op(set, heartbeat, "4999"))},
		{"a heartbeat too seldom", alter(group, op(set, heartbeat, "15001"))},
		{"set to a negative number", alter(group, op(set, heartbeat, "-1"))},
		{"set what is unknown", alter(group, op(set, "no.such.setting", "1"))},
		{"set what is of topics", alter(group, op(set, "retention.ms", "1"))},
		{"append to what is no list", alter(group, op(add, session, "50000"))},
		{"set twice", alter(group, op(set, session, "50000"), op(set, session, "51000"))},
		{"take away what is not set", alter("not-configured", op(remove, session, ""))},
		{"take away what is unknown", alter("not-configured", op(remove, "no.such.setting", ""))},
		{"change nothing", alter("not-configured")},
	} {
		s.each(c.what, 0, func(int16) kmsg.Request { return c.r })
	}
	s.each("only check", 0, func(int16) kmsg.Request {
		r := alter(group, op(set, session, "55000"))
		r.ValidateOnly = true
		return r
	})
	shows("what is set", session, "50000")
	s.each("describe", 0, func(int16) kmsg.Request { return describe(group, session, heartbeat, "no.such.setting") })
	s.each("groups that have configs", 1, func(int16) kmsg.Request { return &kmsg.ListConfigResourcesRequest{ResourceTypes: []int8{32}} })
	s.ask("the interval that a member is told", 1, configuredMember(group, 0))
	s.ask("a member leaves", 1, configuredMember(group, -1))

	s.each("replace", 0, func(int16) kmsg.Request { return replace(group, heartbeat, "7000") })
	shows("what is set after it was replaced", heartbeat, "7000")
	s.each("replace by what is unknown", 0, func(int16) kmsg.Request { return replace(group, "no.such.setting", "1") })
	s.each("replace by what is too much", 0, func(int16) kmsg.Request { return replace(group, session, "60001") })
	s.each("take away", 0, func(int16) kmsg.Request { return alter(group, op(remove, heartbeat, ""), op(remove, session, "")) })
	shows("what is set at last", heartbeat, "5000")
	s.until("no group has configs", 1, &kmsg.ListConfigResourcesRequest{ResourceTypes: []int8{32}}, func(response kmsg.Response) bool {
		return len(response.(*kmsg.ListConfigResourcesResponse).ConfigResources) == 0
	})
}

// configuredMember is a heartbeat of a member that subscribes to nothing that is there.
func configuredMember(group string, epoch int32) *kmsg.ConsumerGroupHeartbeatRequest {
	r := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	r.Group, r.MemberID, r.MemberEpoch, r.RebalanceTimeoutMillis = group, "configured-member", epoch, 60_000
	r.SubscribedTopicNames, r.Topics = []string{never}, []kmsg.ConsumerGroupHeartbeatRequestTopic{}
	return r
}
