package federation_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/federation"
)

// What a tenant is told of an error is of the same kind, and names nothing physical.
func TestErrorsForTenants(t *testing.T) {
	const east = federation.ClusterName("east")
	topic := federation.Qualify("acme", "orders")
	away := federation.Errorf(federation.ClusterUnavailable, "physical cluster %q does not answer: %s", east, federation.Text{Whole: "no user x at host:9092", Public: "its operators see why"})
	for _, c := range []struct {
		err           *federation.Error
		whole, tenant string
	}{
		{away, `physical cluster "east" does not answer: no user x at host:9092`, "a physical cluster does not answer: its operators see why"},
		{
			federation.Errorf(federation.Conflict, "operation %d: %w", 1, away),
			`operation 1: physical cluster "east" does not answer: no user x at host:9092`, "operation 1: a physical cluster does not answer: its operators see why",
		},
		{
			federation.Errorf(federation.Conflict, "operation %d: %w", 1, fmt.Errorf("on east: %w", away)),
			`operation 1: on east: physical cluster "east" does not answer: no user x at host:9092`, "operation 1: a physical cluster does not answer: its operators see why",
		},
		{
			federation.Errorf(federation.ClusterUnavailable, "topic %q is deleted, but physical clusters %v did not delete it", topic, []federation.ClusterName{east, "west"}),
			`topic "acme/orders" is deleted, but physical clusters [east west] did not delete it`, `topic "orders" is deleted, but some physical clusters did not delete it`,
		},
		{
			federation.Errorf(federation.Conflict, "%s: topic %q of physical cluster %q", federation.TopicPartition{Topic: topic, Partition: 3}, federation.Hidden("acme.orders.1"), east),
			`acme/orders-3: topic "acme.orders.1" of physical cluster "east"`, "orders-3: a topic of a physical cluster",
		},
		{
			federation.Errorf(federation.NoLeader, "%s has no leader", federation.PhysicalAddress{Cluster: east, Topic: "acme.orders.1"}),
			"east/acme.orders.1-0 has no leader", "another one has no leader",
		},
		{federation.Errorf(federation.UnknownTopic, "topic %q does not exist: %w", federation.TopicName("east"), errors.New("no")), `topic "east" does not exist: no`, `topic "east" does not exist: no`},
	} {
		require.Equal(t, c.whole, c.err.Error())
		told := c.err.ForTenant()
		require.Equal(t, c.tenant, told.Error())
		require.Equal(t, c.err.Kind, told.Kind)
		require.Empty(t, told.Subject.Cluster)
		_, plain := c.err.Subject.Topic.Split()
		require.Equal(t, plain, told.Subject.Topic)
		if c.whole != c.tenant {
			require.NoError(t, told.Unwrap())
			require.Equal(t, c.tenant, c.err.Public())
		}
		require.Same(t, told, told.ForTenant())
	}
}
