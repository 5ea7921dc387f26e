package gateway_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/metric/noop"

	"github.com/braidmq/braid/controller/planner"
	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/federation/federationtest"
	"github.com/braidmq/braid/gateway"
	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/gen/braid/admin/v1/adminv1connect"
	braidv1 "github.com/braidmq/braid/gen/braid/v1"
	"github.com/braidmq/braid/internal/acl"
	"github.com/braidmq/braid/internal/security"
)

// newGuarded makes a world in which ACLs decide; its callers are User:alice. The topics
// orders and secret exist, and have 2 records in each partition.
func newGuarded(t *testing.T, opts ...option) *world {
	t.Helper()
	a, err := acl.New(acl.Config{Enabled: true}, nil, noop.Meter{})
	require.NoError(t, err)
	w := newWorld(t, append(opts, func(_ *gateway.Config, d *gateway.Deps) { d.Authorizer = a })...)
	w.topic("orders", 2, nil)
	w.SetTopic("secret", nil, []*federation.Extent{federationtest.Head("a", "phys", 7)})
	w.grant("ANONYMOUS", acl.Write, acl.Topic, "orders")
	w.fill(t, "orders", 2, 2)
	w.revokeAll()
	handler := w.g.Handler()
	w.listen(t, gateway.NewServer(http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		handler.ServeHTTP(out, r.WithContext(security.WithPrincipal(r.Context(), security.User("alice"))))
	}), 0))
	return w
}

func (w *world) grant(user string, op acl.Operation, res acl.Resource, name string) {
	a := &federation.ACL{Resource: res, Pattern: federation.ACLLiteral, Name: name, Principal: "User:" + user, Host: "127.0.0.1", Operation: op, Permission: federation.ACLAllow}
	w.Change(func(m *federation.Map) { m.ACLs = planner.WithACLs(m, []*federation.ACL{a}, nil).ACLs })
}

func (w *world) revokeAll() { w.Change(func(m *federation.Map) { m.ACLs = nil }) }

func requireDenied(t *testing.T, err error, texts ...string) {
	t.Helper()
	require.Equal(t, connect.CodePermissionDenied, connect.CodeOf(err), "%v", err)
	require.Equal(t, braidv1.Reason_REASON_NOT_AUTHORIZED, reasonOf(t, err))
	for _, text := range append(texts, "User:alice", "127.0.0.1") {
		require.ErrorContains(t, err, text)
	}
}

func TestCallsAskForRights(t *testing.T) {
	w := newGuarded(t)
	consumer, producer := w.consumer(t), w.producer(t)
	sources := from("orders", earliest)
	for name, c := range map[string]struct {
		call  func() error
		op    acl.Operation
		res   acl.Resource
		about string
	}{
		"ProduceBatch": {func() error {
			_, err := producer.ProduceBatch(ctxFor(t), &braidv1.ProduceBatchRequest{Batch: &braidv1.ProduceFrame{Topic: "orders", Records: []*braidv1.Record{record("k", "v")}}})
			return err
		}, acl.Write, acl.Topic, "orders"},
		"InitProducer": {func() error {
			_, err := producer.InitProducer(ctxFor(t), &braidv1.InitProducerRequest{})
			return err
		}, acl.IdempotentWrite, acl.Cluster, "kafka-cluster"},
		"Fetch": {func() error {
			_, err := consumer.Fetch(ctxFor(t), &braidv1.FetchRequest{Sources: sources})
			return err
		}, acl.Read, acl.Topic, "orders"},
		"Read": {func() error {
			stream, err := consumer.Read(ctxFor(t), &braidv1.ReadRequest{Sources: sources, Stop: &braidv1.StopAt{At: &braidv1.StopAt_LatestAtStart{LatestAtStart: true}}})
			if err != nil {
				return err
			}
			for stream.Receive() {
			}
			return stream.Err()
		}, acl.Read, acl.Topic, "orders"},
		"ListOffsets": {func() error {
			_, err := consumer.ListOffsets(ctxFor(t), &braidv1.ListOffsetsRequest{Sources: sources})
			return err
		}, acl.Describe, acl.Topic, "orders"},
		"GetTopicInfo": {func() error {
			_, err := consumer.GetTopicInfo(ctxFor(t), &braidv1.GetTopicInfoRequest{Topic: "orders"})
			return err
		}, acl.Describe, acl.Topic, "orders"},
		"CommitOffsets": {func() error {
			_, err := consumer.CommitOffsets(ctxFor(t), &braidv1.CommitOffsetsRequest{Group: "billing", Offsets: []*braidv1.PartitionOffset{{Topic: "orders", Offset: 1}}})
			return err
		}, acl.Read, acl.Group, "billing"},
		"GetCommittedOffsets": {func() error {
			_, err := consumer.GetCommittedOffsets(ctxFor(t), &braidv1.GetCommittedOffsetsRequest{Group: "billing"})
			return err
		}, acl.Describe, acl.Group, "billing"},
	} {
		t.Run(name, func(t *testing.T) {
			w.revokeAll()
			w.grant("bob", federation.ACLAll, c.res, c.about)
			requireDenied(t, c.call(), c.op.String(), c.res.String(), c.about)
			w.grant("alice", c.op, c.res, c.about)
			require.NoError(t, c.call())
		})
	}
	w.revokeAll()
	_, err := consumer.GetTopicInfo(ctxFor(t), &braidv1.GetTopicInfoRequest{Topic: "nowhere"})
	requireDenied(t, err) // not that it does not exist
}

func TestCommitOfATopicThatMayNotBeRead(t *testing.T) {
	w := newGuarded(t)
	w.grant("alice", acl.Read, acl.Group, "billing")
	w.grant("alice", acl.Read, acl.Topic, "orders")
	res, err := w.consumer(t).CommitOffsets(ctxFor(t), &braidv1.CommitOffsetsRequest{Group: "billing", Offsets: []*braidv1.PartitionOffset{{Topic: "orders", Offset: 1}, {Topic: "secret", Offset: 1}}})
	require.NoError(t, err)
	require.Len(t, res.GetFailures(), 1)
	require.Equal(t, "secret", res.GetFailures()[0].GetTopic())
	require.Equal(t, braidv1.Reason_REASON_NOT_AUTHORIZED, res.GetFailures()[0].GetFailure().GetReason())
}

// A produce stream goes on with what it may write: each frame is decided by the ACLs of
// its time.
func TestProduceStreamLosesARight(t *testing.T) {
	w := newGuarded(t)
	stream, err := w.producer(t).Produce(ctxFor(t))
	require.NoError(t, err)
	require.NoError(t, stream.Send(&braidv1.ProduceRequest{Frame: &braidv1.ProduceRequest_Open{Open: &braidv1.ProduceOpen{}}}))
	_, err = stream.Receive()
	requireDenied(t, err, "IDEMPOTENT_WRITE")

	w.grant("alice", acl.Write, acl.Topic, "orders")
	c := w.produce(t, &braidv1.ProduceOpen{NonIdempotent: true})
	write := func(topic string) *braidv1.Failure {
		t.Helper()
		seq := c.frame(&braidv1.ProduceFrame{Topic: topic, Records: []*braidv1.Record{record("k", "v")}})
		return c.ack(seq).GetResults()[0].GetFailure()
	}
	require.Nil(t, write("orders"))
	for _, topic := range []string{"secret", "nowhere"} {
		require.Equal(t, braidv1.Reason_REASON_NOT_AUTHORIZED, write(topic).GetReason())
	}
	w.revokeAll()
	require.Equal(t, braidv1.Reason_REASON_NOT_AUTHORIZED, write("orders").GetReason())
	w.grant("alice", acl.Write, acl.Topic, "orders")
	require.Nil(t, write("orders"))
	c.finish()
}

func TestReadStreamLosesARight(t *testing.T) {
	w := newGuarded(t)
	w.grant("alice", acl.Read, acl.Topic, "orders")
	stream, err := w.consumer(t).Read(ctxFor(t), &braidv1.ReadRequest{Sources: from("orders", earliest)})
	require.NoError(t, err)
	require.True(t, stream.Receive())
	w.revokeAll()
	for stream.Receive() {
	}
	requireDenied(t, stream.Err(), "READ", "orders")
}

func TestConsumeStreamAsksForRights(t *testing.T) {
	w := newGuarded(t)
	requireDenied(t, w.consume(t, &braidv1.Subscribe{}).fail(), "READ", "GROUP", `"g"`)
	w.grant("alice", acl.Read, acl.Group, "g")
	requireDenied(t, w.consume(t, &braidv1.Subscribe{}).fail(), "READ", "TOPIC", "orders")
	w.grant("alice", acl.Read, acl.Topic, "orders")
	c := w.consume(t, &braidv1.Subscribe{})
	c.credit(100)
	c.await(func() bool { return c.records() == 4 })
	w.revokeAll()
	requireDenied(t, c.fail(), "READ", `"g"`)

	// The group's right alone is lost, or the topic's.
	w.grant("alice", acl.Read, acl.Group, "g")
	w.grant("alice", acl.Read, acl.Topic, "orders")
	c = w.consume(t, &braidv1.Subscribe{})
	c.await(func() bool { return len(c.assigned) == 2 })
	w.revokeAll()
	w.grant("alice", acl.Read, acl.Group, "g")
	requireDenied(t, c.fail(), "READ", "TOPIC", "orders")
}

// What only a pattern names is read as far as it may be; the client is told of the rest.
func TestConsumeByPatternReadsWhatItMay(t *testing.T) {
	w := newGuarded(t)
	w.grant("alice", acl.Read, acl.Group, "g")
	w.grant("alice", acl.Read, acl.Topic, "orders")
	c := w.consume(t, &braidv1.Subscribe{TopicRegex: "orders|secret"})
	c.credit(100)
	read := 0
	var refused *braidv1.PartitionFailure
	for read < 4 || refused == nil {
		msg, err := c.stream.Receive()
		require.NoError(t, err)
		if records := msg.GetRecords(); records != nil {
			require.Equal(t, "orders", records.GetTopic())
			read += len(records.GetRecords())
		}
		if fail := msg.GetPartitionFailure(); fail != nil {
			refused = fail
		}
	}
	require.Equal(t, "secret", refused.GetTopic())
	require.Equal(t, braidv1.Reason_REASON_NOT_AUTHORIZED, refused.GetFailure().GetReason())
}

// recorded stands for the leading controller: it answers what it is asked, and counts.
type recorded struct {
	adminv1connect.TopicServiceClient
	adminv1connect.ClusterServiceClient
	adminv1connect.AclServiceClient
	calls []string
	w     *world
}

func (r *recorded) CreateTopic(_ context.Context, q *adminv1.CreateTopicRequest) (*adminv1.CreateTopicResponse, error) {
	r.calls = append(r.calls, "create "+q.GetTopicId())
	return &adminv1.CreateTopicResponse{}, nil
}

func (r *recorded) ListTopics(context.Context, *adminv1.ListTopicsRequest) (*adminv1.ListTopicsResponse, error) {
	out := &adminv1.ListTopicsResponse{}
	for _, name := range []string{"orders", "secret"} {
		out.Topics = append(out.Topics, &adminv1.Topic{Name: "logicalClusters/default/topics/" + name, Config: map[string]string{"retention.ms": "1"}})
	}
	return out, nil
}

func (r *recorded) UpdateTopic(context.Context, *adminv1.UpdateTopicRequest) (*adminv1.UpdateTopicResponse, error) {
	r.calls = append(r.calls, "update")
	return &adminv1.UpdateTopicResponse{}, nil
}

func (r *recorded) MovePartitions(context.Context, *adminv1.MovePartitionsRequest) (*adminv1.MovePartitionsResponse, error) {
	r.calls = append(r.calls, "move")
	return &adminv1.MovePartitionsResponse{}, nil
}

func (r *recorded) ListClusters(context.Context, *adminv1.ListClustersRequest) (*adminv1.ListClustersResponse, error) {
	return &adminv1.ListClustersResponse{}, nil
}

func (r *recorded) CreateAcls(context.Context, *adminv1.CreateAclsRequest) (*adminv1.CreateAclsResponse, error) {
	r.calls = append(r.calls, "acl")
	go r.w.Change(func(*federation.Map) {})
	return &adminv1.CreateAclsResponse{MapVersion: int64(r.w.Current().Version) + 1}, nil
}

func TestAdminCallsAskForRights(t *testing.T) {
	back := &recorded{}
	w := newGuarded(t, func(_ *gateway.Config, d *gateway.Deps) { d.Topics, d.Clusters, d.Acls = back, back, back })
	back.w = w
	topics, clusters := adminv1connect.NewTopicServiceClient(h2c(t), w.url), adminv1connect.NewClusterServiceClient(h2c(t), w.url)
	groups, acls := adminv1connect.NewGroupServiceClient(h2c(t), w.url), adminv1connect.NewAclServiceClient(h2c(t), w.url)
	ctx := ctxFor(t)
	name := "logicalClusters/default/topics/orders"
	for _, c := range []struct {
		call  func() error
		op    acl.Operation
		res   acl.Resource
		about string
	}{
		{func() error {
			_, err := topics.CreateTopic(ctx, &adminv1.CreateTopicRequest{TopicId: "new"})
			return err
		}, acl.Create, acl.Topic, "new"},
		{func() error {
			_, err := topics.UpdateTopic(ctx, &adminv1.UpdateTopicRequest{Topic: &adminv1.Topic{Name: name}})
			return err
		}, acl.AlterConfigs, acl.Topic, "orders"},
		{func() error {
			_, err := topics.MovePartitions(ctx, &adminv1.MovePartitionsRequest{Name: name})
			return err
		}, acl.Alter, acl.Cluster, "kafka-cluster"},
		{func() error {
			_, err := clusters.ListClusters(ctx, &adminv1.ListClustersRequest{})
			return err
		}, acl.Describe, acl.Cluster, "kafka-cluster"},
		{func() error {
			_, err := acls.CreateAcls(ctx, &adminv1.CreateAclsRequest{})
			return err
		}, acl.Alter, acl.Cluster, "kafka-cluster"},
	} {
		w.revokeAll()
		before := len(back.calls)
		requireDenied(t, c.call(), c.op.String(), c.about)
		require.Len(t, back.calls, before, "nothing reached the controller")
		w.grant("alice", c.op, c.res, c.about)
		require.NoError(t, c.call())
	}
	require.Equal(t, "create new,update,move,acl", strings.Join(back.calls, ","))

	w.revokeAll()
	w.grant("alice", acl.Describe, acl.Topic, "orders")
	listed, err := topics.ListTopics(ctx, &adminv1.ListTopicsRequest{})
	require.NoError(t, err)
	require.Len(t, listed.GetTopics(), 1)
	require.Empty(t, listed.GetTopics()[0].GetConfig(), "DESCRIBE_CONFIGS is another right")
	_, err = groups.GetGroup(ctx, &adminv1.GetGroupRequest{Name: "billing"})
	requireDenied(t, err, "DESCRIBE", "GROUP")
	_, err = groups.DeleteGroup(ctx, &adminv1.DeleteGroupRequest{Name: "billing"})
	requireDenied(t, err, "DELETE", "GROUP")
	empty, err := groups.ListGroups(ctx, &adminv1.ListGroupsRequest{})
	require.NoError(t, err)
	require.Empty(t, empty.GetGroups())
}

// A group shows nothing of topics that its viewer may not describe.
func TestGroupsShowWhatMayBeSeen(t *testing.T) {
	w := newGuarded(t)
	w.grant("alice", acl.Read, acl.Group, "g")
	w.grant("alice", acl.Read, acl.Topic, "orders")
	c := w.consume(t, &braidv1.Subscribe{TopicRegex: "orders|secret"})
	c.await(func() bool { return len(c.assigned) == 2 })
	groups := adminv1connect.NewGroupServiceClient(h2c(t), w.url)
	show := func() (members, lag []string) {
		res, err := groups.GetGroup(ctxFor(t), &adminv1.GetGroupRequest{Name: "g"})
		require.NoError(t, err)
		for _, l := range res.GetGroup().GetLag() {
			lag = append(lag, l.GetTopic())
		}
		return res.GetGroup().GetMembers()[0].GetPartitions(), lag
	}
	members, lag := show()
	require.Equal(t, []string{"orders-0", "orders-1"}, members)
	require.Equal(t, []string{"orders", "orders"}, lag)
	w.grant("alice", acl.Describe, acl.Topic, "secret")
	members, lag = show()
	require.Equal(t, []string{"orders-0", "orders-1", "secret-0"}, members)
	require.Equal(t, []string{"orders", "orders", "secret"}, lag)
}
