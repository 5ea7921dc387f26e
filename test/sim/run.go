//go:build synctests

package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/internal/process"
	"github.com/braidmq/braid/test/check"
)

// A Result is what came of a run.
type Result struct {
	Seed     uint64
	Problems []string
	// Trace are the faults and operations, in the order of time.
	Trace   []string
	Counts  map[string]int
	Reports []*check.Report // the deployment's own logical cluster first
	Virtual time.Duration
}

// String is one line of figures.
func (r *Result) String() string {
	counts := make([]string, 0, len(r.Counts))
	for _, what := range sortedKeys(r.Counts) {
		counts = append(counts, fmt.Sprint(r.Counts[what], " ", what))
	}
	reports := make([]string, 0, len(r.Reports))
	for _, report := range r.Reports {
		reports = append(reports, report.String())
	}
	return fmt.Sprintf("seed %d, %.0f virtual s: %s; %s", r.Seed, r.Virtual.Seconds(), strings.Join(counts, ", "), strings.Join(reports, "; "))
}

// Run runs a world, within a bubble. Telemetry is made outside of it.
func Run(ctx context.Context, o Options, telemetry *process.Telemetry) *Result {
	o = o.withDefaults()
	// A bubble begins in the year 2000, before anything that a clock may show.
	wait(ctx, time.Until(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)))
	w, err := start(o, telemetry)
	if err != nil {
		return &Result{Seed: o.Seed, Problems: []string{err.Error()}}
	}
	reports := w.run(ctx)
	if err := w.close(); err != nil {
		w.history.problem("close: %v", err)
	}
	wait(ctx, streamsEnd)
	h := w.history
	for i, report := range reports {
		if err := report.Err(); err != nil {
			w.logicals[i].history.problem("%v", err)
		}
	}
	return &Result{Seed: o.Seed, Problems: h.problems, Trace: h.sortedTrace(), Counts: h.counts, Reports: reports, Virtual: w.since()}
}

// streamsEnd is more than what a stream takes to end when its gateway has gone: its
// member still tries to leave the group (LeaveTimeout of a gateway).
const streamsEnd = 5 * time.Second

// source is a stream of random numbers for one purpose.
func (w *world) source(purpose uint64) *rand.Rand { return rand.New(rand.NewPCG(w.Seed, purpose)) }

func (w *world) run(ctx context.Context) []*check.Report {
	ops := w.operator("ops0", w.source(1))
	defer ops.client.close()
	setup, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := w.setUp(setup, ops); err != nil {
		w.history.problem("%v", err)
		return nil
	}
	w.history.note("ready")

	producing, stop := context.WithTimeout(ctx, w.Duration)
	defer stop()
	reading, end := context.WithCancel(ctx)
	defer end()
	var producers, readers, operators sync.WaitGroup
	for _, l := range w.logicals {
		l.clients(producing, reading, &producers, &readers)
	}
	operating, finish := context.WithCancel(ctx)
	defer finish()
	f := w.faults(w.source(2))
	if !w.Still {
		faulty := f.soon
		if w.Quiet {
			faulty = func() {}
		}
		other := w.operator("ops1", w.source(3))
		defer other.client.close()
		operators.Go(func() { ops.work(operating, producing, faulty) })
		operators.Go(func() { other.work(operating, producing, faulty) })
	}
	status := w.operator("status", nil)
	defer status.client.close()
	readers.Go(func() { status.watchStatus(reading) })
	if !w.Quiet {
		f.run(producing)
	}
	<-producing.Done()
	f.end()
	w.history.note("the faults are over")
	w.restartAll()
	if err := w.awaitReady(ctx, time.Minute); err != nil {
		w.history.problem("%v", err)
	}
	producers.Wait()
	time.AfterFunc(operationLimit, finish)
	operators.Wait()
	w.history.note("producers and operators have ended")
	w.history.note("%d heads have moved", ops.settle(ctx))
	logs := make([][]check.Record, len(w.logicals))
	for i, l := range w.logicals {
		logs[i] = l.audit(ctx)
		if !w.failing() || w.waiting() {
			for _, group := range l.groups() {
				l.awaitGroup(ctx, group, len(logs[i]))
			}
		}
	}
	end()
	readers.Wait()
	w.judgeQuotas()
	reports := make([]*check.Report, len(w.logicals))
	for i, l := range w.logicals {
		reports[i] = l.judge(logs[i])
	}
	return reports
}

// setUp makes clusters, tenants and topics, and waits for all processes.
func (w *world) setUp(ctx context.Context, ops *operator) error {
	if err := ops.register(ctx); err != nil {
		return err
	}
	if err := w.awaitReady(ctx, time.Minute); err != nil {
		return err
	}
	if err := ops.createTenants(ctx); err != nil {
		return err
	}
	for _, l := range w.logicals {
		if !ops.createTopic(ctx, l, topic, partitions, w.topicConfig()) {
			return fmt.Errorf("the topic %s could not be created", l.label(topic))
		}
		if err := ops.setQuotas(ctx, l); err != nil {
			return err
		}
	}
	return nil
}

// restartAll starts what a fault has left dead.
func (w *world) restartAll() {
	for _, n := range w.nodes() {
		if n.running() {
			continue
		}
		if err := n.start(); err != nil {
			w.history.problem("%s does not start again: %v", n.host, err)
		}
	}
}

// auditLimit bounds how long the whole log takes to read by one gateway, and the
// group needs for what is left.
const auditLimit = 2 * time.Minute

// audit reads the whole log by each gateway; all of them must have the same.
func (l *logical) audit(ctx context.Context) (log []check.Record) {
	for i, g := range l.gateways {
		name := l.client("audit", i)
		got := l.readAll(ctx, name, g)
		if i > 0 && !slices.Equal(log, got) {
			l.history.problem("%s reads %d records, and %s %d", l.gateways[0].host, len(log), g.host, len(got))
		}
		if len(got) > len(log) {
			log = got
		}
	}
	return log
}

// readAll reads each partition from its beginning to its end.
func (l *logical) readAll(ctx context.Context, name string, g *node) (log []check.Record) {
	c := l.rawClient(name, g)
	defer c.client.Close()
	ctx, cancel := context.WithTimeout(ctx, auditLimit)
	defer cancel()
	epochs := make(check.Growing)
	for p := range l.partitions.Load() {
		var begin, end int64
		for at, to := range map[int64]*int64{-2: &begin, -1: &end} {
			if !poll(ctx, auditLimit, func() (ok bool) {
				*to, ok = c.listOffset(ctx, p, at)
				return ok
			}) {
				l.history.problem("%s cannot list the offsets of partition %d", name, p)
				return log
			}
		}
		if begin != 0 && !l.failing() { // an extent of which nobody had seen a record is empty, and leaves the map
			l.history.problem("%s: partition %d begins at offset %d", name, p, begin)
		}
		for at := map[int32]int64{p: begin}; at[p] < end; {
			records, failed, err := c.fetch(ctx, topic, at, 100*time.Millisecond)
			if ctx.Err() != nil {
				l.history.problem("%s reads partition %d only up to offset %d of %d: %v %v", name, p, at[p], end, failed, err)
				return log
			}
			if err != nil || len(records) == 0 {
				wait(ctx, 50*time.Millisecond)
			}
			for _, r := range records {
				if problem := epochs.See(fmt.Sprintf("the epoch of partition %d that %s reads", p, name), int64(r.LeaderEpoch)); problem != "" {
					l.history.problem("%s", problem)
				}
				l.history.read(name, recordOf(r))
				log = append(log, recordOf(r))
			}
		}
	}
	return log
}

func (c *rawClient) listOffset(ctx context.Context, partition int32, at int64) (int64, bool) {
	req := kmsg.NewPtrListOffsetsRequest()
	t := kmsg.NewListOffsetsRequestTopic()
	t.Topic = topic
	p := kmsg.NewListOffsetsRequestTopicPartition()
	p.Partition, p.Timestamp = partition, at
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	resp, err := c.request(ctx, req)
	if err != nil {
		return 0, false
	}
	for _, t := range resp.(*kmsg.ListOffsetsResponse).Topics {
		for _, p := range t.Partitions {
			return p.Offset, p.ErrorCode == 0
		}
	}
	return 0, false
}

// awaitGroup waits until a group has read as many different offsets.
func (l *logical) awaitGroup(ctx context.Context, group string, count int) {
	if !poll(ctx, auditLimit, func() bool { return l.history.readByGroup(group) >= count }) {
		l.history.problem("the group %s has read only %d of %d records %s after the faults%s", group, l.history.readByGroup(group), count, auditLimit, l.described(ctx, group))
	}
}

// judge compares the log with what clients saw.
func (l *logical) judge(log []check.Record) *check.Report {
	h := l.history
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, r := range log {
		h.sawLocked(h.seen.Read, "the audit", r)
	}
	if l.failing() {
		return l.judgeFailing(log)
	}
	acked := make([]check.Value, len(h.acked))
	for i, a := range h.acked {
		acked[i] = a.Value
	}
	for _, problem := range slices.Concat(check.Contiguous(log), check.Placed(log, h.acked)) {
		h.problemLocked("%s", problem)
	}
	report := check.Audit(log, acked, h.groups[group])
	if l.modern() && report.Err() == nil {
		if err := check.Audit(log, acked, h.groups[modernGroup]).Err(); err != nil {
			h.problemLocked("the group %s: %v", modernGroup, err)
		}
	}
	return report
}

func (h *history) readByGroup(group string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	type at struct {
		partition int32
		offset    int64
	}
	seen := make(map[at]bool, len(h.groups[group]))
	for _, r := range h.groups[group] {
		seen[at{r.Partition, r.Offset}] = true
	}
	return len(seen)
}
