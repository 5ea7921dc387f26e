package upstream

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
)

// A Partition is a partition of a topic of one physical cluster.
//
// Errors about partitions are of kind UnknownTopic (also for a partition that the
// topic has not), NoLeader, NotEnoughReplicas, Timeout and Throttled if that is what
// a broker said last, ClusterUnavailable if none answered, Unsupported if the brokers
// are too old, and else by the broker's code.
type Partition struct {
	Topic     string
	Partition federation.PhysicalPartition
}

const (
	// A partition whose leader could not answer rests for leaderPause, and twice as
	// long each further time, up to leaderPauseMax.
	leaderPause    = 20 * time.Millisecond
	leaderPauseMax = 200 * time.Millisecond
	// metadataRests is how many rests long an answer about leaders is waited for.
	metadataRests = 25
	// askPartitionsMax and askBytesMax bound one request about many partitions; what
	// is above goes into further ones. Brokers take 100 MiB by default.
	askPartitionsMax = 500
	askBytesMax      = 8 << 20
)

// errLeftOut is the error of a partition that an answer does not mention.
var errLeftOut = errors.New("the broker's answer leaves the partition out")

// attemptTimeout bounds the wait for one broker, so that one that is silent leaves
// time for the next leader.
func (c *Cluster) attemptTimeout() time.Duration { return c.cfg.AdminTimeout / 4 }

// A question is about partitions with many leaders.
type question struct {
	c     *Cluster
	parts []Partition
	bytes func(i int) int // what a partition adds to a request; nil = little
	try   func(ctx context.Context, a *attempt)
	errs  []error // by index of parts; each is written by the attempt that has the index
}

// eachLeader asks the leaders of different partitions, all brokers at the same
// time, with try. Partitions whose error is retriable are asked again at their
// next leaders, until ctx or AdminTimeout ends; a broker that does not answer
// holds up its own partitions only. It returns one error for each partition, in
// their order; what says what was tried, for the texts.
func (c *Cluster) eachLeader(ctx context.Context, what string, parts []Partition, bytes func(i int) int, try func(context.Context, *attempt)) []error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.AdminTimeout)
	defer cancel()
	q := &question{c: c, parts: parts, bytes: bytes, try: try, errs: make([]error, len(parts))}
	all := make([]int, len(parts))
	for i := range all {
		all[i] = i
	}
	q.run(ctx, all, leaderPause)
	for i, err := range q.errs {
		q.errs[i] = c.partitionError(err, what)
	}
	return q.errs
}

func (q *question) run(ctx context.Context, which []int, rest time.Duration) {
	var attempts sync.WaitGroup
	defer attempts.Wait()
	for len(which) > 0 {
		led, leaderless := q.split(which)
		for _, a := range led {
			now := rest // the loop goes on meanwhile
			attempts.Go(func() { q.attempt(ctx, a, now) })
		}
		if len(leaderless) > 0 && !q.findLeaders(ctx, leaderless, rest) {
			if !pause(ctx, rest) {
				return
			}
			rest = min(2*rest, leaderPauseMax)
		}
		which = leaderless
	}
}

// split sorts partitions by the brokers that lead them, as far as that is known.
func (q *question) split(which []int) (led []*attempt, leaderless []int) {
	open := make(map[int32]*attempt)
	bytes := make(map[int32]int)
	for _, i := range which {
		leader, known := q.c.meta.leader(q.parts[i].Topic, q.parts[i].Partition)
		if !known {
			leaderless = append(leaderless, i)
			continue
		}
		size := 0
		if q.bytes != nil {
			size = q.bytes(i)
		}
		a := open[leader.Broker]
		if a == nil || len(a.items) == askPartitionsMax || bytes[leader.Broker]+size > askBytesMax {
			a = &attempt{c: q.c, broker: leader.Broker, at: make(map[Partition]*item)}
			open[leader.Broker], bytes[leader.Broker] = a, 0
			led = append(led, a)
		}
		bytes[leader.Broker] += size
		it := &item{Partition: q.parts[i], index: i, epoch: leader.Epoch}
		a.items = append(a.items, it)
		a.at[it.Partition] = it
	}
	return led, leaderless
}

func (q *question) attempt(ctx context.Context, a *attempt, rest time.Duration) {
	trying, cancel := context.WithTimeout(ctx, q.c.attemptTimeout())
	defer cancel()
	q.try(trying, a)
	var again []int
	for _, it := range a.items {
		switch {
		case it.err == nil || !retriable(it.err):
			q.errs[it.index] = it.err
		default:
			if !fromLeader(it.err) {
				q.c.Stale(it.Topic)
			}
			again = append(again, it.index)
		}
	}
	if len(again) == 0 {
		return
	}
	more := pause(ctx, rest)
	for _, it := range a.items {
		// When time is up, what a broker said before tells more than silence.
		if it.err != nil && (more || said(it.err) || q.errs[it.index] == nil) {
			q.errs[it.index] = it.err
		}
	}
	if more {
		q.run(ctx, again, min(2*rest, leaderPauseMax))
	}
}

// findLeaders asks for the leaders of partitions; false if one still has none. Any
// broker may be asked, also a silent one, so the first times are short.
func (q *question) findLeaders(ctx context.Context, which []int, rest time.Duration) bool {
	var names []string
	for _, i := range which {
		if !slices.Contains(names, q.parts[i].Topic) {
			names = append(names, q.parts[i].Topic)
		}
	}
	asking, cancel := context.WithTimeout(ctx, min(metadataRests*rest, q.c.attemptTimeout()))
	defer cancel()
	topics, err := q.c.Topics(asking, names...)
	all := true
	for _, i := range which {
		p := q.parts[i]
		info, known := topics[p.Topic]
		switch {
		case err != nil:
			if ctx.Err() == nil || q.errs[i] == nil {
				q.errs[i] = err
			}
		case !known || p.Partition < 0 || int(p.Partition) >= len(info.Partitions):
			q.errs[i] = kerr.UnknownTopicOrPartition
		case info.Partitions[p.Partition].Leader < 0:
			q.errs[i] = kerr.LeaderNotAvailable
		default:
			continue
		}
		all = false
	}
	return all
}

// pause waits; it returns false if ctx ends first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// An attempt is what one broker is asked at a time: the partitions that it leads.
type attempt struct {
	c      *Cluster
	broker int32
	items  []*item
	at     map[Partition]*item
}

// An item is a partition of an attempt.
type item struct {
	Partition
	index int // of the question's partitions
	epoch federation.PhysicalEpoch
	err   error
}

// askedTopic are partitions of a topic that go into a request.
type askedTopic struct {
	name  string
	items []*item
}

// ask returns the partitions without an error that want, by topic, for the next
// request; until an answer mentions them, they count as left out. want may be nil.
func (a *attempt) ask(want func(*item) bool) []askedTopic {
	var topics []askedTopic
	at := make(map[string]int)
	for _, it := range a.items {
		if it.err != nil || want != nil && !want(it) {
			continue
		}
		it.err = errLeftOut
		i, ok := at[it.Topic]
		if !ok {
			i = len(topics)
			at[it.Topic] = i
			topics = append(topics, askedTopic{name: it.Topic})
		}
		topics[i].items = append(topics[i].items, it)
	}
	return topics
}

// answered takes a broker's code for a partition; it returns nil if that is an
// error, or the partition was not asked.
func (a *attempt) answered(topic string, partition int32, code int16) *item {
	it := a.at[Partition{topic, federation.PhysicalPartition(partition)}]
	if it == nil || !errors.Is(it.err, errLeftOut) {
		return nil
	}
	if it.err = kerr.ErrorForCode(code); it.err != nil {
		return nil
	}
	return it
}

// send sends a request of an attempt once: the attempt is repeated as a whole, at
// the leaders of that time. Without an answer all partitions that were asked have
// the error, of kind Unsupported if the broker does not know the API.
func send[R kmsg.Response](ctx context.Context, a *attempt, req kmsg.Request) (R, bool) {
	resp, err := a.c.generalClient().Broker(int(a.broker)).Request(ctx, req)
	if err == nil {
		return resp.(R), true
	}
	if !a.c.knows(ctx, a.broker, req.Key(), err) {
		err = federation.Errorf(federation.Unsupported, "physical cluster %q is too old for %s requests", a.c.Name, kmsg.NameForKey(req.Key())).WithCause(err)
	}
	for _, it := range a.items {
		if errors.Is(it.err, errLeftOut) {
			it.err = err
		}
	}
	var none R
	return none, false
}

// knows reports whether a request that failed with err may have been one that the
// broker knows. The client's own error for that has no name.
func (c *Cluster) knows(ctx context.Context, broker int32, key int16, err error) bool {
	if _, network := errors.AsType[net.Error](err); network || ctx.Err() != nil {
		return true
	}
	req := kmsg.NewPtrApiVersionsRequest()
	req.ClientSoftwareName, req.ClientSoftwareVersion = "braid", "1" // Kafka refuses empty ones
	resp, err := c.generalClient().Broker(int(broker)).Request(ctx, req)
	if err != nil {
		return true
	}
	versions := resp.(*kmsg.ApiVersionsResponse)
	return versions.ErrorCode != 0 ||
		slices.ContainsFunc(versions.ApiKeys, func(k kmsg.ApiVersionsResponseApiKey) bool { return k.ApiKey == key })
}

// fromLeader reports whether an error is one that only a partition's leader has.
func fromLeader(err error) bool {
	for _, code := range []error{kerr.RequestTimedOut, kerr.NotEnoughReplicas, kerr.NotEnoughReplicasAfterAppend, kerr.OffsetNotAvailable, kerr.ThrottlingQuotaExceeded} {
		if errors.Is(err, code) {
			return true
		}
	}
	return false
}

// said reports whether an error is what a broker said, and not a lost answer.
func said(err error) bool {
	_, code := errors.AsType[*kerr.Error](err)
	return code || federation.KindOf(err) != federation.Internal
}

// retriable reports whether another attempt can change an error. What is no code
// of a broker and no error of ours means that request or answer was lost.
func retriable(err error) bool {
	if e, ok := errors.AsType[*federation.Error](err); ok {
		return e.Kind.Retriable()
	}
	if e, ok := errors.AsType[*kerr.Error](err); ok {
		return e.Retriable
	}
	return true
}

// partitionError turns what went wrong with a partition into an error that a
// client may see.
func (c *Cluster) partitionError(err error, what string) error {
	if err == nil || federation.KindOf(err) != federation.Internal {
		return err
	}
	code, ok := errors.AsType[*kerr.Error](err)
	if !ok {
		return c.unavailable(err)
	}
	return federation.Errorf(partitionKind(code), "physical cluster %q could not %s: %s", c.Name, what, code.Message).WithCause(err)
}

func partitionKind(err error) federation.Kind {
	for _, k := range []struct {
		kind  federation.Kind
		codes []error
	}{
		{federation.UnknownTopic, []error{kerr.UnknownTopicOrPartition}},
		{federation.NotEnoughReplicas, []error{kerr.NotEnoughReplicas, kerr.NotEnoughReplicasAfterAppend, kerr.OffsetNotAvailable}},
		{federation.NoLeader, []error{kerr.LeaderNotAvailable, kerr.NotLeaderForPartition, kerr.FencedLeaderEpoch, kerr.UnknownLeaderEpoch, kerr.ReplicaNotAvailable}},
		{federation.Timeout, []error{kerr.RequestTimedOut}},
		{federation.Throttled, []error{kerr.ThrottlingQuotaExceeded}},
		{federation.DuplicateSequence, []error{kerr.DuplicateSequenceNumber}},
		{federation.OutOfOrderSequence, []error{kerr.OutOfOrderSequenceNumber}},
		{federation.UnknownProducer, []error{kerr.UnknownProducerID}},
		{federation.ProducerFenced, []error{kerr.InvalidProducerEpoch, kerr.ProducerFenced}},
		{federation.RecordTooLarge, []error{kerr.MessageTooLarge, kerr.RecordListTooLarge}},
		{federation.InvalidRecord, []error{kerr.InvalidRecord}},
		{federation.InvalidTimestamp, []error{kerr.InvalidTimestamp}},
		{federation.CorruptBatch, []error{kerr.CorruptMessage}},
		{federation.PolicyViolation, []error{kerr.PolicyViolation}},
		{federation.Unsupported, []error{kerr.UnsupportedVersion, kerr.UnsupportedForMessageFormat}},
		{federation.OffsetOutOfRange, []error{kerr.OffsetOutOfRange}},
	} {
		if slices.ContainsFunc(k.codes, func(code error) bool { return errors.Is(err, code) }) {
			return k.kind
		}
	}
	return federation.ClusterUnavailable
}

// distinct returns each partition once, and for each of parts where it is.
func distinct(parts []Partition) (once []Partition, where []int) {
	at := make(map[Partition]int, len(parts))
	where = make([]int, len(parts))
	for i, p := range parts {
		j, ok := at[p]
		if !ok {
			j = len(once)
			at[p] = j
			once = append(once, p)
		}
		where[i] = j
	}
	return once, where
}
