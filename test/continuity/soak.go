package continuity

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/braidmq/braid/test/world"
)

// perSecond is the rate of each producer.
const perSecond = 30

// Bounds of a soak.
const (
	plannedSettles = 30 * time.Second // until all clients go on after an operation
	faultSettles   = 90 * time.Second // and after a fault: sessions may have to run out
	soakLease      = 6 * time.Second  // of gateways; what is frozen is frozen for longer
	tryAgain       = 10 * time.Second // commands that are told to
	shortEnds      = 2 * time.Minute  // a run of one round begins no operation after it
)

// Soak says how long unmodified clients work while operations go on.
type Soak struct {
	Seed uint64
	// Duration of the operations; one round of each if it is zero: first those that no
	// client may notice, then the faults.
	Duration time.Duration
	// Only are the kinds of operations to run, in this order, again and again; all if empty.
	Only []string
	// Failover has clusters failed over, too.
	Failover bool
	// Report is a path without its ending, for a report as .md and as .json.
	Report string
}

// failsOver reports whether clusters are failed over.
func (o *Soak) failsOver() bool { return o.Failover || slices.Contains(o.Only, "fail") }

// SoakOptions are the world that RunClients needs.
func SoakOptions() world.Options {
	return world.Options{Gateways: 3, Controllers: 2, GatewayLease: soakLease, HeapMB: 256}
}

// A soak is a run of RunClients.
type soak struct {
	t       *testing.T
	w       *world.World
	options Soak
	ledger  *ledger
	random  *rand.Rand
	// urls and kafka are addresses of all gateways, dead ones too.
	urls, kafka []string

	producers, members sync.WaitGroup
	api                string // of a gateway that answers
	results            []result
}

// RunClients runs clients in their own languages, each with its default
// configuration, while clusters are added, drained and killed, heads move, and
// gateways, controllers and Redis come and go. It checks what they saw, and reports it.
func RunClients(t *testing.T, w *world.World, o Soak) {
	s := &soak{t: t, w: w, options: o, ledger: newLedger(), random: rand.New(rand.NewPCG(o.Seed, o.Seed))}
	for _, g := range w.Gateways {
		s.urls, s.kafka = append(s.urls, g.URL()), append(s.kafka, g.Kafka)
	}
	s.api = s.urls[0]
	w.MustBraid(t, "", "topic", "create", topic, "--partitions", strconv.Itoa(partitions))
	third := w.StartCluster("third")

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	producing, endNativeProducers := context.WithCancel(ctx)
	defer endNativeProducers()
	consuming, endNativeMembers := context.WithCancel(ctx)
	defer endNativeMembers()
	var reader sync.WaitGroup
	reading, endReader := context.WithCancel(ctx)
	defer endReader()
	endProducers, endMembers := s.startPrograms()
	s.startNative(producing, consuming)
	s.ledger.failover = o.failsOver()
	if !s.ledger.failover {
		reader.Go(func() { s.readLog(reading) })
	}
	require.Eventually(t, s.ledger.begun, faultSettles, 20*time.Millisecond, "each member has partitions")
	require.Empty(t, s.settle(time.Now(), faultSettles), "clients that have not begun")

	s.operate(ctx, third)

	endNativeProducers()
	endProducers()
	s.producers.Wait()
	s.awaitEnd(ctx)
	endNativeMembers()
	endMembers()
	s.members.Wait()
	endReader()
	reader.Wait()
	s.ledger.finish()
	report := s.report()
	t.Log("\n" + report.markdown())
	if o.Report != "" {
		require.NoError(t, report.write(o.Report))
	}
	require.Empty(t, report.Violations)
}

// settle waits until all clients have gone on since a time, and returns those that have not.
func (s *soak) settle(since time.Time, bound time.Duration) []string {
	deadline := time.Now().Add(bound)
	for {
		names := s.ledger.unsettled(since, partitions)
		if len(names) == 0 || time.Now().After(deadline) {
			return names
		}
		wait(s.t.Context(), 20*time.Millisecond)
	}
}

// readLog reads the whole log as it grows.
func (s *soak) readLog(ctx context.Context) {
	client, err := kgo.NewClient(kgo.SeedBrokers(s.kafka...), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		s.t.Errorf("%v", err)
		return
	}
	defer client.Close()
	for ctx.Err() == nil {
		// Errors are told for information.
		client.PollFetches(ctx).EachRecord(func(r *kgo.Record) { s.ledger.record(r.Partition, r.Offset, string(r.Key), string(r.Value), false) })
	}
}

// awaitEnd waits until the log is read to its end, and the groups have read as much.
func (s *soak) awaitEnd(ctx context.Context) {
	s.t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(s.kafka...))
	require.NoError(s.t, err)
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, faultSettles)
	defer cancel()
	ends, err := kadm.NewClient(client).ListEndOffsets(ctx, topic)
	require.NoError(s.t, err)
	require.NoError(s.t, ends.Error())
	if s.ledger.failover {
		require.NoError(s.t, s.readWholeLog(ctx, ends[topic]), "the log is not read to its end within %s", faultSettles)
	}
	for !s.ledger.hasRead(ends[topic]) || !s.ledger.caughtUp() {
		if ctx.Err() != nil {
			s.t.Errorf("the log, or a group, is not read to its end within %s", faultSettles)
			return
		}
		wait(ctx, 50*time.Millisecond)
	}
}

// hasRead reports whether the log was read up to its ends.
func (l *ledger) hasRead(ends map[int32]kadm.ListedOffset) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for p, end := range ends {
		if end.Offset > 0 && offsetsOf(l.log, p).get(end.Offset-1) == 0 {
			return false
		}
	}
	return true
}

// braid runs a command by a gateway that answers, and returns what it printed. It does
// what an operator is told: just after a controller has taken over, to try again.
func (s *soak) braid(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	for begin := time.Now(); ; {
		stdout, stderr, err := s.w.Braid(ctx, "", append(args, "--api", s.api)...)
		if err == nil {
			return stdout + stderr, nil
		}
		text := lastLine(stderr)
		if !strings.HasSuffix(text, "try again") || time.Since(begin) > tryAgain {
			return stdout, fmt.Errorf("braid %s: %w: %s", strings.Join(args, " "), err, text)
		}
		wait(ctx, 500*time.Millisecond)
	}
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}

// avoid has commands go to another gateway than one.
func (s *soak) avoid(gateway int) {
	s.api = s.urls[(gateway+1)%len(s.urls)]
}

// A result is how an operation went.
type result struct {
	Kind    string        `json:"kind"`
	Detail  string        `json:"detail"`
	Planned bool          `json:"planned"`
	At      time.Duration `json:"at"`
	Took    time.Duration `json:"took"`
	Settled time.Duration `json:"settled"` // until all clients had gone on
	Moved   []int32       `json:"moved,omitempty"`
	Error   string        `json:"error,omitempty"`
	Waiting []string      `json:"waiting,omitempty"` // clients that had not gone on
	Sights  []sight       `json:"sights"`
	// Connections are those of each gateway, at the end.
	Connections map[string]int `json:"connections"`
}

// operate runs operations, one after the other, for the duration.
func (s *soak) operate(ctx context.Context, third world.Cluster) {
	begin := time.Now()
	for round := 0; ; round++ {
		plan := s.plan(round, third)
		s.logPlan(round, plan)
		for i, o := range plan {
			if round > 0 && time.Since(begin) >= s.options.Duration {
				return
			}
			wait(ctx, time.Duration(s.random.IntN(1000))*time.Millisecond)
			s.run(ctx, o)
			if s.t.Failed() || s.shortIsOver(plan[i+1:]) {
				return
			}
		}
		if s.options.Duration == 0 || time.Since(begin) >= s.options.Duration {
			return
		}
		s.t.Logf("%s after %d rounds: %s", time.Since(s.ledger.begin).Round(time.Second), round+1, s.ledger.summary())
	}
}

// shortIsOver bounds a run of one round, on a slow machine and when clients stand still.
func (s *soak) shortIsOver(rest []operation) bool {
	waiting := s.results[len(s.results)-1].Waiting
	if s.options.Duration > 0 || len(waiting) == 0 && time.Since(s.ledger.begin) < shortEnds {
		return false
	}
	for _, o := range rest {
		s.t.Logf("left out: %s %s", o.kind, o.argument)
	}
	return true
}

func (s *soak) logPlan(round int, plan []operation) {
	kinds := make([]string, 0, len(plan))
	for _, o := range plan {
		kinds = append(kinds, strings.TrimSpace(o.kind+" "+o.argument))
	}
	s.t.Logf("seed %d, round %d: %s", s.options.Seed, round, strings.Join(kinds, ", "))
}

// run runs one operation, and waits until all clients have gone on.
func (s *soak) run(ctx context.Context, o operation) {
	before, err := s.extents(ctx)
	if err != nil {
		s.t.Errorf("before %s: %v", o.kind, err)
		return
	}
	s.ledger.open(o.kind)
	begin := time.Now()
	r := result{Kind: o.kind, Planned: o.planned, At: begin.Sub(s.ledger.begin)}
	r.Detail, err = o.run(ctx)
	r.Took = time.Since(begin)
	if err != nil {
		r.Error = err.Error()
	}
	bound := faultSettles
	if o.planned {
		bound = plannedSettles
	}
	end := time.Now()
	r.Waiting = s.settle(end, bound)
	r.Settled = time.Since(end)
	after, err := s.extents(ctx)
	if err != nil && r.Error == "" {
		r.Error = err.Error()
	}
	for p := range after {
		if len(before) == len(after) && after[p].count > before[p].count {
			r.Moved = append(r.Moved, int32(p))
		}
	}
	r.Sights = s.ledger.close(r.Moved)
	r.Connections = s.connections(ctx)
	s.results = append(s.results, r)
	if os.Getenv("BRAID_TEST_VERBOSE") != "" {
		s.t.Logf("%s", r.String())
	}
}

// String is a line about an operation.
func (r result) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%6.1f s %s: %s; took %s, settled after %s, moved %v, connections %v", r.At.Seconds(), r.Kind, r.Detail, r.Took.Round(time.Millisecond), r.Settled.Round(time.Millisecond), r.Moved, r.Connections)
	if r.Error != "" {
		fmt.Fprintf(&b, "; ERROR %s", r.Error)
	}
	if len(r.Waiting) > 0 {
		fmt.Fprintf(&b, "; WAITING %v", r.Waiting)
	}
	for _, v := range r.Sights {
		if v.Errors+v.Rebalances > 0 || v.Gap > time.Second {
			fmt.Fprintf(&b, "; %s gap %s from %.1f s on errors %d rebalances %d", v.Client, v.Gap.Round(time.Millisecond), v.GapAt.Seconds(), v.Errors, v.Rebalances)
		}
	}
	return b.String()
}

// pick returns n of the partitions.
func (s *soak) pick(n int) []int32 {
	all := make([]int32, 0, partitions)
	for _, p := range s.random.Perm(partitions)[:n] {
		all = append(all, int32(p))
	}
	slices.Sort(all)
	return all
}
