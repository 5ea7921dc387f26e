// Command bench puts the same load on a real Kafka broker directly and through
// a braid gateway in front of it, in turns, and prints what the gateway costs:
// throughput as a share of direct, CPU for each megabyte, latency added.
//
// It installs and starts what it needs: one Kafka broker, Redis, a controller
// and a gateway as processes of their own.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/braidmq/braid/test/realparts"
)

func main() {
	mb := flag.Int("mb", 256, "megabytes of each produce and consume run")
	rounds := flag.Int("rounds", 3, "rounds, of which the median counts")
	partitions := flag.Int("partitions", 6, "partitions of the topic")
	size := flag.Int("size", 1024, "bytes of a record")
	seconds := flag.Int("latency-seconds", 10, "how long the latency is measured, at 500 records/s")
	flag.Parse()
	p := &parts{}
	code := 0
	func() {
		defer p.cleanup()
		defer func() {
			if e := recover(); e != nil {
				fmt.Fprintln(os.Stderr, e)
				code = 1
			}
		}()
		run(p, load{bytes: int64(*mb) << 20, size: *size, partitions: int32(*partitions)}, *rounds, time.Duration(*seconds)*time.Second)
	}()
	os.Exit(code)
}

func run(p *parts, l load, rounds int, latencyFor time.Duration) {
	p.start()
	say("%d MiB, %d B records, %d partitions, %d rounds; median of the rounds\n\n", l.bytes>>20, l.size, l.partitions, rounds)
	sides := []*side{{name: "direct", seed: p.kafka.Seed}, {name: "braid", seed: p.facade}}
	for round := range rounds {
		for _, s := range sides {
			topic := fmt.Sprintf("bench-%s-%d", s.name, round)
			createTopic(s.seed, topic, l.partitions)
			warm(s.seed, topic)
			s.produce = append(s.produce, p.measure(func() { produce(s.seed, topic, l) }, l.bytes))
			s.consume = append(s.consume, p.measure(func() { consume(s.seed, topic, l) }, l.bytes))
			deleteTopic(s.seed, topic)
		}
	}
	for _, s := range sides {
		topic := "latency-" + s.name
		createTopic(s.seed, topic, 1)
		warm(s.seed, topic)
	}
	for range rounds {
		for _, s := range sides {
			ack, end := latency(s.seed, "latency-"+s.name, latencyFor/time.Duration(rounds))
			s.ack, s.end = append(s.ack, ack...), append(s.end, end...)
		}
	}
	report(sides[0], sides[1])
}

// say prints results, which are the command's output.
func say(format string, args ...any) {
	_, err := fmt.Fprintf(os.Stdout, format, args...)
	check(err)
}

// A side is one of the two that are compared.
type side struct {
	name, seed       string
	produce, consume []sample
	ack, end         []time.Duration
}

// A sample is one run: its throughput, and the CPU that each process took.
type sample struct{ mbPerS, gatewayMs, brokerMs float64 }

func median(s []sample, f func(sample) float64) float64 {
	v := make([]float64, len(s))
	for i := range s {
		v[i] = f(s[i])
	}
	slices.Sort(v)
	return v[len(v)/2]
}

func report(direct, braid *side) {
	rate := func(s sample) float64 { return s.mbPerS }
	gateway := func(s sample) float64 { return s.gatewayMs }
	broker := func(s sample) float64 { return s.brokerMs }
	say("| | direct MB/s | braid MB/s | share of direct | gateway CPU ms/MB | broker CPU ms/MB direct / behind braid |\n")
	say("|---|---|---|---|---|---|\n")
	row := func(name string, d, b []sample) {
		say("| %s | %.0f | %.0f | %.2f | %.2f | %.2f / %.2f |\n", name, median(d, rate), median(b, rate), median(b, rate)/median(d, rate), median(b, gateway), median(d, broker), median(b, broker))
	}
	row("produce", direct.produce, braid.produce)
	row("consume", direct.consume, braid.consume)
	say("\n| at 500 records/s | direct p50 | braid p50 | added | direct p99 | braid p99 | added |\n")
	say("|---|---|---|---|---|---|---|\n")
	lat := func(name string, d, b []time.Duration) {
		d50, b50, d99, b99 := quantile(d, 0.5), quantile(b, 0.5), quantile(d, 0.99), quantile(b, 0.99)
		ms := func(d time.Duration) string { return fmt.Sprintf("%.2f ms", float64(d.Microseconds())/1000) }
		say("| %s | %s | %s | %s | %s | %s | %s |\n", name, ms(d50), ms(b50), ms(b50-d50), ms(d99), ms(b99), ms(b99-d99))
	}
	lat("acknowledged", direct.ack, braid.ack)
	lat("end to end", direct.end, braid.end)
}

func quantile(d []time.Duration, q float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	d = slices.Clone(d)
	slices.Sort(d)
	return d[min(int(float64(len(d))*q), len(d)-1)]
}

// parts are the processes of a benchmark; it is what realparts takes for a test.
type parts struct {
	kafka    *realparts.Kafka
	gateway  *realparts.Process
	facade   string
	cleanups []func()
}

func (p *parts) Helper()                           {}
func (p *parts) Name() string                      { return "bench" }
func (p *parts) Failed() bool                      { return false }
func (p *parts) Logf(format string, args ...any)   { fmt.Fprintf(os.Stderr, format+"\n", args...) }
func (p *parts) Errorf(format string, args ...any) { p.Fatalf(format, args...) }
func (p *parts) Cleanup(f func())                  { p.cleanups = append(p.cleanups, f) }

func (p *parts) Fatalf(format string, args ...any) {
	panic(fmt.Sprintf(format, args...))
}

func (p *parts) TempDir() string {
	dir, err := os.MkdirTemp("", "braid-bench-*")
	if err != nil {
		p.Fatalf("%v", err)
	}
	p.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func (p *parts) cleanup() {
	for _, v := range slices.Backward(p.cleanups) {
		v()
	}
}

// start starts the broker, Redis, a controller and a gateway.
func (p *parts) start() {
	p.kafka = realparts.StartKafka(p, 1024, "a")[0]
	redis := realparts.StartRedis(p)
	dir := p.TempDir()
	bin := filepath.Join(dir, "braid")
	if err := realparts.Output(realparts.Root(), "go", "build", "-o", bin, "./cmd/braid"); err != nil {
		p.Fatalf("%v", err)
	}
	api, controller := realparts.FreeAddress(p), realparts.FreeAddress(p)
	p.facade = realparts.FreeAddress(p)
	begin := func(name string, args ...string) *realparts.Process {
		proc, err := realparts.StartProcess(p, name, dir, append([]string{bin}, args...)...)
		if err != nil {
			p.Fatalf("%v", err)
		}
		p.Cleanup(proc.Kill)
		return proc
	}
	begin("controller", "controller", "--redis", redis.URL(), "--listen", controller, "--ops-listen", realparts.FreeAddress(p))
	p.gateway = begin("gateway", "gateway", "--redis", redis.URL(), "--controller", "http://"+controller, "--listen", api, "--kafka-listen", p.facade, "--ops-listen", realparts.FreeAddress(p))
	add := func() error {
		return realparts.Output(dir, bin, "--api", "http://"+api, "cluster", "add", "a", "--seeds", p.kafka.Seed)
	}
	if err := p.gateway.Ready(add); err != nil {
		p.Fatalf("%v\n%s", err, p.gateway.Tail())
	}
}

// measure runs f and takes the CPU of gateway and broker meanwhile.
func (p *parts) measure(f func(), bytes int64) sample {
	pids := []int{p.gateway.PID(), p.kafka.PID()}
	before := []time.Duration{cpu(pids[0]), cpu(pids[1])}
	start := time.Now()
	f()
	took := time.Since(start)
	mb := float64(bytes) / 1e6
	ms := func(i int) float64 { return float64((cpu(pids[i]) - before[i]).Milliseconds()) / mb }
	return sample{mbPerS: mb / took.Seconds(), gatewayMs: ms(0), brokerMs: ms(1)}
}
