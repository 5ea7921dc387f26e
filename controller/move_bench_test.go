package controller_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/controller"
	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/federation/wire"
	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	controlv1 "github.com/braidmq/braid/gen/braid/control/v1"
)

// TestMoveOfManyHeads moves 1,000 heads with three gateways attached, and tells (-v)
// where the time goes. kfake lists no producers, so each partition is read by itself,
// which is most of the time that appends are held here.
func TestMoveOfManyHeads(t *testing.T) {
	const heads = 1000
	f := &federated{world: newWorld(t, "a", "b"), holder: &holder{}}
	f.start(t, func(c *controller.Config) {
		c.SealWait, c.SealedInterval, c.StepTimeout = 2*time.Second, time.Minute, 30*time.Second
	})
	for i := range 2 {
		f.world.gateway(t, fmt.Sprintf("g%d", i+2), nil, (&holder{}).config).awaitRegistered(t)
	}
	f.makeTopic(t, "orders", heads)

	var mu sync.Mutex
	saved, saves, asked := 0, 0, make(map[string]int)
	note := func(what string) {
		mu.Lock()
		defer mu.Unlock()
		asked[what]++
	}
	for name, k := range f.kafka {
		k.Control(func(req kmsg.Request) (kmsg.Response, error, bool) {
			k.KeepControl()
			note(name + " " + kmsg.NameForKey(req.Key()))
			return nil, nil, false
		})
	}
	var held []time.Duration
	var since, ending time.Time
	took := make(map[string]time.Duration)
	f.stopStore(func(args []string) bool {
		mu.Lock()
		defer mu.Unlock()
		const writeArgs = 5 // a script's own writes have fewer
		for _, a := range args[min(len(args), writeArgs):] {
			switch e, err := wire.Unmarshal([]byte(a)); {
			case strings.HasPrefix(a, "{") && strings.Contains(a, `"move-heads"`):
				saves++
				saved += len(a)
				if strings.Contains(a, `"ending":`) && ending.IsZero() {
					ending = time.Now()
					took["hold"] += ending.Sub(since)
				}
			case err == nil && e.GetPartition() != nil:
				x := e.GetPartition().GetExtents()
				switch state := x[len(x)-1].GetState(); {
				case state == controlv1.ExtentEntry_STATE_SEALING && since.IsZero():
					since = time.Now()
				case len(x) > 1 && !since.IsZero():
					held = append(held, time.Since(since))
					took["end"] += time.Since(ending)
					since, ending = time.Time{}, time.Time{}
				}
			}
		}
		return false
	})
	partitions := make([]int32, heads)
	for i := range partitions {
		partitions[i] = int32(i)
	}
	begin := time.Now()
	resp, err := f.admin.topics.MovePartitions(t.Context(), &adminv1.MovePartitionsRequest{Name: topicName("orders"), Partitions: partitions, PhysicalCluster: "b", NoWait: true})
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		for _, p := range f.gateway.Current().Topic("orders").Partitions {
			if p.Head().Cluster != federation.ClusterName("b") {
				return false
			}
		}
		return true
	}, 4*patience, 5*time.Millisecond)
	all := time.Since(begin)
	f.moved(t, &adminv1.Operation{Name: resp.GetOperation()})
	mu.Lock()
	defer mu.Unlock()
	t.Logf("%d heads moved in %s: %d rounds held for %v (%v); %d saves of %d KiB; requests %v", heads, all, len(held), held, took, saves, saved>>10, asked)
	require.Len(t, held, 4)
	require.Less(t, saved, heads<<11)
	require.LessOrEqual(t, asked["a Produce"], 2*2*4, "seals: one for each broker and round; and the journal's for each map")
	require.LessOrEqual(t, asked["a OffsetForLeaderEpoch"], 3*2*4)
}
