package groups

import (
	"fmt"
	"math/rand"
	"os"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/federation"
)

// TestRandomLives lets members of all kinds come, go and crash while gateways take
// over from each other and lose Redis for a moment. No partition is ever read by two
// members, and in the end all are shared. BRAID_TEST_SEED runs one seed alone.
func TestRandomLives(t *testing.T) {
	first, last := int64(1), int64(24)
	if text := os.Getenv("BRAID_TEST_SEED"); text != "" {
		n, err := strconv.ParseInt(text, 10, 64)
		require.NoError(t, err)
		first, last = n, n
	}
	for seed := first; seed <= last; seed++ {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				mini := miniredis.NewMiniRedis()
				t.Cleanup(mini.Close)
				w := newWorld(t, mini, "redis://127.0.0.1:6379/0")
				l := &lives{w: w, modern: seed%3 > 0, rng: rand.New(rand.NewSource(seed)), ways: rand.New(rand.NewSource(-seed)), mode: func(*consumer) {}}
				if seed%2 == 0 {
					l.mode = cooperatively
				}
				for _, id := range []federation.GatewayID{"a", "b", "c"} {
					w.gateway(id, modernly)
				}
				w.serve("a", "b", "c")
				for range 60 {
					l.act()
					w.wait(time.Duration(l.rng.Intn(400)) * time.Millisecond)
				}
				l.settle()
			})
		})
	}
}

type lives struct {
	w         *world
	rng       *rand.Rand // of what happens
	ways      *rand.Rand // of the ways of members
	mode      func(*consumer)
	modern    bool // some Kafka members use the newer protocol
	consumers []kafkaMember
	readers   []*reader
	n         int
}

type kafkaMember interface {
	leave()
	crash()
}

func (l *lives) some() federation.GatewayID {
	return []federation.GatewayID{"a", "b", "c"}[l.rng.Intn(3)]
}

func take[T any](l *lives, from *[]T) T {
	i := l.rng.Intn(len(*from))
	v := (*from)[i]
	*from = append((*from)[:i:i], (*from)[i+1:]...)
	return v
}

func (l *lives) read(former string) {
	l.readers = append(l.readers, l.w.reader(fmt.Sprintf("reader%d", l.n), l.w.cluster(l.w.gateways[l.some()]), func(r *reader, req *SubscribeRequest) {
		r.slow, r.commits, req.FormerID = time.Duration(l.rng.Intn(300))*time.Millisecond, true, former
		req.SessionTimeout = 3 * testSession // longer than Redis is away, and the pauses of its clients after it
	}))
}

func (l *lives) act() {
	l.n++
	switch k := l.rng.Intn(16); {
	case k < 3 && len(l.consumers) < 4:
		impatient := l.ways.Intn(2) == 0
		if l.modern && l.ways.Intn(2) == 0 {
			slow := time.Duration(l.ways.Intn(300)) * time.Millisecond
			l.consumers = append(l.consumers, l.w.modern(fmt.Sprintf("modern%d", l.n), func(c *modernConsumer) { c.slow, c.commits = slow, true }))
			return
		}
		l.consumers = append(l.consumers, l.w.consumer(fmt.Sprintf("consumer%d", l.n), l.mode, func(c *consumer) { c.impatient = impatient }))
	case k < 6 && len(l.readers) < 4:
		l.read("")
	case k == 6 && len(l.consumers) > 0:
		take(l, &l.consumers).leave()
	case k == 7 && len(l.consumers) > 0:
		take(l, &l.consumers).crash()
	case k == 8 && len(l.readers) > 0:
		_ = take(l, &l.readers).leave()
	case k == 9 && len(l.readers) > 0:
		r := take(l, &l.readers)
		r.stop()
		<-r.ended
		if l.ways.Intn(2) == 0 {
			l.read(r.m.MemberID()) // it is back at once
		}
	case k < 13:
		switch l.rng.Intn(3) {
		case 0:
			l.w.serve("a", "b", "c")
		case 1:
			l.w.serve(l.some())
		default:
			l.w.serve("b", "c")
		}
	case k == 13:
		gw := l.w.gateways[l.some()]
		gw.loseRedis(true)
		l.w.wait(time.Duration(l.rng.Intn(300)) * time.Millisecond)
		gw.loseRedis(false)
	case k == 14:
		gw := l.w.gateways[l.some()]
		gw.deaf.Store(true)
		l.w.wait(time.Duration(l.rng.Intn(200)) * time.Millisecond)
		gw.deaf.Store(false)
	case k == 15:
		l.w.topics(fmt.Sprintf("t=%d", 3+l.rng.Intn(7)), "other=2") // partitions that go do so with their offsets
	}
}

// settle waits until the members that are left share all partitions evenly.
func (l *lives) settle() {
	total := len(l.w.maps.Current().Topic("t").Partitions)
	members := len(l.consumers) + len(l.readers)
	if members == 0 {
		total = 0
	}
	l.w.eventually(fmt.Sprintf("%d partitions are shared by %d members", total, members), func() bool {
		sum, least, most, n := 0, total, 0, 0
		for _, have := range l.w.claims.of() {
			sum, least, most, n = sum+have, min(least, have), max(most, have), n+1
		}
		if n < members {
			least = 0
		}
		return sum == total && (sum == 0 || most-least <= 1)
	})
	for _, r := range l.readers {
		require.NoError(l.w.t, r.m.Err(), r.name)
	}
}
