//go:build real

package matrix_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/gen/braid/admin/v1/adminv1connect"
	"github.com/braidmq/braid/test/sdk"
	"github.com/braidmq/braid/test/sdk/matrix"
)

const (
	// partitions is the size of the topics: several on each physical cluster.
	partitions = 6
	// keys is in how many keys records are written.
	keys = 17
	// patience bounds each wait.
	patience = 90 * time.Second
)

// produce has the client write, and another library read.
func (r *trial) produce(t *testing.T, _ string) { r.writes(t, matrix.Settings{}) }

func (r *trial) idempotence(t *testing.T, _ string) { r.writes(t, matrix.Settings{Idempotent: true}) }

// writes returns what the client has written into which topic, and what is stored.
func (r *trial) writes(t *testing.T, s matrix.Settings) (topic string, sent []sdk.Record) {
	t.Helper()
	const count = 600
	topic = r.newTopic(t)
	producer := r.start(t, "produce", s, topic, strconv.Itoa(count), strconv.Itoa(keys))
	producer.Finish()
	sent = producer.Records("sent")
	require.Len(t, sent, count)
	var stored []sdk.Record
	for _, k := range r.stored(t, topic, count) {
		stored = append(stored, record(k))
	}
	requireOnce(t, sent, stored)
	return topic, sent
}

func (r *trial) start(t *testing.T, command string, s matrix.Settings, args ...string) *sdk.Client {
	t.Helper()
	return r.program.Start(t, r.client.ID, r.bootstrap(), command, s, args...)
}

// consume has the client read and commit, in its default configuration.
func (r *trial) consume(t *testing.T, _ string) {
	topic := r.newTopic(t)
	want := r.fill(t, topic, 600)
	r.reads(t, matrix.Settings{}, topic, want)
}

func (r *trial) reads(t *testing.T, s matrix.Settings, topic string, want []sdk.Record) {
	t.Helper()
	group := "of-" + topic
	consumer := r.start(t, "consume", s, topic, group)
	sdk.Until(t, "all records", func() bool { return len(consumer.Records("record")) >= len(want) }, consumer)
	consumer.Stop()
	requireOnce(t, want, consumer.Records("record"))
	r.requireCommitted(t, group, topic, int64(len(want)))
}

// codecs are the numbers in a batch's attributes.
var codecs = map[string]uint8{"gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}

func (r *trial) codec(t *testing.T, name string) {
	s := matrix.Settings{Compression: name}
	topic, sent := r.writes(t, s)
	var compressed int
	for _, k := range r.stored(t, topic, len(sent)) {
		// A batch that would not be smaller may be left as it is.
		if codec := k.Attrs.CompressionType(); codec != 0 {
			require.Equal(t, codecs[name], codec)
			compressed++
		}
	}
	require.Positive(t, compressed, "records that are compressed")
	r.reads(t, matrix.Settings{}, topic, sent)
}

func settings(protocol string) matrix.Settings { return matrix.Settings{Newer: protocol == "KIP-848"} }

// group has two members, one of which leaves.
func (r *trial) group(t *testing.T, protocol string) {
	topic, s := r.newTopic(t), settings(protocol)
	group := "of-" + topic
	one := r.start(t, "consume", s, topic, group)
	two := r.start(t, "consume", s, topic, group)
	r.untilShared(t, group, 2, partitions, one, two)
	g := r.describe(t, group)
	for _, m := range g.GetMembers() {
		require.Len(t, m.GetPartitions(), partitions/2, "a fair share for %s", m.GetMemberId())
		require.Equal(t, map[bool]string{false: "kafka-classic", true: "kafka-consumer"}[s.Newer], m.GetProtocol())
	}
	want := r.fill(t, topic, 300)
	all := func() []sdk.Record { return append(one.Records("record"), two.Records("record")...) }
	sdk.Until(t, "all records of two members", func() bool { return len(all()) >= len(want) }, one, two)
	requireOnce(t, want, all())
	require.NotEmpty(t, one.Records("record"))
	require.NotEmpty(t, two.Records("record"))
	one.Stop()
	r.untilShared(t, group, 1, partitions, two)
	want = append(want, r.fillFrom(t, topic, 300, 100)...)
	sdk.Until(t, "all records of who stays", func() bool { return len(all()) >= len(want) }, two)
	requireOnce(t, want, all())
	two.Stop()
	r.requireCommitted(t, group, topic, int64(len(want)))
}

// static has a member stop and come back.
func (r *trial) static(t *testing.T, protocol string) {
	topic := r.newTopic(t)
	group := "of-" + topic
	member := func(instance string) *sdk.Client {
		s := settings(protocol)
		s.Instance = instance
		return r.start(t, "consume", s, topic, group)
	}
	one, two := member("one"), member("two")
	r.untilShared(t, group, 2, partitions, one, two)
	before := shares(r.describe(t, group))
	require.Len(t, before, 2, "two instances")
	// A member may be told of its share after the coordinator tells of it: when it reads, it has been.
	want := r.fill(t, topic, 100)
	stopped := one
	all := func() []sdk.Record { return append(stopped.Records("record"), two.Records("record")...) }
	sdk.Until(t, "all records", func() bool { return len(all()) >= len(want) }, stopped, two)
	noticed := func() int { return len(two.Has("assigned")) + len(two.Has("revoked")) }
	seen := noticed()
	stopped.Stop()
	one = member("one")
	// What is written now is read by both.
	want = append(want, r.fillFrom(t, topic, 100, 200)...)
	all = func() []sdk.Record {
		return slices.Concat(stopped.Records("record"), one.Records("record"), two.Records("record"))
	}
	sdk.Until(t, "all records of who stayed and who came back", func() bool { return len(all()) >= len(want) }, one, two)
	requireOnce(t, want, all())
	require.NotEmpty(t, one.Records("record"))
	require.Equal(t, before, shares(r.describe(t, group)), "each instance has its partitions again")
	require.Equal(t, seen, noticed(), "who stayed noticed nothing")
	one.Stop()
	two.Stop()
}

// shares are the partitions of each instance.
func shares(g *adminv1.Group) map[string][]string {
	all := make(map[string][]string)
	for _, m := range g.GetMembers() {
		all[m.GetInstanceId()] = slices.Sorted(slices.Values(m.GetPartitions()))
	}
	return all
}

// regex has topics that fit a pattern, and one that does not.
func (r *trial) regex(t *testing.T, protocol string) {
	base := r.name()
	var want []sdk.Record
	for i, name := range []string{base + "-a", base + "-b", "not-" + base + "-a"} {
		r.create(t, name)
		filled := r.fillFrom(t, name, i*100, 100)
		if i < 2 {
			want = append(want, filled...)
		}
	}
	group := "of-" + base
	consumer := r.start(t, "consume", settings(protocol), "^"+base+"-.*", group)
	sdk.Until(t, "the records of two topics", func() bool { return len(consumer.Records("record")) >= len(want) }, consumer)
	r.untilShared(t, group, 1, 2*partitions, consumer)
	consumer.Stop()
	requireValues(t, want, consumer.Records("record"))
}

// trySeek runs the program once; its cases are parts of what it prints.
func trySeek(t *testing.T, r *trial, cases []string, try func(name string, f func(t *testing.T))) {
	topic := r.newTopic(t)
	r.fill(t, topic, 300)
	var first, others []sdk.Record
	for _, k := range r.stored(t, topic, 300) {
		if k.Partition == 0 {
			first = append(first, record(k))
		} else {
			others = append(others, record(k))
		}
	}
	require.Greater(t, len(first), 3)
	client := r.start(t, "seek", matrix.Settings{}, topic, strconv.Itoa(len(first)), strconv.Itoa(len(others)))
	client.Finish()
	parts := [][]sdk.Record{nil}
	for _, e := range client.Events() {
		switch e.Kind {
		case "resumed", "sought":
			parts = append(parts, nil)
		case "record":
			offset, err := strconv.ParseInt(e.Fields[1], 10, 64)
			require.NoError(t, err)
			p, err := strconv.ParseInt(e.Fields[0], 10, 32)
			require.NoError(t, err)
			parts[len(parts)-1] = append(parts[len(parts)-1], sdk.Record{Partition: int32(p), Offset: offset, Key: e.Fields[2], Value: e.Fields[3]})
		}
	}
	require.Len(t, parts, 3)
	tries := map[string]func(t *testing.T){
		"pause":  func(t *testing.T) { requireOnce(t, others, parts[0]) },
		"resume": func(t *testing.T) { require.Equal(t, first, parts[1]) },
		"seek":   func(t *testing.T) { require.Equal(t, first[2:], parts[2]) },
	}
	for _, name := range cases {
		try(name, tries[name])
	}
}

// tryAdmin runs the program once; its cases are lines of what it prints.
func tryAdmin(t *testing.T, r *trial, cases []string, try func(name string, f func(t *testing.T))) {
	existing := r.newTopic(t)
	r.fill(t, existing, 200)
	client := r.start(t, "admin", matrix.Settings{}, r.name(), existing)
	client.Finish()
	expected := map[string][]string{
		"create": {"created", "true"}, "describe": {"described", "3 true"}, "configs": {"config", "3600000"}, "offsets": {"offsets", "0 200"}, "delete": {"deleted", "true"},
	}
	for _, name := range cases {
		try(name, func(t *testing.T) {
			want := expected[name]
			require.Len(t, client.Has(want[0]), 1)
			require.Equal(t, want[1], strings.ToLower(client.Has(want[0])[0]))
		})
	}
}

func (r *trial) transactions(t *testing.T, _ string) {
	topic := r.newTopic(t)
	begin := time.Now()
	client := r.start(t, "transaction", matrix.Settings{}, topic)
	client.Finish()
	require.Empty(t, client.Has("accepted"))
	require.Equal(t, []string{r.client.Refusal}, client.Has("refused"), "the error that braid gives on purpose")
	require.Less(t, time.Since(begin), 30*time.Second, "a refusal for good comes at once")
}

// bootstrap is what a user would configure: the name service's Kafka port.
func (f *federation) bootstrap() string { return f.NameServer.Kafka }

func (f *federation) client(t *testing.T, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	opts = append([]kgo.Opt{kgo.SeedBrokers(f.bootstrap())}, opts...)
	if f.secure != nil {
		opts = append(opts, f.secure.options()...)
	}
	client, err := kgo.NewClient(opts...)
	require.NoError(t, err)
	t.Cleanup(client.Close)
	return client
}

// fill writes records with another library than the one under test.
func (f *federation) fill(t *testing.T, topic string, count int) []sdk.Record {
	t.Helper()
	return f.fillFrom(t, topic, 0, count)
}

func (f *federation) fillFrom(t *testing.T, topic string, from, count int) (want []sdk.Record) {
	t.Helper()
	records := make([]*kgo.Record, count)
	for i := range records {
		records[i] = &kgo.Record{Topic: topic, Key: fmt.Appendf(nil, "k%d", (from+i)%keys), Value: fmt.Appendf(nil, "value-%d", from+i)}
		want = append(want, sdk.Record{Key: string(records[i].Key), Value: string(records[i].Value)})
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	client := f.client(t)
	defer client.Close()
	require.NoError(t, client.ProduceSync(ctx, records...).FirstErr())
	return want
}

// stored reads a topic with another library than the one under test.
func (f *federation) stored(t *testing.T, topic string, count int) []*kgo.Record {
	t.Helper()
	client := f.client(t, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var all []*kgo.Record
	for len(all) < count {
		fetches := client.PollFetches(ctx)
		require.NoError(t, fetches.Err(), "read %d of %d records", len(all), count)
		all = append(all, fetches.Records()...)
	}
	return all
}

func record(k *kgo.Record) sdk.Record {
	return sdk.Record{Partition: k.Partition, Offset: k.Offset, Key: string(k.Key), Value: string(k.Value)}
}

// describe is a group as braid's own API shows it: clients tell less, and each its own.
func (f *federation) describe(t *testing.T, group string) *adminv1.Group {
	t.Helper()
	resp, err := adminv1connect.NewGroupServiceClient(f.Client, f.API()).GetGroup(t.Context(), &adminv1.GetGroupRequest{Name: "logicalClusters/default/groups/" + group})
	if err != nil {
		return nil // not yet
	}
	return resp.GetGroup()
}

// untilShared waits until so many members have so many partitions together.
func (f *federation) untilShared(t *testing.T, group string, members, count int, clients ...*sdk.Client) {
	t.Helper()
	sdk.Until(t, fmt.Sprintf("%d partitions at %d members", count, members), func() bool {
		g := f.describe(t, group)
		if len(g.GetMembers()) != members {
			return false
		}
		all, least := 0, count
		for _, m := range g.GetMembers() {
			all += len(m.GetPartitions())
			least = min(least, len(m.GetPartitions()))
		}
		return all == count && least > 0
	}, clients...)
}

// requireCommitted checks that a group's committed offsets add up to count.
func (f *federation) requireCommitted(t *testing.T, group, topic string, count int64) {
	t.Helper()
	client := f.client(t)
	defer client.Close()
	var sum int64
	require.Eventually(t, func() bool {
		sum = 0
		offsets, err := kadm.NewClient(client).FetchOffsets(t.Context(), group)
		for _, o := range offsets[topic] {
			sum += max(o.At, 0)
		}
		return err == nil && sum == count
	}, 20*time.Second, 200*time.Millisecond, "the offsets that group %q committed add up to %d", group, count)
}

// requireOnce checks that got has each record of want once, in the order of its key.
func requireOnce(t *testing.T, want, got []sdk.Record) {
	t.Helper()
	requireValues(t, want, got)
	got = slices.Clone(got)
	slices.SortStableFunc(got, func(a, b sdk.Record) int {
		if a.Partition != b.Partition {
			return int(a.Partition - b.Partition)
		}
		return int(a.Offset - b.Offset)
	})
	require.Equal(t, perKey(want), perKey(got), "order of the keys")
}

func perKey(records []sdk.Record) map[string][]string {
	all := make(map[string][]string)
	for _, r := range records {
		all[r.Key] = append(all[r.Key], r.Value)
	}
	return all
}

func requireValues(t *testing.T, want, got []sdk.Record) {
	t.Helper()
	values := func(records []sdk.Record) []string {
		all := make([]string, len(records))
		for i, r := range records {
			all[i] = r.Value
		}
		slices.Sort(all)
		return all
	}
	require.Equal(t, values(want), values(got), "each record once")
}
