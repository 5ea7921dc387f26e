package gateway_test

import (
	"fmt"
	"io"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/gateway"
	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/gen/braid/admin/v1/adminv1connect"
	braidv1 "github.com/braidmq/braid/gen/braid/v1"
)

// A consumeClient is a member that keeps what it was told.
type consumeClient struct {
	t          *testing.T
	stream     *connect.BidiStreamForClientSimple[braidv1.ConsumeRequest, braidv1.ConsumeResponse]
	subscribed *braidv1.Subscribed
	assigned   map[int32]*braidv1.Assigned
	revoking   map[int32]bool
	lost       map[int32]bool
	batches    []*braidv1.RecordBatch
	results    []*braidv1.CommitResult
	failures   []*braidv1.PartitionFailure
	progress   []*braidv1.Progress
	draining   *braidv1.Draining
	closed     *braidv1.ConsumeClosed
}

func (w *world) consume(t *testing.T, sub *braidv1.Subscribe, opts ...connect.ClientOption) *consumeClient {
	t.Helper()
	stream, err := w.consumer(t, opts...).Consume(ctxFor(t))
	require.NoError(t, err)
	c := &consumeClient{t: t, stream: stream, assigned: make(map[int32]*braidv1.Assigned), revoking: make(map[int32]bool), lost: make(map[int32]bool)}
	if sub.GetFallback() == nil {
		sub.Fallback = earliest
	}
	if len(sub.GetTopics()) == 0 && sub.GetTopicRegex() == "" {
		sub.Topics = []string{"orders"}
	}
	if sub.GetGroup() == "" {
		sub.Group = "g"
	}
	c.send(&braidv1.ConsumeRequest{Frame: &braidv1.ConsumeRequest_Subscribe{Subscribe: sub}})
	return c
}

func (c *consumeClient) send(m *braidv1.ConsumeRequest) {
	c.t.Helper()
	if err := c.stream.Send(m); err != nil {
		require.ErrorIs(c.t, err, io.EOF)
	}
}

func (c *consumeClient) commit(id int64, offsets ...*braidv1.PartitionOffset) {
	c.t.Helper()
	c.send(&braidv1.ConsumeRequest{Frame: &braidv1.ConsumeRequest_Commit{Commit: &braidv1.Commit{CommitId: id, Offsets: offsets}}})
}

func (c *consumeClient) credit(records int64) {
	c.t.Helper()
	c.send(&braidv1.ConsumeRequest{Frame: &braidv1.ConsumeRequest_Credit{Credit: &braidv1.Credit{MaxRecords: records, MaxBytes: 1 << 40}}})
}

func (c *consumeClient) receive() error {
	c.t.Helper()
	msg, err := c.stream.Receive()
	if err != nil {
		return err
	}
	require.Nil(c.t, c.closed, "a frame after the last")
	if c.subscribed == nil {
		require.NotNil(c.t, msg.GetSubscribed(), "the first frame")
	}
	switch f := msg.GetFrame().(type) {
	case *braidv1.ConsumeResponse_Subscribed:
		c.subscribed = f.Subscribed
	case *braidv1.ConsumeResponse_Assignment:
		for _, a := range f.Assignment.GetAssigned() {
			c.assigned[a.GetPartition()] = a
		}
		for _, tp := range f.Assignment.GetRevoking() {
			c.revoking[tp.GetPartition()] = true
		}
		for _, tp := range f.Assignment.GetLost() {
			c.lost[tp.GetPartition()] = true
		}
	case *braidv1.ConsumeResponse_Records:
		a := c.assigned[f.Records.GetPartition()]
		require.NotNil(c.t, a, "records of a partition that is not assigned")
		require.False(c.t, c.revoking[f.Records.GetPartition()], "records of a revoked partition")
		require.Equal(c.t, a.GetAssignmentEpoch(), f.Records.GetAssignmentEpoch())
		c.batches = append(c.batches, f.Records)
	case *braidv1.ConsumeResponse_CommitResult:
		c.results = append(c.results, f.CommitResult)
	case *braidv1.ConsumeResponse_PartitionFailure:
		c.failures = append(c.failures, f.PartitionFailure)
	case *braidv1.ConsumeResponse_Progress:
		c.progress = append(c.progress, f.Progress)
	case *braidv1.ConsumeResponse_Draining:
		c.draining = f.Draining
	case *braidv1.ConsumeResponse_Closed:
		c.closed = f.Closed
	}
	return nil
}

func (c *consumeClient) await(done func() bool) {
	c.t.Helper()
	for !done() {
		require.NoError(c.t, c.receive())
	}
}

func (c *consumeClient) records() (n int) {
	for _, b := range c.batches {
		n += len(b.GetRecords())
	}
	return n
}

func (c *consumeClient) finish() {
	c.t.Helper()
	require.NoError(c.t, c.stream.CloseRequest())
	c.end()
}

func (c *consumeClient) end() {
	c.t.Helper()
	err := c.receive()
	for err == nil {
		err = c.receive()
	}
	require.ErrorIs(c.t, err, io.EOF)
	require.NotNil(c.t, c.closed)
}

func (c *consumeClient) fail() error {
	c.t.Helper()
	for {
		if err := c.receive(); err != nil {
			return err
		}
	}
}

func TestConsumeOverEveryProtocol(t *testing.T) {
	w := newWorld(t)
	w.topic("orders", 4, nil)
	w.fill(t, "orders", 4, 100)
	for name, opts := range protocols {
		t.Run(name, func(t *testing.T) {
			c := w.consume(t, &braidv1.Subscribe{Group: name, Stop: toTheEnd}, opts...)
			c.finish()
			require.NotEmpty(t, c.subscribed.GetMemberId())
			require.True(t, c.closed.GetReachedStop())
			require.Equal(t, map[int32][]string{0: wanted(100), 1: wanted(100), 2: wanted(100), 3: wanted(100)}, listed(c.batches))
		})
	}
}

func TestConsumeStaysWithinItsCredit(t *testing.T) {
	w := newWorld(t)
	w.topic("orders", 2, nil)
	w.fill(t, "orders", 2, 100)
	c := w.consume(t, &braidv1.Subscribe{Credit: &braidv1.Credit{MaxRecords: 7}})
	c.await(func() bool { return c.records() >= 7 })
	c.send(&braidv1.ConsumeRequest{Frame: &braidv1.ConsumeRequest_Ping{Ping: &braidv1.Ping{Nonce: 9}}})
	c.await(func() bool { return len(c.progress) > 0 })
	require.EqualValues(t, 9, c.progress[0].GetNonce())
	require.Equal(t, 7, c.records())
	c.credit(20)
	c.await(func() bool { return c.records() >= 20 })
	c.credit(20)
	c.credit(10)
	c.finish()
	require.Equal(t, 20, c.records())
	require.False(t, c.closed.GetReachedStop())
}

func TestConsumeCreditInBytes(t *testing.T) {
	w := newWorld(t)
	w.topic("orders", 1, nil)
	w.fill(t, "orders", 1, 100)
	c := w.consume(t, &braidv1.Subscribe{Credit: &braidv1.Credit{MaxRecords: 1000, MaxBytes: 10}})
	c.finish()
	require.Equal(t, 3, c.records(), "4 bytes each, and at most one record above the credit")
}

func TestConsumeCommitsAndGoesOnThere(t *testing.T) {
	w := newWorld(t)
	w.topic("orders", 1, nil)
	w.fill(t, "orders", 1, 100)
	c := w.consume(t, &braidv1.Subscribe{Credit: &braidv1.Credit{MaxRecords: 40}})
	c.await(func() bool { return c.records() == 40 })
	c.commit(1, &braidv1.PartitionOffset{Topic: "orders", Offset: 10})
	c.commit(2, &braidv1.PartitionOffset{Topic: "orders", Offset: 40, Metadata: "m"}, &braidv1.PartitionOffset{Topic: "orders", Partition: 7, Offset: 1})
	c.await(func() bool { return len(c.results) > 0 && c.results[len(c.results)-1].GetCommitId() == 2 })
	last := c.results[len(c.results)-1]
	require.Len(t, last.GetFailures(), 1)
	require.Equal(t, braidv1.Reason_REASON_STALE_ASSIGNMENT, last.GetFailures()[0].GetFailure().GetReason())
	c.finish()
	committed, err := w.consumer(t).GetCommittedOffsets(ctxFor(t), &braidv1.GetCommittedOffsetsRequest{Group: "g"})
	require.NoError(t, err)
	require.Len(t, committed.GetOffsets(), 1)
	require.EqualValues(t, 40, committed.GetOffsets()[0].GetOffset())
	require.Equal(t, "m", committed.GetOffsets()[0].GetMetadata())
	require.EqualValues(t, 100, committed.GetWatermarks()[0].GetHighWatermark())
	next := w.consume(t, &braidv1.Subscribe{Stop: toTheEnd})
	next.finish()
	require.Equal(t, wanted(100)[40:], listed(next.batches)[0])
}

func TestConsumeHandsPartitionsOver(t *testing.T) {
	w := newWorld(t)
	w.topic("orders", 4, nil)
	w.fill(t, "orders", 4, 10)
	a := w.consume(t, &braidv1.Subscribe{})
	a.await(func() bool { return a.records() == 40 })
	b := w.consume(t, &braidv1.Subscribe{})
	a.await(func() bool { return len(a.revoking) == 2 })
	var given []*braidv1.TopicPartition
	var commits []*braidv1.PartitionOffset
	for p := range a.revoking {
		given = append(given, &braidv1.TopicPartition{Topic: "orders", Partition: p})
		commits = append(commits, &braidv1.PartitionOffset{Topic: "orders", Partition: p, Offset: 6})
	}
	a.commit(1, commits...)
	a.send(&braidv1.ConsumeRequest{Frame: &braidv1.ConsumeRequest_Revoked{Revoked: &braidv1.Revoked{Partitions: given}}})
	b.await(func() bool { return len(b.assigned) == 2 && b.records() == 8 })
	for p, at := range b.assigned {
		require.True(t, a.revoking[p])
		require.EqualValues(t, 6, at.GetStartOffset(), "it goes on at the commit that came before Revoked")
	}
	a.await(func() bool { return len(a.results) == 1 })
	require.Empty(t, a.results[0].GetFailures())
	// The partitions that a kept flow on.
	w.fill(t, "orders", 4, 5)
	a.await(func() bool { return a.records() == 50 })
	b.await(func() bool { return b.records() == 18 })
	a.leave()
	b.await(func() bool { return len(b.assigned) == 4 })
	b.leave()
}

func TestConsumeSeekAndPause(t *testing.T) {
	w := newWorld(t)
	w.topic("orders", 2, nil)
	w.fill(t, "orders", 2, 10)
	c := w.consume(t, &braidv1.Subscribe{})
	c.await(func() bool { return c.records() == 20 })
	before := c.assigned[1].GetAssignmentEpoch()
	c.batches = nil
	c.send(&braidv1.ConsumeRequest{Frame: &braidv1.ConsumeRequest_Seek{Seek: &braidv1.Seek{To: []*braidv1.PartitionOffset{
		{Topic: "orders", Partition: 1, Offset: 4}, {Topic: "orders", Partition: 5, Offset: 4},
	}}}})
	c.await(func() bool { return c.records() == 6 })
	require.Greater(t, c.assigned[1].GetAssignmentEpoch(), before)
	require.Len(t, c.failures, 1)
	require.Equal(t, wanted(10)[4:], listed(c.batches)[1])
	c.send(&braidv1.ConsumeRequest{Frame: &braidv1.ConsumeRequest_Pause{Pause: &braidv1.Pause{Partitions: []*braidv1.TopicPartition{{Topic: "orders", Partition: 0}}}}})
	c.send(&braidv1.ConsumeRequest{Frame: &braidv1.ConsumeRequest_Ping{Ping: &braidv1.Ping{Nonce: 1}}})
	c.await(func() bool { return len(c.progress) == 1 })
	c.batches = nil
	w.fill(t, "orders", 2, 10)
	c.await(func() bool { return c.records() == 10 })
	require.Empty(t, listed(c.batches)[0])
	c.send(&braidv1.ConsumeRequest{Frame: &braidv1.ConsumeRequest_Pause{Pause: &braidv1.Pause{}}})
	c.await(func() bool { return c.records() == 20 })
	c.leave()
}

func TestConsumeBeginsAnewWhereTheOffsetIsGone(t *testing.T) {
	w := newWorld(t)
	w.topic("orders", 1, nil)
	w.fill(t, "orders", 1, 10)
	_, err := w.consumer(t).CommitOffsets(ctxFor(t), &braidv1.CommitOffsetsRequest{Group: "g", Offsets: []*braidv1.PartitionOffset{{Topic: "orders", Offset: 5000}}})
	require.NoError(t, err)
	c := w.consume(t, &braidv1.Subscribe{})
	c.await(func() bool { return c.records() == 10 })
	require.Len(t, c.failures, 1)
	require.Equal(t, braidv1.Reason_REASON_OFFSET_OUT_OF_RANGE, c.failures[0].GetFailure().GetReason())
	require.EqualValues(t, 0, c.assigned[0].GetStartOffset())
	c.leave()
}

func TestConsumeStopsAndLetsTheClientCommit(t *testing.T) {
	w := newWorld(t)
	w.topic("orders", 1, nil)
	w.fill(t, "orders", 1, 10)
	c := w.consume(t, &braidv1.Subscribe{Stop: &braidv1.StopAt{At: &braidv1.StopAt_Records{Records: 5}}})
	c.await(func() bool { return c.draining != nil })
	require.Equal(t, "stop", c.draining.GetCause())
	require.Equal(t, 5, c.records())
	c.commit(1, &braidv1.PartitionOffset{Topic: "orders", Offset: 5})
	c.await(func() bool { return len(c.results) == 1 })
	c.send(&braidv1.ConsumeRequest{Frame: &braidv1.ConsumeRequest_Leave{Leave: &braidv1.Leave{}}})
	c.end()
	require.True(t, c.closed.GetReachedStop())
	require.EqualValues(t, 5, c.closed.GetPositions()[0].GetOffset())
}

func TestConsumeDrains(t *testing.T) {
	w := newWorld(t, func(c *gateway.Config, _ *gateway.Deps) { c.DrainGrace = 100 * time.Millisecond })
	w.topic("orders", 1, nil)
	w.fill(t, "orders", 1, 10)
	c := w.consume(t, &braidv1.Subscribe{})
	c.await(func() bool { return c.records() == 10 })
	drained := make(chan error, 1)
	go func() { drained <- w.g.Drain(ctxFor(t)) }()
	c.await(func() bool { return c.draining != nil })
	require.Equal(t, "shutdown", c.draining.GetCause())
	c.commit(1, &braidv1.PartitionOffset{Topic: "orders", Offset: 10})
	c.end()
	require.Len(t, c.results, 1)
	require.NoError(t, c.stream.CloseRequest())
	require.NoError(t, <-drained)
}

func TestConsumeBeats(t *testing.T) {
	w := newWorld(t, func(c *gateway.Config, _ *gateway.Deps) { c.HeartbeatInterval = 20 * time.Millisecond })
	w.topic("orders", 1, nil)
	w.fill(t, "orders", 1, 10)
	c := w.consume(t, &braidv1.Subscribe{})
	c.await(func() bool { return len(c.progress) > 2 })
	at := c.progress[2].GetPositions()[0]
	require.EqualValues(t, 10, at.GetNextOffset())
	require.EqualValues(t, 10, at.GetHighWatermark())
	c.leave()
}

// leave ends a member that has credit left.
func (c *consumeClient) leave() {
	c.t.Helper()
	c.send(&braidv1.ConsumeRequest{Frame: &braidv1.ConsumeRequest_Leave{Leave: &braidv1.Leave{}}})
	c.end()
}

func TestConsumeStreamErrors(t *testing.T) {
	w := newWorld(t)
	w.topic("orders", 1, nil)
	sub := func(f func(s *braidv1.Subscribe)) *braidv1.ConsumeRequest {
		s := &braidv1.Subscribe{Group: "e", Topics: []string{"orders"}}
		f(s)
		return &braidv1.ConsumeRequest{Frame: &braidv1.ConsumeRequest_Subscribe{Subscribe: s}}
	}
	good := sub(func(*braidv1.Subscribe) {})
	for name, tc := range map[string]struct {
		send []*braidv1.ConsumeRequest
		code connect.Code
	}{
		"nothing":         {nil, connect.CodeInvalidArgument},
		"no subscribe":    {[]*braidv1.ConsumeRequest{{Frame: &braidv1.ConsumeRequest_Ping{Ping: &braidv1.Ping{}}}}, connect.CodeInvalidArgument},
		"twice":           {[]*braidv1.ConsumeRequest{good, good}, connect.CodeInvalidArgument},
		"empty message":   {[]*braidv1.ConsumeRequest{good, {}}, connect.CodeInvalidArgument},
		"no group":        {[]*braidv1.ConsumeRequest{sub(func(s *braidv1.Subscribe) { s.Group = "" })}, connect.CodeInvalidArgument},
		"no topics":       {[]*braidv1.ConsumeRequest{sub(func(s *braidv1.Subscribe) { s.Topics = nil })}, connect.CodeInvalidArgument},
		"unknown topic":   {[]*braidv1.ConsumeRequest{sub(func(s *braidv1.Subscribe) { s.Topics = []string{"x"} })}, connect.CodeNotFound},
		"bad regex":       {[]*braidv1.ConsumeRequest{sub(func(s *braidv1.Subscribe) { s.Topics, s.TopicRegex = nil, "(" })}, connect.CodeInvalidArgument},
		"queue mode":      {[]*braidv1.ConsumeRequest{sub(func(s *braidv1.Subscribe) { s.Mode = 2 })}, connect.CodeUnimplemented},
		"session timeout": {[]*braidv1.ConsumeRequest{sub(func(s *braidv1.Subscribe) { s.SessionTimeoutMs = 1 })}, connect.CodeInvalidArgument},
		"fallback":        {[]*braidv1.ConsumeRequest{sub(func(s *braidv1.Subscribe) { s.Fallback = &braidv1.Position{At: &braidv1.Position_Committed{}} })}, connect.CodeInvalidArgument},
		"commit ids": {[]*braidv1.ConsumeRequest{
			good,
			{Frame: &braidv1.ConsumeRequest_Commit{Commit: &braidv1.Commit{CommitId: 2}}},
			{Frame: &braidv1.ConsumeRequest_Commit{Commit: &braidv1.Commit{CommitId: 2}}},
		}, connect.CodeInvalidArgument},
		"negative seek": {[]*braidv1.ConsumeRequest{good, {Frame: &braidv1.ConsumeRequest_Seek{Seek: &braidv1.Seek{To: []*braidv1.PartitionOffset{{Topic: "orders", Offset: -1}}}}}}, connect.CodeInvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			stream, err := w.consumer(t, connect.WithGRPC()).Consume(ctxFor(t))
			require.NoError(t, err)
			for _, m := range tc.send {
				if err := stream.Send(m); err != nil {
					require.ErrorIs(t, err, io.EOF)
				}
			}
			require.NoError(t, stream.CloseRequest())
			for err == nil {
				_, err = stream.Receive()
			}
			require.Equal(t, tc.code, connect.CodeOf(err), "%v", err)
			require.NotEqual(t, braidv1.Reason_REASON_UNSPECIFIED, reasonOf(t, err))
		})
	}
	require.Eventually(t, func() bool { return w.g.Streams() == 0 }, 5*time.Second, time.Millisecond)
}

func TestConsumeEndsWhenFenced(t *testing.T) {
	w := newWorld(t)
	w.topic("orders", 1, nil)
	a := w.consume(t, &braidv1.Subscribe{InstanceId: "i"})
	a.await(func() bool { return len(a.assigned) == 1 })
	b := w.consume(t, &braidv1.Subscribe{InstanceId: "i"})
	b.await(func() bool { return len(b.assigned) == 1 })
	err := a.fail()
	require.Equal(t, connect.CodeAborted, connect.CodeOf(err))
	require.Equal(t, braidv1.Reason_REASON_MEMBER_FENCED, reasonOf(t, err))
	b.leave()
}

// A client that comes back as who it was has its partitions at once; a stream that it
// takes for broken, and that is not, ends.
func TestConsumeAsFormerMember(t *testing.T) {
	w := newWorld(t)
	w.topic("orders", 2, nil)
	a := w.consume(t, &braidv1.Subscribe{})
	a.await(func() bool { return len(a.assigned) == 2 })
	b := w.consume(t, &braidv1.Subscribe{FormerMemberId: a.subscribed.GetMemberId()})
	b.await(func() bool { return len(b.assigned) == 2 })
	require.NotEqual(t, a.subscribed.GetMemberId(), b.subscribed.GetMemberId())
	require.Equal(t, braidv1.Reason_REASON_MEMBER_FENCED, reasonOf(t, a.fail()))
	b.leave()
}

func TestGroupService(t *testing.T) {
	w := newWorld(t)
	w.topic("orders", 2, nil)
	w.fill(t, "orders", 2, 10)
	admin := adminv1connect.NewGroupServiceClient(h2c(t), w.url)
	c := w.consume(t, &braidv1.Subscribe{ClientId: "me"})
	c.await(func() bool { return c.records() == 20 })
	c.commit(1, &braidv1.PartitionOffset{Topic: "orders", Partition: 1, Offset: 4})
	c.await(func() bool { return len(c.results) == 1 })
	const name = "logicalClusters/default/groups/g"
	got, err := admin.GetGroup(ctxFor(t), &adminv1.GetGroupRequest{Name: name})
	require.NoError(t, err)
	require.Equal(t, "Stable", got.GetGroup().GetState())
	require.Equal(t, "gw-0", got.GetGroup().GetCoordinator())
	require.Len(t, got.GetGroup().GetMembers(), 1)
	require.Equal(t, []string{"orders-0", "orders-1"}, got.GetGroup().GetMembers()[0].GetPartitions())
	require.Equal(t, "connect", got.GetGroup().GetMembers()[0].GetProtocol())
	require.Len(t, got.GetGroup().GetLag(), 2)
	require.EqualValues(t, -1, got.GetGroup().GetLag()[0].GetLag())
	require.EqualValues(t, 6, got.GetGroup().GetLag()[1].GetLag())
	_, err = admin.ResetOffsets(ctxFor(t), &adminv1.ResetOffsetsRequest{Name: name, To: &adminv1.ResetOffsetsRequest_Earliest{Earliest: true}})
	require.Equal(t, braidv1.Reason_REASON_GROUP_NOT_EMPTY, reasonOf(t, err))
	_, err = admin.DeleteGroup(ctxFor(t), &adminv1.DeleteGroupRequest{Name: name})
	require.Equal(t, braidv1.Reason_REASON_GROUP_NOT_EMPTY, reasonOf(t, err))
	c.leave()
	for _, tc := range []struct {
		req  *adminv1.ResetOffsetsRequest
		want []int64
	}{
		{&adminv1.ResetOffsetsRequest{To: &adminv1.ResetOffsetsRequest_ShiftBy{ShiftBy: 3}}, []int64{7}},
		{&adminv1.ResetOffsetsRequest{To: &adminv1.ResetOffsetsRequest_Latest{Latest: true}}, []int64{10, 10}},
		{&adminv1.ResetOffsetsRequest{To: &adminv1.ResetOffsetsRequest_ShiftBy{ShiftBy: -100}}, []int64{0, 0}},
		{&adminv1.ResetOffsetsRequest{To: &adminv1.ResetOffsetsRequest_Offsets{Offsets: &adminv1.ResetOffsetsRequest_ExplicitOffsets{
			Offsets: []*adminv1.Group_PartitionLag{{Topic: "orders", Partition: 0, Committed: 5}},
		}}}, []int64{5}},
	} {
		tc.req.Name = name
		res, err := admin.ResetOffsets(ctxFor(t), tc.req)
		require.NoError(t, err)
		var after []int64
		for _, a := range res.GetAfter() {
			after = append(after, a.GetCommitted())
		}
		require.Equal(t, tc.want, after)
	}
	list, err := admin.ListGroups(ctxFor(t), &adminv1.ListGroupsRequest{Parent: "logicalClusters/default"})
	require.NoError(t, err)
	require.Len(t, list.GetGroups(), 1)
	require.Equal(t, name, list.GetGroups()[0].GetName())
	_, err = admin.DeleteGroup(ctxFor(t), &adminv1.DeleteGroupRequest{Name: name})
	require.NoError(t, err)
	_, err = admin.GetGroup(ctxFor(t), &adminv1.GetGroupRequest{Name: name})
	require.Equal(t, braidv1.Reason_REASON_UNKNOWN_GROUP, reasonOf(t, err))
	_, err = admin.GetGroup(ctxFor(t), &adminv1.GetGroupRequest{Name: "logicalClusters/other/groups/g"})
	require.Equal(t, braidv1.Reason_REASON_UNKNOWN_CLUSTER, reasonOf(t, err))
}

func TestListGroupsInPages(t *testing.T) {
	w := newWorld(t)
	w.topic("orders", 1, nil)
	for i := range 7 {
		_, err := w.consumer(t).CommitOffsets(ctxFor(t), &braidv1.CommitOffsetsRequest{Group: fmt.Sprint("g", i), Offsets: []*braidv1.PartitionOffset{{Topic: "orders", Offset: 1}}})
		require.NoError(t, err)
	}
	admin := adminv1connect.NewGroupServiceClient(h2c(t), w.url)
	var names []string
	for token := ""; ; {
		page, err := admin.ListGroups(ctxFor(t), &adminv1.ListGroupsRequest{PageSize: 3, PageToken: token})
		require.NoError(t, err)
		require.LessOrEqual(t, len(page.GetGroups()), 3)
		for _, g := range page.GetGroups() {
			names = append(names, g.GetName())
		}
		if token = page.GetNextPageToken(); token == "" {
			break
		}
	}
	require.Len(t, names, 7)
}

func TestCommitOffsetsFromOutside(t *testing.T) {
	w := newWorld(t)
	w.topic("orders", 1, nil)
	client := w.consumer(t)
	offsets := []*braidv1.PartitionOffset{{Topic: "orders", Offset: 3}}
	c := w.consume(t, &braidv1.Subscribe{})
	c.await(func() bool { return len(c.assigned) == 1 })
	res, err := client.CommitOffsets(ctxFor(t), &braidv1.CommitOffsetsRequest{Group: "g", Offsets: offsets})
	if err == nil {
		require.NotEmpty(t, res.GetFailures(), "refused while the group has members")
	}
	res, err = client.CommitOffsets(ctxFor(t), &braidv1.CommitOffsetsRequest{
		Group: "g", Offsets: offsets,
		MemberId: c.subscribed.GetMemberId(), MemberEpoch: c.subscribed.GetMemberEpoch(),
	})
	require.NoError(t, err)
	require.Empty(t, res.GetFailures())
	c.leave()
	res, err = client.CommitOffsets(ctxFor(t), &braidv1.CommitOffsetsRequest{Group: "g", Offsets: append(offsets, &braidv1.PartitionOffset{Topic: "x"})})
	require.NoError(t, err)
	require.Len(t, res.GetFailures(), 1)
	require.Equal(t, braidv1.Reason_REASON_UNKNOWN_TOPIC, res.GetFailures()[0].GetFailure().GetReason())
	_, err = client.CommitOffsets(ctxFor(t), &braidv1.CommitOffsetsRequest{Group: "g"})
	require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err))
}

// Records that wait for credit are given back after a while, and come again.
func TestConsumeHoldsNothingForLong(t *testing.T) {
	w := newWorld(t, func(c *gateway.Config, _ *gateway.Deps) {
		c.HeartbeatInterval, c.HoldTimeout = 5*time.Millisecond, time.Nanosecond
	})
	w.topic("orders", 1, nil)
	w.fill(t, "orders", 1, 100)
	c := w.consume(t, &braidv1.Subscribe{Credit: &braidv1.Credit{MaxRecords: 30}})
	for n := int64(30); n <= 100; n += 10 {
		beats := len(c.progress)
		c.await(func() bool { return c.records() == int(n) && len(c.progress) > beats+2 })
		c.credit(n + 10)
	}
	c.leave()
	require.Equal(t, wanted(100), listed(c.batches)[0])
}

func TestStreamsWithoutAFirstMessageEnd(t *testing.T) {
	w := newWorld(t, func(c *gateway.Config, _ *gateway.Deps) { c.OpenTimeout = 10 * time.Millisecond })
	consume, err := w.consumer(t).Consume(ctxFor(t))
	require.NoError(t, err)
	require.NoError(t, consume.Send(nil))
	_, err = consume.Receive()
	require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err))
	produce, err := w.producer(t).Produce(ctxFor(t))
	require.NoError(t, err)
	require.NoError(t, produce.Send(nil))
	_, err = produce.Receive()
	require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err))
}
