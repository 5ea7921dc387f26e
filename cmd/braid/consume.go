package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	braidv1 "github.com/braidmq/braid/gen/braid/v1"
)

// The window of records that are under way to `braid consume`, and how often a
// group member commits.
const (
	consumeWindowRecords = 1000
	consumeWindowBytes   = 8 << 20
	commitInterval       = time.Second
	leaveTimeout         = 3 * time.Second
)

func consumeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "consume TOPIC", GroupID: groupClient,
		Short: "Print the records of a topic",
		Long: `Print the records of a topic, each on a line.

With -g it is a member of a consumer group, together with Kafka SDKs or others:
it reads its share of the partitions and commits what it has printed.
Without, it reads all partitions.

--format is text (the value; with -k the key before it, with -H the headers),
json (one object for each record), or a template in which %t is the topic, %p the
partition, %o the offset, %T the timestamp in milliseconds, %k the key, %s the
value, %h the headers, and %% a percent sign; \n and \t work.`,
		Example: "  braid consume orders --from earliest -n 10\n" +
			"  braid consume orders -g billing --from earliest --format json\n" +
			"  braid consume orders --from 2026-01-31T12:00:00Z --to-end --format '%p@%o %k=%s\\n'",
		Args: cobra.ExactArgs(1),
	}
	c := &consuming{}
	cmd.Flags().StringVarP(&c.group, "group", "g", "", "consumer group to be a member of")
	from := cmd.Flags().String("from", "", "where to begin: earliest, latest, an offset, -N for the last N of each partition, or a time; in a group only where it has committed nothing. latest by default")
	cmd.Flags().Int64VarP(&c.count, "count", "n", 0, "end after so many records; 0 = never")
	cmd.Flags().BoolVar(&c.toEnd, "to-end", false, "end at what is the end of the topic now")
	cmd.Flags().Int32SliceVar(&c.partitions, "partitions", nil, "only these partitions; not with -g")
	cmd.Flags().StringVar(&c.format, "format", "text", "how to print: text, json or a template")
	cmd.Flags().StringVarP(&c.separator, "key-separator", "k", "", "print the key and this before the value")
	cmd.Flags().BoolVarP(&c.headers, "headers", "H", false, "print the headers before the value")
	c.logical = logicalFlag(cmd)
	cmd.RunE = withAPI(cmd, func(cmd *cobra.Command, a *api, args []string) error {
		c.topic, c.out, c.warn = args[0], cmd.OutOrStdout(), cmd.ErrOrStderr()
		var err error
		if c.from, err = parsePosition(*from); err != nil {
			return err
		}
		switch {
		case c.count < 0:
			return usagef("--count %d: want 0 or more", c.count)
		case c.group != "" && len(c.partitions) > 0:
			return usagef("--partitions makes no sense with --group: the group shares the partitions")
		}
		if err := c.checkFormat(); err != nil {
			return err
		}
		if c.group != "" {
			return c.asMember(cmd.Context(), a)
		}
		return c.read(cmd.Context(), a)
	})
	return cmd
}

// A consuming is one run of `braid consume`.
type consuming struct {
	topic, group, format, separator string
	logical                         *string
	from                            *braidv1.Position
	partitions                      []int32
	count, printed                  int64
	toEnd, headers                  bool
	out, warn                       io.Writer
	heard                           time.Time // when the last frame came; zero = never
}

// A stream that breaks is opened again for reconnectFor after its last frame,
// reconnectPause apart.
const (
	reconnectFor   = time.Minute
	reconnectPause = 500 * time.Millisecond
)

// again waits a moment after a stream broke; false if it is not worth another
// try: the first one failed already, the API says what is wrong, or it is over.
func (c *consuming) again(ctx context.Context, err error) bool {
	if c.heard.IsZero() || time.Since(c.heard) > reconnectFor || !broken(err) {
		return false
	}
	_, _ = fmt.Fprintln(c.warn, "the stream broke; trying again")
	timer := time.NewTimer(reconnectPause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// broken reports whether a stream ended without a word of the gateway: a gateway
// that refuses something says so in an ErrorInfo.
func broken(err error) bool {
	if errors.Is(err, errBroken) {
		return true
	}
	var ce *connect.Error
	if !errors.As(err, &ce) {
		return false
	}
	switch ce.Code() {
	case connect.CodeUnavailable:
		return true
	case connect.CodeInternal, connect.CodeUnknown, connect.CodeCanceled, connect.CodeDeadlineExceeded:
		return len(ce.Details()) == 0
	default:
		return false
	}
}

// parsePosition reads --from; nil = the default.
func parsePosition(s string) (*braidv1.Position, error) {
	switch s {
	case "":
		return nil, nil
	case "earliest":
		return &braidv1.Position{At: &braidv1.Position_Earliest{Earliest: true}}, nil
	case "latest":
		return &braidv1.Position{At: &braidv1.Position_Latest{Latest: true}}, nil
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		if n < 0 {
			return &braidv1.Position{At: &braidv1.Position_LastN{LastN: -n}}, nil
		}
		return &braidv1.Position{At: &braidv1.Position_Offset{Offset: n}}, nil
	}
	if t, ok := parseTime(s); ok {
		return &braidv1.Position{At: &braidv1.Position_TimestampMs{TimestampMs: t.UnixMilli()}}, nil
	}
	return nil, usagef("--from %q: want earliest, latest, an offset, -N or a time such as 2026-01-31T12:00:00Z", s)
}

func (c *consuming) checkFormat() error {
	if c.format != "text" && c.format != "json" && !strings.Contains(c.format, "%") {
		return usagef("--format %q: want text, json, or a template with %%s in it", c.format)
	}
	_, err := c.template(&braidv1.RecordBatch{}, &braidv1.Record{})
	return err
}

func (c *consuming) stop() *braidv1.StopAt {
	if !c.toEnd {
		return nil
	}
	return &braidv1.StopAt{At: &braidv1.StopAt_LatestAtStart{LatestAtStart: true}}
}

// read prints without a group. A gateway that drains hands over to another one,
// from where this one stopped.
func (c *consuming) read(ctx context.Context, a *api) error {
	source := &braidv1.ReadSource{Topic: c.topic, Partitions: c.partitions, Start: c.from}
	next := make(map[int32]int64)
	for {
		endpoints, done, err := c.readStream(ctx, a, source, next)
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // interrupted, as one ends a consumer
		case done || err != nil && !c.again(ctx, err):
			return a.explain(ctx, err)
		}
		source.Positions = nil
		for p, offset := range next {
			source.Positions = append(source.Positions, &braidv1.PartitionOffset{Topic: c.topic, Partition: p, Offset: offset})
		}
		a = a.elsewhere(endpoints)
	}
}

func (c *consuming) readStream(ctx context.Context, a *api, source *braidv1.ReadSource, next map[int32]int64) (endpoints []string, done bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := a.consumer.Read(ctx, &braidv1.ReadRequest{
		LogicalCluster: *c.logical, Sources: []*braidv1.ReadSource{source}, Stop: c.stop(), ClientId: "braid-cli",
	})
	if err != nil {
		return nil, false, err
	}
	defer func() { cancel(); _ = stream.Close() }()
	drained := false
	for stream.Receive() {
		c.heard = time.Now()
		switch f := stream.Msg().GetFrame().(type) {
		case *braidv1.ReadResponse_Records:
			enough, err := c.printBatch(f.Records, nil)
			if enough || err != nil {
				return nil, true, err
			}
			next[f.Records.GetPartition()] = f.Records.GetNextOffset()
		case *braidv1.ReadResponse_Progress:
			for _, p := range f.Progress.GetPositions() {
				next[p.GetPartition()] = p.GetNextOffset()
			}
		case *braidv1.ReadResponse_PartitionFailure:
			return nil, true, partitionError(f.PartitionFailure)
		case *braidv1.ReadResponse_Draining:
			drained, endpoints = true, f.Draining.GetEndpoints()
		case *braidv1.ReadResponse_Closed:
			return endpoints, f.Closed.GetReachedStop() || !drained, nil
		}
	}
	if err := stream.Err(); err != nil {
		return nil, false, err
	}
	return nil, false, errBroken
}

var errBroken = errors.New("the stream broke; run the command again to go on")

func partitionError(f *braidv1.PartitionFailure) error {
	return failed(f.GetTopic(), f.GetPartition(), f.GetFailure())
}

// asMember prints as a member of a group.
func (c *consuming) asMember(ctx context.Context, a *api) error {
	id := ""
	for {
		m := &member{c: c, id: id, epochs: make(map[int32]int64), next: make(map[int32]int64)}
		done, err := m.run(ctx, a)
		if done || err != nil && !c.again(ctx, err) {
			return a.explain(ctx, err)
		}
		a, id = a.elsewhere(m.endpoints), m.id
	}
}

type consumeStream = connect.BidiStreamForClientSimple[braidv1.ConsumeRequest, braidv1.ConsumeResponse]

// A member is one Consume stream. Its receiver and its commit timer send, so
// sending is behind a lock.
type member struct {
	c         *consuming
	id        string // of the member; of the one on the stream before until it is told
	stream    *consumeStream
	endpoints []string
	leaving   atomic.Bool // what comes is not printed any more

	mu       sync.Mutex // guards the following, and Send
	epochs   map[int32]int64
	next     map[int32]int64 // printed, not committed yet
	commitID int64
	records  int64
	bytes    int64
}

func (m *member) send(r *braidv1.ConsumeRequest) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.sendLocked(r)
}

func (m *member) sendLocked(r *braidv1.ConsumeRequest) error {
	if err := m.stream.Send(r); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil // io.EOF: Receive says why
}

// run is one stream. When ctx ends, the member commits and leaves before the
// stream ends, so that others need not wait for its session to run out.
func (m *member) run(interrupt context.Context, a *api) (done bool, err error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(interrupt))
	defer cancel()
	if m.stream, err = a.consumer.Consume(ctx); err != nil {
		return false, err
	}
	subscribe := &braidv1.Subscribe{
		LogicalCluster: *m.c.logical, Group: m.c.group, Topics: []string{m.c.topic}, Fallback: m.c.from, Stop: m.c.stop(),
		Credit: m.credit(), ClientId: "braid-cli", FormerMemberId: m.id,
	}
	if err := m.send(&braidv1.ConsumeRequest{Frame: &braidv1.ConsumeRequest_Subscribe{Subscribe: subscribe}}); err != nil {
		return false, err
	}
	stop := m.commitOften(ctx)
	defer stop()
	defer context.AfterFunc(interrupt, func() {
		m.leaving.Store(true)
		_ = m.leave() // a broken stream is told by Receive
		time.AfterFunc(leaveTimeout, func() {
			cancel()
			_ = m.stream.CloseRequest() // only then net/http looks at the context
		})
	})()
	if done, err = m.receive(); interrupt.Err() != nil {
		return true, nil
	}
	return done, err
}

func (m *member) credit() *braidv1.Credit {
	return &braidv1.Credit{MaxRecords: m.records + consumeWindowRecords, MaxBytes: m.bytes + consumeWindowBytes}
}

// commitOften commits what was printed every commitInterval.
func (m *member) commitOften(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(commitInterval)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				m.mu.Lock()
				_ = m.commitLocked() // a broken stream is told by Receive
				m.mu.Unlock()
			case <-ctx.Done():
				return
			}
		}
	})
	return func() { cancel(); wg.Wait() }
}

// commitLocked commits what was printed since the last commit.
func (m *member) commitLocked() error {
	if len(m.next) == 0 {
		return nil
	}
	m.commitID++
	commit := &braidv1.Commit{CommitId: m.commitID}
	for p, offset := range m.next {
		commit.Offsets = append(commit.Offsets, &braidv1.PartitionOffset{Topic: m.c.topic, Partition: p, Offset: offset})
	}
	clear(m.next)
	return m.sendLocked(&braidv1.ConsumeRequest{Frame: &braidv1.ConsumeRequest_Commit{Commit: commit}})
}

// receive prints until the stream ends. done is false if the gateway drains and
// another one goes on.
func (m *member) receive() (done bool, err error) {
	drained := false
	for {
		msg, err := m.stream.Receive()
		if errors.Is(err, io.EOF) {
			return false, errBroken
		}
		if err != nil {
			return false, err
		}
		m.c.heard = time.Now()
		switch f := msg.GetFrame().(type) {
		case *braidv1.ConsumeResponse_Subscribed:
			m.id = f.Subscribed.GetMemberId()
		case *braidv1.ConsumeResponse_Assignment:
			err = m.assignment(f.Assignment)
		case *braidv1.ConsumeResponse_Records:
			if m.leaving.Load() {
				continue
			}
			var enough bool
			if enough, err = m.print(f.Records); enough && err == nil {
				m.leaving.Store(true)
				err = m.leave()
			}
		case *braidv1.ConsumeResponse_CommitResult:
			if failures := f.CommitResult.GetFailures(); len(failures) > 0 && !failures[0].GetFailure().GetRetriable() && !m.leaving.Load() {
				_, _ = fmt.Fprintf(m.c.warn, "not committed: %v\n", partitionError(failures[0]))
			}
		case *braidv1.ConsumeResponse_PartitionFailure:
			err = partitionError(f.PartitionFailure)
		case *braidv1.ConsumeResponse_Draining:
			drained, m.endpoints = true, f.Draining.GetEndpoints()
			err = m.leave()
		case *braidv1.ConsumeResponse_Closed:
			return f.Closed.GetReachedStop() || m.leaving.Load() || !drained, nil
		}
		if err != nil {
			return false, err
		}
	}
}

// assignment takes partitions, and gives back those that are revoked: what was
// printed of them is committed first.
func (m *member) assignment(u *braidv1.AssignmentUpdate) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, as := range u.GetAssigned() {
		m.epochs[as.GetPartition()] = as.GetAssignmentEpoch()
	}
	for _, l := range u.GetLost() {
		delete(m.epochs, l.GetPartition())
		delete(m.next, l.GetPartition())
	}
	if len(u.GetRevoking()) == 0 {
		return nil
	}
	if err := m.commitLocked(); err != nil {
		return err
	}
	for _, r := range u.GetRevoking() {
		delete(m.epochs, r.GetPartition())
	}
	revoked := &braidv1.Revoked{MemberEpoch: u.GetMemberEpoch(), Partitions: u.GetRevoking()}
	return m.sendLocked(&braidv1.ConsumeRequest{Frame: &braidv1.ConsumeRequest_Revoked{Revoked: revoked}})
}

// print prints a frame of records, and gives the gateway credit for more.
func (m *member) print(b *braidv1.RecordBatch) (enough bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range b.GetRecords() {
		m.records++
		m.bytes += payload(r)
	}
	// Frames that were under way when their partition was revoked are another's.
	if epoch, ok := m.epochs[b.GetPartition()]; ok && b.GetAssignmentEpoch() >= epoch {
		next := b.GetNextOffset()
		if enough, err = m.c.printBatch(b, &next); err != nil {
			return false, err
		}
		m.next[b.GetPartition()] = next
	}
	if enough {
		return true, nil
	}
	return false, m.sendLocked(&braidv1.ConsumeRequest{Frame: &braidv1.ConsumeRequest_Credit{Credit: m.credit()}})
}

// leave commits and leaves the group; the gateway answers with the last frame.
func (m *member) leave() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.commitLocked(); err != nil {
		return err
	}
	return m.sendLocked(&braidv1.ConsumeRequest{Frame: &braidv1.ConsumeRequest_Leave{Leave: &braidv1.Leave{}}})
}
