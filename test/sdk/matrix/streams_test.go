//go:build real

package matrix_test

import (
	"context"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/braidmq/braid/test/sdk"
	"github.com/braidmq/braid/test/sdk/matrix"
)

// streamsTrials are those of Kafka Streams, which is no client that reads and writes: each
// case runs an application that counts the records of each key.
var streamsTrials = map[string]func(r *trial, t *testing.T, name string){
	"produce":      func(r *trial, t *testing.T, _ string) { r.counts(t, 1) },
	"classic":      func(r *trial, t *testing.T, _ string) { r.counts(t, 2) },
	"transactions": (*trial).exactlyOnce,
}

func (r *trial) application(t *testing.T, from, to string, more ...string) *sdk.Client {
	t.Helper()
	args := append([]string{from, to, "app-" + from, t.TempDir()}, more...)
	return r.start(t, "count", matrix.Settings{}, args...)
}

// counts has an application of so many members count to the end, with another one if one leaves.
func (r *trial) counts(t *testing.T, members int) {
	t.Helper()
	from, to := r.newTopic(t), r.newTopic(t)
	var all []*sdk.Client
	for range members {
		all = append(all, r.application(t, from, to))
	}
	r.untilMembers(t, "app-"+from, members, all...)
	r.fill(t, from, 300)
	r.untilCounted(t, to, 300)
	for _, app := range all[1:] {
		app.Stop()
	}
	r.fillFrom(t, from, 300, 300)
	r.untilCounted(t, to, 600)
	all[0].Stop()
}

func (f *federation) untilMembers(t *testing.T, group string, members int, clients ...*sdk.Client) {
	t.Helper()
	sdk.Until(t, strconv.Itoa(members)+" members", func() bool {
		g := f.describe(t, group)
		return g.GetState() == "Stable" && len(g.GetMembers()) == members
	}, clients...)
}

// untilCounted waits until the last counts of all keys add up.
func (f *federation) untilCounted(t *testing.T, topic string, count int) {
	t.Helper()
	client := f.client(t, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	defer client.Close()
	last := make(map[string]int)
	require.Eventually(t, func() bool {
		sum := 0
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		client.PollFetches(ctx).EachRecord(func(k *kgo.Record) {
			n, err := strconv.Atoi(string(k.Value))
			if err == nil {
				last[string(k.Key)] = n
			}
		})
		for _, n := range last {
			sum += n
		}
		require.LessOrEqual(t, sum, count, "nothing is counted twice")
		return sum == count
	}, patience, 10*time.Millisecond, "the counts of %q add up to %d", topic, count)
}

// exactlyOnce needs transactions.
func (r *trial) exactlyOnce(t *testing.T, _ string) {
	from, to := r.newTopic(t), r.newTopic(t)
	app := r.application(t, from, to, "processing.guarantee=exactly_once_v2")
	app.FinishWithin(time.Minute)
	require.NotEmpty(t, app.Has("refused"))
	for _, refused := range app.Has("refused") { // of each thread
		require.Equal(t, r.client.Refusal, strings.Fields(refused)[0], "the error that braid gives on purpose: %s", refused)
	}
}
