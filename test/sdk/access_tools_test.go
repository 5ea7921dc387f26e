//go:build real

package sdk_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/braidmq/braid/test/sdk"
	"github.com/braidmq/braid/test/world"
)

// accessPatience bounds each wait for what a tool has changed to be in force.
const accessPatience = 20 * time.Second

// guarded is a federation of its own with users, ACLs and quotas, and who runs the tools.
type guarded struct {
	*world.World
	config string // file for --command-config
}

const keeper, keepersPassword = "keeper", "keepers-horse-battery"

func newGuarded(t *testing.T) *guarded {
	t.Helper()
	dir := t.TempDir()
	fleet, config := filepath.Join(dir, "fleet.token"), filepath.Join(dir, "keeper.properties")
	require.NoError(t, os.WriteFile(fleet, []byte(strings.Repeat("access", 8)), 0o600))
	require.NoError(t, os.WriteFile(config, []byte("security.protocol=SASL_PLAINTEXT\nsasl.mechanism=SCRAM-SHA-512\n"+
		"sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required username=\""+keeper+"\" password=\""+keepersPassword+"\";\n"), 0o600))
	all := []string{"--fleet-token-file", fleet}
	door := append([]string{"--authorizer", "acl", "--super-users", "User:" + keeper + ",User:ANONYMOUS", "--kafka-sasl-mechanisms", "SCRAM-SHA-256,SCRAM-SHA-512"}, all...)
	g := &guarded{config: config, World: world.Real(t, world.Options{
		Gateways: 1, Clusters: []string{"guarded"}, HeapMB: 256, Flags: map[string][]string{"controller": all, "gateway": door, "nameserver": all},
	})}
	g.MustBraid(t, keepersPassword, "credential", "create", keeper, "--password-file", "-")
	return g
}

// run runs a tool as the keeper.
func (g *guarded) run(t *testing.T, class string, args ...string) string {
	t.Helper()
	return output(t, "", sdk.KafkaTool(t, class, append([]string{"--bootstrap-server", g.Gateways[0].Kafka, "--command-config", g.config}, args...)...)...)
}

func (g *guarded) acls(t *testing.T, args ...string) string {
	t.Helper()
	return g.run(t, "org.apache.kafka.tools.AclCommand", args...)
}

func (g *guarded) user(t *testing.T, args ...string) string {
	t.Helper()
	return g.run(t, "kafka.admin.ConfigCommand", append([]string{"--entity-type", "users", "--entity-name", "carol"}, args...)...)
}

// throttled counts how often a broker has slowed a client down.
type throttled struct{ times atomic.Int64 }

func (h *throttled) OnBrokerThrottle(kgo.BrokerMetadata, time.Duration, bool) { h.times.Add(1) }

// carol is a client of the user whom the tools make.
func (g *guarded) carol(t *testing.T, password string) (*kgo.Client, *throttled) {
	t.Helper()
	seen := new(throttled)
	client, err := kgo.NewClient(kgo.SeedBrokers(g.Gateways[0].Kafka), kgo.WithHooks(seen),
		kgo.SASL(scram.Auth{User: "carol", Pass: password}.AsSha256Mechanism()), kgo.ProducerBatchCompression(kgo.NoCompression()))
	require.NoError(t, err)
	t.Cleanup(client.Close)
	return client, seen
}

func write(t *testing.T, client *kgo.Client, topic string, bytes int) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), accessPatience)
	defer cancel()
	return client.ProduceSync(ctx, &kgo.Record{Topic: topic, Value: make([]byte, bytes)}).FirstErr()
}

// testAccessTools makes a user by kafka-configs.sh, gives her rights by kafka-acls.sh and a
// quota, and takes all of it away: each is seen by clients.
func testAccessTools(t *testing.T) {
	const password = "carols-horse-battery"
	g := newGuarded(t)
	for _, topic := range []string{"ledger-open", "ledger-closed"} {
		g.MustBraid(t, "", "topic", "create", topic, "--partitions", "1")
	}
	const done = "Completed updating config for user carol."
	require.Contains(t, g.user(t, "--alter", "--add-config", "SCRAM-SHA-256=[iterations=8192,password="+password+"]"), done)
	require.Contains(t, g.user(t, "--alter", "--add-config", "producer_byte_rate=20000"), done)
	described := g.user(t, "--describe")
	require.Contains(t, described, "Quota configs for user-principal 'carol' are producer_byte_rate=20000.0")
	require.Contains(t, described, "SCRAM credential configs for user-principal 'carol' are SCRAM-SHA-256=iterations=8192")

	carol, slowed := g.carol(t, password)
	require.ErrorIs(t, write(t, carol, "ledger-open", 10), kerr.TopicAuthorizationFailed, "no ACL allows it")
	g.testACLTool(t, carol)
	g.testQuotaTool(t, carol, slowed)

	g.user(t, "--alter", "--delete-config", "SCRAM-SHA-256")
	require.NotContains(t, g.user(t, "--describe"), "carol")
	stranger, _ := g.carol(t, password)
	require.ErrorIs(t, stranger.Ping(t.Context()), kerr.SaslAuthenticationFailed, "her credential is gone")
}

// testACLTool allows all topics of a prefix, denies one of them, and takes that back.
func (g *guarded) testACLTool(t *testing.T, carol *kgo.Client) {
	t.Helper()
	deny := []string{"--deny-principal", "User:carol", "--operation", "Write", "--topic", "ledger-closed"}
	g.acls(t, append([]string{"--add"}, deny...)...)
	g.acls(t, "--add", "--allow-principal", "User:carol", "--producer", "--topic", "ledger-", "--resource-pattern-type", "prefixed")
	listed := g.acls(t, "--list")
	for _, text := range []string{
		"`ResourcePattern(resourceType=TOPIC, name=ledger-, patternType=PREFIXED)`", "(principal=User:carol, host=*, operation=WRITE, permissionType=ALLOW)",
		"`ResourcePattern(resourceType=TOPIC, name=ledger-closed, patternType=LITERAL)`", "(principal=User:carol, host=*, operation=WRITE, permissionType=DENY)",
	} {
		require.Contains(t, listed, text)
	}
	require.Eventually(t, func() bool { return write(t, carol, "ledger-open", 10) == nil }, accessPatience, 100*time.Millisecond, "allowed by the prefix")
	require.ErrorIs(t, write(t, carol, "ledger-closed", 10), kerr.TopicAuthorizationFailed, "denied, whatever else allows it")

	g.acls(t, append([]string{"--remove", "--force"}, deny...)...)
	require.NotContains(t, g.acls(t, "--list", "--topic", "ledger-closed"), "DENY")
	require.Eventually(t, func() bool { return write(t, carol, "ledger-closed", 10) == nil }, accessPatience, 100*time.Millisecond, "not denied any more")
}

// testQuotaTool has a client be slowed down by the quota that was set, and not when it is gone.
func (g *guarded) testQuotaTool(t *testing.T, carol *kgo.Client, slowed *throttled) {
	t.Helper()
	require.Eventually(t, func() bool {
		require.NoError(t, write(t, carol, "ledger-open", 50_000), "a quota is no error")
		return slowed.times.Load() > 0
	}, accessPatience, time.Millisecond, "20,000 bytes a second are enforced")
	g.user(t, "--alter", "--delete-config", "producer_byte_rate")
	require.NotContains(t, g.user(t, "--describe"), "producer_byte_rate")
	before := slowed.times.Load()
	for range 20 {
		require.NoError(t, write(t, carol, "ledger-open", 50_000))
	}
	require.Equal(t, before, slowed.times.Load(), "without a quota nobody is slowed down")
}
