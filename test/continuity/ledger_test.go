package continuity

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/test/check"
)

func value(producer string, n int) check.Value {
	return check.Value{Producer: producer, Key: "k", Number: n}
}

// A ledger with an idempotent producer, another one and a member.
func newTestLedger() (l *ledger, once, other, member *account) {
	l = newLedger()
	once = l.add(client{Name: "once", Once: true})
	other = l.add(client{Name: "other"})
	member = l.add(client{Name: "member", Group: "g"})
	return l, once, other, member
}

func TestLedgerFindsNothingWrong(t *testing.T) {
	l, once, _, member := newTestLedger()
	l.assign(member, []int32{0})
	for n := 1; n <= 3; n++ {
		l.record(0, int64(n+4), "k", value("once", n).String(), false)
		l.acknowledged(once, value("once", n), 0, time.Millisecond)
		l.read(member, 0, int64(n+4), "k", value("once", n).String())
	}
	l.assign(member, []int32{0}) // a rebalance, after which it reads from its last commit on
	l.read(member, 0, 6, "k", value("once", 2).String())
	l.read(member, 0, 7, "k", value("once", 3).String())
	require.True(t, l.caughtUp())
	l.finish()
	require.Empty(t, l.counts, "%v", l.problems)
	require.Equal(t, 2, l.groups["g"].again)
	require.Equal(t, 1, member.rebalances)
}

func TestLedgerFindsWhatIsWrong(t *testing.T) {
	for kind, f := range map[string]func(l *ledger, once, other, member *account){
		"lost": func(l *ledger, once, _, _ *account) { l.acknowledged(once, value("once", 1), 0, 0) },
		"twice": func(l *ledger, _, _, _ *account) {
			l.record(0, 0, "k", value("once", 1).String(), false)
			l.record(0, 1, "k", value("once", 1).String(), false)
		},
		"twice, not idempotent": func(l *ledger, _, _, _ *account) {
			l.record(0, 0, "k", value("other", 1).String(), false)
			l.record(0, 1, "k", value("other", 1).String(), false)
		},
		"out of order": func(l *ledger, _, _, _ *account) {
			l.record(0, 0, "k", value("once", 2).String(), false)
			l.record(0, 1, "k", value("once", 1).String(), false)
		},
		"never read": func(l *ledger, _, _, _ *account) { l.record(0, 0, "k", value("once", 1).String(), false) },
		"torn": func(l *ledger, _, _, member *account) {
			l.record(0, 0, "k", value("once", 1).String(), false)
			l.read(member, 0, 0, "k", value("once", 2).String())
		},
		"given again": func(l *ledger, _, _, member *account) {
			l.assign(member, []int32{0})
			l.read(member, 0, 0, "k", value("once", 1).String())
			l.read(member, 0, 0, "k", value("once", 1).String())
		},
		"passed over": func(l *ledger, _, _, member *account) {
			l.assign(member, []int32{0})
			l.read(member, 0, 0, "k", value("once", 1).String())
			l.read(member, 0, 2, "k", value("once", 3).String())
		},
	} {
		t.Run(kind, func(t *testing.T) {
			l, once, other, member := newTestLedger()
			l.open("move")
			f(l, once, other, member)
			l.close(nil)
			l.finish()
			require.Equal(t, 1, l.counts[kind], "%v", l.problems)
		})
	}
}

// At a failover, groups may go on behind a gap and leave out what another one has read;
// what is appended again comes out of its order.
func TestLedgerKnowsFailovers(t *testing.T) {
	const far = 1 << 40
	run := func(failover bool) *ledger {
		l, _, _, member := newTestLedger()
		l.failover = failover
		other := l.add(client{Name: "ahead", Group: "h"})
		for _, m := range []*account{member, other} {
			l.assign(m, []int32{0})
			l.read(m, 0, 0, "k", value("once", 1).String())
		}
		l.read(other, 0, 1, "k", value("once", 2).String())
		for _, m := range []*account{member, other} {
			l.read(m, 0, far, "k", value("once", 4).String())
			l.read(m, 0, far+1, "k", value("once", 3).String())
		}
		l.record(0, 0, "k", value("once", 1).String(), false)
		l.record(0, 1, "k", value("once", 2).String(), false)
		l.record(0, far, "k", value("once", 4).String(), false)
		l.record(0, far+1, "k", value("once", 3).String(), failover)
		require.Equal(t, failover, l.caughtUp())
		l.finish()
		return l
	}
	l := run(true)
	require.Empty(t, l.counts, "%v", l.problems)
	require.Equal(t, 1, l.groups["g"].leftOut)
	require.Zero(t, l.groups["h"].leftOut)
	l = run(false)
	require.Equal(t, map[string]int{"passed over": 2, "never read": 1, "out of order": 1}, l.counts)
}

// What nobody has read may not be left out, and a small gap is none of a failover.
func TestLedgerFindsWhatIsWrongAtFailovers(t *testing.T) {
	const far = 1 << 40
	l, _, _, member := newTestLedger()
	l.failover = true
	l.assign(member, []int32{0})
	l.read(member, 0, 0, "k", value("once", 1).String())
	l.read(member, 0, far, "k", value("once", 3).String())
	l.read(member, 0, far+2, "k", value("once", 5).String())
	for i, offset := range []int64{0, 1, far, far + 1, far + 2} {
		l.record(0, offset, "k", value("once", i+1).String(), false)
	}
	l.finish()
	require.Equal(t, map[string]int{"passed over": 1, "never read": 2}, l.counts, "%v", l.problems)
}

func TestSightsOfAnOperation(t *testing.T) {
	l, once, _, member := newTestLedger()
	l.acknowledged(once, value("once", 1), 0, 900*time.Millisecond)
	l.fail(once, "before")
	l.open("move")
	l.acknowledged(once, value("once", 2), 0, time.Minute) // held since before
	l.acknowledged(once, value("once", 3), 0, 3)
	l.acknowledged(once, value("once", 4), 1, 7)
	l.fail(once, "meanwhile")
	l.assign(member, []int32{0, 1})
	l.assign(member, []int32{0})
	require.Equal(t, []string{"member", "other"}, l.unsettled(time.Now().Add(-time.Hour), 2))
	sights := l.close([]int32{0})
	require.Equal(t, sight{Client: "once", Gap: sights[0].Gap, GapAt: sights[0].GapAt, Errors: 1, Held: 3}, sights[0])
	require.Equal(t, 1, sights[2].Rebalances)
	require.Equal(t, 1, once.quiet.count)
}

func TestQuantiles(t *testing.T) {
	var h histogram
	for n := range 100 {
		h.add(time.Duration(n+1) * time.Millisecond)
	}
	for q, want := range map[float64]time.Duration{0.5: 50 * time.Millisecond, 0.99: 99 * time.Millisecond} {
		require.InEpsilon(t, want, h.quantile(q), 0.12)
	}
	require.Equal(t, 100*time.Millisecond, h.quantile(1))
}
