package router_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway/router"
)

// A reader asks at the end of a head, and the answer that there is nothing comes only
// when more was written, and the head has ended: the reader gets what was written.
func TestEmptyAnswerOfAFormerHead(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, w *world){
		"moved": func(t *testing.T, w *world) { w.move(t, "b", 0) },
		"failed over and restored": func(t *testing.T, w *world) {
			w.configure(federation.ConfigFailoverRead, "wait")
			w.failOver(t, "b", 0)
			end := w.sealExtent(t, 0)
			w.restore(t, 0, func(e *federation.Extent) { e.End = end })
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1)
			w.orders()
			asked, gate := make(chan struct{}), make(chan struct{})
			var first atomic.Bool
			w.clusters["a"].ControlKey(kmsg.Fetch.Int16(), func(req kmsg.Request) (kmsg.Response, error, bool) {
				if !first.CompareAndSwap(false, true) {
					return nil, nil, false
				}
				resp := req.ResponseKind().(*kmsg.FetchResponse)
				for _, x := range req.(*kmsg.FetchRequest).Topics {
					rt := kmsg.NewFetchResponseTopic()
					rt.Topic, rt.TopicID = x.Topic, x.TopicID
					for _, p := range x.Partitions {
						rp := kmsg.NewFetchResponseTopicPartition()
						rp.Partition, rp.HighWatermark, rp.LastStableOffset, rp.LogStartOffset = p.Partition, 0, 0, 0
						rt.Partitions = append(rt.Partitions, rp)
					}
					resp.Topics = append(resp.Topics, rt)
				}
				close(asked)
				w.clusters["a"].SleepControl(func() { <-gate })
				return resp, nil, true
			})
			reader := session(t, w.r)
			g, err := look(t.Context(), reader, 0, 20*time.Millisecond, false)
			require.NoError(t, err)
			require.Empty(t, g.values)
			<-asked
			writer := session(t, w.router(t, router.Config{}, nil))
			added(t, writer, one(0, "0"))
			close(gate)
			rest(t, 50*time.Millisecond) // the answer lies there when the reader comes again
			end(t, w)
			g, err = look(t.Context(), reader, 0, 2*time.Second, false)
			require.NoError(t, err)
			require.Equal(t, []string{"0:0"}, g.values)
		})
	}
}
