package gateway_test

import (
	"testing"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/federation/federationtest"
	braidv1 "github.com/braidmq/braid/gen/braid/v1"
)

// Topics that are named often count once, and what is asked for is bounded before anything
// is made of it.
func TestGetCommittedOffsetsIsBounded(t *testing.T) {
	w := newWorld(t)
	w.topic("orders", 8, nil)
	api := w.consumer(t)
	_, err := api.CommitOffsets(ctxFor(t), &braidv1.CommitOffsetsRequest{Group: "g", Offsets: []*braidv1.PartitionOffset{{Topic: "orders", Offset: 5}}})
	require.NoError(t, err)
	often := make([]string, 20_000)
	for i := range often {
		often[i] = "orders"
	}
	r, err := api.GetCommittedOffsets(ctxFor(t), &braidv1.GetCommittedOffsetsRequest{Group: "g", Topics: often})
	require.NoError(t, err)
	require.Len(t, r.GetOffsets(), 1)

	chains := make([][]*federation.Extent, 9_993)
	for i := range chains {
		chains[i] = []*federation.Extent{federationtest.Head("a", "large", i)}
	}
	w.SetTopic("large", nil, chains...)
	for _, topics := range [][]string{{"orders", "large"}, {"large", "orders"}} {
		_, err = api.GetCommittedOffsets(ctxFor(t), &braidv1.GetCommittedOffsetsRequest{Group: "g", Topics: topics})
		require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err))
		require.ErrorContains(t, err, "more than 10000 partitions")
	}
}

// Partitions beyond the bound are refused before they are looked at.
func TestSourcesAreBounded(t *testing.T) {
	w := newWorld(t)
	w.topic("orders", 2, nil)
	for _, src := range []*braidv1.ReadSource{
		{Topic: "orders", Partitions: make([]int32, 10_001)},
		{Topic: "orders", Positions: make([]*braidv1.PartitionOffset, 10_001)},
	} {
		for i := range src.GetPositions() {
			src.Positions[i] = &braidv1.PartitionOffset{Topic: "orders"}
		}
		_, err := w.consumer(t).ListOffsets(ctxFor(t), &braidv1.ListOffsetsRequest{Sources: []*braidv1.ReadSource{src}})
		require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err))
		require.ErrorContains(t, err, "more than 10000 partitions")
	}
}
