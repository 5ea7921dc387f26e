//go:build synctests

package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/internal/mark"
	"github.com/braidmq/braid/internal/recordbatch"
)

// faults does harm to a world: everything random is drawn in one order, and
// everything is mended in the end.
type faults struct {
	*world
	ctx    context.Context // ends the faults
	cancel context.CancelFunc
	active sync.WaitGroup
	lateAt atomic.Bool // a gateway is cut off by late

	mu  sync.Mutex // guards rng
	rng *rand.Rand
}

func (w *world) faults(rng *rand.Rand) *faults {
	ctx, cancel := context.WithCancel(context.Background())
	return &faults{world: w, ctx: ctx, cancel: cancel, rng: rng}
}

// run does harm at random instants until ctx ends.
func (f *faults) run(ctx context.Context) {
	const apart = 3 * time.Second
	for f.pause(ctx, apart) {
		f.one()
	}
}

func (f *faults) pause(ctx context.Context, most time.Duration) bool {
	f.mu.Lock()
	d := time.Duration(f.rng.Int64N(int64(most)))
	f.mu.Unlock()
	return wait(ctx, d)
}

// soon does harm within a moment, as it takes an operation to get through its steps.
func (f *faults) soon() {
	const moment = 250 * time.Millisecond
	f.active.Go(func() {
		if f.pause(f.ctx, moment) {
			f.one()
		}
	})
}

// end mends everything.
func (f *faults) end() {
	f.cancel()
	f.active.Wait()
}

// A harm is a fault with what it was drawn to do.
type harm struct {
	name string
	// most is how long it lasts at most.
	most time.Duration
	// do does it and returns how to mend it, which may be nil.
	do func() (mend func())
}

// one does one harm.
func (f *faults) one() {
	f.mu.Lock()
	h := f.draw()
	lasts := time.Duration(f.rng.Int64N(int64(h.most) + 1))
	f.mu.Unlock()
	f.active.Go(func() {
		f.history.note("fault: %s for %s", h.name, lasts.Round(time.Millisecond))
		f.history.count("faults", 1)
		mend := h.do()
		if mend == nil {
			return
		}
		wait(f.ctx, lasts)
		mend()
		f.history.note("mended: %s", h.name)
	})
}

func pick[T any](rng *rand.Rand, from []T) T { return from[rng.IntN(len(from))] }

// draw draws a harm.
func (f *faults) draw() harm {
	gw, ctl := pick(f.rng, f.gateways), pick(f.rng, f.controllers)
	cluster := pick(f.rng, clusterNames)
	broker := fmt.Sprint(cluster, f.rng.IntN(brokerCount))
	brokers := cluster + "[0-9]"
	kind := f.rng.IntN(26)
	if f.focused() && f.rng.IntN(3) > 0 {
		kind = 21 + f.rng.IntN(5)
	}
	switch kind {
	case 0, 1:
		return f.death("kill", gw, gw.kill)
	case 2, 3:
		return f.death("kill", ctl, ctl.kill)
	case 4:
		return f.death("stop", gw, gw.stop)
	case 5:
		return f.apart(gw.host, "ctl*", 15*time.Second)
	case 6:
		return f.apart(gw.host, ctl.host, 15*time.Second)
	case 7:
		return f.apart(gw.host, "redis", 15*time.Second)
	case 8:
		return f.apart(gw.host, pick(f.rng, []string{brokers, broker, "[abc][0-9]"}), 12*time.Second)
	case 9:
		return f.apart(ctl.host, "redis", 8*time.Second)
	case 10:
		return f.apart(ctl.host, pick(f.rng, []string{brokers, broker}), 8*time.Second)
	case 11:
		return f.apart(pick(f.rng, []string{"kafka*", "batch*", "stream*", "tail*", "m[eo]*", "connect*", "*[0-9]"}), gw.host, 8*time.Second)
	case 12:
		return harm{"hold " + gw.host, 20 * time.Second, func() func() { return f.net.HoldHost(gw.host) }}
	case 13:
		return harm{"hold " + ctl.host, 10 * time.Second, func() func() { return f.net.HoldHost(ctl.host) }}
	case 14:
		return harm{"hold redis", 8 * time.Second, func() func() { return f.net.HoldHost("redis") }}
	case 15:
		at := pick(f.rng, []string{broker, brokers})
		return harm{"hold " + at, 8 * time.Second, func() func() { return f.net.HoldHost(at) }}
	case 16, 17:
		return f.lostAnswers(gw, ctl, brokers)
	case 18:
		return f.delays(gw, ctl, brokers)
	case 19:
		return f.cuts(gw, ctl, brokers)
	case 20:
		return harm{"move the leaders of " + cluster, 0, func() func() {
			f.kafka[cluster].Fake.ShufflePartitionLeaders()
			return nil
		}}
	case 21, 22:
		return f.late(gw, cluster)
	case 23, 24:
		return f.firstRefused(cluster)
	default:
		return f.errors(cluster)
	}
}

// late cuts a gateway off, with appends on the way that arrive when its lease is over
// and heads of the cluster are about to be sealed, or just have been.
func (f *faults) late(gw *node, cluster string) harm {
	const (
		most   = 4 * time.Second
		moment = 10 * time.Millisecond // in which a seal goes through its steps
	)
	after := time.Duration(f.rng.Int64N(int64(moment)))
	sooner := time.Duration(f.rng.Int64N(int64(300 * time.Millisecond)))
	return harm{fmt.Sprintf("late appends of %s to %s, %s after the first step of a seal", gw.host, cluster, after), most, func() func() {
		if !f.lateAt.CompareAndSwap(false, true) {
			return nil // a head waits for one lease at a time
		}
		apart := f.net.Partition(gw.host, "ctl*")
		wait(f.ctx, sooner)
		arrive := sync.OnceFunc(f.net.Hold(gw.host, cluster+"[0-9]"))
		armed := time.Now().Add(gatewayLease * 3 / 4)
		watch := f.kafka[cluster].Fake.Fault(kfake.Fault{
			Keys: []kmsg.Key{kmsg.Produce, kmsg.ListOffsets, kmsg.DescribeProducers}, Count: -1, Observe: true,
			When: func(req kmsg.Request) bool {
				if time.Now().After(armed) && ofSeal(req) {
					time.AfterFunc(after, arrive)
				}
				return false
			},
		})
		return func() {
			wait(f.ctx, gatewayLease+2*time.Second)
			watch.Remove()
			arrive()
			apart()
			f.lateAt.Store(false)
		}
	}}
}

// firstRefused has a cluster refuse the first appends to heads that have just moved
// there, as if replicas were late.
func (f *faults) firstRefused(cluster string) harm {
	n := 1 + f.rng.IntN(3)
	return harm{fmt.Sprintf("%s: refuses the first %d appends to each new head", cluster, n), 10 * time.Second, func() func() {
		fresh := make(map[physical]int) // the cluster's goroutine owns it
		return f.kafka[cluster].Fake.Fault(kfake.Fault{
			Keys: []kmsg.Key{kmsg.Produce}, Count: -1, Err: kerr.NotEnoughReplicas,
			When: func(req kmsg.Request) (refuse bool) {
				eachBatch(req, func(at physical, h recordbatch.Header) {
					if mark.IsMark(h.ProducerID) {
						fresh[at] = n
					} else if fresh[at] > 0 {
						fresh[at]--
						refuse = true
					}
				})
				return refuse
			},
		}).Remove
	}}
}

// A physical is a partition of a physical topic.
type physical struct {
	topic     string
	partition int32
}

// eachBatch visits the batches of a Produce request.
func eachBatch(req kmsg.Request, visit func(at physical, h recordbatch.Header)) {
	r, ok := req.(*kmsg.ProduceRequest)
	if !ok {
		return
	}
	for _, t := range r.Topics {
		for _, p := range t.Partitions {
			if h, ok := recordbatch.ParseHeader(p.Records); ok {
				visit(physical{t.Topic, p.Partition}, h)
			}
		}
	}
}

// ofSeal reports whether a request is one of those of which a seal is made.
func ofSeal(req kmsg.Request) bool {
	switch r := req.(type) {
	case *kmsg.ProduceRequest:
		marks := false
		eachBatch(r, func(_ physical, h recordbatch.Header) { marks = marks || mark.IsMark(h.ProducerID) })
		return marks
	case *kmsg.ListOffsetsRequest:
		// Others do not care who answers.
		return len(r.Topics) > 0 && len(r.Topics[0].Partitions) > 0 && r.Topics[0].Partitions[0].CurrentLeaderEpoch >= 0
	default:
		return true
	}
}

// death ends a process and starts it again.
func (f *faults) death(how string, n *node, end func()) harm {
	return harm{how + " " + n.host, 12 * time.Second, func() func() {
		if !n.running() {
			return nil // by another fault
		}
		end()
		return func() {
			if n.running() {
				return
			}
			if err := n.start(); err != nil {
				f.history.note("%s does not start: %v", n.host, err) // restartAll tries it again
			}
		}
	}}
}

func (f *faults) apart(a, b string, most time.Duration) harm {
	return harm{"cut " + a + " off from " + b, most, func() func() { return f.net.Partition(a, b) }}
}

// link draws two hosts that talk to each other: who calls, and who is called.
func (f *faults) link(gw, ctl *node, brokers string) (from, to string) {
	links := [][2]string{
		{gw.host, "redis"},
		{gw.host, ctl.host},
		{gw.host, brokers},
		{ctl.host, brokers},
		{ctl.host, "redis"},
		{"kafka*", gw.host},
		{"stream*", gw.host},
		{"*", gw.host},
		{"gw*", gw.host},
		{gw.host, "[abc][0-9]"},
		{"gw*", "redis"},
		{"*", "redis"},
	}
	l := pick(f.rng, links)
	return l[0], l[1]
}

func (f *faults) lostAnswers(gw, ctl *node, brokers string) harm {
	from, to := f.link(gw, ctl, brokers)
	return harm{"lose answers of " + to + " to " + from, 3 * time.Second, func() func() { return f.net.Drop(to, from) }}
}

func (f *faults) delays(gw, ctl *node, brokers string) harm {
	from, to := f.link(gw, ctl, brokers)
	if f.rng.IntN(2) == 0 {
		from, to = to, from
	}
	d := time.Duration(f.rng.Int64N(int64(2 * time.Second)))
	return harm{fmt.Sprintf("delay %s to %s by %s", from, to, d.Round(time.Millisecond)), 8 * time.Second, func() func() { return f.net.Delay(from, to, d) }}
}

func (f *faults) cuts(gw, ctl *node, brokers string) harm {
	from, to := f.link(gw, ctl, brokers)
	i, all := f.rng.Int(), f.rng.IntN(2) == 0
	return harm{"cut connections of " + from + " to " + to, 0, func() func() {
		if all {
			f.net.Cut(from, to)
		} else {
			f.net.CutOne(from, to, i)
		}
		return nil
	}}
}

// errors has a physical cluster answer with errors; some of them come although it
// did what it was asked.
func (f *faults) errors(cluster string) harm {
	kinds := []struct {
		name string
		key  kmsg.Key
		err  *kerr.Error
	}{
		{"answers after the append", kmsg.Produce, kerr.RequestTimedOut},
		{"too few replicas after the append", kmsg.Produce, kerr.NotEnoughReplicasAfterAppend},
		{"too few replicas", kmsg.Produce, kerr.NotEnoughReplicas},
		{"no leader for appends", kmsg.Produce, kerr.NotLeaderForPartition},
		{"no leader for reads", kmsg.Fetch, kerr.NotLeaderForPartition},
		{"no leader for offsets", kmsg.ListOffsets, kerr.NotLeaderForPartition},
		{"no leader for producers", kmsg.DescribeProducers, kerr.NotLeaderForPartition},
	}
	k, n := pick(f.rng, kinds), 1+f.rng.IntN(6)
	return harm{fmt.Sprintf("%s: %s, %d times", cluster, k.name, n), 5 * time.Second, func() func() {
		return f.kafka[cluster].Fake.Fault(kfake.Fault{Keys: []kmsg.Key{k.key}, Err: k.err, Count: n}).Remove
	}}
}
