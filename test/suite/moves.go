package suite

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/test/check"
)

func (s *suite) moves() []test {
	return []test{
		{"a topic expands to a new cluster under traffic", s.testExpand},
		{"a partition moves back and forth under traffic", s.testBackAndForth},
		{"producers go on with their sequences", s.testSequencesAfterMove},
		{"a repeat is answered as its first try was", s.testRepeatsAfterMove},
		{"connections that break during a move", s.testCutsDuringMove},
		{"offsets are good after a move", s.testOffsetsAfterMove},
		{"a consumer that starts at the end during a move", s.testLatestDuringMove},
		{"told before, and refused with a reason", s.testMovePlans},
		{"below the first extent that is left", s.testBelowFirstExtent},
		{"a cluster is drained, restored, and removed", s.testDrain},
		{"what a move of many heads takes", s.testMoveFigures},
	}
}

// topicOn creates a topic that may use some physical clusters only.
func (s *suite) topicOn(t *testing.T, partitions int, clusters ...string) string {
	t.Helper()
	topic := name(t)
	s.w.MustBraid(t, "", "topic", "create", topic, "--partitions", strconv.Itoa(partitions), "--clusters", strings.Join(clusters, ","))
	return topic
}

// move moves partitions to a cluster and waits.
func (s *suite) move(t *testing.T, topic, to string, partitions ...int) {
	t.Helper()
	s.w.MustBraid(t, "", "topic", "move", topic, "--partitions", numbers(partitions), "--to", to)
}

// begin runs a command beside the test.
func (s *suite) begin(t *testing.T, args ...string) <-chan error {
	t.Helper()
	done := make(chan error, 1)
	ctx := call(t)
	go func() {
		_, stderr, err := s.w.Braid(ctx, "", args...)
		if err != nil {
			err = fmt.Errorf("braid %s: %w: %s", strings.Join(args, " "), err, stderr)
		}
		done <- err
	}()
	return done
}

func numbers(all []int) string {
	texts := make([]string, len(all))
	for i, n := range all {
		texts[i] = strconv.Itoa(n)
	}
	return strings.Join(texts, ",")
}

// heads returns the clusters of a topic's heads, by partition.
func (s *suite) heads(t *testing.T, topic string) []string {
	t.Helper()
	d := s.describe(t, topic)
	out := make([]string, len(d.Partitions))
	for _, p := range d.Partitions {
		for i, e := range p.Extents {
			want := "STATE_SEALED"
			if i == len(p.Extents)-1 {
				want = "STATE_OPEN"
			}
			require.Equal(t, want, e.State, "extent %d of partition %d", i, p.Partition)
		}
		out[p.Partition] = p.Extents[len(p.Extents)-1].PhysicalCluster
	}
	return out
}

// A reader reads a topic without a group.
type reader struct {
	done chan struct{}

	mu      sync.Mutex
	records []*kgo.Record
	errs    []error
}

func (s *suite) reader(t *testing.T, topic string, from kgo.Offset, opts ...kgo.Opt) *reader {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r := &reader{done: make(chan struct{})}
	if len(opts) == 0 {
		opts = []kgo.Opt{kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(from)}
	}
	client := s.client(t, opts...)
	go func() {
		defer close(r.done)
		for ctx.Err() == nil {
			fetches := client.PollFetches(ctx)
			r.mu.Lock()
			r.records = append(r.records, fetches.Records()...)
			for _, f := range fetches.Errors() {
				if !isContextError(f.Err) {
					r.errs = append(r.errs, fmt.Errorf("partition %d: %w", f.Partition, f.Err))
				}
			}
			r.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-r.done
	})
	return r
}

func (r *reader) see() (int, []*kgo.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return 0, slices.Clip(r.records)
}

func (r *reader) broken() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.errs) > 0 {
		return r.errs[0]
	}
	return nil
}

// A traffic is everything that clients do with a topic.
type traffic struct {
	s     *suite
	topic string
	load  *load
	alone *reader
	group []seer
}

// startTraffic starts producers of all kinds, a group of a Kafka and a Connect
// member, and a reader without a group.
func (s *suite) startTraffic(t *testing.T, topic string, partitions int) *traffic {
	t.Helper()
	group := name(t)
	kafka, member := s.member(t, group, topic), s.connectMember(t, s.w.Gateways[1].URL(), group, topic)
	shared(t, []int{partitions / 2, partitions / 2}, kafka, member)
	f := &traffic{s: s, topic: topic, group: []seer{kafka, member}, alone: s.reader(t, topic, kgo.NewOffset().AtStart())}
	f.load = s.startLoad(t, topic, 2, 20)
	f.load.add("leader", s.client(t, kgo.DefaultProduceTopic(topic), kgo.RequiredAcks(kgo.LeaderAck()), kgo.DisableIdempotentWrite()), 20)
	f.load.add("plain", s.client(t, kgo.DefaultProduceTopic(topic), kgo.DisableIdempotentWrite()), 20)
	f.load.addStream("stream", s, topic, 20)
	f.load.more(t, 200)
	return f
}

// end ends the producers, and checks that no client saw anything of the moves.
func (f *traffic) end(t *testing.T) {
	t.Helper()
	acked := f.load.end(t)
	log := f.s.read(t, f.topic, int(f.s.end(t, f.topic)))
	group := func() (all []*kgo.Record) {
		for _, m := range f.group {
			_, records := m.see()
			requireNoGaps(t, records)
			all = append(all, records...)
		}
		return all
	}
	eventually(t, func() bool {
		requireWhole(t, append(f.group, f.alone)...)
		_, alone := f.alone.see()
		return len(group()) >= len(log) && len(alone) >= len(log)
	}, "all readers have read all")
	_, alone := f.alone.see()
	requireNoGaps(t, alone)
	requireNoGaps(t, log)
	for _, reads := range [][]*kgo.Record{group(), alone} {
		require.Len(t, reads, len(log), "records read, each once")
		report := check.Audit(checkRecords(log), acked, checkRecords(reads))
		require.NoError(t, report.Err())
		require.Len(t, log, len(acked), "nothing but what was acknowledged is in the log")
	}
	t.Logf("%d records of producers of all kinds", len(acked))
}

// requireNoGaps requires that the offsets of each partition follow each other as
// they were read.
func requireNoGaps(t *testing.T, records []*kgo.Record) {
	t.Helper()
	next := make(map[int32]int64)
	for _, r := range records {
		if want, ok := next[r.Partition]; ok {
			require.Equal(t, want, r.Offset, "the next offset of partition %d", r.Partition)
		}
		next[r.Partition] = r.Offset + 1
	}
}

func checkRecords(records []*kgo.Record) []check.Record {
	out := make([]check.Record, len(records))
	for i, r := range records {
		out[i] = check.Record{Partition: r.Partition, Offset: r.Offset, Key: string(r.Key), Value: string(r.Value)}
	}
	return out
}

func (s *suite) testExpand(t *testing.T) {
	const partitions = 8
	topic := s.topic(t, partitions)
	f := s.startTraffic(t, topic, partitions)
	c := s.w.StartCluster("c")
	begin := time.Now()
	s.w.MustBraid(t, "", "cluster", "add", c.Name, "--seeds", strings.Join(c.Seeds, ","))
	added := time.Since(begin)
	s.w.MustBraid(t, "", "topic", "expand", topic)
	for p, cluster := range s.heads(t, topic) {
		if cluster == c.Name {
			first := check.Value{Producer: "first", Key: "k", Number: 1}
			send(t, s.client(t, kgo.RecordPartitioner(kgo.ManualPartitioner())), &kgo.Record{Topic: topic, Partition: int32(p), Key: []byte(first.Key), Value: []byte(first.String())})
			f.load.answer(first, time.Now(), nil)
			break
		}
	}
	t.Logf("a cluster is added after %d ms, and has its first record after %d ms", added.Milliseconds(), time.Since(begin).Milliseconds())
	f.load.more(t, 500)
	count := make(map[string]int)
	for _, cluster := range s.heads(t, topic) {
		count[cluster]++
	}
	require.GreaterOrEqual(t, count[c.Name], 2, "heads on the new cluster")
	require.Len(t, count, 3)
	f.end(t)
}

func (s *suite) testBackAndForth(t *testing.T) {
	a, b := s.w.Clusters[0].Name, s.w.Clusters[1].Name
	topic := s.topicOn(t, 2, a)
	f := s.startTraffic(t, topic, 2)
	for range 5 {
		for _, to := range []string{b, a} {
			s.move(t, topic, to, 0)
			f.load.more(t, 50)
		}
	}
	require.Equal(t, []string{a, a}, s.heads(t, topic))
	d := s.describe(t, topic)
	require.Len(t, d.Partitions[0].Extents, 11)
	require.Len(t, d.Partitions[1].Extents, 1)
	// No physical partition is used twice.
	seen := make(map[string]bool)
	for _, p := range d.Partitions {
		for _, e := range p.Extents {
			at := fmt.Sprint(e.PhysicalCluster, e.PhysicalTopic, e.PhysicalPartition)
			require.False(t, seen[at], "%s is used twice", at)
			seen[at] = true
		}
	}
	f.end(t)
}

// testSequencesAfterMove has a producer whose batches the next head does not have.
func (s *suite) testSequencesAfterMove(t *testing.T) {
	a, b := s.w.Clusters[0].Name, s.w.Clusters[1].Name
	topic := s.topicOn(t, 1, a)
	conn := dial(t, s.w.KafkaAddresses()[0])
	id, epoch := conn.initProducer()
	produce := func(epoch int16, sequence int32) int16 {
		spec := batchSpec{producerID: id, epoch: epoch, sequence: sequence, timestamp: time.Now().UnixMilli(), values: []string{"v"}}
		return conn.produce(topic, 0, -1, spec.encode()).ErrorCode
	}
	require.Zero(t, produce(epoch, 0))
	require.Zero(t, produce(epoch, 1))
	s.move(t, topic, b, 0)
	early := kerr.ErrorForCode(produce(epoch, 3))
	require.True(t, kerr.IsRetriable(early), "a batch before which one is missing is refused for now: %v", early)
	require.Zero(t, produce(epoch, 2))
	require.Zero(t, produce(epoch, 3))
	require.Equal(t, kerr.OutOfOrderSequenceNumber.Code, produce(epoch, 9))
	s.move(t, topic, a, 0)
	s.move(t, topic, b, 0) // it has written nothing to the head between
	require.Zero(t, produce(epoch, 4))
	s.move(t, topic, a, 0)
	require.Zero(t, produce(epoch+1, 0), "a new epoch begins at 0")
	require.Equal(t, kerr.InvalidProducerEpoch.Code, produce(epoch, 5), "the old epoch")
	s.move(t, topic, b, 0)
	require.Equal(t, kerr.InvalidProducerEpoch.Code, produce(epoch, 5), "the old epoch, at the next head")
	require.Zero(t, produce(epoch+1, 1))
	require.Equal(t, int64(7), s.end(t, topic))
}

// testRepeatsAfterMove repeats batches through every gateway when their answers
// could have been lost with the head.
func (s *suite) testRepeatsAfterMove(t *testing.T) {
	a, b := s.w.Clusters[0].Name, s.w.Clusters[1].Name
	topic := s.topicOn(t, 1, a)
	conn := dial(t, s.w.KafkaAddresses()[0])
	id, epoch := conn.initProducer()
	var batches [][]byte
	for i := range int32(5) {
		spec := batchSpec{producerID: id, epoch: epoch, sequence: 2 * i, timestamp: time.Now().UnixMilli(), values: []string{fmt.Sprint("a", i), fmt.Sprint("b", i)}}
		batches = append(batches, spec.encode())
	}
	repeat := func(count int) {
		t.Helper()
		for _, address := range s.w.KafkaAddresses() {
			again := dial(t, address)
			for i := range count {
				answer := again.produce(topic, 0, -1, batches[i])
				require.Zero(t, answer.ErrorCode, "batch %d: %v", i, kerr.ErrorForCode(answer.ErrorCode))
				require.Equal(t, int64(2*i), answer.BaseOffset, "batch %d", i)
			}
		}
	}
	for i := range 3 {
		require.Zero(t, conn.produce(topic, 0, -1, batches[i]).ErrorCode)
	}
	s.move(t, topic, b, 0)
	repeat(3)
	answer := conn.produce(topic, 0, -1, batches[3])
	require.Zero(t, answer.ErrorCode)
	require.Equal(t, int64(6), answer.BaseOffset)
	repeat(4)
	s.move(t, topic, a, 0)
	repeat(4)
	require.Zero(t, conn.produce(topic, 0, -1, batches[4]).ErrorCode)
	require.Equal(t, int64(10), s.end(t, topic))
	var values []string
	for _, r := range s.read(t, topic, 10) {
		values = append(values, string(r.Value))
	}
	require.Equal(t, []string{"a0", "b0", "a1", "b1", "a2", "b2", "a3", "b3", "a4", "b4"}, values)
}

// testCutsDuringMove breaks the producers' connections again and again while
// partitions move: answers are lost on both sides of the seals.
func (s *suite) testCutsDuringMove(t *testing.T) {
	const partitions = 4
	a, b := s.w.Clusters[0].Name, s.w.Clusters[1].Name
	topic := s.topicOn(t, partitions, a)
	var cut cutter
	l := s.startLoad(t, topic, 0, 20)
	for i := range 3 {
		l.add(fmt.Sprint("cut", i), s.client(t, kgo.DefaultProduceTopic(topic), cut.dialer(), kgo.RetryBackoffFn(func(int) time.Duration { return 5 * time.Millisecond })), 20)
	}
	l.more(t, 200)
	cuts := 0
	for _, to := range []string{b, a, b, a} {
		moved := s.begin(t, "topic", "move", topic, "--partitions", "0,1,2,3", "--to", to)
		for open := true; open; {
			select {
			case err := <-moved:
				require.NoError(t, err)
				open = false
			case <-time.After(15 * time.Millisecond):
				cuts += cut.all()
			}
		}
		l.more(t, 100)
	}
	require.NotZero(t, cuts)
	acked := l.end(t)
	s.audit(t, topic, acked)
	require.Equal(t, int64(len(acked)), s.end(t, topic), "records in the log; each was acknowledged")
	t.Logf("%d connections cut", cuts)
}

func (s *suite) testOffsetsAfterMove(t *testing.T) {
	a, b := s.w.Clusters[0].Name, s.w.Clusters[1].Name
	topic := s.topicOn(t, 1, a)
	client := s.client(t, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	// Three extents of ten records; the newest timestamp is in the middle one.
	var stamps []time.Time
	stamp := func() time.Time {
		at := time.Now().Truncate(time.Millisecond)
		if n := len(stamps); n == 15 {
			at = at.Add(30 * time.Minute)
		} else if n > 0 && n != 16 && !at.After(stamps[n-1]) {
			at = stamps[n-1].Add(time.Millisecond)
		}
		stamps = append(stamps, at)
		return at
	}
	commits := make(map[string]int64)
	for extent, to := range []string{b, a, ""} {
		for n := 10 * extent; n < 10*extent+10; n++ {
			send(t, client, &kgo.Record{Topic: topic, Timestamp: stamp(), Value: fmt.Append(nil, n)})
		}
		for _, at := range []int64{0, 5, 10} {
			group, offset := name(t), int64(10*extent)+at
			var o kadm.Offsets
			o.AddOffset(topic, 0, offset, -1)
			require.NoError(t, s.admin(t).CommitAllOffsets(call(t), group, o))
			commits[group] = offset
		}
		if to != "" {
			s.move(t, topic, to, 0)
		}
	}
	admin := s.admin(t)
	list := func(what string, f func(context.Context, ...string) (kadm.ListedOffsets, error)) kadm.ListedOffset {
		t.Helper()
		all, err := f(call(t), topic)
		require.NoError(t, err, what)
		o, ok := all.Lookup(topic, 0)
		require.True(t, ok, what)
		require.NoError(t, o.Err, what)
		return o
	}
	require.Equal(t, int64(0), list("earliest", admin.ListStartOffsets).Offset)
	require.Equal(t, int64(30), list("latest", admin.ListEndOffsets).Offset)
	require.Equal(t, int64(30), list("committed", admin.ListCommittedOffsets).Offset)
	newest := list("the newest timestamp", admin.ListMaxTimestampOffsets)
	require.Equal(t, int64(15), newest.Offset)
	require.Equal(t, stamps[15].UnixMilli(), newest.Timestamp)
	after := func(at time.Time) int64 {
		t.Helper()
		return list(at.String(), func(ctx context.Context, topics ...string) (kadm.ListedOffsets, error) {
			return admin.ListOffsetsAfterMilli(ctx, at.UnixMilli(), topics...)
		}).Offset
	}
	require.Equal(t, int64(0), after(stamps[0].Add(-time.Hour)))
	for _, n := range []int{0, 1, 9, 10, 14, 15} {
		require.Equal(t, int64(n), after(stamps[n]), "the first record from %d on", n)
	}
	require.Equal(t, int64(10), after(stamps[9].Add(time.Millisecond)), "between two extents")
	require.Equal(t, int64(15), after(stamps[29]), "the first that is as new, in offset order")
	require.Equal(t, int64(30), after(stamps[15].Add(time.Millisecond)), "the end, as kadm turns none into it")

	for group, offset := range commits {
		var first *kgo.Record
		consumer := s.client(t, kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NoResetOffset()))
		if offset == 30 {
			send(t, client, &kgo.Record{Topic: topic, Value: []byte("30")})
		}
		for first == nil {
			fetches := consumer.PollFetches(call(t))
			require.NoError(t, fetches.Err())
			if records := fetches.Records(); len(records) > 0 {
				first = records[0]
			}
		}
		require.Equal(t, offset, first.Offset, "the first record of the group that committed %d", offset)
		require.Equal(t, strconv.FormatInt(offset, 10), string(first.Value))
		consumer.Close()
	}
}

// testLatestDuringMove starts consumers at the end while the end moves.
func (s *suite) testLatestDuringMove(t *testing.T) {
	const partitions = 4
	a, b := s.w.Clusters[0].Name, s.w.Clusters[1].Name
	topic := s.topicOn(t, partitions, a)
	l := s.startLoad(t, topic, 2, 20)
	l.more(t, 200)
	var readers []*reader
	for _, to := range []string{b, a, b} {
		moved := s.begin(t, "topic", "move", topic, "--partitions", "0,1,2,3", "--to", to)
		for open := true; open; {
			if len(readers) < 12 {
				readers = append(readers, s.reader(t, topic, kgo.NewOffset().AtEnd()))
			}
			l.more(t, 20)
			select {
			case err := <-moved:
				require.NoError(t, err)
				open = false
			default:
			}
		}
		l.more(t, 100)
	}
	acked := l.end(t)
	s.audit(t, topic, acked)
	ends, err := s.admin(t).ListEndOffsets(call(t), topic)
	require.NoError(t, err)
	for i, r := range readers {
		eventually(t, func() bool {
			require.NoError(t, r.broken(), "reader %d", i)
			_, records := r.see()
			requireNoGaps(t, records)
			last := make(map[int32]int64)
			for _, k := range records {
				last[k.Partition] = k.Offset
			}
			for p := range int32(partitions) {
				if end, _ := ends.Lookup(topic, p); last[p] != end.Offset-1 {
					return false
				}
			}
			return true
		}, "reader %d is at the end", i)
	}
	t.Logf("%d consumers began at the end", len(readers))
}

// testMovePlans asks what would be done, and for what cannot be done.
func (s *suite) testMovePlans(t *testing.T) {
	a, b := s.w.Clusters[0].Name, s.w.Clusters[1].Name
	topic := s.topicOn(t, 4, a)
	before := s.describe(t, topic)
	plan := s.w.MustBraid(t, "", "topic", "expand", topic, "--to", b, "--validate-only")
	require.Equal(t, 2, strings.Count(plan, a+" -> "+b), plan)
	plan = s.w.MustBraid(t, "", "topic", "move", topic, "--partitions", "1,3", "--to", b, "--validate-only")
	require.Equal(t, fmt.Sprintf("%[1]s-1: %[2]s -> %[3]s\n%[1]s-3: %[2]s -> %[3]s\n", topic, a, b), plan)
	require.Equal(t, before, s.describe(t, topic), "nothing has changed")

	refused := func(words []string, args ...string) {
		t.Helper()
		for _, validate := range []bool{true, false} {
			command := args
			if validate {
				command = append(slices.Clone(args), "--validate-only")
			}
			out, stderr, err := s.w.Braid(call(t), "", command...)
			require.Error(t, err, "braid %v: %s", command, out)
			for _, w := range words {
				require.Contains(t, stderr, w, "braid %v", command)
			}
		}
	}
	refused([]string{"nowhere"}, "topic", "expand", topic, "--to", "nowhere")
	refused([]string{"nowhere"}, "topic", "move", topic, "--partitions", "0", "--to", "nowhere")
	refused([]string{"no-such-topic"}, "topic", "expand", "no-such-topic")
	refused([]string{topic, "7", "12"}, "topic", "move", topic, "--partitions", "0,7,12", "--to", b)
	refused([]string{"nowhere"}, "cluster", "drain", "nowhere")
	refused([]string{a, topic, "limited"}, "cluster", "drain", a)
	if !s.w.Real { // whose clusters have one broker each
		const large = "large"
		fake, err := kfake.NewCluster(kfake.NumBrokers(3))
		require.NoError(t, err)
		defer fake.Close()
		s.w.MustBraid(t, "", "cluster", "add", large, "--seeds", strings.Join(fake.ListenAddrs(), ","))
		wide := name(t) + "-wide"
		s.w.MustBraid(t, "", "topic", "create", wide, "--partitions", "2", "--replication", "2", "--clusters", large)
		refused([]string{wide, a, "2 replicas", "1 brokers"}, "topic", "expand", wide, "--to", a)
		refused([]string{wide, a, "2 replicas", "1 brokers"}, "topic", "move", wide, "--partitions", "1", "--to", a)
		s.w.MustBraid(t, "", "topic", "delete", wide)
		s.w.MustBraid(t, "", "cluster", "remove", large)
	}
	require.Equal(t, before, s.describe(t, topic), "nothing has changed")
	require.Equal(t, "active", s.clusterState(t, a), "a drain that was refused")

	// What lies where it is to lie is no error and no change.
	s.move(t, topic, a, 0, 1)
	require.Equal(t, []string{a, a, a, a}, s.heads(t, topic))
	s.w.MustBraid(t, "", "topic", "delete", topic)
}

func (s *suite) clusterState(t *testing.T, name string) string {
	t.Helper()
	var c struct{ State string }
	out := s.w.MustBraid(t, "", "cluster", "describe", name, "-o", "json")
	require.NoError(t, json.Unmarshal([]byte(out), &c), out)
	return strings.ToLower(strings.TrimPrefix(c.State, "STATE_"))
}

func (s *suite) testDrain(t *testing.T) {
	const partitions = 6
	a, d := s.w.Clusters[0].Name, "d"
	s.w.AddCluster(d)
	topic := s.topicOn(t, partitions, a, d)
	f := s.startTraffic(t, topic, partitions)
	require.Contains(t, s.heads(t, topic), d)
	plan := s.w.MustBraid(t, "", "cluster", "drain", d, "--validate-only")
	require.Equal(t, partitions/2, strings.Count(plan, topic+"-"), plan)
	require.Equal(t, "active", s.clusterState(t, d))
	refused := func() {
		t.Helper()
		_, stderr, err := s.w.Braid(call(t), "", "cluster", "remove", d)
		require.Error(t, err, "a cluster that holds data can't be removed")
		require.Contains(t, stderr, d)
		require.Contains(t, stderr, topic)
	}
	refused()

	s.w.MustBraid(t, "", "cluster", "drain", d)
	require.Equal(t, "draining", s.clusterState(t, d))
	require.Equal(t, slices.Repeat([]string{a}, partitions), s.heads(t, topic))
	f.load.more(t, 200)
	refused()
	s.w.MustBraid(t, "", "cluster", "drain", d) // there is nothing left to do
	other := s.topic(t, 12)
	require.NotContains(t, s.heads(t, other), d, "a draining cluster takes no heads")
	_, stderr, err := s.w.Braid(call(t), "", "topic", "move", other, "--partitions", "0", "--to", d)
	require.Error(t, err, "nor is one moved there")
	require.Contains(t, stderr, d)

	s.w.MustBraid(t, "", "cluster", "restore", d)
	require.Equal(t, "active", s.clusterState(t, d))
	s.w.MustBraid(t, "", "topic", "expand", topic)
	count := 0
	for _, c := range s.heads(t, topic) {
		if c == d {
			count++
		}
	}
	require.Equal(t, partitions/2, count, "heads that came back")
	f.load.more(t, 200)
	f.end(t)

	s.w.MustBraid(t, "", "cluster", "drain", d)
	for _, gone := range []string{topic, other} {
		s.w.MustBraid(t, "", "topic", "delete", gone)
	}
	s.w.RemoveCluster(d)
	require.NotContains(t, s.w.MustBraid(t, "", "cluster", "list"), "\n"+d+" ")
	s.requireAlive(t)
}

// testMoveFigures measures a move of many heads under load, as clients see it.
func (s *suite) testMoveFigures(t *testing.T) {
	const heads = 96
	a, b := s.w.Clusters[0].Name, s.w.Clusters[1].Name
	topic := s.topicOn(t, 2*heads, a)
	l := s.startLoad(t, topic, 2, 500)
	l.addStream("stream", s, topic, 500)
	l.more(t, 3000)
	begin := time.Now()
	id := strings.TrimSpace(s.w.MustBraid(t, "", "topic", "expand", topic, "--to", b, "--no-wait"))
	var steps []string
	sealing := begin
	op := s.watch(t, "operations/"+id, "is done", func(op *adminv1.Operation) bool {
		if all := op.GetSteps(); len(all) > 0 {
			if name := all[len(all)-1].GetName(); len(steps) == 0 || !strings.HasPrefix(steps[len(steps)-1], name+" ") {
				sealing = time.Now()
				steps = append(steps, fmt.Sprintf("%s after %d ms", name, time.Since(begin).Milliseconds()))
			}
		}
		return op.GetDone()
	})
	require.Zero(t, op.GetErrorCode(), op.GetErrorMessage())
	end := time.Now()
	l.more(t, 3000)
	count := 0
	for _, c := range s.heads(t, topic) {
		if c == b {
			count++
		}
	}
	require.Equal(t, heads, count)
	s.audit(t, topic, l.end(t))
	t.Logf("%d heads moved in %d ms, %.0f a second: %s", heads, end.Sub(begin).Milliseconds(), heads/end.Sub(begin).Seconds(), strings.Join(steps, ", "))
	for _, x := range []struct {
		what     string
		from, to time.Time
	}{
		{"while nothing moved", end, time.Now()},
		{"while partitions were made and primed", begin, sealing},
		{"while heads were sealed and opened", sealing, end},
	} {
		t.Logf("produce latency %s: %s", x.what, latencies(l.took, func(r latency) bool {
			return r.at.After(x.from) && r.at.Add(-r.took).Before(x.to) && (x.from != end || r.at.Add(-r.took).After(end))
		}))
	}
}

// latencies sums up those that are asked for.
func latencies(all []latency, which func(latency) bool) string {
	var took []time.Duration
	for _, x := range all {
		if which(x) {
			took = append(took, x.took)
		}
	}
	if len(took) == 0 {
		return "none"
	}
	slices.Sort(took)
	at := func(q float64) time.Duration { return took[int(q*float64(len(took)-1))].Round(100 * time.Microsecond) }
	return fmt.Sprintf("p50 %s, p99 %s, max %s, of %d records", at(0.5), at(0.99), at(1), len(took))
}
