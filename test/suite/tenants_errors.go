package suite

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/gen/braid/admin/v1/adminv1connect"
	"github.com/braidmq/braid/test/world"
)

// physicalNames finds what a tenant must not read: names of physical clusters, as texts
// and metadata write names, addresses of brokers, and physical topics.
func (s *suite) physicalNames(topic string) *regexp.Regexp {
	var names []string
	for _, c := range s.w.Clusters {
		names = append(names, `["'\[ /:=]`+regexp.QuoteMeta(c.Name)+`["'\],;]`, "physicalClusters/"+regexp.QuoteMeta(c.Name))
		for _, seed := range c.Seeds {
			names = append(names, regexp.QuoteMeta(seed))
		}
		if len(c.Name) > 2 {
			names = append(names, regexp.QuoteMeta(c.Name))
		}
	}
	names = append(names, `acme[./]`+regexp.QuoteMeta(topic))
	return regexp.MustCompile(strings.Join(names, "|"))
}

// tenantTexts are all texts of an error: the message and all details.
func tenantTexts(t *testing.T, err error) string {
	t.Helper()
	require.Error(t, err)
	e, ok := err.(*connect.Error) //nolint:errorlint // as the client returns it
	require.True(t, ok, "%v", err)
	all := []string{e.Message()}
	for _, d := range e.Details() {
		v, err := d.Value()
		require.NoError(t, err)
		all = append(all, prototext.Format(v))
	}
	return strings.Join(all, "\n")
}

// A tenant is told why its changes are refused, by both doors, and nothing of where the
// deployment's data lies. Operators are told all.
func (s *suite) testTenantErrors(t *testing.T) {
	const cluster = "unnamed-to-tenants"
	c, topic := s.w.AddCluster(cluster), name(t)
	physical := s.physicalNames(topic)
	tenant := adminv1connect.NewTopicServiceClient(&http.Client{Transport: inTenant{"acme", s.w.Client.Transport}}, s.w.API())
	operators := adminv1connect.NewTopicServiceClient(s.w.Client, s.w.API())
	operations := adminv1connect.NewOperationServiceClient(&http.Client{Transport: inTenant{"acme", s.w.Client.Transport}}, s.w.API())
	kafka := kadm.NewClient(s.tenantClient(t, "acme"))
	s.w.MustBraid(t, "", "topic", "create", topic, "--partitions", "2", "--clusters", cluster, tenantFlag("acme"))
	path := "logicalClusters/acme/topics/" + topic
	large := func(name string) *adminv1.CreateTopicRequest {
		return &adminv1.CreateTopicRequest{TopicId: name, Topic: &adminv1.Topic{PartitionCount: 1, ReplicationFactor: 9}}
	}
	refused := func(what string, err error) {
		t.Helper()
		text := tenantTexts(t, err)
		require.Contains(t, text, "physical cluster", what)
		require.Empty(t, physical.FindString(text), "%s: a tenant reads %s", what, text)
	}
	told := func(what, text string) {
		t.Helper()
		require.Contains(t, text, "physical cluster", what)
		require.Empty(t, physical.FindString(text), "%s: a tenant reads %s", what, text)
	}

	// No cluster has so many brokers.
	_, err := tenant.CreateTopic(call(t), large(topic+"-large"))
	refused("create", err)
	validate := large(topic + "-large")
	validate.ValidateOnly = true
	_, err = tenant.CreateTopic(call(t), validate)
	refused("validate", err)
	begun := large(topic + "-begun")
	begun.NoWait = true
	operation, err := tenant.CreateTopic(call(t), begun)
	require.NoError(t, err)
	s.requireFailure(t, operations, operation.GetOperation(), told)
	created, err := kafka.CreateTopics(call(t), 1, 9, nil, topic+"-large")
	require.NoError(t, err)
	require.Error(t, created[topic+"-large"].Err)
	told("create by Kafka", created[topic+"-large"].ErrMessage)

	whole := proto.CloneOf(large(topic + "-large"))
	whole.Parent = "logicalClusters/acme"
	_, err = operators.CreateTopic(call(t), whole)
	require.Regexp(t, `physical cluster "\S+"`, tenantTexts(t, err))
	require.NotEmpty(t, physical.FindString(tenantTexts(t, err)))

	// The only cluster of the topic does not answer.
	up := c.Down()
	_, err = tenant.GrowTopic(call(t), &adminv1.GrowTopicRequest{Name: path, PartitionCount: 4})
	refused("grow", err)
	config := &adminv1.UpdateTopicRequest{Topic: &adminv1.Topic{Name: path, Config: map[string]string{"retention.ms": "100000"}}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"config"}}}
	_, err = tenant.UpdateTopic(call(t), config)
	refused("alter", err)
	_, err = operators.UpdateTopic(call(t), config)
	require.Contains(t, tenantTexts(t, err), cluster)
	grown, err := kafka.CreatePartitions(call(t), 2, topic)
	require.NoError(t, err)
	require.Error(t, grown[topic].Err)
	told("grow by Kafka", grown[topic].ErrMessage)
	value := "100000"
	altered, err := kafka.AlterTopicConfigs(call(t), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "retention.ms", Value: &value}}, topic)
	require.NoError(t, err)
	require.Error(t, altered[0].Err)
	told("alter by Kafka", altered[0].ErrMessage)
	up()

	// What has no error does not say it either.
	got, err := tenant.GetTopic(call(t), &adminv1.GetTopicRequest{Name: path})
	require.NoError(t, err)
	require.Empty(t, physical.FindString(prototext.Format(got)))
	_, err = tenant.ListExtents(call(t), &adminv1.ListExtentsRequest{Parent: path})
	require.Equal(t, connect.CodePermissionDenied, connect.CodeOf(err))
	dirs, err := kafka.DescribeAllLogDirs(call(t), nil)
	require.NoError(t, err)
	require.Empty(t, physical.FindString(fmt.Sprintf("%+v", dirs)))
	configs, err := kafka.DescribeTopicConfigs(call(t), topic)
	require.NoError(t, err)
	require.Empty(t, physical.FindString(fmt.Sprintf("%+v", configs)))
	eventually(t, func() bool {
		_, _, err := s.w.Braid(call(t), "", "topic", "delete", topic, tenantFlag("acme"))
		return err == nil
	}, "the topic is deleted")
	eventually(t, func() bool {
		_, _, err := s.w.Braid(call(t), "", "cluster", "remove", cluster)
		return err == nil
	}, "the cluster is empty")
	s.w.Clusters = slices.DeleteFunc(s.w.Clusters, func(c world.Cluster) bool { return c.Name == cluster })
}

// requireFailure looks at all that a tenant learns of an operation of its own that failed.
func (s *suite) requireFailure(t *testing.T, operations adminv1connect.OperationServiceClient, name string, told func(what, text string)) {
	t.Helper()
	stream, err := operations.WatchOperation(call(t), &adminv1.WatchOperationRequest{Name: name})
	require.NoError(t, err)
	var last *adminv1.Operation
	for stream.Receive() && !last.GetDone() {
		last = stream.Msg().GetOperation()
	}
	require.NoError(t, stream.Close())
	require.NotZero(t, last.GetErrorCode())
	told("watch", prototext.Format(last))
	got, err := operations.GetOperation(call(t), &adminv1.GetOperationRequest{Name: name})
	require.NoError(t, err)
	told("get", prototext.Format(got))
	whole, err := adminv1connect.NewOperationServiceClient(s.w.Client, s.w.API()).GetOperation(call(t), &adminv1.GetOperationRequest{Name: name})
	require.NoError(t, err)
	require.Regexp(t, `physical cluster "\S+"`, whole.GetOperation().GetErrorMessage())
}
