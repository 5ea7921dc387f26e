// Command bench measures what braid costs: the same load on a real Kafka broker
// directly and through a gateway in front of it, in turns; connections, moves and
// maps at scale; and a bare copy loop as the floor of what a gateway can cost on
// this machine. It prints the tables of docs/benchmarks.md.
//
// It installs and starts what it needs, as processes of their own: Kafka brokers,
// Redis, controllers, gateways and embedded clusters.
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/braidmq/braid/test/realparts"
)

// options are what the command line says.
type options struct {
	names      string
	rounds     int
	mb         int64
	short      bool
	svg        string
	page       string
	profiles   string
	profileFor time.Duration
	soak       time.Duration
	kinds      string
}

func main() {
	if ran, err := child(); ran {
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench: ", err)
			os.Exit(1)
		}
		return
	}
	var o options
	var list bool
	flag.StringVar(&o.names, "run", "", "scenarios to run, separated by commas; all by default")
	flag.IntVar(&o.rounds, "rounds", 0, "rounds of each load, of which the median counts; 3 by default, 1 with -short")
	flag.Int64Var(&o.mb, "mb", 0, "MB that produce and consume move in a round; 256 by default, 8 with -short")
	flag.BoolVar(&o.short, "short", false, "small sizes, which show that it works and no more")
	flag.StringVar(&o.svg, "svg", "", "file for a plot of the latencies")
	flag.StringVar(&o.page, "page", "", "page whose newest run is replaced by this one, such as docs/benchmarks.md")
	flag.StringVar(&o.profiles, "profiles", "", "directory for the gateway's CPU and allocation profiles, as text")
	flag.DurationVar(&o.profileFor, "profile-for", 5*time.Second, "how long profiles are taken")
	flag.StringVar(&o.kinds, "kinds", "", "which clients misbehave in abuse: a regular expression for their names")
	flag.DurationVar(&o.soak, "soak", 0, "how long clients misbehave in abuse, all kinds together; 0 = 6 s each")
	flag.BoolVar(&list, "list", false, "list the scenarios")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	tb := &parts{}
	var text bytes.Buffer
	b := newBench(ctx, tb, io.MultiWriter(os.Stdout, &text), o)
	if list {
		for _, s := range scenarios {
			b.say("%-12s %s\n", s.name, s.about)
		}
		return
	}
	err := b.run()
	tb.cleanup()
	if err == nil && o.page != "" {
		err = writePage(o.page, text.String())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// A bench is one run of the command, or of its test.
type bench struct {
	options
	ctx   context.Context
	tb    realparts.TB
	out   io.Writer
	bin   string  // of braid
	floor float64 // CPU ms for each MB of the copy loop
	world *world  // real parts; nil until somebody needs them
	harm  *harm   // that the last abuse has done; nil before it
}

func newBench(ctx context.Context, tb realparts.TB, out io.Writer, o options) *bench {
	b := &bench{options: o, ctx: ctx, tb: tb, out: out}
	if b.rounds == 0 {
		b.rounds = b.size(3, 1)
	}
	if b.mb == 0 {
		b.mb = int64(b.size(256, 8))
	}
	return b
}

// size is how much of something a scenario takes.
func (b *bench) size(full, short int) int {
	if b.short {
		return short
	}
	return full
}

// lasting is how long a scenario measures something.
func (b *bench) lasting(full, short time.Duration) time.Duration {
	if b.short {
		return short
	}
	return full
}

func (b *bench) bytes() int64 { return b.mb * 1e6 }

// A scenario is a part of the benchmark that can be chosen.
type scenario struct {
	name, about string
	run         func(b *bench) report
	alone       bool // has a world of its own; the real parts are stopped before it
}

// scenarios in the order in which they run. The seal comes behind all that want one cluster.
var scenarios = []scenario{
	{name: "floor", about: "a process that copies bytes from socket to socket: the least that a gateway can cost", run: runFloor},
	{name: "produce", about: "produce and, behind the tail, consume: direct and through a gateway", run: runProduce},
	{name: "tail", about: "one consumer at the tail of a topic", run: runTail},
	{name: "fanout", about: "many groups at the tail of a topic against one", run: runFanout},
	{name: "latency", about: "500 records/s, one by one: acknowledged and end to end", run: runLatency},
	{name: "partitions", about: "many partitions with small records", run: runPartitions},
	{name: "connections", about: "many idle clients; many producers of small batches against few", run: runConnections},
	{name: "groups", about: "10,000 members of groups: joins, heartbeats, commits", run: runGroups},
	{name: "connect", about: "streams of the Connect API: frames, raw batches, single records", run: runConnect},
	{name: "overload", about: "clients that send and ask for more than a small gateway may hold", run: runOverload},
	{name: "abuse", about: "what clients that misbehave cost a gateway, and a client that does not", run: runAbuse},
	{name: "seal", about: "how long appends are held while heads move between two clusters", run: runSeal},
	{name: "brokers", about: "produce and consume where each record goes to three brokers", run: runBrokers, alone: true},
	{name: "maps", about: "a change of the map at many gateways", run: runMaps, alone: true},
	{name: "tenants", about: "hundreds of tenants: what each costs a gateway and a controller, and the others", run: runTenants, alone: true},
	{name: "scale", about: "many clusters, a large topic, many extents: what each costs a gateway", run: runScale, alone: true},
}

// chosen returns the scenarios that a list names.
func chosen(names string) ([]scenario, error) {
	if names == "" {
		return scenarios, nil
	}
	var all []scenario
	wanted := strings.Split(names, ",")
	for _, s := range scenarios {
		if i := slices.Index(wanted, s.name); i >= 0 {
			all = append(all, s)
			wanted = slices.Delete(wanted, i, i+1)
		}
	}
	if len(wanted) > 0 {
		return nil, fmt.Errorf("bench: there is no scenario %s; see -list", strings.Join(wanted, ", "))
	}
	return all, nil
}

func (b *bench) run() (err error) {
	all, err := chosen(b.names)
	if err != nil {
		return err
	}
	defer func() {
		// Loads and parts end by a panic where they fail.
		switch e := recover().(type) {
		case nil:
		case failure:
			err = e
		default:
			panic(e)
		}
	}()
	raiseFiles()
	b.header()
	if all[0].name != "floor" {
		b.floor = measureFloor(b) // what other rows are compared with
	}
	begin := time.Now()
	var goals []goal
	for _, s := range all {
		if s.alone {
			b.stopWorld()
		}
		// What the last one wrote would hold up the disk in this one: brokers sync when
		// partitions come and go, and Redis at each write.
		syscall.Sync()
		start := time.Now()
		r := s.run(b)
		b.print(s, r, time.Since(start))
		goals = append(goals, r.goals...)
	}
	b.summary(goals, time.Since(begin))
	return nil
}

// failure is the error that ended a run.
type failure struct{ error }

func (f failure) Unwrap() error { return f.error }

func check(err error) {
	if err != nil {
		panic(failure{fmt.Errorf("bench: %w", err)})
	}
}
