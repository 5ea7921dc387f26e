package differential

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"
)

func findCoordinator(kind int8, keys ...string) *kmsg.FindCoordinatorRequest {
	return &kmsg.FindCoordinatorRequest{CoordinatorKey: keys[0], CoordinatorType: kind, CoordinatorKeys: keys}
}

// coordinated waits until the coordinator of groups is there: a broker makes its topic first.
func (s *Side) coordinated(group string) {
	s.until("the coordinator is there", 4, findCoordinator(0, group), func(response kmsg.Response) bool {
		return response.(*kmsg.FindCoordinatorResponse).Coordinators[0].ErrorCode == 0
	})
	s.until("the coordinator has loaded", 8, fetchOffsets(group), func(response kmsg.Response) bool {
		return response.(*kmsg.OffsetFetchResponse).Groups[0].ErrorCode == 0
	})
}

func coordinatorsScript(s *Side) {
	s.coordinated("g")
	s.each("a group", 0, func(int16) kmsg.Request { return findCoordinator(0, "g") })
	s.each("groups", 4, func(int16) kmsg.Request { return findCoordinator(0, "g", "h", "") })
	s.each("a kind that is none", 1, func(int16) kmsg.Request { return findCoordinator(9, "g") })
	s.each("a share group", 6, func(int16) kmsg.Request { return findCoordinator(2, "g:AAAAAAAAAAAAAAAAAAAAAQ:0") })
}

func join(group, member string, instance *string) *kmsg.JoinGroupRequest {
	r := kmsg.NewPtrJoinGroupRequest()
	r.Group, r.MemberID, r.InstanceID, r.ProtocolType = group, member, instance, "consumer"
	r.SessionTimeoutMillis, r.RebalanceTimeoutMillis = 30_000, 30_000
	r.Protocols = []kmsg.JoinGroupRequestProtocol{{Name: "range", Metadata: (&kmsg.ConsumerMemberMetadata{Topics: []string{topic}}).AppendTo(nil)}}
	return r
}

func syncGroup(group string, j *kmsg.JoinGroupResponse, instance *string) *kmsg.SyncGroupRequest {
	r := kmsg.NewPtrSyncGroupRequest()
	r.Group, r.Generation, r.MemberID, r.InstanceID = group, j.Generation, j.MemberID, instance
	r.ProtocolType, r.Protocol = new("consumer"), new("range")
	assignment := (&kmsg.ConsumerMemberAssignment{Topics: []kmsg.ConsumerMemberAssignmentTopic{{Topic: topic, Partitions: []int32{0, 1}}}}).AppendTo(nil)
	r.GroupAssignment = []kmsg.SyncGroupRequestGroupAssignment{{MemberID: j.MemberID, MemberAssignment: assignment}}
	return r
}

func heartbeat(group string, generation int32, member string, instance *string) *kmsg.HeartbeatRequest {
	return &kmsg.HeartbeatRequest{Group: group, Generation: generation, MemberID: member, InstanceID: instance}
}

func leave(group, member string, instance *string) *kmsg.LeaveGroupRequest {
	return &kmsg.LeaveGroupRequest{Group: group, MemberID: member, Members: []kmsg.LeaveGroupRequestMember{{MemberID: member, InstanceID: instance, Reason: new("done")}}}
}

func (s *Side) describeGroups(what string, groups ...string) {
	s.each(what, 0, func(int16) kmsg.Request {
		return &kmsg.DescribeGroupsRequest{Groups: groups, IncludeAuthorizedOperations: true}
	})
}

// joined joins a group of its own, in two steps from version 4 on.
func (s *Side) joined(group string, version int16, instance *string) *kmsg.JoinGroupResponse {
	j := must[*kmsg.JoinGroupResponse](s, "join", version, join(group, "", instance))
	if j.ErrorCode == 79 { // MEMBER_ID_REQUIRED
		j = must[*kmsg.JoinGroupResponse](s, "join with the id", version, join(group, j.MemberID, instance))
	}
	return j
}

func classicScript(s *Side) {
	_, highest := s.span(kmsg.JoinGroup)
	_, syncHighest := s.span(kmsg.SyncGroup)
	for v := int16(0); v <= highest; v++ {
		group := fmt.Sprint("classic-", v)
		s.coordinated(group)
		j := s.joined(group, v, nil)
		s.ask("sync", min(v, syncHighest), syncGroup(group, j, nil))
		s.each("heartbeat", 0, func(int16) kmsg.Request { return heartbeat(group, j.Generation, j.MemberID, nil) })
		if v == highest {
			s.moved(topic)
			s.each("heartbeat after a move", 0, func(int16) kmsg.Request { return heartbeat(group, j.Generation, j.MemberID, nil) })
			s.wrongMembers(group, j)
			s.describeGroups("a stable group", group)
			s.each("list", 0, func(int16) kmsg.Request {
				return &kmsg.ListGroupsRequest{StatesFilter: []string{"stable"}, TypesFilter: []string{"classic"}}
			})
			s.each("list what there is none of", 4, func(int16) kmsg.Request { return &kmsg.ListGroupsRequest{StatesFilter: []string{"PreparingRebalance"}} })
			s.each("delete a group that has members", 0, func(int16) kmsg.Request { return &kmsg.DeleteGroupsRequest{Groups: []string{group, "no-group"}} })
		}
		s.ask("leave", min(v, 5), leave(group, j.MemberID, nil))
		s.ask("heartbeat of one who left", 4, heartbeat(group, j.Generation, j.MemberID, nil))
	}
	s.describeGroups("groups that are empty, or none", "classic-9", "no-group")
	r := join("classic-9", "", nil)
	r.Protocols = nil
	s.ask("join with no protocol", 5, r)
	r = join("classic-9", "", nil)
	r.SessionTimeoutMillis = 1
	s.ask("join with a short session", 5, r)
	s.ask("join with no group", 5, join("", "", nil))
	s.ask("join as one who is unknown", 5, join("classic-9", "stranger", nil))
}

func (s *Side) wrongMembers(group string, j *kmsg.JoinGroupResponse) {
	s.each("heartbeat of a stranger", 0, func(int16) kmsg.Request { return heartbeat(group, j.Generation, "stranger", nil) })
	s.each("heartbeat of another generation", 0, func(int16) kmsg.Request { return heartbeat(group, j.Generation+5, j.MemberID, nil) })
	s.each("heartbeat to no group", 0, func(int16) kmsg.Request { return heartbeat("no-group", j.Generation, j.MemberID, nil) })
	s.each("sync again", 0, func(int16) kmsg.Request { return syncGroup(group, j, nil) })
	wrong := *j
	wrong.Generation += 5
	s.each("sync of another generation", 0, func(int16) kmsg.Request { return syncGroup(group, &wrong, nil) })
	s.each("leave as a stranger", 0, func(int16) kmsg.Request { return leave(group, "stranger", nil) })
	s.each("leave no group", 0, func(int16) kmsg.Request { return leave("no-group", "stranger", nil) })
	other := syncGroup(group, j, nil)
	other.Protocol = new("sticky")
	s.ask("sync with another protocol", 5, other)
}

func staticScript(s *Side) {
	instance := new("i-1")
	for _, v := range []int16{5, 7, 9} {
		group := fmt.Sprint("static-", v)
		s.coordinated(group)
		j := s.joined(group, v, instance)
		s.ask("sync", 5, syncGroup(group, j, instance))
		s.describeGroups("a static member", group)
		again := must[*kmsg.JoinGroupResponse](s, "join again", v, join(group, "", instance))
		s.ask("heartbeat with the old id", 4, heartbeat(group, again.Generation, j.MemberID, instance))
		s.ask("heartbeat with the new id", 4, heartbeat(group, again.Generation, again.MemberID, instance))
		s.ask("sync with the new id", 5, syncGroup(group, again, instance))
		s.ask("leave by instance", 5, leave(group, "", instance))
		s.ask("leave by an unknown instance", 5, leave(group, "", new("i-2")))
	}
}

func commit(group string, id [16]byte, generation int32, member string, name string, offset int64) *kmsg.OffsetCommitRequest {
	r := kmsg.NewPtrOffsetCommitRequest()
	r.Group, r.Generation, r.MemberID, r.RetentionTimeMillis = group, generation, member, -1
	p := kmsg.NewOffsetCommitRequestTopicPartition()
	p.Partition, p.Offset, p.LeaderEpoch, p.Metadata = 1, offset, -1, new("note")
	r.Topics = []kmsg.OffsetCommitRequestTopic{{Topic: name, TopicID: id, Partitions: []kmsg.OffsetCommitRequestTopicPartition{p}}}
	return r
}

// fetchOffsets asks for all offsets of groups.
func fetchOffsets(groups ...string) *kmsg.OffsetFetchRequest {
	r := kmsg.NewPtrOffsetFetchRequest()
	r.Group = groups[0]
	for _, g := range groups {
		rg := kmsg.NewOffsetFetchRequestGroup()
		rg.Group = g
		r.Groups = append(r.Groups, rg)
	}
	return r
}

func offsetsScript(s *Side) {
	const group = "offsets"
	s.coordinated(group)
	id := s.topicID(topic)
	s.each("commit", 0, func(v int16) kmsg.Request { return commit(group, id, -1, "", topic, 10+int64(v)) })
	s.each("commit of an unknown topic", 0, func(int16) kmsg.Request { return commit(group, [16]byte{6}, -1, "", never, 1) })
	s.each("commit of a stranger", 0, func(int16) kmsg.Request { return commit(group, id, 3, "stranger", topic, 1) })
	s.each("commit of what is too long", 0, func(int16) kmsg.Request {
		r := commit(group, id, -1, "", topic, 1)
		r.Topics[0].Partitions[0].Metadata = new(string(make([]byte, 5000)))
		return r
	})
	s.each("commit of a partition that is none", 0, func(int16) kmsg.Request {
		r := commit(group, id, -1, "", topic, 1)
		r.Topics[0].Partitions[0].Partition = 44
		return r
	})
	s.each("commit without a note", 0, func(int16) kmsg.Request {
		r := commit(group, id, -1, "", topic, 33)
		r.Topics[0].Partitions[0].Metadata = nil
		return r
	})
	one := func(name string, id [16]byte, partitions ...int32) *kmsg.OffsetFetchRequest {
		r := fetchOffsets(group)
		r.Topics = []kmsg.OffsetFetchRequestTopic{{Topic: name, Partitions: partitions}}
		r.Groups[0].Topics = []kmsg.OffsetFetchRequestGroupTopic{{Topic: name, TopicID: id, Partitions: partitions}}
		return r
	}
	s.moved(topic)
	s.each("offsets", 0, func(int16) kmsg.Request { return one(topic, id, 0, 1, 44) })
	s.each("offsets of an unknown topic", 0, func(int16) kmsg.Request { return one(never, [16]byte{6}, 0) })
	s.each("all offsets", 2, func(int16) kmsg.Request { return fetchOffsets(group) })
	s.each("offsets of groups", 8, func(int16) kmsg.Request { return fetchOffsets(group, "no-group") })
	s.each("stable offsets", 7, func(int16) kmsg.Request { r := one(topic, id, 1); r.RequireStable = true; return r })
	remove := func(group, name string, partition int32) *kmsg.OffsetDeleteRequest {
		return &kmsg.OffsetDeleteRequest{Group: group, Topics: []kmsg.OffsetDeleteRequestTopic{{Topic: name, Partitions: []kmsg.OffsetDeleteRequestTopicPartition{{Partition: partition}}}}}
	}
	s.ask("delete an offset", 0, remove(group, topic, 1))
	s.ask("delete an offset that is none", 0, remove(group, topic, 0))
	s.ask("delete an offset of an unknown topic", 0, remove(group, never, 0))
	s.ask("delete an offset of no group", 0, remove("no-group", topic, 0))
	s.each("all offsets at last", 2, func(int16) kmsg.Request { return fetchOffsets(group) })
	s.each("delete groups", 0, func(v int16) kmsg.Request {
		return &kmsg.DeleteGroupsRequest{Groups: []string{fmt.Sprint("classic-", v), "no-group", ""}}
	})
}

func consumerScript(s *Side) {
	const group = "newer"
	s.coordinated(group)
	id := s.topicID(topic)
	beat := func(group, member string, epoch int32) *kmsg.ConsumerGroupHeartbeatRequest {
		r := kmsg.NewPtrConsumerGroupHeartbeatRequest()
		r.Group, r.MemberID, r.MemberEpoch = group, member, epoch
		if epoch == 0 {
			r.RebalanceTimeoutMillis, r.SubscribedTopicNames, r.Topics = 30_000, []string{topic}, []kmsg.ConsumerGroupHeartbeatRequestTopic{}
		}
		return r
	}
	const member = "bWVtYmVyLW51bWJlci0x"
	joined := must[*kmsg.ConsumerGroupHeartbeatResponse](s, "join", 1, beat(group, member, 0))
	full := beat(group, member, joined.MemberEpoch)
	full.Topics = []kmsg.ConsumerGroupHeartbeatRequestTopic{{TopicID: id, Partitions: []int32{0, 1}}}
	s.ask("what it has", 1, full)
	s.moved(topic)
	s.ask("nothing new", 1, beat(group, member, joined.MemberEpoch))
	s.each("describe", 0, func(int16) kmsg.Request {
		return &kmsg.ConsumerGroupDescribeRequest{Groups: []string{group, "no-group", "classic-9"}, IncludeAuthorizedOperations: true}
	})
	s.describeGroups("the classic way", group)
	s.each("list", 5, func(int16) kmsg.Request { return &kmsg.ListGroupsRequest{TypesFilter: []string{"consumer"}} })
	s.each("commit", 9, func(int16) kmsg.Request { return commit(group, id, joined.MemberEpoch, member, topic, 5) })
	s.each("commit in another epoch", 9, func(int16) kmsg.Request { return commit(group, id, joined.MemberEpoch-1, member, topic, 6) })
	s.each("commit in an epoch to come", 9, func(int16) kmsg.Request { return commit(group, id, joined.MemberEpoch+7, member, topic, 6) })
	s.each("offsets as a member", 9, func(int16) kmsg.Request {
		r := fetchOffsets(group)
		r.Groups[0].MemberID, r.Groups[0].MemberEpoch = new(member), joined.MemberEpoch
		return r
	})
	s.each("offsets in another epoch", 9, func(int16) kmsg.Request {
		r := fetchOffsets(group)
		r.Groups[0].MemberID, r.Groups[0].MemberEpoch = new(member), joined.MemberEpoch+7
		return r
	})
	s.ask("an epoch to come", 1, beat(group, member, joined.MemberEpoch+7))
	s.ask("a stranger", 1, beat(group, "c3RyYW5nZXItbnVtYmVyLTE", 3))
	s.ask("no member id", 1, beat(group, "", 0))
	s.ask("no group", 1, beat("", member, 0))
	assignor := beat("other", member, 0)
	assignor.ServerAssignor = new("no-assignor")
	s.ask("an unknown assignor", 1, assignor)
	expression := beat("other", member, 0)
	expression.SubscribedTopicNames, expression.SubscribedTopicRegex = []string{}, new("(")
	s.ask("an expression that is none", 1, expression)
	nothing := beat("other", member, 0)
	nothing.SubscribedTopicNames = nil
	s.ask("no subscription", 1, nothing)
	s.ask("leave", 1, beat(group, member, -1))
	s.ask("leave again", 1, beat(group, member, -1))
	s.ask("the id of the server", 0, func() *kmsg.ConsumerGroupHeartbeatRequest { r := beat("other-0", "", 0); return r }())
}
