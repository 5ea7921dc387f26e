package kafkacompat_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// joinNew is the JoinGroup of a new member.
func joinNew(group string) *kmsg.JoinGroupRequest {
	req := kmsg.NewPtrJoinGroupRequest()
	req.Group, req.ProtocolType = group, "consumer"
	req.SessionTimeoutMillis, req.RebalanceTimeoutMillis = 30_000, 30_000
	req.Protocols = []kmsg.JoinGroupRequestProtocol{{Name: "range", Metadata: (&kmsg.ConsumerMemberMetadata{Topics: []string{"orders"}}).AppendTo(nil)}}
	return req
}

// sendAs sends a request under any client id.
func (r *raw) sendAs(clientID string, req kmsg.Request, version int16) int32 {
	r.t.Helper()
	req.SetVersion(version)
	r.corr++
	_, err := r.c.Write(kmsg.NewRequestFormatter(kmsg.FormatterClientID(clientID)).AppendRequest(nil, req, r.corr))
	require.NoError(r.t, err)
	return r.corr
}

// TestIDsThatAreNoText has clients with ids that are not UTF-8: they are called what a
// broker calls them, and all that is said and stored of them is text.
func TestIDsThatAreNoText(t *testing.T) {
	const sent, known = "caf\xe9", "caf\ufffd"
	w := newWorld(t)
	w.create("orders", 2, nil)
	c := w.dial()
	req := joinNew(sent)
	req.InstanceID = new("static\xff")
	joined := c.receive(req, c.sendAs(sent, req, 5)).(*kmsg.JoinGroupResponse)
	require.Zero(t, joined.ErrorCode)
	require.Equal(t, "static\ufffd", joined.MemberID[:len("static\ufffd")])

	sync := kmsg.NewPtrSyncGroupRequest()
	sync.Group, sync.MemberID, sync.InstanceID, sync.Generation = sent, joined.MemberID, req.InstanceID, joined.Generation
	sync.ProtocolType, sync.Protocol = new("consumer"), new("range")
	assignment := (&kmsg.ConsumerMemberAssignment{Topics: []kmsg.ConsumerMemberAssignmentTopic{{Topic: "no\xff", Partitions: []int32{0}}, {Topic: "orders", Partitions: []int32{0}}}}).AppendTo(nil)
	sync.GroupAssignment = []kmsg.SyncGroupRequestGroupAssignment{{MemberID: joined.MemberID, MemberAssignment: assignment}}
	synced := c.receive(sync, c.sendAs(sent, sync, 5)).(*kmsg.SyncGroupResponse)
	require.Zero(t, synced.ErrorCode)
	require.Equal(t, assignment, synced.MemberAssignment, "bytes are the clients' own")

	commit := kmsg.NewPtrOffsetCommitRequest()
	commit.Group, commit.MemberID, commit.InstanceID, commit.Generation = sent, joined.MemberID, req.InstanceID, joined.Generation
	commit.Topics = []kmsg.OffsetCommitRequestTopic{{Topic: "orders", Partitions: []kmsg.OffsetCommitRequestTopicPartition{{Offset: 1, Metadata: new("m\xe9")}}}}
	require.Zero(t, c.receive(commit, c.sendAs(sent, commit, 7)).(*kmsg.OffsetCommitResponse).Topics[0].Partitions[0].ErrorCode)

	groups := w.engines[0]
	listed, err := groups.List(t.Context())
	require.NoError(t, err)
	require.Len(t, listed, 1)
	require.Equal(t, known, listed[0].Group)
	d, err := groups.Describe(t.Context(), known)
	require.NoError(t, err)
	require.Equal(t, known, d.Members[0].ClientID)
	require.Equal(t, "static\ufffd", d.Members[0].InstanceID)
	require.Len(t, d.Members[0].Partitions, 2)
	require.EqualValues(t, "no\ufffd", d.Members[0].Partitions[0].Topic)
	committed, err := groups.Committed(t.Context(), known, nil)
	require.NoError(t, err)
	require.Len(t, committed, 1)
	require.Equal(t, "m\ufffd", committed[0].Metadata)
	// The client goes on under the same ids.
	beat := kmsg.NewPtrHeartbeatRequest()
	beat.Group, beat.MemberID, beat.InstanceID, beat.Generation = sent, joined.MemberID, new("static\xff"), joined.Generation
	require.Zero(t, c.receive(beat, c.sendAs(sent, beat, 3)).(*kmsg.HeartbeatResponse).ErrorCode)
}

// TestLongStrings: a string has 32,767 bytes at most, also where the version could say
// more, and where U+FFFD makes it longer.
func TestLongStrings(t *testing.T) {
	w := newWorld(t)
	const most = 1<<15 - 1
	for name, group := range map[string]string{"long": strings.Repeat("g", most+1), "long as text": strings.Repeat("\xe9", most)} {
		c := w.dial()
		c.sendAs("app", joinNew(group), 6)
		c.closed(name)
	}
	produce := kmsg.NewPtrProduceRequest()
	produce.Topics = []kmsg.ProduceRequestTopic{{Topic: strings.Repeat("t", most+1)}}
	c := w.dial()
	c.sendAs("app", produce, 9)
	c.closed("Produce")
	c = w.dial()
	c.sendAs(strings.Repeat("\xe9", most), joinNew("g"), 5)
	c.closed("a client id that is long as text")

	// The longest id there is, as client id, too: the member id still fits into the answer.
	c = w.dial()
	req := joinNew(strings.Repeat("g", most))
	given := c.receive(req, c.sendAs(strings.Repeat("c", most), req, 5)).(*kmsg.JoinGroupResponse)
	require.Equal(t, kerr.MemberIDRequired.Code, given.ErrorCode)
	require.Less(t, len(given.MemberID), 1<<11)
}
