package federation_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/federation"
)

func TestErrorsAreAboutTheirArguments(t *testing.T) {
	three := federation.LogicalPartition(3)
	about := func(args ...any) federation.Subject {
		return federation.Errorf(federation.Conflict, "%v %v %v", append(args, "", "", "")[:3]...).Subject
	}
	require.Zero(t, about("orders", 3, int32(3)), "text and numbers say nothing")
	require.Equal(t, federation.Subject{Topic: "orders"}, about(federation.TopicName("orders"), federation.TopicName("bills")))
	require.Equal(t, federation.Subject{Topic: "orders", Partition: &three}, about(federation.TopicName("orders"), 9, three))
	require.Equal(t, federation.Subject{Topic: "orders", Partition: &three}, about(federation.TopicPartition{Topic: "orders", Partition: 3}))
	require.Equal(t, federation.Subject{Cluster: "east", Setting: "retention.ms"}, about(federation.ClusterName("east"), federation.SettingName("retention.ms")))
	require.Equal(t, federation.Subject{Topic: "bills"}, about(federation.TopicName("bills"), federation.TopicPartition{Topic: "orders", Partition: 3}),
		"a partition of another topic")

	inner := federation.Errorf(federation.UnknownTopic, "topic %q", federation.TopicName("orders"))
	outer := federation.Errorf(federation.Conflict, "physical cluster %q: %w", federation.ClusterName("east"), fmt.Errorf("wrapped: %w", inner))
	require.Equal(t, federation.Subject{Topic: "orders", Cluster: "east"}, outer.Subject)
	require.Equal(t, outer.Subject, federation.SubjectOf(fmt.Errorf("wrapped: %w", outer)))
	require.Zero(t, federation.SubjectOf(errors.New("plain")))
}
