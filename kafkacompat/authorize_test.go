package kafkacompat_test

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.opentelemetry.io/otel/metric/noop"

	"github.com/braidmq/braid/controller/planner"
	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/acl"
	"github.com/braidmq/braid/internal/recordbatch"
	"github.com/braidmq/braid/internal/security"
	"github.com/braidmq/braid/kafkacompat"
)

// newGuarded starts a world in which ACLs decide, User:root may do everything, and the
// topics orders and secret exist.
func newGuarded(t *testing.T, opts ...option) *world {
	t.Helper()
	a, err := acl.New(acl.Config{Enabled: true, Rules: acl.Rules{SuperUsers: []security.Principal{security.User("root")}}}, nil, noop.Meter{})
	require.NoError(t, err)
	w := startWorld(t, &world{authorizer: a}, opts...)
	w.create("orders", 2, nil)
	w.create("secret", 1, nil)
	return w
}

// grant adds ACLs such as "alice READ TOPIC orders"; * is a literal name, and a name that
// ends with one a prefix. A ! denies.
func (w *world) grant(texts ...string) {
	w.t.Helper()
	w.Change(func(m *federation.Map) { m.ACLs = planner.WithACLs(m, acls(w.t, texts...), nil).ACLs })
}

func (w *world) revokeAll() {
	w.Change(func(m *federation.Map) { m.ACLs = nil })
}

func acls(t testing.TB, texts ...string) []*federation.ACL {
	t.Helper()
	var out []*federation.ACL
	for _, text := range texts {
		f := strings.Fields(text)
		require.Len(t, f, 4, text)
		a := &federation.ACL{Principal: "User:" + strings.TrimPrefix(f[0], "!"), Host: "*", Name: f[3], Pattern: federation.ACLLiteral, Permission: federation.ACLAllow}
		if strings.HasPrefix(f[0], "!") {
			a.Permission = federation.ACLDeny
		}
		if name, ok := strings.CutSuffix(f[3], "*"); ok && name != "" {
			a.Name, a.Pattern = name, federation.ACLPrefixed
		}
		for op := federation.ACLAll; op.String() != "UNKNOWN"; op++ {
			if op.String() == f[1] {
				a.Operation = op
			}
		}
		for r := acl.Topic; r <= acl.User; r++ {
			if r.String() == f[2] {
				a.Resource = r
			}
		}
		require.NoError(t, a.Validate(), text)
		out = append(out, a)
	}
	return out
}

// codes collects all error codes of a response.
func codes(v reflect.Value) (out []int16) {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			out = codes(v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if strings.HasSuffix(v.Type().Field(i).Name, "ErrorCode") && v.Field(i).Kind() == reflect.Int16 {
				out = append(out, int16(v.Field(i).Int()))
			} else if v.Type().Field(i).IsExported() {
				out = append(out, codes(v.Field(i))...)
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			out = append(out, codes(v.Index(i))...)
		}
	default:
	}
	return out
}

var (
	errTopicDenied   = kerr.TopicAuthorizationFailed
	errGroupDenied   = kerr.GroupAuthorizationFailed
	errClusterDenied = kerr.ClusterAuthorizationFailed
)

type guardedCall struct {
	name    string
	req     kmsg.Request
	version int16
	denied  *kerr.Error
	needs   []string // each alone is not enough
}

// with fills a request in.
func with[R kmsg.Request](r R, fill func(R)) R {
	fill(r)
	return r
}

// guardedCalls has at least one call of each API.
func guardedCalls(w *world) []guardedCall {
	const group = "billing"
	configs := func(kind kmsg.ConfigResourceType, name string) []kmsg.DescribeConfigsRequestResource {
		return []kmsg.DescribeConfigsRequestResource{{ResourceType: kind, ResourceName: name}}
	}
	offsets := []kmsg.OffsetCommitRequestTopic{{Topic: "orders", Partitions: []kmsg.OffsetCommitRequestTopicPartition{{Offset: 1, LeaderEpoch: -1}}}}
	data := guardedDataCalls(w)
	return append(data, []guardedCall{
		{"OffsetCommit", with(kmsg.NewPtrOffsetCommitRequest(), func(r *kmsg.OffsetCommitRequest) { r.Group, r.Generation, r.Topics = group, -1, offsets }), 8, errTopicDenied, []string{"READ TOPIC orders", "READ GROUP billing"}},
		{"OffsetCommit, group", with(kmsg.NewPtrOffsetCommitRequest(), func(r *kmsg.OffsetCommitRequest) { r.Group, r.Generation, r.Topics = group, -1, offsets }), 8, errGroupDenied, []string{"READ GROUP billing", "READ TOPIC orders"}},
		{"OffsetFetch, group", with(kmsg.NewPtrOffsetFetchRequest(), func(r *kmsg.OffsetFetchRequest) { r.Groups = []kmsg.OffsetFetchRequestGroup{{Group: group}} }), 8, errGroupDenied, []string{"DESCRIBE GROUP billing"}},
		{"OffsetFetch, old", with(kmsg.NewPtrOffsetFetchRequest(), func(r *kmsg.OffsetFetchRequest) {
			r.Group, r.Topics = group, []kmsg.OffsetFetchRequestTopic{{Topic: "orders", Partitions: []int32{0}}}
		}), 1, errGroupDenied, []string{"DESCRIBE GROUP billing", "DESCRIBE TOPIC orders"}},
		{"FindCoordinator", with(kmsg.NewPtrFindCoordinatorRequest(), func(r *kmsg.FindCoordinatorRequest) { r.CoordinatorKeys = []string{group} }), 4, errGroupDenied, []string{"DESCRIBE GROUP billing"}},
		{"JoinGroup", with(kmsg.NewPtrJoinGroupRequest(), func(r *kmsg.JoinGroupRequest) {
			r.Group, r.SessionTimeoutMillis, r.RebalanceTimeoutMillis, r.ProtocolType = group, 10_000, 10_000, "consumer"
			r.Protocols = []kmsg.JoinGroupRequestProtocol{{Name: "range"}}
		}), 6, errGroupDenied, []string{"READ GROUP billing"}},
		{"Heartbeat", with(kmsg.NewPtrHeartbeatRequest(), func(r *kmsg.HeartbeatRequest) { r.Group, r.MemberID = group, "m" }), 4, errGroupDenied, []string{"READ GROUP billing"}},
		{"LeaveGroup", with(kmsg.NewPtrLeaveGroupRequest(), func(r *kmsg.LeaveGroupRequest) { r.Group = group }), 4, errGroupDenied, []string{"READ GROUP billing"}},
		{"SyncGroup", with(kmsg.NewPtrSyncGroupRequest(), func(r *kmsg.SyncGroupRequest) { r.Group, r.MemberID = group, "m" }), 4, errGroupDenied, []string{"READ GROUP billing"}},
		{"DescribeGroups", with(kmsg.NewPtrDescribeGroupsRequest(), func(r *kmsg.DescribeGroupsRequest) { r.Groups = []string{group} }), 6, errGroupDenied, []string{"DESCRIBE GROUP billing"}},
		{"DeleteGroups", with(kmsg.NewPtrDeleteGroupsRequest(), func(r *kmsg.DeleteGroupsRequest) { r.Groups = []string{group} }), 2, errGroupDenied, []string{"DELETE GROUP billing"}},
		{"OffsetDelete", with(kmsg.NewPtrOffsetDeleteRequest(), func(r *kmsg.OffsetDeleteRequest) {
			r.Group, r.Topics = "audit", []kmsg.OffsetDeleteRequestTopic{{Topic: "orders", Partitions: []kmsg.OffsetDeleteRequestTopicPartition{{}}}}
		}), 0, errGroupDenied, []string{"DELETE GROUP audit", "READ TOPIC orders"}},
		{"CreateTopics", createRequest(newTopic("new", 1, 1)), 7, errTopicDenied, []string{"CREATE TOPIC new", "DESCRIBE_CONFIGS TOPIC new"}},
		{"CreateTopics by cluster", createRequest(newTopic("newer", 1, 1)), 4, errTopicDenied, []string{"CREATE CLUSTER kafka-cluster"}},
		{"CreatePartitions", with(kmsg.NewPtrCreatePartitionsRequest(), func(r *kmsg.CreatePartitionsRequest) {
			r.TimeoutMillis, r.Topics = 5000, []kmsg.CreatePartitionsRequestTopic{{Topic: "orders", Count: 3}}
		}), 3, errTopicDenied, []string{"ALTER TOPIC orders"}},
		{"DescribeConfigs", with(kmsg.NewPtrDescribeConfigsRequest(), func(r *kmsg.DescribeConfigsRequest) { r.Resources = configs(kmsg.ConfigResourceTypeTopic, "orders") }), 4, errTopicDenied, []string{"DESCRIBE_CONFIGS TOPIC orders"}},
		{"DescribeConfigs, node", with(kmsg.NewPtrDescribeConfigsRequest(), func(r *kmsg.DescribeConfigsRequest) { r.Resources = configs(kmsg.ConfigResourceTypeBroker, "1") }), 4, errClusterDenied, []string{"ALTER_CONFIGS CLUSTER kafka-cluster"}},
		{"DescribeConfigs, group", with(kmsg.NewPtrDescribeConfigsRequest(), func(r *kmsg.DescribeConfigsRequest) { r.Resources = configs(kmsg.ConfigResourceTypeGroupConfig, group) }), 4, errGroupDenied, []string{"DESCRIBE_CONFIGS GROUP billing"}},
		{"AlterConfigs", with(kmsg.NewPtrAlterConfigsRequest(), func(r *kmsg.AlterConfigsRequest) {
			r.Resources = []kmsg.AlterConfigsRequestResource{{ResourceType: kmsg.ConfigResourceTypeTopic, ResourceName: "orders"}}
		}), 2, errTopicDenied, []string{"ALTER_CONFIGS TOPIC orders"}},
		{"AlterConfigs, group", with(kmsg.NewPtrAlterConfigsRequest(), func(r *kmsg.AlterConfigsRequest) {
			r.Resources = []kmsg.AlterConfigsRequestResource{{ResourceType: kmsg.ConfigResourceTypeGroupConfig, ResourceName: group}}
		}), 2, errGroupDenied, []string{"ALTER_CONFIGS GROUP billing"}},
		{"IncrementalAlterConfigs, group", with(kmsg.NewPtrIncrementalAlterConfigsRequest(), func(r *kmsg.IncrementalAlterConfigsRequest) {
			r.Resources = []kmsg.IncrementalAlterConfigsRequestResource{{ResourceType: kmsg.ConfigResourceTypeGroupConfig, ResourceName: group}}
		}), 1, errGroupDenied, []string{"ALTER_CONFIGS GROUP billing"}},
		{"IncrementalAlterConfigs", with(kmsg.NewPtrIncrementalAlterConfigsRequest(), func(r *kmsg.IncrementalAlterConfigsRequest) {
			r.Resources = []kmsg.IncrementalAlterConfigsRequestResource{{ResourceType: kmsg.ConfigResourceTypeTopic, ResourceName: "orders"}}
		}), 1, errTopicDenied, []string{"ALTER_CONFIGS TOPIC orders"}},
		{"IncrementalAlterConfigs, node", with(kmsg.NewPtrIncrementalAlterConfigsRequest(), func(r *kmsg.IncrementalAlterConfigsRequest) {
			r.Resources = []kmsg.IncrementalAlterConfigsRequestResource{{ResourceType: kmsg.ConfigResourceTypeBroker, ResourceName: "1"}}
		}), 1, errClusterDenied, []string{"ALTER_CONFIGS CLUSTER kafka-cluster"}},
		{"ListConfigResources", kmsg.NewPtrListConfigResourcesRequest(), 1, errClusterDenied, []string{"DESCRIBE_CONFIGS CLUSTER kafka-cluster"}},
		{"DescribeACLs", with(kmsg.NewPtrDescribeACLsRequest(), func(r *kmsg.DescribeACLsRequest) {
			r.ResourceType, r.ResourcePatternType, r.Operation, r.PermissionType = 1, 1, 1, 1
		}), 3, errClusterDenied, []string{"DESCRIBE CLUSTER kafka-cluster"}},
		{"CreateACLs", with(kmsg.NewPtrCreateACLsRequest(), func(r *kmsg.CreateACLsRequest) {
			r.Creations = []kmsg.CreateACLsRequestCreation{{ResourceType: 2, ResourceName: "x", ResourcePatternType: 3, Principal: "User:x", Host: "*", Operation: 3, PermissionType: 3}}
		}), 3, errClusterDenied, []string{"ALTER CLUSTER kafka-cluster"}},
		{"DeleteACLs", with(kmsg.NewPtrDeleteACLsRequest(), func(r *kmsg.DeleteACLsRequest) {
			r.Filters = []kmsg.DeleteACLsRequestFilter{{ResourceType: 2, ResourceName: new("x"), ResourcePatternType: 3, Operation: 1, PermissionType: 1}}
		}), 3, errClusterDenied, []string{"ALTER CLUSTER kafka-cluster"}},
		{"DescribeLogDirs", kmsg.NewPtrDescribeLogDirsRequest(), 4, errClusterDenied, []string{"DESCRIBE CLUSTER kafka-cluster"}},
		{"ElectLeaders", with(kmsg.NewPtrElectLeadersRequest(), func(r *kmsg.ElectLeadersRequest) {
			r.Topics = []kmsg.ElectLeadersRequestTopic{{Topic: "orders", Partitions: []int32{0}}}
		}), 2, errClusterDenied, []string{"ALTER CLUSTER kafka-cluster"}},
		{"ElectLeaders, old", with(kmsg.NewPtrElectLeadersRequest(), func(r *kmsg.ElectLeadersRequest) {
			r.Topics = []kmsg.ElectLeadersRequestTopic{{Topic: "orders", Partitions: []int32{0}}}
		}), 0, errClusterDenied, []string{"ALTER CLUSTER kafka-cluster"}},
		{"AlterPartitionReassignments", kmsg.NewPtrAlterPartitionAssignmentsRequest(), 0, errClusterDenied, []string{"ALTER CLUSTER kafka-cluster"}},
		{"ListPartitionReassignments", kmsg.NewPtrListPartitionReassignmentsRequest(), 0, errClusterDenied, []string{"DESCRIBE CLUSTER kafka-cluster"}},
		{"DescribeClientQuotas", kmsg.NewPtrDescribeClientQuotasRequest(), 1, errClusterDenied, []string{"DESCRIBE_CONFIGS CLUSTER kafka-cluster"}},
		{"AlterClientQuotas", with(kmsg.NewPtrAlterClientQuotasRequest(), func(r *kmsg.AlterClientQuotasRequest) {
			r.Entries = []kmsg.AlterClientQuotasRequestEntry{{Entity: []kmsg.AlterClientQuotasRequestEntryEntity{{Type: "user", Name: new("nobody")}}}}
		}), 1, errClusterDenied, []string{"ALTER_CONFIGS CLUSTER kafka-cluster"}},
		{"DescribeUserScramCredentials", kmsg.NewPtrDescribeUserSCRAMCredentialsRequest(), 0, errClusterDenied, []string{"DESCRIBE CLUSTER kafka-cluster"}},
		{"AlterUserScramCredentials", with(kmsg.NewPtrAlterUserSCRAMCredentialsRequest(), func(r *kmsg.AlterUserSCRAMCredentialsRequest) {
			r.Deletions = []kmsg.AlterUserSCRAMCredentialsRequestDeletion{{Name: "nobody", Mechanism: 1}}
		}), 0, errClusterDenied, []string{"ALTER CLUSTER kafka-cluster"}},
		{"ConsumerGroupHeartbeat", consumerHeartbeat(), 1, errGroupDenied, []string{"READ GROUP modern", "DESCRIBE TOPIC orders"}},
		{"ConsumerGroupHeartbeat, topic", consumerHeartbeat(), 1, errTopicDenied, []string{"DESCRIBE TOPIC orders", "READ GROUP modern"}},
		{"ConsumerGroupDescribe", with(kmsg.NewPtrConsumerGroupDescribeRequest(), func(r *kmsg.ConsumerGroupDescribeRequest) { r.Groups = []string{group} }), 0, errGroupDenied, []string{"DESCRIBE GROUP billing"}},
		{"DeleteTopics", with(kmsg.NewPtrDeleteTopicsRequest(), func(r *kmsg.DeleteTopicsRequest) {
			r.TimeoutMillis, r.TopicNames = 5000, []string{"doomed"}
		}), 5, errTopicDenied, []string{"DELETE TOPIC doomed"}},
		{"DeleteTopics by cluster", with(kmsg.NewPtrDeleteTopicsRequest(), func(r *kmsg.DeleteTopicsRequest) {
			r.TimeoutMillis, r.TopicNames = 5000, []string{"never"}
		}), 5, errTopicDenied, []string{"DELETE CLUSTER kafka-cluster"}},
	}...)
}

// consumerHeartbeat joins a group by the newer protocol.
func consumerHeartbeat() kmsg.Request {
	return with(kmsg.NewPtrConsumerGroupHeartbeatRequest(), func(r *kmsg.ConsumerGroupHeartbeatRequest) {
		r.Group, r.MemberID, r.RebalanceTimeoutMillis = "modern", "member", 10_000
		r.SubscribedTopicNames, r.Topics = []string{"orders"}, []kmsg.ConsumerGroupHeartbeatRequestTopic{}
	})
}

func guardedDataCalls(w *world) []guardedCall {
	fetch := func(r *kmsg.FetchRequest) {
		r.MaxBytes = 1 << 20
		r.Topics = []kmsg.FetchRequestTopic{{Topic: "orders", Partitions: []kmsg.FetchRequestTopicPartition{{PartitionMaxBytes: 1 << 20, CurrentLeaderEpoch: -1}}}}
	}
	records := []kmsg.DeleteRecordsRequestTopic{{Topic: "orders", Partitions: []kmsg.DeleteRecordsRequestTopicPartition{{Offset: 0}}}}
	return []guardedCall{
		{"Produce", produceRequest(w, "orders", -1, batch(recordbatch.NoProducer, "v")), 9, errTopicDenied, []string{"WRITE TOPIC orders"}},
		{"Produce by id", produceRequest(w, "orders", -1, batch(recordbatch.NoProducer, "v")), 13, errTopicDenied, []string{"WRITE TOPIC ord*"}},
		{"Fetch", with(kmsg.NewPtrFetchRequest(), fetch), 12, errTopicDenied, []string{"READ TOPIC orders"}},
		{"Fetch by id", with(kmsg.NewPtrFetchRequest(), func(r *kmsg.FetchRequest) {
			fetch(r)
			r.Topics[0].TopicID = w.Current().Topics["orders"].ID
		}), 13, errTopicDenied, []string{"READ TOPIC *"}},
		{"ListOffsets", with(kmsg.NewPtrListOffsetsRequest(), func(r *kmsg.ListOffsetsRequest) {
			r.Topics = []kmsg.ListOffsetsRequestTopic{{Topic: "orders", Partitions: []kmsg.ListOffsetsRequestTopicPartition{{Timestamp: -1, CurrentLeaderEpoch: -1}}}}
		}), 7, errTopicDenied, []string{"WRITE TOPIC orders"}},
		{"Metadata", askMetadata("orders"), 12, errTopicDenied, []string{"DESCRIBE TOPIC orders"}},
		{"DeleteRecords", with(kmsg.NewPtrDeleteRecordsRequest(), func(r *kmsg.DeleteRecordsRequest) { r.TimeoutMillis, r.Topics = 5000, records }), 2, errTopicDenied, []string{"DELETE TOPIC orders"}},
		{"InitProducerID", with(kmsg.NewPtrInitProducerIDRequest(), func(r *kmsg.InitProducerIDRequest) { r.ProducerID, r.ProducerEpoch = -1, -1 }), 4, errClusterDenied, []string{"IDEMPOTENT_WRITE CLUSTER kafka-cluster"}},
		{"InitProducerID, any topic", with(kmsg.NewPtrInitProducerIDRequest(), func(r *kmsg.InitProducerIDRequest) { r.ProducerID, r.ProducerEpoch = -1, -1 }), 4, errClusterDenied, []string{"WRITE TOPIC orders"}},
		{"OffsetForLeaderEpoch", with(kmsg.NewPtrOffsetForLeaderEpochRequest(), func(r *kmsg.OffsetForLeaderEpochRequest) {
			r.Topics = []kmsg.OffsetForLeaderEpochRequestTopic{{Topic: "orders", Partitions: []kmsg.OffsetForLeaderEpochRequestTopicPartition{{CurrentLeaderEpoch: -1}}}}
		}), 4, errTopicDenied, []string{"DESCRIBE TOPIC orders"}},
		{"DescribeProducers", with(kmsg.NewPtrDescribeProducersRequest(), func(r *kmsg.DescribeProducersRequest) {
			r.Topics = []kmsg.DescribeProducersRequestTopic{{Topic: "orders", Partitions: []int32{0}}}
		}), 0, errTopicDenied, []string{"READ TOPIC orders"}},
		{"DescribeTopicPartitions", with(kmsg.NewPtrDescribeTopicPartitionsRequest(), func(r *kmsg.DescribeTopicPartitionsRequest) {
			r.ResponsePartitionLimit, r.Topics = 10, []kmsg.DescribeTopicPartitionsRequestTopic{{Topic: "orders"}}
		}), 0, errTopicDenied, []string{"DESCRIBE TOPIC orders"}},
	}
}

// Each API refuses who lacks a right, with the code that a broker has, and serves who
// has just those that it needs.
func TestEveryAPIAsksForRights(t *testing.T) {
	w := newGuarded(t)
	w.create("doomed", 1, nil)
	commitAs(dial(t, w.listen("root")), "audit")
	alice := dial(t, w.listen("alice"))
	covered := map[int16]bool{
		int16(kmsg.ApiVersions): true, // asks for none
		// They leave out what may not be seen: TestNothingIsTold.
		int16(kmsg.ListGroups): true, int16(kmsg.DescribeCluster): true,
	}
	refusals := []int16{errTopicDenied.Code, errGroupDenied.Code, errClusterDenied.Code, kerr.TransactionalIDAuthorizationFailed.Code}
	for _, c := range guardedCalls(w) {
		covered[c.req.Key()] = true
		t.Run(c.name, func(t *testing.T) {
			ask := func() []int16 { return codes(reflect.ValueOf(exchange[kmsg.Response](alice, c.req, c.version))) }
			for i := range c.needs { // all but one
				w.revokeAll()
				w.grant("bob ALL TOPIC *", "bob ALL GROUP *", "bob ALL CLUSTER kafka-cluster")
				for j, need := range c.needs {
					if j != i {
						w.grant("alice " + need)
					}
				}
				if i == 0 {
					require.Contains(t, ask(), c.denied.Code)
				} else {
					require.True(t, slices.ContainsFunc(ask(), func(code int16) bool { return slices.Contains(refusals, code) }))
				}
			}
			for _, need := range c.needs {
				w.grant("alice " + need)
			}
			for _, code := range ask() {
				require.NotContains(t, refusals, code)
			}
		})
	}
	for _, key := range kafkacompat.Guarded() {
		require.True(t, covered[key], "%s has no row in guardedCalls", kmsg.NameForKey(key))
	}
}

func produceBoth(w *world, version int16) *kmsg.ProduceRequest {
	req := produceRequest(w, "secret", -1, batch(recordbatch.NoProducer, "a"))
	req.Topics = append(req.Topics, produceRequest(w, "orders", -1, batch(recordbatch.NoProducer, "b")).Topics...)
	req.SetVersion(version)
	return req
}

func TestOtherTopicsOfARequestGoOn(t *testing.T) {
	w := newGuarded(t)
	w.grant("alice WRITE TOPIC orders", "alice READ TOPIC orders")
	alice := dial(t, w.listen("alice"))
	resp := exchange[*kmsg.ProduceResponse](alice, produceBoth(w, 9), 9)
	require.Equal(t, errTopicDenied.Code, resp.Topics[0].Partitions[0].ErrorCode)
	require.Zero(t, resp.Topics[1].Partitions[0].ErrorCode)
	root := dial(t, w.listen("root"))
	for topic, want := range map[string]int64{"orders": 1, "secret": 0} {
		list := kmsg.NewPtrListOffsetsRequest()
		list.Topics = []kmsg.ListOffsetsRequestTopic{{Topic: topic, Partitions: []kmsg.ListOffsetsRequestTopicPartition{{Timestamp: -1, CurrentLeaderEpoch: -1}}}}
		require.Equal(t, want, exchange[*kmsg.ListOffsetsResponse](root, list, 7).Topics[0].Partitions[0].Offset, topic)
	}
}

// Who may not describe a topic does not learn whether it exists, from any list or error.
func TestNothingIsTold(t *testing.T) {
	w := newGuarded(t, func(c *kafkacompat.Config) { c.AutoCreateTopics = true })
	w.grant("alice DESCRIBE TOPIC orders")
	alice := dial(t, w.listen("alice"))
	all := kmsg.NewPtrMetadataRequest()
	resp := exchange[*kmsg.MetadataResponse](alice, all, 12)
	require.Len(t, resp.Topics, 1)
	require.Equal(t, "orders", *resp.Topics[0].Topic)
	require.NotEmpty(t, resp.Brokers)

	asked := askMetadata("secret", "missing", "orders")
	asked.AllowAutoTopicCreation = true
	resp = exchange[*kmsg.MetadataResponse](alice, asked, 12)
	for i, topic := range resp.Topics[:2] {
		require.Equal(t, errTopicDenied.Code, topic.ErrorCode, i)
		require.Zero(t, topic.TopicID)
		require.Empty(t, topic.Partitions)
	}
	require.Zero(t, resp.Topics[2].ErrorCode)
	require.Nil(t, w.Current().Topics["missing"], "created without a right")

	byID := kmsg.NewPtrMetadataRequest()
	byID.Topics = []kmsg.MetadataRequestTopic{{TopicID: w.Current().Topics["secret"].ID}, {TopicID: [16]byte{7}}}
	resp = exchange[*kmsg.MetadataResponse](alice, byID, 12)
	require.Equal(t, errTopicDenied.Code, resp.Topics[0].ErrorCode, "an id is no secret")
	require.Nil(t, resp.Topics[0].Topic, "the name is")
	require.Equal(t, kerr.UnknownTopicID.Code, resp.Topics[1].ErrorCode)

	w.grant("alice DESCRIBE TOPIC missing")
	resp = exchange[*kmsg.MetadataResponse](alice, asked, 12)
	require.Equal(t, errTopicDenied.Code, resp.Topics[1].ErrorCode, "may be seen, but not created")
	w.grant("alice CREATE TOPIC missing")
	resp = exchange[*kmsg.MetadataResponse](alice, asked, 12)
	require.Zero(t, resp.Topics[1].ErrorCode)
	require.NotNil(t, w.Current().Topics["missing"])

	pages := exchange[*kmsg.DescribeTopicPartitionsResponse](alice, kmsg.NewPtrDescribeTopicPartitionsRequest(), 0)
	for _, topic := range pages.Topics {
		require.NotEqual(t, "secret", *topic.Topic)
	}
	require.Len(t, pages.Topics, 2)
	for _, topic := range []string{"secret", "nowhere"} {
		list := kmsg.NewPtrListOffsetsRequest()
		list.Topics = []kmsg.ListOffsetsRequestTopic{{Topic: topic, Partitions: []kmsg.ListOffsetsRequestTopicPartition{{Timestamp: -1}}}}
		require.Equal(t, errTopicDenied.Code, exchange[*kmsg.ListOffsetsResponse](alice, list, 7).Topics[0].Partitions[0].ErrorCode, topic)
	}
}

func TestAuthorizedOperations(t *testing.T) {
	w := newGuarded(t)
	w.grant("alice READ TOPIC orders", "alice READ GROUP billing")
	alice := dial(t, w.listen("alice"))
	req := askMetadata("orders")
	req.IncludeTopicAuthorizedOperations, req.IncludeClusterAuthorizedOperations = true, true
	resp := exchange[*kmsg.MetadataResponse](alice, req, 8)
	require.Equal(t, int32(1<<acl.Read|1<<acl.Describe), resp.Topics[0].AuthorizedOperations)
	require.Zero(t, resp.AuthorizedOperations, "what the cluster allows is not told")
	w.grant("alice DESCRIBE CLUSTER kafka-cluster")
	require.Equal(t, int32(1<<acl.Describe), exchange[*kmsg.MetadataResponse](alice, req, 8).AuthorizedOperations)
	cluster := kmsg.NewPtrDescribeClusterRequest()
	cluster.IncludeClusterAuthorizedOperations, cluster.EndpointType = true, 1
	require.Equal(t, int32(1<<acl.Describe), exchange[*kmsg.DescribeClusterResponse](alice, cluster, 1).ClusterAuthorizedOperations)
	group := kmsg.NewPtrDescribeGroupsRequest()
	group.Groups, group.IncludeAuthorizedOperations = []string{"billing"}, true
	require.Equal(t, int32(1<<acl.Read|1<<acl.Describe), exchange[*kmsg.DescribeGroupsResponse](alice, group, 5).Groups[0].AuthorizedOperations)
}

func commitAs(r *raw, group string) {
	r.t.Helper()
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Group, req.Generation = group, -1
	req.Topics = []kmsg.OffsetCommitRequestTopic{{Topic: "orders", Partitions: []kmsg.OffsetCommitRequestTopicPartition{{Offset: 1}}}}
	require.Zero(r.t, exchange[*kmsg.OffsetCommitResponse](r, req, 8).Topics[0].Partitions[0].ErrorCode)
}

func TestListGroupsShowsWhatMayBeSeen(t *testing.T) {
	w := newGuarded(t)
	root := dial(t, w.listen("root"))
	commitAs(root, "billing")
	commitAs(root, "audit")
	alice := dial(t, w.listen("alice"))
	list := func() (names []string) {
		for _, g := range exchange[*kmsg.ListGroupsResponse](alice, kmsg.NewPtrListGroupsRequest(), 4).Groups {
			names = append(names, g.Group)
		}
		slices.Sort(names)
		return names
	}
	require.Empty(t, list())
	w.grant("alice DESCRIBE GROUP billing")
	require.Equal(t, []string{"billing"}, list())
	w.grant("alice DESCRIBE CLUSTER kafka-cluster")
	require.Equal(t, []string{"audit", "billing"}, list())

	offsets := kmsg.NewPtrOffsetFetchRequest() // of all topics: those that may be seen
	offsets.Groups = []kmsg.OffsetFetchRequestGroup{{Group: "billing"}}
	require.Empty(t, exchange[*kmsg.OffsetFetchResponse](alice, offsets, 8).Groups[0].Topics)
	w.grant("alice DESCRIBE TOPIC orders")
	require.Len(t, exchange[*kmsg.OffsetFetchResponse](alice, offsets, 8).Groups[0].Topics, 1)
}

// A right that is revoked is lost with the next request of a connection, also inside of
// a fetch session, and comes back with the one after it is given again.
func TestRevokedRightEndsAtTheNextRequest(t *testing.T) {
	w := newGuarded(t)
	w.grant("alice ALL TOPIC orders")
	alice := dial(t, w.listen("alice"))
	require.Zero(t, exchange[*kmsg.ProduceResponse](alice, produceRequest(w, "orders", -1, batch(recordbatch.NoProducer, "v")), 9).Topics[0].Partitions[0].ErrorCode)
	first := kmsg.NewPtrFetchRequest()
	first.MaxBytes, first.SessionEpoch = 1<<20, 0
	first.Topics = []kmsg.FetchRequestTopic{{Topic: "orders", Partitions: []kmsg.FetchRequestTopicPartition{{FetchOffset: 1, PartitionMaxBytes: 1 << 20, CurrentLeaderEpoch: -1}}}}
	began := exchange[*kmsg.FetchResponse](alice, first, 12)
	require.NotZero(t, began.SessionID)
	require.Zero(t, began.Topics[0].Partitions[0].ErrorCode)
	epoch := int32(0)
	again := func() *kmsg.FetchResponse {
		epoch++
		req := kmsg.NewPtrFetchRequest()
		req.MaxBytes, req.SessionID, req.SessionEpoch = 1<<20, began.SessionID, epoch
		return exchange[*kmsg.FetchResponse](alice, req, 12)
	}
	require.Empty(t, again().Topics)
	w.revokeAll()
	require.Equal(t, errTopicDenied.Code, again().Topics[0].Partitions[0].ErrorCode)
	require.Equal(t, errTopicDenied.Code, exchange[*kmsg.ProduceResponse](alice, produceRequest(w, "orders", -1, batch(recordbatch.NoProducer, "v")), 9).Topics[0].Partitions[0].ErrorCode)
	w.grant("alice ALL TOPIC orders")
	require.Zero(t, again().Topics[0].Partitions[0].ErrorCode)
}

func TestACLsOfAClient(t *testing.T) {
	w := newGuarded(t)
	adm := kadm.NewClient(w.client(kgo.SeedBrokers(w.listen("root"))))
	// The map names the port of ANONYMOUS, so that one needs the rights.
	w.grant("ANONYMOUS ALL CLUSTER kafka-cluster")
	made, err := adm.CreateACLs(t.Context(), kadm.NewACLs().Topics("orders").Groups("billing").Allow("User:alice").AllowHosts("*").
		Operations(kadm.OpRead, kadm.OpDescribe).ResourcePatternType(kadm.ACLPatternPrefixed))
	require.NoError(t, err)
	require.Len(t, made, 4)
	for _, m := range made {
		require.NoError(t, m.Err, m.ErrMessage)
	}
	alice := dial(t, w.listen("alice"))
	require.Zero(t, exchange[*kmsg.MetadataResponse](alice, askMetadata("orders"), 12).Topics[0].ErrorCode, "in force when it is answered")
	found, err := adm.DescribeACLs(t.Context(), kadm.NewACLs().Topics("orders-x").Allow().AllowHosts().Operations().ResourcePatternType(kadm.ACLPatternMatch))
	require.NoError(t, err)
	require.Len(t, found, 1)
	require.Len(t, found[0].Described, 2)
	require.Equal(t, "orders", found[0].Described[0].Name)
	deleted, err := adm.DeleteACLs(t.Context(), kadm.NewACLs().AnyResource().Allow("User:alice").AllowHosts().Operations(kadm.OpRead).ResourcePatternType(kadm.ACLPatternAny))
	require.NoError(t, err)
	n := 0
	for _, d := range deleted {
		require.NoError(t, d.Err)
		n += len(d.Deleted)
	}
	require.Equal(t, 2, n)
	require.Len(t, w.Current().ACLs, 3)

	bad := kmsg.NewPtrCreateACLsRequest()
	bad.Creations = []kmsg.CreateACLsRequestCreation{
		{ResourceType: 4, ResourceName: "other", ResourcePatternType: 3, Principal: "User:x", Host: "*", Operation: 3, PermissionType: 3},
		{ResourceType: 2, ResourceName: "good", ResourcePatternType: 3, Principal: "User:x", Host: "*", Operation: 3, PermissionType: 3},
	}
	resp := exchange[*kmsg.CreateACLsResponse](dial(t, w.addr), bad, 3)
	require.Equal(t, kerr.InvalidRequest.Code, resp.Results[0].ErrorCode)
	require.Contains(t, *resp.Results[0].ErrorMessage, "kafka-cluster")
	require.Zero(t, resp.Results[1].ErrorCode, "the others are made")
}

// While a gateway knows no ACLs it lets nobody in: a request waits, and is closed.
func TestNoMapLetsNobodyIn(t *testing.T) {
	w := newGuarded(t, func(c *kafkacompat.Config) { c.TopicWait = 20 * time.Millisecond })
	empty := &blindMaps{world: w, m: new(federation.Map)}
	s, err := kafkacompat.New(kafkacompat.Config{GatewayID: "blind", TopicWait: 20 * time.Millisecond},
		kafkacompat.Deps{Maps: empty, NewSession: w.router.NewSession, Groups: w.newCoordinator("blind"), Authorizer: w.authorizer, Admin: w, Credentials: w})
	require.NoError(t, err)
	w.servers[0] = s
	alice := dial(t, w.listen("alice"))
	alice.send(createRequest(newTopic("new", 1, 1)), 7)
	_, _, err = alice.frame()
	require.Error(t, err, "closed")
	require.Nil(t, w.Current().Topics["new"])
}

type blindMaps struct {
	*world
	m *federation.Map
}

func (b *blindMaps) Current() *federation.Map { return b.m }
