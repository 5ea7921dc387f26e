package main

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/braidmq/braid/test/realparts"
)

// parts is what realparts takes for a test.
type parts struct{ cleanups []func() }

func (p *parts) Helper()                           {}
func (p *parts) Name() string                      { return "bench" }
func (p *parts) Failed() bool                      { return false }
func (p *parts) Logf(format string, args ...any)   { fmt.Fprintf(os.Stderr, format+"\n", args...) }
func (p *parts) Errorf(format string, args ...any) { p.Fatalf(format, args...) }
func (p *parts) Cleanup(f func())                  { p.cleanups = append(p.cleanups, f) }

func (p *parts) Fatalf(format string, args ...any) { check(fmt.Errorf(format, args...)) }

func (p *parts) TempDir() string {
	dir, err := os.MkdirTemp("", "braid-bench-*")
	check(err)
	p.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func (p *parts) cleanup() {
	all := p.cleanups
	p.cleanups = nil
	for _, f := range slices.Backward(all) {
		f()
	}
}

// A scope ends before its test does.
type scope struct {
	realparts.TB
	parts
}

func (s *scope) Helper()                           {}
func (s *scope) Name() string                      { return s.TB.Name() }
func (s *scope) Failed() bool                      { return s.TB.Failed() }
func (s *scope) Logf(format string, args ...any)   { s.TB.Logf(format, args...) }
func (s *scope) Errorf(format string, args ...any) { s.TB.Errorf(format, args...) }
func (s *scope) Fatalf(format string, args ...any) { s.parts.Fatalf(format, args...) }
func (s *scope) Cleanup(f func())                  { s.parts.Cleanup(f) }
func (s *scope) TempDir() string                   { return s.parts.TempDir() }

// A world is a federation: Redis, a controller, perhaps a gateway, and clusters.
type world struct {
	scope  *scope
	b      *bench
	dir    string
	redis  *realparts.Redis
	kafka  *realparts.Kafka   // the first broker of the first cluster; nil where the clusters are embedded
	more   []*realparts.Kafka // its other brokers
	facade string             // of the gateway, for Kafka clients
	api    string             // base URL of the gateway, or of the controller
	lead   string             // base URL of the controller

	processes  map[string]*realparts.Process
	opsAddress map[string]string
	profiled   map[string]bool
	// What asking for metrics allocates in the gateway.
	askBytes, askAllocs float64
}

// newWorld starts Redis and a controller.
func (b *bench) newWorld() *world {
	w := &world{
		scope: &scope{TB: b.tb}, b: b,
		processes: make(map[string]*realparts.Process), opsAddress: make(map[string]string), profiled: make(map[string]bool),
	}
	b.tb.Cleanup(w.stop)
	w.dir = w.scope.TempDir()
	if b.bin == "" {
		b.bin = filepath.Join(b.tb.TempDir(), "braid")
		check(realparts.Output(realparts.Root(), "go", "build", "-o", b.bin, "./cmd/braid"))
	}
	w.redis = realparts.StartRedis(w.scope)
	address := realparts.FreeAddress(w.scope)
	w.lead = "http://" + address
	w.api = w.lead
	w.start(controller, "controller", "--listen", address)
	return w
}

// start starts a role of braid under a name, and waits until it is ready.
func (w *world) start(name string, args ...string) *realparts.Process {
	w.opsAddress[name] = realparts.FreeAddress(w.scope)
	args = append(args, "--id", name, "--redis", w.redis.URL(), "--ops-listen", w.opsAddress[name])
	if w.b.profiles != "" {
		args = append(args, "--mutex-profile", "10")
	}
	p, err := realparts.StartProcess(w.scope, name, w.dir, append([]string{w.b.bin}, args...)...)
	check(err)
	w.processes[name] = p
	check(p.Ready(func() error { return ready(w.opsAddress[name]) }))
	return p
}

// startGateway starts a gateway; the one named gateway is the one that is measured.
func (w *world) startGateway(name string) *realparts.Process {
	api, facade := realparts.FreeAddress(w.scope), realparts.FreeAddress(w.scope)
	p := w.start(name, "gateway", "--controller", w.lead, "--listen", api, "--kafka-listen", facade)
	if name != gateway {
		return p
	}
	w.api, w.facade = "http://"+api, facade
	one := w.metrics(gateway)
	two := w.metrics(gateway)
	w.askBytes, w.askAllocs = two[metricAllocBytes]-one[metricAllocBytes], two[metricAllocs]-one[metricAllocs]
	return p
}

func ready(ops string) error {
	resp, err := http.Get("http://" + ops + "/readyz")
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("/readyz answers %s", resp.Status)
	}
	return nil
}

// stop ends everything in the world.
func (w *world) stop() { w.scope.cleanup() }

func (w *world) pids() map[string][]int {
	all := map[string][]int{client: {self()}, redisName: {w.redis.PID()}}
	for _, name := range []string{gateway, controller} {
		if p := w.processes[name]; p != nil {
			all[name] = []int{p.PID()}
		}
	}
	if w.kafka != nil {
		all[broker] = []int{w.kafka.PID()}
	}
	for _, k := range w.more {
		all[broker] = append(all[broker], k.PID())
	}
	return all
}

// braid runs a command of the command line, on the gateway if there is one.
func (w *world) braid(args ...string) string {
	out, err := w.tryBraid(args...)
	check(err)
	return out
}

func (w *world) tryBraid(args ...string) (string, error) {
	cmd := exec.CommandContext(w.b.ctx, w.b.bin, append(args, "--api", w.api, "--timeout", "5m")...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("braid %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// real returns the world of real parts: one Kafka broker with a gateway before it,
// both warm.
func (b *bench) real() *world {
	if b.world != nil {
		return b.world
	}
	w := b.newWorld()
	b.world = w
	w.kafka = realparts.StartKafka(w.scope, b.size(1024, 512), "a")[0]
	w.startGateway(gateway)
	w.braid("cluster", "add", "a", "--seeds", w.kafka.Seed)
	topic := w.adopted(6)
	for range b.size(2, 1) {
		for _, s := range w.sides() {
			l := payload{bytes: b.bytes() / 4, size: 1024}
			b.produce(s.seed, topic, l)
			b.consume(s.seed, topic, l)
		}
	}
	w.drop(topic)
	return w
}

func (b *bench) stopWorld() {
	if b.world != nil {
		b.world.stop()
		b.world = nil
	}
}

// A side is one of the two ways that are compared.
type side struct{ name, seed string }

func (w *world) sides() []side {
	return []side{{"direct", w.kafka.Seed}, {"braid", w.facade}}
}

func (s side) braid() bool { return s.name == "braid" }

// adopted makes a topic on the broker that is a topic of braid, too: both sides use
// the same log.
func (w *world) adopted(partitions int32) string {
	topic := w.b.topicName()
	w.b.createTopic(w.kafka.Seed, topic, partitions, 1+len(w.more))
	w.braid("topic", "adopt", topic, "--cluster", "a")
	return topic
}

// created makes a topic as the users of a side do.
func (w *world) created(s side, partitions int32) string {
	topic := w.b.topicName()
	if !s.braid() {
		w.b.createTopic(s.seed, topic, partitions, 1)
		return topic
	}
	w.braid("topic", "create", topic, "--partitions", strconv.Itoa(int(partitions)), "--clusters", "a")
	return topic
}

// drop deletes a topic of braid. Redis syncs each write to the disk to which the broker
// has just written for some seconds as fast as that goes: it may take a while until it
// answers again.
func (w *world) drop(topic string) {
	w.b.await("topic "+topic+" deleted", func() bool {
		_, err := w.tryBraid("topic", "delete", topic)
		again := err != nil && strings.Contains(err.Error(), "Redis does not answer")
		if !again && w.listed(topic) {
			check(err)
		}
		return !again
	})
}

func (w *world) listed(topic string) bool {
	return strings.Contains(w.braid("topic", "list"), topic)
}

// await polls until f returns true.
func (b *bench) await(what string, f func() bool) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	late := time.NewTimer(2 * time.Minute)
	defer late.Stop()
	for !f() {
		select {
		case <-tick.C:
		case <-late.C:
			check(fmt.Errorf("waited in vain for %s", what))
		case <-b.ctx.Done():
			check(b.ctx.Err())
		}
	}
}

// wait waits for some time, as part of a load.
func (b *bench) wait(d time.Duration) {
	select {
	case <-time.After(d):
	case <-b.ctx.Done():
		check(b.ctx.Err())
	}
}
