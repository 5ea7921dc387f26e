package groups

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/stretchr/testify/require"
)

// TestManyMembers has 200 members share 1,000 partitions, by either protocol of Kafka,
// with the heartbeat intervals that clients have by default, and tells how long that
// takes, in virtual time, and how many writes to Redis.
func TestManyMembers(t *testing.T) {
	const members, partitions, wide = 200, 1000, 5
	stable := func(t *testing.T, start func(w *world, n int)) {
		synctest.Test(t, func(t *testing.T) {
			mini := miniredis.NewMiniRedis()
			t.Cleanup(mini.Close)
			w := newWorld(t, mini, "redis://127.0.0.1:6379/0")
			w.topics(fmt.Sprintf("t=%d", partitions))
			gw := w.gateway("a")
			w.serve("a")
			begin := time.Now()
			for n := range members {
				start(w, n)
			}
			w.eventually("all have their share", func() bool {
				of := w.claims.of()
				for _, n := range of {
					if n != wide {
						return false
					}
				}
				return len(of) == members
			})
			stats := gw.engine.Stats()
			t.Logf("%d members share %d partitions after %v: %d writes, %d moves", members, partitions, time.Since(begin), stats.Writes, w.claims.movesSoFar())
			require.Less(t, stats.Writes, int64(20*members))
		})
	}
	t.Run("classic", func(t *testing.T) {
		stable(t, func(w *world, n int) { w.consumer(fmt.Sprint("c", n), cooperatively) })
	})
	t.Run("newer", func(t *testing.T) {
		stable(t, func(w *world, n int) {
			w.modern(fmt.Sprint("m", n), func(c *modernConsumer) { c.interval = 5 * time.Second })
		})
	})
}
