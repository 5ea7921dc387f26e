package embedded_test

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/braidmq/braid/internal/embedded"
)

func TestRedisKeepsItsDataOverARestart(t *testing.T) {
	dir := t.TempDir()
	first, err := embedded.StartRedis(net.Listen, dir)
	require.NoError(t, err)
	opts, err := redis.ParseURL(first.URL())
	require.NoError(t, err)
	client := redis.NewClient(opts)
	ctx := t.Context()
	binary := string([]byte{0, 255, 10, 200})
	require.NoError(t, client.Set(ctx, "string", binary, 0).Err())
	require.NoError(t, client.Set(ctx, "empty", "", 0).Err())
	require.NoError(t, client.Set(ctx, "lease", "me", time.Hour).Err())
	require.NoError(t, client.HSet(ctx, "hash", "field", binary).Err())
	require.NoError(t, client.RPush(ctx, "list", "1", "2", "3").Err())
	require.NoError(t, client.SAdd(ctx, "set", "x", "y").Err())
	require.NoError(t, client.ZAdd(ctx, "sorted", redis.Z{Score: 2.5, Member: "m"}).Err())
	require.NoError(t, client.Close())
	require.NoError(t, first.Close())

	second, err := embedded.StartRedis(net.Listen, dir)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, second.Close()) })
	opts, err = redis.ParseURL(second.URL())
	require.NoError(t, err)
	client = redis.NewClient(opts)
	t.Cleanup(func() { _ = client.Close() })
	require.Equal(t, binary, client.Get(ctx, "string").Val())
	require.NoError(t, client.Get(ctx, "empty").Err())
	require.Greater(t, client.TTL(ctx, "lease").Val(), 50*time.Minute)
	require.Equal(t, binary, client.HGet(ctx, "hash", "field").Val())
	require.Equal(t, []string{"1", "2", "3"}, client.LRange(ctx, "list", 0, -1).Val())
	require.ElementsMatch(t, []string{"x", "y"}, client.SMembers(ctx, "set").Val())
	require.InDelta(t, 2.5, client.ZScore(ctx, "sorted", "m").Val(), 0)
}

func TestRedisExpiresByTheClock(t *testing.T) {
	r, err := embedded.StartRedis(net.Listen, "")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	opts, err := redis.ParseURL(r.URL())
	require.NoError(t, err)
	client := redis.NewClient(opts)
	t.Cleanup(func() { _ = client.Close() })
	require.NoError(t, client.Set(t.Context(), "lease", "me", 30*time.Millisecond).Err())
	require.Eventually(t, func() bool { return client.Exists(t.Context(), "lease").Val() == 0 }, 10*time.Second, 5*time.Millisecond)
}

func TestKafkaKeepsItsDataItsIDAndItsPortsOverARestart(t *testing.T) {
	options := embedded.KafkaOptions{Name: "a", Brokers: 2, Dir: t.TempDir()}
	first, err := embedded.StartKafka(options)
	require.NoError(t, err)
	require.NoError(t, first.Fake.CreateTopic("t", 1, nil))
	produce(t, first.Seeds(), "kept")
	seeds := first.Seeds()
	first.Close()

	second, err := embedded.StartKafka(options)
	require.NoError(t, err)
	t.Cleanup(second.Close)
	require.Equal(t, seeds, second.Seeds())
	client, err := kgo.NewClient(kgo.SeedBrokers(seeds...), kgo.ConsumeTopics("t"))
	require.NoError(t, err)
	t.Cleanup(client.Close)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	records := client.PollFetches(ctx).Records()
	require.Len(t, records, 1)
	require.Equal(t, "kept", string(records[0].Value))
}

func produce(t *testing.T, seeds []string, value string) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(seeds...), kgo.DefaultProduceTopic("t"))
	require.NoError(t, err)
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	require.NoError(t, client.ProduceSync(ctx, kgo.StringRecord(value)).FirstErr())
}
