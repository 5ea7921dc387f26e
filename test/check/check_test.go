package check_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/test/check"
)

func record(partition int32, offset int64, v check.Value) check.Record {
	return check.Record{Partition: partition, Offset: offset, Key: v.Key, Value: v.String()}
}

func TestAudit(t *testing.T) {
	v := func(n int) check.Value { return check.Value{Producer: "p", Key: "k", Number: n} }
	good := []check.Record{record(0, 1, v(1)), record(0, 2, v(2)), record(0, 3, v(3))}
	acked := []check.Value{v(1), v(2), v(3)}
	for name, c := range map[string]struct {
		log, reads                   []check.Record
		acked                        []check.Value
		lost, double, disorder, torn int
	}{
		"good":                        {log: good, reads: good, acked: acked},
		"good with repeated reads":    {log: good, reads: append(good[:3:3], good[1]), acked: acked},
		"unacknowledged in the log":   {log: good, acked: acked[:2]},
		"acknowledged but not there":  {log: good[:2], acked: acked, lost: 1},
		"never read":                  {log: good, reads: good[:2], acked: acked, lost: 1},
		"twice":                       {log: append(good[:3:3], record(0, 4, v(2))), acked: acked, double: 1},
		"out of order":                {log: []check.Record{record(0, 1, v(2)), record(0, 2, v(1))}, acked: acked[:2], disorder: 1},
		"two values at an offset":     {log: append(good[:3:3], record(0, 3, v(4))), acked: acked, torn: 1},
		"another value for a reader":  {log: good, reads: append(good[:3:3], record(0, 3, v(9))), acked: acked, torn: 1},
		"an offset only a reader saw": {log: good, reads: append(good[:3:3], record(0, 9, v(9))), acked: acked, torn: 1},
	} {
		t.Run(name, func(t *testing.T) {
			r := check.Audit(c.log, c.acked, c.reads)
			require.Equal(t, []int{c.lost, c.double, c.disorder, c.torn}, []int{r.Lost, r.Double, r.Disorder, r.Torn}, "%v", r.Err())
			require.Equal(t, c.lost+c.double+c.disorder+c.torn > 0, r.Err() != nil)
		})
	}
}

func TestSeen(t *testing.T) {
	v := func(n int) check.Value { return check.Value{Producer: "p", Key: "k", Number: n} }
	s := check.NewSeen()
	require.Empty(t, s.Next("a", record(0, 5, v(1))))
	require.Empty(t, s.Next("a", record(0, 6, v(2))))
	require.Empty(t, s.Read("b", record(0, 5, v(1))), "it may read what it likes")
	require.Empty(t, s.Next("c", record(0, 6, v(2))), "it may begin anywhere")
	require.Empty(t, s.Next("a", record(1, 9, v(3))), "partitions are apart")
	require.EqualValues(t, 7, s.Highest(0))
	require.Contains(t, s.Next("a", record(0, 8, v(4))), "a saw partition 0 offset 8")
	require.Contains(t, s.Read("b", record(0, 6, v(9))), `b saw "p/k/9" at partition 0 offset 6, where a saw "p/k/2"`)
}

func TestGrowing(t *testing.T) {
	g := make(check.Growing)
	require.Empty(t, g.See("x", 3))
	require.Empty(t, g.See("x", 3))
	require.Empty(t, g.See("y", 1))
	require.Equal(t, "x went back from 3 to 2", g.See("x", 2))
}

func TestPlacedAndContiguous(t *testing.T) {
	v := func(n int) check.Value { return check.Value{Producer: "p", Key: "k", Number: n} }
	log := []check.Record{record(0, 1, v(1)), record(0, 2, v(2)), record(1, 7, v(3))}
	require.Empty(t, check.Placed(log, []check.Acknowledged{{Value: v(2), Offset: 2}, {Value: v(1), Offset: -1}, {Value: v(3), Partition: 1, Offset: 7}}))
	require.Len(t, check.Placed(log, []check.Acknowledged{{Value: v(1), Offset: 2}, {Value: v(2), Offset: 9}}), 2)
	require.Empty(t, check.Contiguous(log))
	require.Equal(t, []string{"partition 0 has offset 4 after 2"}, check.Contiguous(append(log, record(0, 4, v(5)))))
}
