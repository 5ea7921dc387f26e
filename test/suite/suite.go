// Package suite is the behaviour that every federation must show, whatever it
// runs on. It knows public doors only: Kafka clients on the facade, generated
// Connect clients, and the command line.
package suite

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/braidmq/braid/gen/braid/admin/v1/adminv1connect"
	"github.com/braidmq/braid/gen/braid/v1/braidv1connect"
	"github.com/braidmq/braid/test/world"
)

// Limits of waits.
const (
	callTimeout  = 30 * time.Second // of one call or a few
	waitTimeout  = 60 * time.Second // for something to become true
	pollInterval = 20 * time.Millisecond
)

// Options is the world that Run needs.
func Options() world.Options {
	return world.Options{Gateways: 3, Controllers: 2, AutoCreateTopics: true, AskACLs: true, Tenants: []string{"acme", "beta"}, OffsetsBackup: 500 * time.Millisecond}
}

// A suite is one run over a world.
type suite struct{ w *world.World }

// Run runs the suite but for RunFaults.
func Run(t *testing.T, w *world.World) {
	s := &suite{w}
	runGroups(t, []testGroup{
		{"topics", s.topics()},
		{"configs", s.configs()},
		{"produce", s.produce()},
		{"fetch", s.fetch()},
		{"offsets", s.offsets()},
		{"groups", s.groups()},
		{"connect", s.connect()},
		{"names", s.names()},
		{"authorization", s.authorization()},
		{"quotas", s.quotas()},
		{"tenants", s.tenants()},
		{"command line", s.commands()},
		{"bad input", s.badInput()},
		{"nothing physical", s.leaks()},
		{"moves", s.moves()},
		{"compaction", s.compaction()},
		{"adopt", s.adopt()},
	})
}

// RunFaults runs the tests that take parts of the world away, and bring them back: processes
// that end, brokers that are away, a Redis that forgets.
func RunFaults(t *testing.T, w *world.World) {
	s := &suite{w}
	runGroups(t, []testGroup{
		{"faults", s.faults()},
		{"recovery", s.recovery()},
	})
}

type testGroup struct {
	name  string
	tests []test
}

func runGroups(t *testing.T, groups []testGroup) {
	for _, group := range groups {
		t.Run(group.name, func(t *testing.T) {
			for _, c := range group.tests {
				t.Run(c.name, c.run)
			}
		})
	}
}

type test struct {
	name string
	run  func(t *testing.T)
}

// call bounds the calls of a test.
func call(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), callTimeout)
	t.Cleanup(cancel)
	return ctx
}

// client returns a franz-go client of all gateways.
func (s *suite) client(t *testing.T, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	client, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(s.w.KafkaAddresses()...)}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(client.Close)
	return client
}

func (s *suite) admin(t *testing.T) *kadm.Client {
	t.Helper()
	return kadm.NewClient(s.client(t))
}

func (s *suite) producerAPI() braidv1connect.ProducerServiceClient {
	return braidv1connect.NewProducerServiceClient(s.w.Client, s.w.API())
}

func (s *suite) consumerAPI() braidv1connect.ConsumerServiceClient {
	return braidv1connect.NewConsumerServiceClient(s.w.Client, s.w.API())
}

func (s *suite) fleetAPI() adminv1connect.FleetServiceClient {
	return adminv1connect.NewFleetServiceClient(s.w.Client, s.w.API())
}

// name makes a name of the test's.
func name(t *testing.T) string {
	t.Helper()
	clean := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, t.Name())
	return clean + "-" + strconv.FormatInt(time.Now().UnixNano()%1e9, 36)
}

// topic creates a topic, named after the test, over all clusters.
func (s *suite) topic(t *testing.T, partitions int32, config ...string) string {
	t.Helper()
	topic := name(t)
	configs := make(map[string]*string)
	for _, c := range config {
		k, v, _ := strings.Cut(c, "=")
		configs[k] = &v
	}
	_, err := s.admin(t).CreateTopic(call(t), partitions, -1, configs, topic)
	require.NoError(t, err)
	return topic
}

// send writes records and requires that all were acknowledged.
func send(t *testing.T, client *kgo.Client, records ...*kgo.Record) []*kgo.Record {
	t.Helper()
	results := client.ProduceSync(call(t), records...)
	require.NoError(t, results.FirstErr())
	return records
}

// read reads exactly count records of a topic from its beginning.
func (s *suite) read(t *testing.T, topic string, count int, opts ...kgo.Opt) []*kgo.Record {
	t.Helper()
	opts = append([]kgo.Opt{kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart())}, opts...)
	client := s.client(t, opts...)
	defer client.Close()
	return poll(t, client, count)
}

// poll polls a client until it has brought count records.
func poll(t *testing.T, client *kgo.Client, count int) []*kgo.Record {
	t.Helper()
	ctx := call(t)
	var all []*kgo.Record
	for len(all) < count {
		fetches := client.PollFetches(ctx)
		require.NoError(t, fetches.Err(), "after %d of %d records", len(all), count)
		all = append(all, fetches.Records()...)
	}
	require.Len(t, all, count)
	return all
}

// end is the sum of the ends of a topic's partitions.
func (s *suite) end(t *testing.T, topic string) (sum int64) {
	t.Helper()
	ends, err := s.admin(t).ListEndOffsets(call(t), topic)
	require.NoError(t, err)
	require.NoError(t, ends.Error())
	ends.Each(func(o kadm.ListedOffset) { sum += o.Offset })
	return sum
}

// eventually polls until a condition holds.
func eventually(t *testing.T, condition func() bool, what string, args ...any) {
	t.Helper()
	deadline := time.Now().Add(waitTimeout)
	for !condition() { // in the test's own goroutine, so that it may fail the test
		require.True(t, time.Now().Before(deadline), "not within %s: %s", waitTimeout, fmt.Sprintf(what, args...))
		<-time.After(pollInterval)
	}
}

func isContextError(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}

// short bounds a call that may have to fail.
func short(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	t.Cleanup(cancel)
	return ctx
}
