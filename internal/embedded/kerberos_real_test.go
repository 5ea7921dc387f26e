//go:build real

package embedded_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/gen/braid/admin/v1/adminv1connect"
	"github.com/braidmq/braid/internal/embedded"
	"github.com/braidmq/braid/internal/process"
	"github.com/braidmq/braid/test/realparts"
)

// A busy producer writes all the time, and counts what it wrote and what failed.
type busy struct {
	client *kgo.Client
	stop   chan struct{}
	sent   chan int

	mu     sync.Mutex // guards the following
	failed []string
}

func (b *busy) run() {
	n := 0
	defer func() { b.sent <- n }()
	for ; ; n++ {
		select {
		case <-b.stop:
			return
		case <-time.After(2 * time.Millisecond):
		}
		b.client.Produce(context.Background(), &kgo.Record{Key: fmt.Append(nil, n%16), Value: fmt.Append(nil, n)}, func(_ *kgo.Record, err error) {
			if err != nil {
				b.mu.Lock()
				defer b.mu.Unlock()
				b.failed = append(b.failed, err.Error())
			}
		})
	}
}

func (b *busy) failures() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.failed
}

// Sessions of 1.5 s on a cluster that asks for Kerberos, while keys change, the KDC goes
// and comes back, and nothing fails.
func TestRealKerberos(t *testing.T) {
	const session = 1500 * time.Millisecond
	kdc := realparts.StartKDC(t)
	east := kdc.StartKerberosKafka(t, 256, session, "east")
	dir := t.TempDir()
	write := func(name, rest string) {
		text := "sasl:\n  mechanism: GSSAPI\n  krb5-conf: " + kdc.Conf + "\n" + rest
		require.NoError(t, os.WriteFile(filepath.Join(dir, name+".yaml"), []byte(text), 0o600))
	}
	keytab := filepath.Join(dir, "braid.keytab")
	kdc.Add(t, "braid", "")
	kdc.Keytab(t, "braid", filepath.Join(dir, "old.keytab"))
	kdc.Keytab(t, "braid", keytab)
	kdc.Add(t, "braid/host", brokerPassword)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "password"), []byte(brokerPassword), 0o600))
	write("kerberos", "  principal: braid@"+realparts.Realm+"\n  keytab-file: braid.keytab\n")
	write("fresh", "  principal: braid\n  keytab-file: braid.keytab\n")
	write("password", "  principal: braid/host\n  password-file: password\n")
	write("old", "  principal: braid\n  keytab-file: old.keytab\n")
	write("wrong", "  principal: braid\n  password-file: password\n")
	write("nobody", "  principal: nobody\n  password-file: password\n")
	write("service", "  principal: braid\n  keytab-file: braid.keytab\n  service-name: http\n")

	var logged vault
	f := embedded.New(t, embedded.Options{
		Logger: slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug})), Gateways: 1,
		Clusters:  []embedded.Cluster{{Name: "east", Seeds: []string{east.SASL}, SecurityProfile: "kerberos"}},
		Configure: func(c *process.Config, _ int) { c.Access.ClusterSecurityDir = dir },
	})
	ctx := t.Context()
	topics := adminv1connect.NewTopicServiceClient(f.Client, f.APIURL())
	clusters := adminv1connect.NewClusterServiceClient(f.Client, f.APIURL())
	_, err := topics.CreateTopic(ctx, &adminv1.CreateTopicRequest{TopicId: "orders", Topic: &adminv1.Topic{PartitionCount: 4, ReplicationFactor: 1}})
	require.NoError(t, err)
	producer := &busy{client: kafka(t, f, kgo.DefaultProduceTopic("orders")), stop: make(chan struct{}), sent: make(chan int, 1)}
	go producer.run()
	works := func(during time.Duration, why string) {
		t.Helper()
		require.Never(t, func() bool { return len(producer.failures()) > 0 }, during, 50*time.Millisecond, why)
	}
	update := func(profile string) error {
		_, err := clusters.UpdateCluster(ctx, &adminv1.UpdateClusterRequest{
			Cluster:    &adminv1.Cluster{Name: "physicalClusters/east", SecurityProfile: profile},
			UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"security_profile"}},
		})
		return err
	}
	for profile, why := range map[string]string{
		"old": "KDC_ERR_PREAUTH_FAILED (the keytab", "wrong": "KDC_ERR_PREAUTH_FAILED (the password",
		"nobody": "KDC_ERR_C_PRINCIPAL_UNKNOWN (it does not know nobody)", "service": "KDC_ERR_S_PRINCIPAL_UNKNOWN (it does not know http/HOST",
	} {
		err := update(profile)
		require.ErrorContains(t, err, `security profile "`+profile+`" (GSSAPI as "`)
		require.ErrorContains(t, err, why)
	}
	require.NoError(t, update("password"))
	require.NoError(t, update("kerberos"))

	// A new key.
	logins := kdc.Issued(t, "AS_REQ", "braid")
	kdc.Keytab(t, "braid", keytab)
	require.Eventually(t, func() bool { return kdc.Issued(t, "AS_REQ", "braid") > logins }, patience, 50*time.Millisecond, "a login with the new key")

	// Without the KDC, all goes on as long as tickets hold.
	logins = kdc.Issued(t, "AS_REQ", "braid")
	kdc.Kill()
	require.ErrorContains(t, update("fresh"), "the KDC of the realm "+realparts.Realm+" cannot be reached: connection refused")
	works(2*session, "sessions are renewed with the tickets that are there")
	kdc.Start(t)
	require.Eventually(t, func() bool { return update("fresh") == nil }, patience, 50*time.Millisecond)

	// A new key of the brokers: they cannot read the tickets that are there.
	kdc.RekeyBrokers(t)
	tickets := kdc.Issued(t, "TGS_REQ", "braid")
	require.Eventually(t, func() bool { return kdc.Issued(t, "TGS_REQ", "braid") > tickets }, patience, 50*time.Millisecond)
	works(2*session, "with the new key")

	close(producer.stop)
	sent := <-producer.sent
	flushing, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	require.NoError(t, producer.client.Flush(flushing))
	require.Empty(t, producer.failures())
	read := &seen{count: make(map[string]int)}
	read.join(t, f, "billing", "orders", func() {})
	require.Eventually(t, func() bool { return read.len() == sent }, patience, 50*time.Millisecond, "of %d", sent)
	require.Empty(t, read.twice())
	require.NotContains(t, logged.String(), brokerPassword)
	t.Logf("%d logins and %d tickets for %d records", kdc.Issued(t, "AS_REQ", "braid"), kdc.Issued(t, "TGS_REQ", "braid"), sent)
	require.Less(t, kdc.Issued(t, "AS_REQ", "braid"), logins+10)
}
