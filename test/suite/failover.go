package suite

import (
	"cmp"
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
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"

	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	braidv1 "github.com/braidmq/braid/gen/braid/v1"
	"github.com/braidmq/braid/gen/braid/v1/braidv1connect"
	"github.com/braidmq/braid/test/check"
	"github.com/braidmq/braid/test/world"
)

const (
	failing           = "failing" // the cluster that fails
	failingPartitions = 6
	// behindGap is below all offsets behind a failover.
	behindGap = 1e12
)

// A failingTopic is one of which a half of the heads lie on the cluster that fails, with
// everything that clients do with it.
type failingTopic struct {
	s     *suite
	topic string
	waits bool
	load  *load
	plain *load // of a producer that is not idempotent
	alone *reader
	group []seer
	gone  []int32 // partitions whose heads lie on the cluster
	at    *kgo.Client
	// late is a batch that comes again when the cluster is back, and lateAt its first offset.
	late   *braidv1.ProduceBatchRequest
	lateAt int64
}

// A failure is a cluster that fails, and the topics.
type failure struct {
	s       *suite
	cluster world.Cluster
	skip    *failingTopic
	wait    *failingTopic
	unread  *failingTopic // nobody reads it
}

func (f *failure) topics() []*failingTopic { return []*failingTopic{f.skip, f.wait, f.unread} }

// startFailure starts the cluster, and topics with traffic.
func (s *suite) startFailure(t *testing.T) *failure {
	t.Helper()
	f := &failure{s: s, cluster: s.w.AddCluster(failing)}
	f.skip = s.startFailingTopic(t, "skip", true)
	f.wait = s.startFailingTopic(t, "wait", true, "--config", "braid.failover.read=wait")
	f.unread = s.startFailingTopic(t, "unread", false)
	f.more(t, 300)
	for _, x := range f.topics() {
		x.startLate(t)
	}
	return f
}

// startLate writes a batch to the cluster, by a producer that has no answer as far as it
// knows.
func (f *failingTopic) startLate(t *testing.T) {
	t.Helper()
	api := braidv1connect.NewProducerServiceClient(f.s.w.Client, f.s.w.Gateways[0].URL())
	init, err := api.InitProducer(call(t), &braidv1.InitProducerRequest{})
	require.NoError(t, err)
	v := check.Value{Producer: "late", Key: "late", Number: 1}
	f.late = &braidv1.ProduceBatchRequest{
		Producer:  init.GetProducer(),
		Batch:     &braidv1.ProduceFrame{BatchSeq: 1, Topic: f.topic, Partition: &f.gone[0], Records: []*braidv1.Record{{Key: []byte(v.Key), Value: []byte(v.String())}}},
		Sequences: []*braidv1.PartitionSequence{{Topic: f.topic, Partition: f.gone[0], NextSequence: 0}},
	}
	response, err := api.ProduceBatch(call(t), f.late)
	require.NoError(t, err)
	require.Nil(t, response.GetAck().GetResults()[0].GetFailure())
	f.lateAt = response.GetAck().GetResults()[0].GetBaseOffset()
	f.load.answer(v, time.Now(), nil)
}

// comesLate sends that batch again, through every gateway: it is there already, also where
// its cluster failed and came back in between. The audit finds it once.
func (f *failingTopic) comesLate(t *testing.T) {
	t.Helper()
	for _, g := range f.s.w.Gateways {
		response, err := braidv1connect.NewProducerServiceClient(f.s.w.Client, g.URL()).ProduceBatch(call(t), f.late)
		require.NoError(t, err)
		result := response.GetAck().GetResults()[0]
		require.Nil(t, result.GetFailure())
		if f.waits {
			require.Equal(t, f.lateAt, result.GetBaseOffset(), "it is where it was")
		}
	}
}

func (s *suite) startFailingTopic(t *testing.T, kind string, read bool, args ...string) *failingTopic {
	t.Helper()
	f := &failingTopic{s: s, topic: kind + "-" + name(t), waits: kind == "wait"}
	s.w.MustBraid(t, "", append([]string{"topic", "create", f.topic, "--partitions", strconv.Itoa(failingPartitions), "--clusters", failing + "," + s.w.Clusters[1].Name}, args...)...)
	for p, c := range s.heads(t, f.topic) {
		if c == failing {
			f.gone = append(f.gone, int32(p))
		}
	}
	require.Len(t, f.gone, failingPartitions/2)
	if read {
		group := f.topic
		kafka, member := s.member(t, group, f.topic), s.connectMember(t, s.w.Gateways[1].URL(), group, f.topic)
		shared(t, []int{failingPartitions / 2, failingPartitions / 2}, kafka, member)
		f.group, f.alone = []seer{kafka, member}, s.reader(t, f.topic, kgo.NewOffset().AtStart())
	}
	f.load = s.startLoad(t, f.topic, 2, 20)
	f.load.addStream("stream", s, f.topic, 20)
	f.plain = s.startLoad(t, f.topic, 0, 0)
	f.plain.add("plain", s.client(t, kgo.DefaultProduceTopic(f.topic), kgo.DisableIdempotentWrite(), kgo.RecordRetries(0)), 20)
	f.at = s.client(t, kgo.DefaultProduceTopic(f.topic), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	return f
}

func (f *failure) more(t *testing.T, n int) {
	t.Helper()
	for _, x := range f.topics() {
		x.load.more(t, n)
	}
}

// probe writes a record to each partition whose head lay on the cluster. Each is
// acknowledged, at the latest when that partition goes on elsewhere; first returns when the
// first one was.
func (f *failingTopic) probe(what string) (first func() time.Time, all func()) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var at time.Time
	for _, p := range f.gone {
		v, begin := check.Value{Producer: "probe-" + what, Key: fmt.Sprint("probe", p), Number: 1}, time.Now()
		wg.Add(1)
		f.at.Produce(context.WithoutCancel(f.load.ctx), &kgo.Record{Partition: p, Key: []byte(v.Key), Value: []byte(v.String())}, func(_ *kgo.Record, err error) {
			defer wg.Done()
			f.load.answer(v, begin, err)
			mu.Lock()
			defer mu.Unlock()
			if at.IsZero() {
				at = time.Now()
			}
		})
	}
	return func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		return at
	}, wg.Wait
}

// states counts the extents of the cluster by their states.
func (f *failure) states(t *testing.T) map[string]int {
	t.Helper()
	out := make(map[string]int)
	for _, x := range f.topics() {
		for _, p := range f.s.describe(t, x.topic).Partitions {
			for _, e := range p.Extents {
				if e.PhysicalCluster == failing {
					out[e.State]++
				}
			}
		}
	}
	return out
}

// goesOn waits until all topics take records on all partitions, and readers that skip
// have some.
func (f *failure) goesOn(t *testing.T) {
	t.Helper()
	f.more(t, 300)
	eventually(t, func() bool {
		requireWhole(t, append(f.skip.group, f.skip.alone)...)
		behind := make(map[int32]bool)
		for _, m := range f.skip.group {
			_, records := m.see()
			for _, r := range records {
				if r.Offset >= behindGap {
					behind[r.Partition] = true
				}
			}
		}
		return len(behind) == len(f.skip.gone)
	}, "the group goes on behind the gap")
	for _, m := range append(f.wait.group, f.wait.alone) {
		require.NoError(t, m.broken(), "to wait is no error")
		_, records := m.see()
		for _, r := range records {
			require.Less(t, r.Offset, int64(behindGap), "readers wait")
		}
	}
}

// backAgain waits until the controller finds that the cluster answers.
func (f *failure) backAgain(t *testing.T) {
	t.Helper()
	eventually(t, func() bool {
		var c struct{ Healthy bool }
		out := f.s.w.MustBraid(t, "", "cluster", "describe", failing, "-o", "json")
		require.NoError(t, json.Unmarshal([]byte(out), &c), out)
		return c.Healthy
	}, "the cluster answers")
}

// end ends the traffic, audits the topics, and takes the cluster away.
func (f *failure) end(t *testing.T) {
	t.Helper()
	require.Equal(t, "active", f.s.clusterState(t, failing))
	f.more(t, 100)
	f.s.logRestores(t)
	for _, x := range f.topics() {
		x.comesLate(t)
	}
	for _, x := range f.topics() {
		x.end(t)
	}
	for _, x := range f.topics() {
		f.s.w.MustBraid(t, "", "topic", "delete", x.topic)
	}
	f.s.w.RemoveCluster(failing)
}

// logRestores tells what the restores did.
func (s *suite) logRestores(t *testing.T) {
	t.Helper()
	list, err := s.operations().ListOperations(call(t), &adminv1.ListOperationsRequest{PageSize: 20})
	require.NoError(t, err)
	for _, op := range list.GetOperations() {
		if op.GetKind() != "restore-cluster" {
			continue
		}
		for _, step := range op.GetSteps() {
			t.Logf("%s: %s: %s", op.GetName(), step.GetName(), step.GetDetail())
		}
	}
}

func (f *failingTopic) end(t *testing.T) {
	t.Helper()
	_, all := f.probe("last")
	for p := range int32(failingPartitions) { // so that the last record of each partition is one
		if !slices.Contains(f.gone, p) {
			v := check.Value{Producer: "last", Key: fmt.Sprint("last", p), Number: 1}
			send(t, f.at, &kgo.Record{Topic: f.topic, Partition: p, Key: []byte(v.Key), Value: []byte(v.String())})
			f.load.answer(v, time.Now(), nil)
		}
	}
	all()
	acked := f.load.end(t)
	f.plain.stop()
	f.plain.wg.Wait()
	for p := range int32(failingPartitions) {
		v := check.Value{Producer: "end", Key: fmt.Sprint("end", p), Number: 1}
		send(t, f.at, &kgo.Record{Topic: f.topic, Partition: p, Key: []byte(v.Key), Value: []byte(v.String())})
		acked = append(acked, v)
	}
	log := f.s.readAll(t, f.topic)
	plainInLog := make(map[string]int)
	var records, inOrder []check.Record
	copied := 0
	for _, r := range log {
		if strings.HasPrefix(string(r.Value), "plain/") {
			plainInLog[string(r.Value)]++
			continue
		}
		x := check.Record{Partition: r.Partition, Offset: r.Offset, Key: string(r.Key), Value: string(r.Value)}
		records = append(records, x)
		if slices.ContainsFunc(r.Headers, func(h kgo.RecordHeader) bool { return h.Key == "braid.failover.offset" }) {
			copied++
			continue
		}
		inOrder = append(inOrder, x)
	}
	report := check.Audit(records, acked, nil)
	t.Logf("%s: %s; %d appended again", f.topic, report, copied)
	require.Zero(t, report.Lost, "%v", report.Err())
	require.Zero(t, report.Double, "%v", report.Err())
	require.Zero(t, report.Torn, "%v", report.Err())
	require.Zero(t, report.UnacknowledgedButInLog, "every record was acknowledged in the end")
	if f.waits {
		require.Zero(t, copied)
	}
	require.Zero(t, check.Audit(inOrder, nil, nil).Disorder, "%v", report.Err())
	lost := 0
	for _, v := range f.plain.acked {
		if plainInLog[v.String()] == 0 {
			lost++
		}
	}
	require.Zero(t, lost, "acknowledged records of the producer that is not idempotent")
	t.Logf("%s: a producer that is not idempotent: %d acknowledged, %d errors, %d in the log", f.topic, len(f.plain.acked), len(f.plain.errs), len(plainInLog))
	if f.alone != nil {
		f.audit(t, log)
	}
}

// audit checks what readers saw: each what the log has, none twice; those that wait all of
// it, those that skip all of it together.
func (f *failingTopic) audit(t *testing.T, log []*kgo.Record) {
	t.Helper()
	type position struct {
		partition int32
		offset    int64
	}
	at := make(map[position]string, len(log))
	inLog := make(map[string]bool, len(log))
	for _, r := range log {
		at[position{r.Partition, r.Offset}] = string(r.Value)
		inLog[string(r.Value)] = true
	}
	look := func() map[string]map[position]bool {
		saw := map[string]map[position]bool{"group": {}, "alone": {}}
		note := func(who string, records []*kgo.Record) {
			last := make(map[int32]int64)
			for _, r := range records {
				p := position{r.Partition, r.Offset}
				// One that its producer had to send again is hidden where it was first.
				if value, there := at[p]; there || !inLog[string(r.Value)] {
					require.Equal(t, value, string(r.Value), "%s: partition %d offset %d", who, r.Partition, r.Offset)
				}
				require.False(t, saw[who][p], "%s: partition %d offset %d comes twice", who, r.Partition, r.Offset)
				if before, ok := last[r.Partition]; ok {
					require.Greater(t, r.Offset, before, "%s: partition %d", who, r.Partition)
				}
				last[r.Partition], saw[who][p] = r.Offset, true
			}
		}
		for _, m := range f.group {
			_, records := m.see()
			note("group", records)
		}
		_, records := f.alone.see()
		note("alone", records)
		return saw
	}
	missing := func(saw map[string]map[position]bool) (none, group, alone int) {
		for p := range at {
			if !saw["group"][p] {
				group++
			}
			if !saw["alone"][p] {
				alone++
			}
			if !saw["group"][p] && !saw["alone"][p] {
				none++
			}
		}
		return none, group, alone
	}
	var none, group, alone int
	eventually(t, func() bool {
		requireWhole(t, append(f.group, f.alone)...)
		none, group, alone = missing(look())
		return none == 0 && (!f.waits || group == 0 && alone == 0)
	}, "%s: all is read", f.topic)
	t.Logf("%s: of %d records the group skipped %d, a reader without a group %d", f.topic, len(log), group, alone)
}

// readAll reads a topic from its beginning to its end, whatever gaps its offsets have.
func (s *suite) readAll(t *testing.T, topic string) []*kgo.Record {
	t.Helper()
	ends, err := s.admin(t).ListEndOffsets(call(t), topic)
	require.NoError(t, err)
	require.NoError(t, ends.Error())
	client := s.client(t, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), waitTimeout)
	defer cancel()
	next := make(map[int32]int64)
	var all []*kgo.Record
	for {
		left := 0
		ends.Each(func(o kadm.ListedOffset) {
			if next[o.Partition] < o.Offset {
				left++
			}
		})
		if left == 0 {
			break
		}
		fetches := client.PollFetches(ctx)
		require.NoError(t, fetches.Err(), "%d partitions of %s are not read to their end: %v of %v", left, topic, next, ends)
		for _, r := range fetches.Records() {
			all = append(all, r)
			next[r.Partition] = r.Offset + 1
		}
	}
	slices.SortFunc(all, func(a, b *kgo.Record) int {
		return cmp.Or(cmp.Compare(a.Partition, b.Partition), cmp.Compare(a.Offset, b.Offset))
	})
	return all
}

func (s *suite) testFailover(t *testing.T) {
	f := s.startFailure(t)
	down := time.Now()
	up := f.cluster.Down()
	first, all := f.skip.probe("down")
	_, alsoWait := f.wait.probe("down")
	f.skip.load.more(t, 100) // the other partitions go on
	asked := time.Now()
	plan := s.w.MustBraid(t, "", "cluster", "fail", failing, "--validate-only")
	require.Equal(t, len(f.skip.gone), strings.Count(plan, f.skip.topic+"-"), plan)
	planned := time.Now()
	s.w.MustBraid(t, "", "cluster", "fail", failing)
	done := time.Now()
	all()
	alsoWait()
	t.Logf("down for %.1f s, plan %.1f s, failed over in %.2f s; first record acknowledged %.2f s after the command began, last topic %.2f s",
		asked.Sub(down).Seconds(), planned.Sub(asked).Seconds(), done.Sub(planned).Seconds(), first().Sub(planned).Seconds(), time.Since(planned).Seconds())
	require.Equal(t, "failed", s.clusterState(t, failing))
	require.Equal(t, map[string]int{"STATE_SUSPENDED": 3 * failingPartitions / 2}, f.states(t))
	_, stderr, err := s.w.Braid(call(t), "", "cluster", "restore", failing)
	require.Error(t, err)
	require.Contains(t, stderr, "does not answer")
	f.goesOn(t)
	up()
	f.backAgain(t)
	begin := time.Now()
	s.w.MustBraid(t, "", "cluster", "restore", failing)
	t.Logf("restored in %.2f s", time.Since(begin).Seconds())
	f.end(t)
}

// killAt kills the leader when an operation says that it is so far, and waits until the
// next one has ended it.
func (f *failure) killAt(t *testing.T, operation, what string, when func(*adminv1.Operation) bool) {
	t.Helper()
	leader := f.s.leader(t)
	f.s.watch(t, operation, what, func(op *adminv1.Operation) bool { return op.GetDone() || when(op) })
	f.s.endFor(t, leader, func(n *world.Node) { n.Kill() })
	begin := time.Now()
	var answered, wentOn time.Duration // after the kill
	var before *adminv1.Operation
	op := f.s.watch(t, operation, "is done", func(op *adminv1.Operation) bool {
		switch {
		case before == nil:
			before, answered = op, time.Since(begin)
		case wentOn == 0 && !proto.Equal(op, before):
			wentOn = time.Since(begin)
		}
		return op.GetDone()
	})
	require.Zero(t, op.GetErrorCode(), op.GetErrorMessage())
	t.Logf("killed when it %s: another controller led %.1f s later, had gone on %.1f s later, and had ended it %.1f s later", what, answered.Seconds(), wentOn.Seconds(), time.Since(begin).Seconds())
	require.NoError(t, leader.Start())
	eventually(t, func() bool { return len(f.s.status(t).GetControllers()) == len(f.s.w.Controllers) }, "all controllers")
}

// beginFailure begins a command on the cluster, and returns its operation.
func (f *failure) begin(t *testing.T, command string) string {
	t.Helper()
	return "operations/" + strings.TrimSpace(f.s.w.MustBraid(t, "", "cluster", command, failing, "--no-wait"))
}

func hasStep(name string) func(*adminv1.Operation) bool {
	return func(op *adminv1.Operation) bool {
		return slices.ContainsFunc(op.GetSteps(), func(s *adminv1.Operation_Step) bool { return s.GetName() == name })
	}
}

func (s *suite) testFailoverKilled(t *testing.T) {
	f := s.startFailure(t)
	up := f.cluster.Down()
	f.killAt(t, f.begin(t, "fail"), "has begun to fail over", hasStep("fail over"))
	require.Equal(t, map[string]int{"STATE_SUSPENDED": 3 * failingPartitions / 2}, f.states(t))
	f.goesOn(t)
	up()
	f.backAgain(t)
	f.killAt(t, f.begin(t, "restore"), "has restored an extent", func(*adminv1.Operation) bool {
		return f.states(t)["STATE_SUSPENDED"] < 3*failingPartitions/2
	})
	f.end(t)
}

// testFailoverAgain has the cluster die again while it is restored.
func (s *suite) testFailoverAgain(t *testing.T) {
	f := s.startFailure(t)
	up := f.cluster.Down()
	s.w.MustBraid(t, "", "cluster", "fail", failing)
	f.goesOn(t)
	up()
	f.backAgain(t)
	operation := f.begin(t, "restore")
	s.watch(t, operation, "has restored an extent", func(op *adminv1.Operation) bool {
		return op.GetDone() || f.states(t)["STATE_SUSPENDED"] < 3*failingPartitions/2
	})
	up = f.cluster.Down()
	before, err := s.operations().GetOperation(call(t), &adminv1.GetOperationRequest{Name: operation})
	require.NoError(t, err)
	f.more(t, 100)
	s.w.MustBraid(t, "", "cluster", "fail", failing)
	f.more(t, 100)
	up()
	t.Logf("done when it died again: %t", before.GetOperation().GetDone())
	op := s.watch(t, operation, "is done", done)
	require.Zero(t, op.GetErrorCode(), op.GetErrorMessage())
	if before.GetOperation().GetDone() {
		f.backAgain(t)
		s.w.MustBraid(t, "", "cluster", "restore", failing)
	}
	f.end(t)
}
