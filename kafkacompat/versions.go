package kafkacompat

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

//go:generate go test -run TestAPIDocument -update .

// A handler works on one request and returns its response.
type handler func(ctx context.Context, c *conn, req *request, kreq kmsg.Request) kmsg.Response

// An api is a row of the table.
type api struct {
	key  kmsg.Key
	name string // Kafka's
	// min and max are the versions that are served; without a handler, none are.
	min, max int16
	// flexible is the first version with tagged fields (KIP-482).
	flexible int16
	// seen is the newest version that kmsg had when the row was written. A test fails
	// when kmsg learns a newer one, so that each is served or left out on purpose.
	seen   int16
	handle handler
	// hot APIs have their own code instead of a handler.
	hot bool
	// local is set for requests that wait for nobody: the time for them counts as work.
	local bool
	// waits is set for requests that wait for a group.
	waits bool
	// advertisedFromZero shows version 0 as the lowest, though min is higher.
	advertisedFromZero bool
	// note says how the API behaves over several clusters, and its limits; or why it
	// is left out. Markdown.
	note string
}

func on[Q kmsg.Request](f func(context.Context, *conn, *request, Q) kmsg.Response) handler {
	return func(ctx context.Context, c *conn, req *request, kreq kmsg.Request) kmsg.Response {
		return f(ctx, c, req, kreq.(Q))
	}
}

// served returns the rows that are served, by key.
func served() map[int16]*api {
	byKey := make(map[int16]*api)
	for i := range versions {
		if a := &versions[i]; a.handle != nil || a.hot {
			byKey[int16(a.key)] = a
		}
	}
	return byKey
}

// advertised is the table as ApiVersions shows it.
func advertised() []kmsg.ApiVersionsResponseApiKey {
	var keys []kmsg.ApiVersionsResponseApiKey
	for i := range versions {
		a := &versions[i]
		if a.handle == nil && !a.hot {
			continue
		}
		k := kmsg.NewApiVersionsResponseApiKey()
		k.ApiKey, k.MinVersion, k.MaxVersion = int16(a.key), a.min, a.max
		if a.advertisedFromZero {
			k.MinVersion = 0
		}
		keys = append(keys, k)
	}
	return keys
}

// versions is the one table of the APIs: what is served, and what is not and why.
var versions = [...]api{
	{
		key: kmsg.Produce, name: "Produce", min: 3, max: 13, flexible: 9, seen: 13, hot: true, advertisedFromZero: true,
		note: "Each batch goes to the cluster of its partition's head, as it came in; batches of one request can go to several clusters, each is answered for itself. Idempotence holds over clusters. `acks=0` is sent on with `acks=1`, so that order and moves of the head hold. Versions 0-2 are advertised for older librdkafka (KAFKA-18659) and refused with UNSUPPORTED_VERSION. Transactional batches are refused. A gateway that refuses with NOT_LEADER_OR_FOLLOWER and is not the partition's leader for the client names the one that is (KIP-951, version 10).",
	},
	{
		key: kmsg.Fetch, name: "Fetch", min: 4, max: 18, flexible: 12, seen: 18, hot: true,
		note: "One long poll over all partitions, whatever clusters they lie on; the slowest cluster does not delay the others. Offsets and leader epochs are logical. An older leader epoch than the partition has is no error (FENCED_LEADER_EPOCH at a broker), here and in ListOffsets and OffsetForLeaderEpoch: every gateway reads from the newest leader. Incremental sessions (KIP-227) belong to a connection: a client that connects again begins a new one. A consumer whose `client.rack` is another zone than the gateway's is told the replica that lies there (KIP-392, version 11), if Metadata names one ([0024](decisions/0024-read-in-the-zone.md)). NOT_LEADER_OR_FOLLOWER comes with the leader as in Produce, from version 16 on. A request names at most 100,000 topics and partitions (50,000 with a small `--memory-limit`), or it is refused with INVALID_REQUEST; before version 7, by closing the connection. Of a partition that it names twice the last position counts.",
	},
	{
		key: kmsg.ListOffsets, name: "ListOffsets", min: 1, max: 11, flexible: 6, seen: 11, handle: on(handleListOffsets),
		note: "Times are searched through all extents of a partition, oldest first. In a partition that has moved they are exact for records that are stamped about when they are written, and for others within `--limit router.time-search-bytes-max` of a part. The timestamps of tiered storage are answered as by a broker without it: -4 is the first offset, wherever it lies; for -5 and -6 there is none. A partition that is asked for twice in a request is refused with INVALID_REQUEST.",
	},
	{
		key: kmsg.Metadata, name: "Metadata", min: 0, max: 13, flexible: 9, seen: 13, handle: on(handleMetadata), local: true,
		note: "The brokers are the ready gateways. The leader of a partition is one of the client's gateways; replicas and in-sync replicas are gateways too, as many as the replication factor, as far as there are gateways, and in as many zones as they can be. All gateways answer alike for the same map and client id. Hints in the client id: `braid_zone=Z`, `braid_role=produce` or `braid_role=consume`. The rack of a node is its gateway's zone. REBOOTSTRAP_REQUIRED (version 13) only when every gateway of the map drains, and only to Java clients: others would show it to the application. A topic that is asked for twice is answered once. An answer that would take more than 256 MiB while it is made, or more than a fifth of `--memory-limit`, closes the connection: some 180 B for each partition.",
	},
	{key: kmsg.LeaderAndISR, name: "LeaderAndIsr", seen: 7, note: "Broker-internal."},
	{key: kmsg.StopReplica, name: "StopReplica", seen: 4, note: "Broker-internal."},
	{key: kmsg.UpdateMetadata, name: "UpdateMetadata", seen: 8, note: "Broker-internal."},
	{key: kmsg.ControlledShutdown, name: "ControlledShutdown", seen: 3, note: "Broker-internal."},
	{
		key: kmsg.OffsetCommit, name: "OffsetCommit", min: 2, max: 10, flexible: 8, seen: 10, handle: on(handleOffsetCommit),
		note: "By the group's coordinator alone. Offsets are logical and braid's own; they do not move with a head. The metadata of one has at most 4,096 bytes, or OFFSET_METADATA_TOO_LARGE (`--limit groups.offset-metadata-max`). The retention time of versions 2-4 is not used; `--offsets-retention` is.",
	},
	{
		key: kmsg.OffsetFetch, name: "OffsetFetch", min: 1, max: 10, flexible: 6, seen: 10, handle: on(handleOffsetFetch),
		note: "Answered by every gateway, whoever coordinates the group, so never NOT_COORDINATOR: librdkafka does not ask again after it. While the offset store is away the answer is COORDINATOR_LOAD_IN_PROGRESS, never \"no offset\".",
	},
	{
		key: kmsg.FindCoordinator, name: "FindCoordinator", min: 0, max: 6, flexible: 3, seen: 6, handle: on(handleFindCoordinator),
		note: "Groups: all gateways name the same one. Transactional ids are refused with TRANSACTIONAL_ID_AUTHORIZATION_FAILED, which is final for all SDKs; share groups with INVALID_REQUEST.",
	},
	{
		key: kmsg.JoinGroup, name: "JoinGroup", min: 0, max: 9, flexible: 6, seen: 9, handle: on(handleJoinGroup), waits: true,
		note: "Groups are braid's own, at the gateway that FindCoordinator names; no physical cluster knows them. So a cluster that is away ends no session, and a partition that moves to another one is no rebalance. Kafka members of both protocols and Connect streams can share a group. The first generation waits 200 ms for more members (`--limit groups.initial-rebalance-delay`; a broker 3 s). A group has at most 2,000 members, or GROUP_MAX_SIZE_REACHED (`--limit groups.members-max`); one may ask for a session timeout from 6 s to 30 min (`--group-session-timeout-min`, `-max`), and bring 256 KiB of metadata, or INVALID_REQUEST (`--limit groups.member-bytes-max`). While `--group-memory` is used up or Redis is away, those who join are told COORDINATOR_LOAD_IN_PROGRESS, and try again.",
	},
	{
		key: kmsg.Heartbeat, name: "Heartbeat", min: 0, max: 4, flexible: 4, seen: 4, handle: on(handleHeartbeat),
		note: "By the group's coordinator alone, from memory: no physical cluster is asked. NOT_COORDINATOR once another gateway coordinates, which knows the member and its generation: it goes on there without a rebalance. While Redis is away, and while a coordinator loads the group, the answer is no error, so that members stay.",
	},
	{
		key: kmsg.LeaveGroup, name: "LeaveGroup", min: 0, max: 5, flexible: 4, seen: 5, handle: on(handleLeaveGroup),
		note: "By the group's coordinator alone. Of a group that does not exist each member is UNKNOWN_MEMBER_ID. By its member id any member can be taken out, a Connect stream and one of the newer protocol, too; static ones by their instance id alone (version 3). While Redis is away: COORDINATOR_LOAD_IN_PROGRESS, and the member stays until its session ends.",
	},
	{
		key: kmsg.SyncGroup, name: "SyncGroup", min: 0, max: 5, flexible: 4, seen: 5, handle: on(handleSyncGroup), waits: true,
		note: "By the group's coordinator alone. In a group with members of other kinds the coordinator assigns, and what a leader sends is not taken; the answer then waits up to 2 s for Connect streams to give up what classic members get (`--limit groups.revoke-wait-max`), so that these need no second rebalance. One member's assignment has at most 256 KiB, or INVALID_REQUEST (`--limit groups.member-bytes-max`). While Redis is away, or `--group-memory` used up: REBALANCE_IN_PROGRESS, and members join again.",
	},
	{
		key: kmsg.DescribeGroups, name: "DescribeGroups", min: 0, max: 6, flexible: 5, seen: 6, handle: on(handleDescribeGroups),
		note: "Connect members are listed with the assignment of a Kafka member. A group of type consumer (KIP-848) is not found, as in Kafka: it is for ConsumerGroupDescribe.",
	},
	{
		key: kmsg.ListGroups, name: "ListGroups", min: 0, max: 5, flexible: 3, seen: 5, handle: on(handleListGroups),
		note: "The groups of the gateway that is asked; clients ask all and merge.",
	},
	{
		key: kmsg.SASLHandshake, name: "SaslHandshake", min: 0, max: 1, flexible: neverFlexible, seen: 1, handle: on(handleSASLHandshake),
		note: "SCRAM-SHA-256, SCRAM-SHA-512, PLAIN and OAUTHBEARER, as far as they are configured; ILLEGAL_SASL_STATE where none is. GSSAPI and delegation tokens are not offered.",
	},
	{
		key: kmsg.ApiVersions, name: "ApiVersions", min: 0, max: 4, flexible: 3, seen: 5, handle: on(handleAPIVersions),
		note: "Finalizes `group.version` 1 (ConsumerGroupHeartbeat) and nothing else, so clients use version 1 of the transaction protocol. Version 5 (KIP-1242) is not served: it lets clients insist on a node id.",
	},
	{
		key: kmsg.CreateTopics, name: "CreateTopics", min: 2, max: 7, flexible: 5, seen: 7, handle: on(handleCreateTopics),
		note: "Creates the physical topics on all clusters of the topic. Of an explicit replica assignment only the counts are taken.",
	},
	{
		key: kmsg.DeleteTopics, name: "DeleteTopics", min: 1, max: 6, flexible: 4, seen: 6, handle: on(handleDeleteTopics),
		note: "The topic is gone for clients when it is answered, also while a cluster of it is away; the data is then deleted on all its clusters, and `braid operation list` names those that did not. A topic that is named twice is not deleted, as at a broker.",
	},
	{
		key: kmsg.DeleteRecords, name: "DeleteRecords", min: 0, max: 2, flexible: 2, seen: 2, handle: on(handleDeleteRecords),
		note: "Offsets are logical; the records can lie on several clusters. Of a partition that is named twice the last offset counts, as at a broker.",
	},
	{
		key: kmsg.InitProducerID, name: "InitProducerId", min: 0, max: 5, flexible: 2, seen: 5, handle: on(handleInitProducerID),
		note: "Producer ids are braid's own and valid on all clusters. A transactional id is refused with TRANSACTIONAL_ID_AUTHORIZATION_FAILED, which is final for all SDKs.",
	},
	{
		key: kmsg.OffsetForLeaderEpoch, name: "OffsetForLeaderEpoch", min: 2, max: 4, flexible: 4, seen: 4, handle: on(handleOffsetForLeaderEpoch),
		note: "Answered in logical epochs and offsets, so a move to another cluster is no truncation. Epochs whose records are gone (by retention, or because a compacted topic has moved) end where what is left of the newer ones begins, as in Kafka.",
	},
	{key: kmsg.AddPartitionsToTxn, name: "AddPartitionsToTxn", seen: 5, note: noTransactions},
	{key: kmsg.AddOffsetsToTxn, name: "AddOffsetsToTxn", seen: 4, note: noTransactions},
	{key: kmsg.EndTxn, name: "EndTxn", seen: 5, note: noTransactions},
	{key: kmsg.WriteTxnMarkers, name: "WriteTxnMarkers", seen: 2, note: "Broker-internal."},
	{key: kmsg.TxnOffsetCommit, name: "TxnOffsetCommit", seen: 6, note: noTransactions},
	{key: kmsg.DescribeACLs, name: "DescribeAcls", min: 1, max: 3, flexible: 2, seen: 3, handle: on(handleDescribeACLs), note: ownACLs},
	{key: kmsg.CreateACLs, name: "CreateAcls", min: 1, max: 3, flexible: 2, seen: 3, handle: on(handleCreateACLs), note: ownACLs},
	{key: kmsg.DeleteACLs, name: "DeleteAcls", min: 1, max: 3, flexible: 2, seen: 3, handle: on(handleDeleteACLs), note: ownACLs},
	{
		key: kmsg.DescribeConfigs, name: "DescribeConfigs", min: 1, max: 4, flexible: 4, seen: 4, handle: on(handleDescribeConfigs),
		note: "Topics: what was set, and Kafka's defaults; also braid's own setting `braid.failover.read`. Nodes: the gateway's settings that have a Kafka name. Groups: session timeout and heartbeat interval of the newer protocol, as the group has set them, or else as the gateways have them. Nothing of the physical brokers.",
	},
	{
		key: kmsg.AlterConfigs, name: "AlterConfigs", min: 0, max: 2, flexible: 2, seen: 2, handle: on(handleAlterConfigs),
		note: "Topics, applied to every cluster that the topic lies on, and groups. Those of a node are refused with INVALID_REQUEST: a gateway's settings are in its own configuration.",
	},
	{key: kmsg.AlterReplicaLogDirs, name: "AlterReplicaLogDirs", seen: 2, note: noDisks},
	{
		key: kmsg.DescribeLogDirs, name: "DescribeLogDirs", min: 1, max: 5, flexible: 2, seen: 5, handle: on(handleDescribeLogDirs),
		note: "One directory `/braid` for each gateway, with the partitions that Metadata names it a replica of. A size is that of one copy over all extents, wherever they lie; what lies on a cluster that does not answer within 3 s does not count. Total and usable bytes are not known (-1).",
	},
	{
		key: kmsg.SASLAuthenticate, name: "SaslAuthenticate", min: 0, max: 2, flexible: 2, seen: 2, handle: on(handleSASLAuthenticate),
		note: "With re-authentication (KIP-368), as the same principal. A connection ends at its next request when the credential that it was opened with is revoked; at a broker it would go on.",
	},
	{
		key: kmsg.CreatePartitions, name: "CreatePartitions", min: 0, max: 3, flexible: 2, seen: 3, handle: on(handleCreatePartitions),
		note: "Only the count of an explicit assignment is taken. Adding a cluster needs no new partitions: heads move.",
	},
	{key: kmsg.CreateDelegationToken, name: "CreateDelegationToken", seen: 3, note: "Delegation tokens are not offered; use OAUTHBEARER."},
	{key: kmsg.RenewDelegationToken, name: "RenewDelegationToken", seen: 2, note: "Delegation tokens are not offered; use OAUTHBEARER."},
	{key: kmsg.ExpireDelegationToken, name: "ExpireDelegationToken", seen: 2, note: "Delegation tokens are not offered; use OAUTHBEARER."},
	{key: kmsg.DescribeDelegationToken, name: "DescribeDelegationToken", seen: 3, note: "Delegation tokens are not offered; use OAUTHBEARER."},
	{
		key: kmsg.DeleteGroups, name: "DeleteGroups", min: 0, max: 2, flexible: 2, seen: 3, handle: on(handleDeleteGroups),
		note: "By the group's coordinator alone, with the offsets that the group has committed; no physical cluster is asked. A group with members of any kind is NON_EMPTY_GROUP. Version 3 is in no released broker yet.",
	},
	{
		key: kmsg.ElectLeaders, name: "ElectLeaders", min: 0, max: 2, flexible: 2, seen: 2, handle: on(handleElectLeaders),
		note: "ELECTION_NOT_NEEDED for every partition: the gateway that Metadata names is the preferred one. Leaders on the physical clusters are left alone.",
	},
	{
		key: kmsg.IncrementalAlterConfigs, name: "IncrementalAlterConfigs", min: 0, max: 1, flexible: 1, seen: 1, handle: on(handleIncrementalAlterConfigs),
		note: "Topics and groups; APPEND and SUBTRACT work on configs of type list. Groups have `consumer.session.timeout.ms` and `consumer.heartbeat.interval.ms`, between the bounds that the gateways set, in force at once; the other group configs of Kafka are refused with INVALID_CONFIG. Of a node, only settings that were never set can be taken away, as `kafka-reassign-partitions.sh` does.",
	},
	{
		key: kmsg.AlterPartitionAssignments, name: "AlterPartitionReassignments", min: 0, max: 1, flexible: 0, seen: 1, handle: on(handleAlterPartitionReassignments),
		note: "Replicas are gateways and cannot be chosen: what names the ones that there are is done at once, anything else is refused with INVALID_REPLICA_ASSIGNMENT; there is nothing to cancel (NO_REASSIGNMENT_IN_PROGRESS). Heads are moved by `braid topic move` and `expand`.",
	},
	{
		key: kmsg.ListPartitionReassignments, name: "ListPartitionReassignments", min: 0, max: 0, flexible: 0, seen: 0, handle: on(handleListPartitionReassignments),
		note: "Always none: a head that moves changes no replica. `braid operation list` shows moves.",
	},
	{
		key: kmsg.OffsetDelete, name: "OffsetDelete", min: 0, max: 0, flexible: neverFlexible, seen: 0, handle: on(handleOffsetDelete),
		note: "By the group's coordinator alone. Committed offsets are braid's own, so no physical cluster is asked, whatever clusters the partitions lie on. A topic that members subscribe to keeps its offsets: GROUP_SUBSCRIBED_TO_TOPIC. While Redis is away: COORDINATOR_LOAD_IN_PROGRESS, and nothing is deleted.",
	},
	{
		key: kmsg.DescribeClientQuotas, name: "DescribeClientQuotas", min: 0, max: 1, flexible: 1, seen: 1, handle: on(handleDescribeClientQuotas),
		note: "Quotas of the logical cluster; the physical clusters' own are not seen.",
	},
	{
		key: kmsg.AlterClientQuotas, name: "AlterClientQuotas", min: 0, max: 1, flexible: 1, seen: 1, handle: on(handleAlterClientQuotas),
		note: "Each gateway holds every client to its quota by itself, as each broker does ([0022](decisions/0022-quotas.md)). Besides Kafka's keys there is `request_rate`. IP addresses must be addresses, not host names. The answers of all APIs have the throttle time, whatever the version, and the connection is not read for so long (KIP-219).",
	},
	{
		key: kmsg.DescribeUserSCRAMCredentials, name: "DescribeUserScramCredentials", min: 0, max: 0, flexible: 0, seen: 0, handle: on(handleDescribeUserSCRAM),
		note: "Users of the logical cluster; those of the physical clusters are not seen.",
	},
	{
		key: kmsg.AlterUserSCRAMCredentials, name: "AlterUserScramCredentials", min: 0, max: 0, flexible: 0, seen: 0, handle: on(handleAlterUserSCRAM),
		note: "The credentials are good for PLAIN too. Answered when the gateways have the change.",
	},
	{key: kmsg.Vote, name: "Vote", seen: 2, note: noQuorum},
	{key: kmsg.BeginQuorumEpoch, name: "BeginQuorumEpoch", seen: 1, note: noQuorum},
	{key: kmsg.EndQuorumEpoch, name: "EndQuorumEpoch", seen: 1, note: noQuorum},
	{key: kmsg.DescribeQuorum, name: "DescribeQuorum", seen: 2, note: "Gateways form no Raft quorum, and which controller leads is not for clients (`braid status` shows it). `kafka-metadata-quorum.sh` says that the node does not support it, as at a broker with ZooKeeper."},
	{key: kmsg.AlterPartition, name: "AlterPartition", seen: 3, note: noQuorum},
	{key: kmsg.UpdateFeatures, name: "UpdateFeatures", seen: 2, note: noQuorum},
	{key: kmsg.Envelope, name: "Envelope", seen: 0, note: noQuorum},
	{key: kmsg.FetchSnapshot, name: "FetchSnapshot", seen: 1, note: noQuorum},
	{
		key: kmsg.DescribeCluster, name: "DescribeCluster", min: 0, max: 2, flexible: 0, seen: 2, handle: on(handleDescribeCluster),
		note: "The nodes of Metadata. The controller is one of the client's gateways: any takes admin requests.",
	},
	{
		key: kmsg.DescribeProducers, name: "DescribeProducers", min: 0, max: 0, flexible: 0, seen: 0, handle: on(handleDescribeProducers),
		note: "The producers that the partition's head knows, and those carried over to it by a move, whose last timestamp is then -1; without braid's own. From any gateway; at most as many partitions as DescribeTopicPartitions.",
	},
	{key: kmsg.BrokerRegistration, name: "BrokerRegistration", seen: 4, note: noQuorum},
	{key: kmsg.BrokerHeartbeat, name: "BrokerHeartbeat", seen: 2, note: noQuorum},
	{key: kmsg.UnregisterBroker, name: "UnregisterBroker", seen: 0, note: noQuorum},
	{key: kmsg.DescribeTransactions, name: "DescribeTransactions", seen: 0, note: noTransactions},
	{key: kmsg.ListTransactions, name: "ListTransactions", seen: 2, note: noTransactions},
	{key: kmsg.AllocateProducerIDs, name: "AllocateProducerIds", seen: 0, note: noQuorum},
	{
		key: kmsg.ConsumerGroupHeartbeat, name: "ConsumerGroupHeartbeat", min: 0, max: 1, flexible: 0, seen: 1, handle: on(handleConsumerGroupHeartbeat),
		note: "The assignors are `uniform` (the default) and `range`; the one that most members ask for is taken. Regular expressions are matched against logical topic names. Members of this protocol, classic ones and Connect streams can share a group, so a group changes its protocol while it runs; another coordinator goes on without a rebalance.",
	},
	{
		key: kmsg.ConsumerGroupDescribe, name: "ConsumerGroupDescribe", min: 0, max: 1, flexible: 0, seen: 1, handle: on(handleConsumerGroupDescribe),
		note: "For groups with a member of ConsumerGroupHeartbeat; of others the answer is GROUP_ID_NOT_FOUND, and clients go on to DescribeGroups. Connect members are shown as classic ones.",
	},
	{key: kmsg.ControllerRegistration, name: "ControllerRegistration", seen: 0, note: noQuorum},
	{
		key: kmsg.GetTelemetrySubscriptions, name: "GetTelemetrySubscriptions", min: 0, max: 0, flexible: 0, seen: 0, handle: on(handleGetTelemetrySubscriptions),
		note: "Only with `--client-telemetry`, else not advertised, as by a stock broker without a telemetry receiver. Every client gets the same subscription from every gateway: all of `org.apache.kafka.`, cumulative, each minute.",
	},
	{
		key: kmsg.PushTelemetry, name: "PushTelemetry", min: 0, max: 0, flexible: 0, seen: 0, handle: on(handlePushTelemetry),
		note: "Likewise. Plain or gzip. The gateway keeps the newest number of each metric of a client, over its topics and nodes (sums added up, of gauges the largest), and shows it as `braid_kafka_client_value`.",
	},
	{key: kmsg.AssignReplicasToDirs, name: "AssignReplicasToDirs", seen: 0, note: noQuorum},
	{
		key: kmsg.ListConfigResources, name: "ListConfigResources", min: 0, max: 1, flexible: 0, seen: 1, handle: on(handleListConfigResources),
		note: "Topics, nodes, and groups that have settings of their own.",
	},
	{
		key: kmsg.DescribeTopicPartitions, name: "DescribeTopicPartitions", min: 0, max: 0, flexible: 0, seen: 0, handle: on(handleDescribeTopicPartitions), local: true,
		note: "As Metadata, in pages. There are no eligible leader replicas beyond the in-sync ones.",
	},
	{key: kmsg.ShareGroupHeartbeat, name: "ShareGroupHeartbeat", seen: 1, note: noShareGroups},
	{key: kmsg.ShareGroupDescribe, name: "ShareGroupDescribe", seen: 1, note: noShareGroups},
	{key: kmsg.ShareFetch, name: "ShareFetch", seen: 2, note: noShareGroups},
	{key: kmsg.ShareAcknowledge, name: "ShareAcknowledge", seen: 2, note: noShareGroups},
	{key: kmsg.AddRaftVoter, name: "AddRaftVoter", seen: 1, note: noQuorum},
	{key: kmsg.RemoveRaftVoter, name: "RemoveRaftVoter", seen: 0, note: noQuorum},
	{key: kmsg.UpdateRaftVoter, name: "UpdateRaftVoter", seen: 0, note: noQuorum},
	{key: kmsg.InitializeShareGroupState, name: "InitializeShareGroupState", seen: 0, note: noShareGroups},
	{key: kmsg.ReadShareGroupState, name: "ReadShareGroupState", seen: 0, note: noShareGroups},
	{key: kmsg.WriteShareGroupState, name: "WriteShareGroupState", seen: 1, note: noShareGroups},
	{key: kmsg.DeleteShareGroupState, name: "DeleteShareGroupState", seen: 0, note: noShareGroups},
	{key: kmsg.ReadShareGroupStateSummary, name: "ReadShareGroupStateSummary", seen: 1, note: noShareGroups},
	{key: kmsg.StreamsGroupHeartbeat, name: "StreamsGroupHeartbeat", seen: 1, note: noStreamsGroups},
	{key: kmsg.StreamsGroupDescribe, name: "StreamsGroupDescribe", seen: 1, note: noStreamsGroups},
	{key: kmsg.DescribeShareGroupOffsets, name: "DescribeShareGroupOffsets", seen: 1, note: noShareGroups},
	{key: kmsg.AlterShareGroupOffsets, name: "AlterShareGroupOffsets", seen: 0, note: noShareGroups},
	{key: kmsg.DeleteShareGroupOffsets, name: "DeleteShareGroupOffsets", seen: 0, note: noShareGroups},
	{key: kmsg.StreamsGroupTopologyDescriptionUpdate, name: "StreamsGroupTopologyDescriptionUpdate", seen: 0, note: noStreamsGroups},
	{key: kmsg.UnregisterController, name: "UnregisterController", seen: 0, note: noQuorum},
}

// neverFlexible is above all versions.
const neverFlexible = 1 << 14

// The reasons that several APIs share.
const (
	noTransactions  = "Transactions are not offered: a transactional id is refused before a client gets here."
	ownACLs         = "ACLs of the logical cluster, which all gateways decide by; the physical clusters' own are not touched. Without `--authorizer acl`: SECURITY_DISABLED, as a stock broker without an authorizer answers."
	noDisks         = "Disks belong to the physical brokers, which clients do not see."
	noQuorum        = "Gateways form no Raft quorum; broker and controller internals are hidden."
	noShareGroups   = "Share groups are not offered: they know one cluster, partitions here can span several."
	noStreamsGroups = "Streams groups are not offered; Kafka Streams then uses a classic group."
)
