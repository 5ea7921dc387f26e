package controller_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/federation"
	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/internal/recordbatch"
	"github.com/braidmq/braid/internal/upstream"
)

func newAdopting(t *testing.T) (*federated, federation.PhysicalAddress) {
	t.Helper()
	f := &federated{world: newWorld(t, "a", "b"), holder: &holder{}}
	require.NoError(t, f.kafka["a"].CreateTopic("legacy", 2, nil))
	at := federation.PhysicalAddress{Cluster: "a", Topic: "legacy"}
	f.produce(t, at, recordbatch.Producer{ID: 7, Epoch: 1, Sequence: 0}, 5)
	f.start(t)
	return f, at
}

func (f *federated) adopt(t *testing.T, change ...func(*adminv1.AdoptTopicRequest)) (*adminv1.AdoptTopicResponse, error) {
	t.Helper()
	req := &adminv1.AdoptTopicRequest{Parent: "logicalClusters/default", TopicId: "orders", PhysicalCluster: "a", PhysicalTopic: "legacy"}
	for _, c := range change {
		c(req)
	}
	return f.admin.topics.AdoptTopic(t.Context(), req)
}

func TestAdoptAndMove(t *testing.T) {
	f, at := newAdopting(t)
	validated, err := f.adopt(t, func(r *adminv1.AdoptTopicRequest) { r.ValidateOnly = true })
	require.NoError(t, err)
	require.EqualValues(t, 2, validated.GetTopic().GetPartitionCount())
	require.Empty(t, validated.GetOperation())
	require.Nil(t, f.gateway.Current().Topic("orders"))

	_, err = f.adopt(t)
	require.NoError(t, err)
	p := f.partition(t, 0, "a")
	require.Equal(t, at, p.Head().PhysicalAddress)
	require.Zero(t, p.Head().Base)
	again, err := f.adopt(t)
	require.NoError(t, err, "it is adopted already")
	require.Equal(t, "orders", string(f.gateway.Current().Topic("orders").Name))
	require.NotEmpty(t, again.GetOperation())
	_, err = f.adopt(t, func(r *adminv1.AdoptTopicRequest) { r.TopicId = "twice" })
	requireKind(t, federation.TopicExists, err)
	_, err = f.adopt(t, func(r *adminv1.AdoptTopicRequest) { r.PhysicalTopic = "none" })
	requireKind(t, federation.TopicExists, err)
	_, err = f.adopt(t, func(r *adminv1.AdoptTopicRequest) { r.TopicId, r.PhysicalTopic = "none", "none" })
	requireKind(t, federation.UnknownTopic, err)

	// A producer that does not use braid is told of, and keeps the head where it is.
	stop, gone := make(chan struct{}), make(chan struct{})
	direct := f.cluster(t, "a")
	go func() {
		defer close(gone)
		for seq := int32(5); ; seq++ {
			select {
			case <-stop:
				return
			default:
				direct.AppendMarks(t.Context(), []upstream.MarkAppend{batchFor(at, recordbatch.Producer{ID: 7, Epoch: 1, Sequence: seq}, 1)})
			}
		}
	}()
	f.awaitAlarm(t, "orders", "producer ids 7", "without braid")
	failed := f.admin.await(t, f.move(t, "b", 0).GetName())
	require.NotZero(t, failed.GetErrorCode())
	require.Contains(t, failed.GetErrorMessage(), "without braid")
	f.noneSealing(t)
	require.Equal(t, at, f.head(0))
	close(stop)
	<-gone
	require.Eventually(t, func() bool { return len(f.alarms(t)) == 0 }, patience, 10*time.Millisecond, "the alarm goes with its cause")

	f.moved(t, f.move(t, "b", 0))
	p = f.partition(t, 0, "b")
	require.Contains(t, f.carried(t, p.Head()), int64(7))
	require.Equal(t, federation.LogicalOffset(p.Extents[0].End), p.Head().Base)
}

func TestAdoptedHeadIsNotSealedBelowAnOpenTransaction(t *testing.T) {
	f, _ := newAdopting(t)
	client := f.transactional(t, "a")
	end := f.begin(t, client, "legacy")
	_, err := f.adopt(t)
	require.NoError(t, err)
	op := f.move(t, "b", 0)
	require.Eventually(t, func() bool {
		return containsAll(stepDetail(t, f.admin, op, "hold"), []string{"open transaction", "legacy"})
	}, patience, 10*time.Millisecond)
	require.Equal(t, federation.ClusterName("a"), f.head(0).Cluster)
	end()
	f.moved(t, op)
	f.partition(t, 0, "b")
}

func TestAdoptedIsNotWhateverHasLostItsFirstExtents(t *testing.T) {
	f := newFederated(t, 1)
	f.moved(t, f.move(t, "b", 0))
	f.gateway.eventually(t, "the first extent leaves the map", func(m *federation.Map) bool { return len(m.Topic("orders").Partitions[0].Extents) == 1 })
	require.NoError(t, f.kafka["a"].CreateTopic("legacy", 1, nil))
	_, err := f.adopt(t)
	requireKind(t, federation.TopicExists, err)
}
