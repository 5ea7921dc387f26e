package continuity

import (
	"context"
	"slices"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// When clusters are failed over, other promises hold (decision 0014). Offsets jump; who
// has not read what lies before a jump by then goes on behind it, and does not get what
// others have read of it; what nobody has read is appended again, behind newer records
// of its key. And a batch that was sent again is hidden where it was first, though
// somebody may have read it there. So the log is read once, in the end, and not as it
// grows; and groups may have left out what lies before a jump of theirs, if another
// group has it.

// jumpLeast is the least that a failover leaves between the offsets of two extents.
const jumpLeast = 1 << 39

// A jump is where a group went on at a later offset than the next.
type jump struct{ from, to int64 }

// jumped notes a jump of a group, if failovers are part of the plan and it is as wide as
// those are; the ledger's mu is held.
func (l *ledger) jumped(g *groupLog, partition int32, next, offset int64) bool {
	if !l.failover || offset-next < jumpLeast {
		return false
	}
	if j := (jump{next, offset}); !slices.Contains(g.jumps[partition], j) {
		g.jumps[partition] = append(g.jumps[partition], j)
	}
	return true
}

// mayLack reports whether a group may have left a record out: it jumped over it, and
// another group has read it.
func (l *ledger) mayLack(name string, partition int32, offset int64) bool {
	over := slices.ContainsFunc(l.groups[name].jumps[partition], func(j jump) bool { return j.from <= offset && offset < j.to })
	if !over {
		return false
	}
	for other, g := range l.groups {
		if other != name && offsetsOf(g.read, partition).get(offset) != 0 {
			return true
		}
	}
	return false
}

// isCopy reports whether a record was appended again when its cluster was restored.
func isCopy(r *kgo.Record) bool {
	return slices.ContainsFunc(r.Headers, func(h kgo.RecordHeader) bool { return h.Key == "braid.failover.offset" })
}

// readWholeLog reads the log from its beginning up to ends, whatever gaps its offsets have.
func (s *soak) readWholeLog(ctx context.Context, ends map[int32]kadm.ListedOffset) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(s.kafka...), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		return err
	}
	defer client.Close()
	for !s.ledger.hasRead(ends) {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		fetches.EachRecord(func(r *kgo.Record) { s.ledger.record(r.Partition, r.Offset, string(r.Key), string(r.Value), isCopy(r)) })
	}
	return nil
}
