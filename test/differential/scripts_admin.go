package differential

import "github.com/twmb/franz-go/pkg/kmsg"

func clusterScript(s *Side) {
	s.each("describe", 0, func(int16) kmsg.Request { return &kmsg.DescribeClusterRequest{EndpointType: 1} })
	s.each("operations", 0, func(int16) kmsg.Request {
		return &kmsg.DescribeClusterRequest{EndpointType: 1, IncludeClusterAuthorizedOperations: true}
	})
	s.each("controllers", 1, func(int16) kmsg.Request { return &kmsg.DescribeClusterRequest{EndpointType: 2} })
	s.each("fenced nodes", 2, func(int16) kmsg.Request {
		return &kmsg.DescribeClusterRequest{EndpointType: 1, IncludeFencedBrokers: true}
	})
	s.each("log directories", 0, func(int16) kmsg.Request {
		return &kmsg.DescribeLogDirsRequest{Topics: []kmsg.DescribeLogDirsRequestTopic{{Topic: topic, Partitions: []int32{0, 1}}}}
	})
}

func placementScript(s *Side) {
	elect := func(kind int8, topics []kmsg.ElectLeadersRequestTopic) *kmsg.ElectLeadersRequest {
		return &kmsg.ElectLeadersRequest{ElectionType: kind, Topics: topics, TimeoutMillis: 5000}
	}
	s.each("elect", 0, func(int16) kmsg.Request {
		return elect(0, []kmsg.ElectLeadersRequestTopic{{Topic: topic, Partitions: []int32{0, 9}}, {Topic: never, Partitions: []int32{0}}})
	})
	s.each("elect all", 0, func(int16) kmsg.Request { return elect(0, nil) })
	s.each("elect in a way that is none", 1, func(int16) kmsg.Request {
		return elect(7, []kmsg.ElectLeadersRequestTopic{{Topic: topic, Partitions: []int32{0}}})
	})
	move := func(name string, partition int32, replicas []int32) *kmsg.AlterPartitionAssignmentsRequest {
		r := kmsg.NewPtrAlterPartitionAssignmentsRequest()
		r.TimeoutMillis = 5000
		r.Topics = []kmsg.AlterPartitionAssignmentsRequestTopic{{Topic: name, Partitions: []kmsg.AlterPartitionAssignmentsRequestTopicPartition{{Partition: partition, Replicas: replicas}}}}
		return r
	}
	s.each("move nothing", 0, func(int16) kmsg.Request { return move(topic, 0, nil) })
	s.each("move to an unknown node", 0, func(int16) kmsg.Request { return move(topic, 0, []int32{99}) })
	s.each("move to nowhere", 0, func(int16) kmsg.Request { return move(topic, 0, []int32{}) })
	s.each("move what is unknown", 0, func(int16) kmsg.Request { return move(never, 0, []int32{1}) })
	s.each("move an unknown partition", 0, func(int16) kmsg.Request { return move(topic, 9, []int32{1}) })
	s.each("moves", 0, func(int16) kmsg.Request { return &kmsg.ListPartitionReassignmentsRequest{TimeoutMillis: 5000} })
	s.each("moves of topics", 0, func(int16) kmsg.Request {
		return &kmsg.ListPartitionReassignmentsRequest{TimeoutMillis: 5000, Topics: []kmsg.ListPartitionReassignmentsRequestTopic{{Topic: topic, Partitions: []int32{0}}, {Topic: never, Partitions: []int32{0}}}}
	})
}

func securityScript(s *Side) {
	s.each("ACLs", 0, func(int16) kmsg.Request {
		r := kmsg.NewPtrDescribeACLsRequest()
		r.ResourceType, r.Operation, r.PermissionType, r.ResourcePatternType = 1, 1, 1, 1
		return r
	})
	s.each("create an ACL", 0, func(int16) kmsg.Request {
		return &kmsg.CreateACLsRequest{Creations: []kmsg.CreateACLsRequestCreation{{ResourceType: 2, ResourceName: topic, ResourcePatternType: 3, Principal: "User:a", Host: "*", Operation: 3, PermissionType: 3}}}
	})
	s.each("delete ACLs", 0, func(int16) kmsg.Request {
		return &kmsg.DeleteACLsRequest{Filters: []kmsg.DeleteACLsRequestFilter{{ResourceType: 1, ResourcePatternType: 1, Operation: 1, PermissionType: 1}}}
	})
	s.ask("users", 0, &kmsg.DescribeUserSCRAMCredentialsRequest{})
	user := func(name string, mechanism int8, iterations int32) kmsg.AlterUserSCRAMCredentialsRequestUpsertion {
		return kmsg.AlterUserSCRAMCredentialsRequestUpsertion{Name: name, Mechanism: mechanism, Iterations: iterations, Salt: []byte("salt-of-the-user"), SaltedPassword: make([]byte, 32)}
	}
	alter := func(users ...kmsg.AlterUserSCRAMCredentialsRequestUpsertion) *kmsg.AlterUserSCRAMCredentialsRequest {
		return &kmsg.AlterUserSCRAMCredentialsRequest{Upsertions: users}
	}
	s.ask("a user", 0, alter(user("alice", 1, 8192)))
	s.ask("too few iterations", 0, alter(user("bob", 1, 1)))
	s.ask("too many iterations", 0, alter(user("bob", 1, 1_000_000)))
	s.ask("an unknown mechanism", 0, alter(user("bob", 9, 8192)))
	s.ask("a user without a name", 0, alter(user("", 1, 8192)))
	s.ask("a user twice", 0, alter(user("carol", 1, 8192), user("carol", 1, 8192)))
	s.ask("delete an unknown user", 0, &kmsg.AlterUserSCRAMCredentialsRequest{Deletions: []kmsg.AlterUserSCRAMCredentialsRequestDeletion{{Name: "nobody", Mechanism: 1}}})
	describe := &kmsg.DescribeUserSCRAMCredentialsRequest{Users: []kmsg.DescribeUserSCRAMCredentialsRequestUser{{Name: "alice"}}}
	s.until("the user", 0, describe, func(response kmsg.Response) bool {
		results := response.(*kmsg.DescribeUserSCRAMCredentialsResponse).Results
		return len(results) == 1 && results[0].ErrorCode == 0
	})
	s.ask("users that are unknown, or named twice", 0, &kmsg.DescribeUserSCRAMCredentialsRequest{Users: []kmsg.DescribeUserSCRAMCredentialsRequestUser{{Name: "nobody"}, {Name: "alice"}, {Name: "alice"}}})
	s.ask("delete the user", 0, &kmsg.AlterUserSCRAMCredentialsRequest{Deletions: []kmsg.AlterUserSCRAMCredentialsRequestDeletion{{Name: "alice", Mechanism: 1}}})
	s.each("SASL where there is none", 0, func(int16) kmsg.Request { return &kmsg.SASLHandshakeRequest{Mechanism: "PLAIN"} })
	s.each("authenticate where there is nothing to", 0, func(int16) kmsg.Request { return &kmsg.SASLAuthenticateRequest{SASLAuthBytes: []byte("x")} })
}
