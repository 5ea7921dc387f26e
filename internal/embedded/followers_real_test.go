//go:build real

package embedded_test

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/gen/braid/admin/v1/adminv1connect"
	"github.com/braidmq/braid/internal/embedded"
	"github.com/braidmq/braid/internal/process"
	"github.com/braidmq/braid/test/realparts"
)

const followedTopic, followedPartitions = "orders", 4

// A counting reader reads all partitions from the start and checks that each has the
// records of the numbering writer once and in order.
type counting struct {
	read atomic.Int64
	err  atomic.Pointer[error]
	done chan struct{}
}

// count starts a reader.
func count(t *testing.T, f *embedded.Federation) *counting {
	t.Helper()
	from := make(map[int32]kgo.Offset)
	for p := range int32(followedPartitions) {
		from[p] = kgo.NewOffset().AtStart()
	}
	client := kafka(t, f, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{followedTopic: from}), kgo.FetchMaxWait(500*time.Millisecond))
	ctx, cancel := context.WithCancel(t.Context())
	c := &counting{done: make(chan struct{})}
	t.Cleanup(func() { cancel(); <-c.done })
	go func() {
		defer close(c.done)
		var next [followedPartitions]int64
		for ctx.Err() == nil {
			fetches := client.PollFetches(ctx)
			fetches.EachError(func(topic string, p int32, err error) {
				if ctx.Err() == nil {
					err = fmt.Errorf("%s-%d: %w", topic, p, err)
					c.err.CompareAndSwap(nil, &err)
				}
			})
			fetches.EachRecord(func(r *kgo.Record) {
				if want := strconv.FormatInt(next[r.Partition], 10); string(r.Key) != want || r.Offset != next[r.Partition] {
					err := fmt.Errorf("partition %d has record %s at offset %d, after %d records", r.Partition, r.Key, r.Offset, next[r.Partition])
					c.err.CompareAndSwap(nil, &err)
				}
				next[r.Partition]++
				c.read.Add(1)
			})
		}
	}()
	return c
}

// await waits until a reader has read n records without an error, and returns how long
// that took.
func (c *counting) await(t *testing.T, n int64, most time.Duration) time.Duration {
	t.Helper()
	begin := time.Now()
	for c.read.Load() < n {
		if err := c.err.Load(); err != nil {
			t.Fatalf("a reader: %v", *err)
		}
		require.Less(t, time.Since(begin), most, "%d of %d records are read", c.read.Load(), n)
		realPause(t, 5*time.Millisecond)
	}
	if err := c.err.Load(); err != nil {
		t.Fatalf("a reader: %v", *err)
	}
	return time.Since(begin)
}

func realPause(t *testing.T, d time.Duration) {
	t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
	}
}

// metricOf returns a metric of a gateway.
func metricOf(t *testing.T, f *embedded.Federation, name string) int64 {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+f.Gateway(0).OpsAddress()+"/metrics", nil)
	require.NoError(t, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	for s := bufio.NewScanner(resp.Body); s.Scan(); {
		if rest, ok := strings.CutPrefix(s.Text(), name); ok && (rest[0] == ' ' || rest[0] == '{') {
			v, err := strconv.ParseFloat(rest[strings.LastIndexByte(rest, ' ')+1:], 64)
			require.NoError(t, err)
			return int64(v)
		}
	}
	t.Fatalf("there is no metric %s", name)
	return 0
}

const (
	leaderBytes   = "braid_router_read_leader_bytes_total"
	followerBytes = "braid_router_read_follower_bytes_total"
)

// numbering writes records whose keys number those of their partition, n to each at a time.
type numbering struct {
	client *kgo.Client
	next   int64
}

func (n *numbering) write(t *testing.T, each int) (total int64) {
	t.Helper()
	var records []*kgo.Record
	for range each {
		for p := range int32(followedPartitions) {
			records = append(records, &kgo.Record{Topic: followedTopic, Partition: p, Key: strconv.AppendInt(nil, n.next, 10), Value: make([]byte, 1000)})
		}
		n.next++
	}
	require.NoError(t, n.client.ProduceSync(t.Context(), records...).FirstErr())
	return n.next * followedPartitions
}

// onBroker puts the leaders of the physical topic on the first broker.
func onBroker(t *testing.T, k *realparts.Kafka, topic string) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(k.Seed), kgo.MetadataMinAge(10*time.Millisecond))
	require.NoError(t, err)
	defer cl.Close()
	admin := kadm.NewClient(cl)
	var req kadm.AlterPartitionAssignmentsReq
	set := make(kadm.TopicsSet)
	for p := range int32(followedPartitions) {
		req.Assign(topic, p, []int32{1, 2})
		set.Add(topic, p)
	}
	_, err = admin.AlterPartitionAssignments(t.Context(), req)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		_, _ = admin.ElectLeaders(t.Context(), kadm.ElectPreferredReplica, set)
		topics, err := admin.ListTopics(t.Context(), topic)
		if err != nil || len(topics[topic].Partitions) != followedPartitions {
			return false
		}
		return !slices.ContainsFunc(topics[topic].Partitions.Sorted(), func(p kadm.PartitionDetail) bool { return p.Leader != 1 || len(p.ISR) != 2 })
	}, 20*time.Second, 50*time.Millisecond)
}

// A gateway in zone z2 of a cluster whose leaders are all in z1 reads from the broker in z2:
// from the start and at the tail. The broker dies and comes back, and the heads leave the
// cluster; its readers have each record once and in order, and no error.
func TestRealFollowerInTheZone(t *testing.T) {
	east := realparts.StartKafkaInRacks(t, 256, "east", "z1", "z2")
	f := embedded.New(t, embedded.Options{
		Clusters: []embedded.Cluster{{Name: "east", Seeds: []string{east[0].Seed, east[1].Seed}}},
		Configure: func(c *process.Config, _ int) {
			if c.Role == process.Gateway {
				c.Zone, c.OpsListen = "z2", "127.0.0.1:0"
				c.Upstream.FollowerLease, c.Upstream.FollowerRest, c.Upstream.MetadataMaxAge = 2*time.Second, time.Second, time.Second
			}
		},
	})
	ctx := t.Context()
	topics := adminv1connect.NewTopicServiceClient(f.Client, f.APIURL())
	_, err := topics.CreateTopic(ctx, &adminv1.CreateTopicRequest{TopicId: followedTopic, Topic: &adminv1.Topic{PartitionCount: followedPartitions, ReplicationFactor: 2}})
	require.NoError(t, err)
	const physicalTopic = "default." + followedTopic + ".1"
	onBroker(t, east[0], physicalTopic)

	writer := &numbering{client: kafka(t, f, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(kgo.NoCompression()))}
	written := writer.write(t, 500)
	tail := count(t, f)
	tail.await(t, written, 20*time.Second)
	var late []time.Duration // after the acknowledgement
	for range 30 {
		written = writer.write(t, 1)
		late = append(late, tail.await(t, written, 5*time.Second))
	}
	slices.Sort(late)
	again := count(t, f)
	again.await(t, written, 20*time.Second)
	fromLeader, fromFollower := metricOf(t, f, leaderBytes), metricOf(t, f, followerBytes)
	require.Zero(t, fromLeader)
	require.Greater(t, fromFollower, written*1000)
	require.Zero(t, east[0].BytesOut(t, physicalTopic))
	require.GreaterOrEqual(t, east[1].BytesOut(t, physicalTopic), fromFollower)
	t.Logf("%d bytes from the follower, none from the leader; at the tail, records came %v after their acknowledgement in the median, %v at the latest", fromFollower, late[len(late)/2], late[len(late)-1])

	east[1].Kill()
	took := count(t, f).await(t, written, 10*time.Second)
	written = writer.write(t, 50) // is acknowledged when the leader misses its follower
	toTail := tail.await(t, written, 10*time.Second)
	require.Positive(t, metricOf(t, f, leaderBytes))
	t.Logf("without the follower, %d records were read in %v; those behind the tail after %v", written-4*50, took, toTail)

	east[1].Restart(t)
	fromFollower = metricOf(t, f, followerBytes)
	require.Eventually(t, func() bool {
		count(t, f).await(t, written, 10*time.Second)
		return metricOf(t, f, followerBytes) > fromFollower
	}, 30*time.Second, 500*time.Millisecond)
	written = writer.write(t, 50)
	tail.await(t, written, 10*time.Second)

	west, err := f.StartCluster(embedded.Cluster{Name: "west"})
	require.NoError(t, err)
	clusters := adminv1connect.NewClusterServiceClient(f.Client, f.APIURL())
	_, err = clusters.CreateCluster(ctx, &adminv1.CreateClusterRequest{Cluster: &adminv1.Cluster{Name: "physicalClusters/west", Bootstrap: west.Seeds}})
	require.NoError(t, err)
	moved := make(chan error, 1)
	go func() {
		_, err := topics.MovePartitions(ctx, &adminv1.MovePartitionsRequest{Name: "logicalClusters/default/topics/" + followedTopic, Partitions: []int32{0, 1, 2, 3}, PhysicalCluster: "west"})
		moved <- err
	}()
	for done := false; !done; {
		select {
		case err := <-moved:
			require.NoError(t, err)
			done = true
		default:
		}
		written = writer.write(t, 5)
	}
	written = writer.write(t, 50)
	tail.await(t, written, 10*time.Second)
	count(t, f).await(t, written, 20*time.Second)
}
