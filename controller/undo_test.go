package controller

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/federation"
)

// What an operation is taken back for is told to operators and to tenants as if it had
// ended at once, also by the next leader.
func TestTheErrorOfAnUndoneOperation(t *testing.T) {
	cause := federation.Errorf(federation.ClusterUnavailable, "topic %q: physical cluster %q does not answer", federation.TopicName("acme/orders"), federation.ClusterName("east"))
	b, err := json.Marshal(undoFor(cause))
	require.NoError(t, err)
	var kept undoing
	require.NoError(t, json.Unmarshal(b, &kept))
	got, ok := errors.AsType[*federation.Error](kept.undone())
	require.True(t, ok)
	require.Equal(t, cause.Kind, got.Kind)
	require.Equal(t, cause.Message, got.Message)
	require.Equal(t, cause.Subject, got.Subject)
	require.Equal(t, `topic "orders": a physical cluster does not answer`, got.ForTenant().Message)
}
