//go:build real

package embedded_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/braidmq/braid/federation"
	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/gen/braid/admin/v1/adminv1connect"
	"github.com/braidmq/braid/internal/embedded"
	"github.com/braidmq/braid/internal/process"
	"github.com/braidmq/braid/internal/redisstore"
	"github.com/braidmq/braid/test/realparts"
)

const (
	brokerPassword = "kafka-horse-battery"
	fresherSecret  = "kafka-second-battery"
	redisPassword  = "redis-horse-battery"
	// redisRule is the rule of docs/operations.md; a test below holds them together.
	redisRule = "resetchannels ~braid:* -@all +ping +select +multi +exec +eval +evalsha +script|load +time +get +set +setnx +incr +del +exists +pexpire" +
		" +hget +hset +hdel +hmget +hgetall +hvals +hkeys +hexists +hincrby +zadd +zrem +zrange +zscan +zscore +zcard"
)

// braidACLs are the rights that braid needs on topics of its own, as in docs/operations.md.
var braidACLs = []kmsg.ACLOperation{
	kmsg.ACLOperationCreate, kmsg.ACLOperationDelete, kmsg.ACLOperationDescribe, kmsg.ACLOperationDescribeConfigs,
	kmsg.ACLOperationAlter, kmsg.ACLOperationAlterConfigs, kmsg.ACLOperationRead, kmsg.ACLOperationWrite,
}

// A vault collects what is logged.
type vault struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *vault) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *vault) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func adminOf(t *testing.T, k *realparts.SecureKafka) *kadm.Client {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(k.Seed))
	require.NoError(t, err)
	t.Cleanup(cl.Close)
	return kadm.NewClient(cl)
}

func allow(t *testing.T, admin *kadm.Client, b *kadm.ACLBuilder) {
	t.Helper()
	created, err := admin.CreateACLs(t.Context(), b.Allow("User:braid").AllowHosts("*"))
	require.NoError(t, err)
	for _, c := range created {
		require.NoError(t, c.Err)
	}
}

// unsecured is a token that brokers without an issuer take.
func unsecured(subject string) string {
	enc := base64.RawURLEncoding.EncodeToString
	now := time.Now().Unix()
	return enc([]byte(`{"alg":"none"}`)) + "." + enc(fmt.Appendf(nil, `{"sub":%q,"iat":%d,"exp":%d}`, subject, now, now+3600)) + "."
}

// A whole life on clusters with TLS, SASL and ACLs, and a Redis with TLS and ACLs, where
// braid has the rights of the documentation and no others.
func TestRealSecurityWithTheLeastRights(t *testing.T) {
	authority := realparts.NewAuthority(t)
	redis := realparts.StartSecureRedis(t, authority, "braid", ">"+redisPassword+" "+redisRule)
	parts := realparts.StartSecureKafka(t, 256, authority, "braid", brokerPassword, 4*time.Second, "east", "west")
	east, west := parts[0], parts[1]
	for _, k := range parts {
		allow(t, adminOf(t, k), kadm.NewACLs().Topics("default.").ResourcePatternType(kadm.ACLPatternPrefixed).Operations(braidACLs...))
	}
	dir := t.TempDir()
	write := func(name, text string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	certFile, keyFile := authority.Issue(t, "braid")
	sasl := func(mechanism, rest string) string {
		return "tls:\n  ca: " + authority.CA + "\nsasl:\n  mechanism: " + mechanism + "\n" + rest
	}
	token := unsecured("braid")
	write("kafka.password", brokerPassword+"\n")
	write("redis.password", redisPassword+"\n")
	write("token", token)
	write("east.yaml", sasl("SCRAM-SHA-512", "  username: braid\n  password-file: kafka.password\n"))
	write("plain.yaml", sasl("PLAIN", "  username: braid\n  password-file: kafka.password\n"))
	write("sha256.yaml", sasl("SCRAM-SHA-256", "  username: braid\n  password-file: kafka.password\n"))
	write("bearer.yaml", sasl("OAUTHBEARER", "  token-file: token\n"))
	write("wrong.yaml", sasl("SCRAM-SHA-512", "  username: braid\n  password-file: redis.password\n"))
	write("badtoken.yaml", sasl("OAUTHBEARER", "  token-file: redis.password\n"))
	write("west.yaml", "tls:\n  ca: "+authority.CA+"\n  cert: "+certFile+"\n  key: "+keyFile+"\n")

	var logged vault
	log := slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
	files := process.RedisFiles{CA: authority.CA, Password: filepath.Join(dir, "redis.password")}
	f := embedded.New(t, embedded.Options{
		RedisURL: "rediss://braid@" + redis.Address + "/0", Logger: log, Gateways: 2,
		Clusters: []embedded.Cluster{{Name: "east", Seeds: []string{east.SASL}, SecurityProfile: "east"}, {Name: "west", Seeds: []string{west.TLS}, SecurityProfile: "west"}},
		Configure: func(c *process.Config, _ int) {
			c.RedisFiles, c.Access.ClusterSecurityDir = files, dir
		},
	})
	topics := adminv1connect.NewTopicServiceClient(f.Client, f.APIURL())
	clusters := adminv1connect.NewClusterServiceClient(f.Client, f.APIURL())
	ctx := t.Context()
	_, err := topics.CreateTopic(ctx, &adminv1.CreateTopicRequest{TopicId: "orders", Topic: &adminv1.Topic{PartitionCount: 4, ReplicationFactor: 1, Config: map[string]string{"retention.ms": "86400000"}}})
	require.NoError(t, err)

	// An idempotent producer writes all the time.
	producer := kafka(t, f, kgo.DefaultProduceTopic("orders"))
	stop, stopped := make(chan struct{}), make(chan int, 1)
	var failed sync.Map
	go func() {
		n := 0
		defer func() { stopped <- n }()
		for ; ; n++ {
			select {
			case <-stop:
				return
			case <-time.After(2 * time.Millisecond):
			}
			producer.Produce(context.Background(), &kgo.Record{Key: fmt.Append(nil, n%16), Value: fmt.Append(nil, n)}, func(_ *kgo.Record, err error) {
				if err != nil {
					failed.Store(err.Error(), true)
				}
			})
		}
	}()

	update := func(name, profile string) error {
		_, err := clusters.UpdateCluster(ctx, &adminv1.UpdateClusterRequest{
			Cluster:    &adminv1.Cluster{Name: "physicalClusters/" + name, SecurityProfile: profile},
			UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"security_profile"}},
		})
		return err
	}
	for _, to := range []string{"west", "east"} {
		_, err := topics.MovePartitions(ctx, &adminv1.MovePartitionsRequest{Name: "logicalClusters/default/topics/orders", Partitions: []int32{0, 1, 2, 3}, PhysicalCluster: to})
		require.NoError(t, err, "to %s", to)
	}
	for _, profile := range []string{"plain", "sha256", "bearer", "east"} {
		require.NoError(t, update("east", profile), profile)
	}
	require.ErrorContains(t, update("east", "wrong"), `security profile "wrong" (SCRAM-SHA-512 as "braid")`)
	require.ErrorContains(t, update("east", "badtoken"), `invalid_token`)
	require.ErrorContains(t, update("east", "none"), "none.yaml")
	// A broker resets what is no TLS, and its alert before that may not get through.
	require.Regexp(t, "the listener speaks TLS|that they reach a Kafka listener", update("east", "").Error())
	require.ErrorContains(t, update("west", "east"), "TLS failed")

	// The password changes while all work: sessions of the old one go on until they end.
	_, err = adminOf(t, east).AlterUserSCRAMs(ctx, nil, []kadm.UpsertSCRAM{{User: "braid", Mechanism: kadm.ScramSha512, Iterations: 4096, Password: fresherSecret}})
	require.NoError(t, err)
	write("kafka.password", fresherSecret)
	require.Never(t, func() bool {
		some := false
		failed.Range(func(any, any) bool { some = true; return false })
		return some
	}, 6*time.Second, 100*time.Millisecond, "all sessions are renewed in that time")

	_, err = topics.GrowTopic(ctx, &adminv1.GrowTopicRequest{Name: "logicalClusters/default/topics/orders", PartitionCount: 6})
	require.NoError(t, err)
	_, err = topics.UpdateTopic(ctx, &adminv1.UpdateTopicRequest{
		Topic:      &adminv1.Topic{Name: "logicalClusters/default/topics/orders", Config: map[string]string{"retention.ms": "43200000"}},
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"config"}},
	})
	require.NoError(t, err)
	adoptWithTheLeastRights(t, f, topics, east)

	close(stop)
	sent := <-stopped
	require.NoError(t, producer.Flush(ctx))
	failed.Range(func(e, _ any) bool { t.Errorf("a record failed: %v", e); return true })
	read := &seen{count: make(map[string]int)}
	read.join(t, f, "billing", "orders", func() {})
	require.Eventually(t, func() bool { return read.len() == sent }, patience, 50*time.Millisecond, "of %d", sent)
	require.Empty(t, read.twice())

	_, err = topics.CreateTopic(ctx, &adminv1.CreateTopicRequest{TopicId: "gone", Topic: &adminv1.Topic{PartitionCount: 2, ReplicationFactor: 1}})
	require.NoError(t, err)
	_, err = topics.DeleteTopic(ctx, &adminv1.DeleteTopicRequest{Name: "logicalClusters/default/topics/gone"})
	require.NoError(t, err)
	fleet := adminv1connect.NewFleetServiceClient(f.Client, f.APIURL())
	require.Eventually(t, func() bool {
		status, err := fleet.GetStatus(ctx, &adminv1.GetStatusRequest{})
		return err == nil && len(status.GetAlarms()) == 0
	}, patience, 100*time.Millisecond)

	// The journals can be read for a recovery.
	var report bytes.Buffer
	require.NoError(t, process.Recover(ctx, process.RecoverConfig{
		Redis: redisstore.Config{URL: "rediss://braid@" + redis.Address + "/0"}, RedisFiles: files, ClusterSecurityDir: dir, DryRun: true, Out: &report, Logger: log,
		Clusters: []*federation.Cluster{{Name: "east", Seeds: []string{east.SASL}, SecurityProfile: "east"}},
	}))
	require.Contains(t, report.String(), "2 clusters")

	told := logged.String() + report.String() + journalOf(t, east)
	for _, secret := range []string{brokerPassword, fresherSecret, redisPassword, token} {
		require.NotContains(t, told, secret)
	}
	require.Contains(t, told, "east", "something is there")
	docs, err := os.ReadFile("../../docs/operations.md")
	require.NoError(t, err)
	require.Contains(t, string(docs), strings.TrimPrefix(redisRule, "resetchannels "))
}

// adoptWithTheLeastRights takes an existing topic with the rights that are documented for it.
func adoptWithTheLeastRights(t *testing.T, f *embedded.Federation, topics adminv1connect.TopicServiceClient, k *realparts.SecureKafka) {
	t.Helper()
	ctx := t.Context()
	admin := adminOf(t, k)
	_, err := admin.CreateTopic(ctx, 2, 1, nil, "legacy")
	require.NoError(t, err)
	allow(t, admin, kadm.NewACLs().Topics("legacy").ResourcePatternType(kadm.ACLPatternLiteral).Operations(
		kmsg.ACLOperationDescribe, kmsg.ACLOperationDescribeConfigs, kmsg.ACLOperationRead, kmsg.ACLOperationWrite, kmsg.ACLOperationAlterConfigs, kmsg.ACLOperationDelete))
	allow(t, admin, kadm.NewACLs().Groups("*").ResourcePatternType(kadm.ACLPatternLiteral).Operations(kmsg.ACLOperationDescribe))
	plain, err := kgo.NewClient(kgo.SeedBrokers(k.Seed), kgo.DefaultProduceTopic("legacy"))
	require.NoError(t, err)
	require.NoError(t, plain.ProduceSync(ctx, kgo.StringRecord("old")).FirstErr())
	plain.Close()
	offsets := make(kadm.Offsets)
	offsets.AddOffset("legacy", 0, 0, -1)
	_, err = admin.CommitOffsets(ctx, "readers", offsets)
	require.NoError(t, err)
	adopted, err := topics.AdoptTopic(ctx, &adminv1.AdoptTopicRequest{TopicId: "legacy", PhysicalCluster: "east", Groups: true})
	require.NoError(t, err)
	require.EqualValues(t, 2, adopted.GetTopic().GetPartitionCount())
	reader := kafka(t, f, kgo.ConsumeTopics("legacy"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	fetches := reader.PollFetches(ctx)
	require.NoError(t, fetches.Err())
	require.Equal(t, "old", string(fetches.Records()[0].Value))
}

// journalOf is all that the journal of maps on a cluster holds.
func journalOf(t *testing.T, k *realparts.SecureKafka) string {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(k.Seed), kgo.ConsumeTopics("default.braid-map"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	require.NoError(t, err)
	defer cl.Close()
	var out strings.Builder
	fetches := cl.PollFetches(t.Context())
	require.NoError(t, fetches.Err())
	fetches.EachRecord(func(r *kgo.Record) { out.Write(r.Value) })
	require.NotEmpty(t, out.String())
	return out.String()
}
