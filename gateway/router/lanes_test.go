package router_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/federation/federationtest"
	"github.com/braidmq/braid/gateway/router"
	"github.com/braidmq/braid/internal/recordbatch"
)

// Clients that come while appends wait on all lanes get lanes of their own, and no
// more of them than are needed.
func TestLanesGrowWithLoad(t *testing.T) {
	w := newWorldWith(t, 1, router.Config{Lanes: 1, LanesMax: 3, AppendRequestsMax: 1}, nil)
	w.SetTopic("orders", nil, []*federation.Extent{federationtest.Head("a", "phys", 0)})
	session := func() router.Session {
		s := w.r.NewSession()
		t.Cleanup(s.Close)
		return s
	}
	answered, sent := make(chan []router.Appended, 10_000), 0
	appends := func(s router.Session, n int) {
		for range n {
			sent++
			require.NoError(t, s.Produce(t.Context(), router.AcksAll, time.Minute,
				[]router.Append{{TopicPartition: at("orders", 0), Batch: batch(recordbatch.NoProducer, "v")}}, func(a []router.Appended) { answered <- a }))
		}
	}
	first := session()
	require.EqualValues(t, 1, w.r.Stats().Lanes)
	session()
	require.EqualValues(t, 1, w.r.Stats().Lanes, "nothing waits")

	gate := make(chan struct{})
	c := w.clusters["a"]
	c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		c.SleepControl(func() { <-gate })
		return nil, nil, false
	})
	appends(first, 3)
	var second router.Session
	require.Eventually(t, func() bool {
		second = session()
		return w.r.Stats().Lanes == 2
	}, 5*time.Second, time.Millisecond)
	session()
	require.EqualValues(t, 2, w.r.Stats().Lanes, "nothing waits on the second")
	appends(second, 3)
	require.Eventually(t, func() bool {
		appends(first, 1) // waits, too
		session()
		return w.r.Stats().Lanes == 3
	}, 5*time.Second, time.Millisecond)
	session()
	require.EqualValues(t, 3, w.r.Stats().Lanes, "there are no more")
	close(gate)
	for range sent {
		require.NoError(t, (<-answered)[0].Err)
	}
}
