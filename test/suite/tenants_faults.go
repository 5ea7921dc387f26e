package suite

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// tenantFlag names the logical cluster of a tenant to the command line.
func tenantFlag(tenant string) string {
	if tenant == "" {
		return "--logical-cluster=default"
	}
	return "--logical-cluster=" + tenant
}

// tenantSend writes records that say whose they are.
func tenantSend(t *testing.T, client *kgo.Client, tenant, topic string, from, count int) {
	t.Helper()
	records := make([]*kgo.Record, count)
	for i := range records {
		records[i] = &kgo.Record{Topic: topic, Key: fmt.Append(nil, from+i), Value: fmt.Appendf(nil, "%s %d", tenant, from+i)}
	}
	send(t, client, records...)
}

// tenantRead reads exactly count records as the only member of a group, none twice and
// all of the tenant, and commits. A topic's own group is of its name.
func (s *suite) tenantRead(t *testing.T, tenant, group, topic string, count int) {
	t.Helper()
	client := s.tenantClient(t, tenant, kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DisableAutoCommit())
	defer client.Close()
	seen := make(map[string]bool)
	for _, r := range poll(t, client, count) {
		require.True(t, strings.HasPrefix(string(r.Value), tenant+" "), "%q reads %q", tenant, r.Value)
		require.False(t, seen[string(r.Value)], "%q reads %q twice", tenant, r.Value)
		seen[string(r.Value)] = true
	}
	require.NoError(t, client.CommitUncommittedOffsets(call(t)))
}

// A cluster that fails takes heads of all logical clusters with it: all go on elsewhere,
// and have everything again when it is back.
func (s *suite) testFailoverOfTenants(t *testing.T) {
	const cluster = "shared"
	c, topic := s.w.AddCluster(cluster), name(t)
	producers := make(map[string]*kgo.Client)
	for _, tenant := range allTenants {
		s.w.MustBraid(t, "", "topic", "create", topic, "--partitions", "4", "--clusters", cluster+","+s.w.Clusters[1].Name, tenantFlag(tenant))
		producers[tenant] = s.tenantClient(t, tenant)
		tenantSend(t, producers[tenant], tenant, topic, 0, 40)
		s.tenantRead(t, tenant, topic, topic, 40)
		require.Contains(t, s.openHeads(t, tenant, topic), cluster)
	}
	up := c.Down()
	s.w.MustBraid(t, "", "cluster", "fail", cluster)
	for _, tenant := range allTenants {
		require.NotContains(t, s.openHeads(t, tenant, topic), cluster)
		tenantSend(t, producers[tenant], tenant, topic, 40, 40)
		s.tenantRead(t, tenant, topic, topic, 40)
	}
	up()
	eventually(t, func() bool {
		_, _, err := s.w.Braid(call(t), "", "cluster", "restore", cluster)
		return err == nil
	}, "the restore")
	for _, tenant := range allTenants {
		tenantSend(t, producers[tenant], tenant, topic, 80, 10)
		s.tenantRead(t, tenant, topic, topic, 10)
		s.tenantRead(t, tenant, topic+"-again", topic, 90)
		s.w.MustBraid(t, "", "topic", "delete", topic, tenantFlag(tenant))
	}
	s.w.RemoveCluster(cluster)
}

// openHeads are the clusters of the heads of a tenant's topic.
func (s *suite) openHeads(t *testing.T, tenant, topic string) (clusters []string) {
	t.Helper()
	for line := range strings.Lines(s.w.MustBraid(t, "", "topic", "describe", topic, tenantFlag(tenant))) {
		if f := strings.Fields(line); len(f) > 4 && f[3] == "open" {
			clusters = append(clusters, f[4])
		}
	}
	require.NotEmpty(t, clusters)
	return clusters
}

// A tenantRecovery is what a tenant has before Redis loses everything.
type tenantRecovery struct {
	tenant, topic, group string
	producer             *kgo.Client
	id                   string // of the tenant's cluster
}

// beforeLoss gives a tenant records, a limit, and a group that has read them.
func (s *suite) beforeLoss(t *testing.T, tenant string) *tenantRecovery {
	t.Helper()
	r := &tenantRecovery{tenant: tenant, topic: name(t), group: name(t), producer: s.tenantClient(t, tenant)}
	admin := kadm.NewClient(r.producer)
	_, err := admin.CreateTopic(call(t), 3, -1, nil, r.topic)
	require.NoError(t, err)
	tenantSend(t, r.producer, tenant, r.topic, 0, 30)
	s.tenantRead(t, tenant, r.group, r.topic, 30)
	metadata, err := admin.BrokerMetadata(call(t))
	require.NoError(t, err)
	r.id = metadata.Cluster
	s.limited(t, tenant, "--max-acls", 77)
	return r
}

// afterLoss checks that it has all of it again, and goes on.
func (s *suite) afterLoss(t *testing.T, r *tenantRecovery) {
	t.Helper()
	tenantSend(t, r.producer, r.tenant, r.topic, 30, 10)
	s.tenantRead(t, r.tenant, r.group, r.topic, 10)
	s.tenantRead(t, r.tenant, r.group+"-again", r.topic, 40)
	metadata, err := kadm.NewClient(r.producer).BrokerMetadata(call(t))
	require.NoError(t, err)
	require.Equal(t, r.id, metadata.Cluster)
	require.Regexp(t, `ACLs +\d+ +77 +--max-acls`, s.w.MustBraid(t, "", "tenant", "describe", r.tenant))
}
