package suite

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/gen/braid/admin/v1/adminv1connect"
	"github.com/braidmq/braid/test/world"
)

// testAbandon has a cluster fail that never comes back: it is forgotten with what lies
// there, and readers go on behind that, also those that waited for it.
func (s *suite) testAbandon(t *testing.T) {
	f := s.startFailure(t)
	f.cluster.Down()
	s.w.MustBraid(t, "", "cluster", "fail", failing)
	f.goesOn(t)
	_, stderr, err := s.w.Braid(call(t), "", "cluster", "remove", failing)
	require.Error(t, err)
	require.Contains(t, stderr, "still holds")
	plan := s.w.MustBraid(t, "", "cluster", "remove", failing, "--abandon", "--validate-only")
	for _, x := range f.topics() {
		require.Contains(t, plan, x.topic+": 3 partitions, 3 extents, ")
	}
	_, stderr, err = s.w.Braid(call(t), "", "cluster", "remove", failing, "--abandon")
	require.Error(t, err)
	require.Contains(t, stderr, "--confirm "+failing)
	require.Equal(t, map[string]int{"STATE_SUSPENDED": 3 * failingPartitions / 2}, f.states(t))
	s.w.MustBraid(t, "", "cluster", "remove", failing, "--abandon", "--confirm", failing)
	require.Empty(t, f.states(t))
	s.w.Clusters = slices.DeleteFunc(s.w.Clusters, func(c world.Cluster) bool { return c.Name == failing })

	f.more(t, 100)
	for _, x := range f.topics() {
		x.load.end(t)
		x.plain.stop()
		x.plain.wg.Wait()
		require.NotEmpty(t, x.load.acked)
	}
	f.skip.readsOn(t)
	f.wait.readsOn(t)
	for _, x := range f.topics() {
		s.w.MustBraid(t, "", "topic", "delete", x.topic)
	}
}

// readsOn checks that readers have read all that is in the log, and that the group's lag is
// none then.
func (f *failingTopic) readsOn(t *testing.T) {
	t.Helper()
	type position struct {
		partition int32
		offset    int64
	}
	log := f.s.readAll(t, f.topic)
	for _, r := range log {
		if slices.Contains(f.gone, r.Partition) {
			require.GreaterOrEqual(t, r.Offset, int64(behindGap), "what lay on the cluster is gone")
		}
	}
	sees := func(members ...seer) (missing int) {
		saw := make(map[position]string)
		for _, m := range members {
			_, records := m.see()
			for _, r := range records {
				saw[position{r.Partition, r.Offset}] = string(r.Value)
			}
		}
		return len(slices.DeleteFunc(slices.Clone(log), func(r *kgo.Record) bool { return saw[position{r.Partition, r.Offset}] == string(r.Value) }))
	}
	var group, alone int
	eventually(t, func() bool {
		requireWhole(t, append(f.group, f.alone)...)
		group, alone = sees(f.group...), sees(f.alone)
		return group == 0 && alone == 0
	}, "%s: all of %d records are read", f.topic, len(log))
	groups := adminv1connect.NewGroupServiceClient(f.s.w.Client, f.s.w.API())
	eventually(t, func() bool {
		response, err := groups.GetGroup(call(t), &adminv1.GetGroupRequest{Name: "logicalClusters/default/groups/" + f.topic})
		return err == nil && !slices.ContainsFunc(response.GetGroup().GetLag(), func(l *adminv1.Group_PartitionLag) bool { return l.GetLag() != 0 })
	}, "%s: the group has no lag", f.topic)
}
