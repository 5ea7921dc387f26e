package groups

import (
	"context"
	"encoding/json"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/federation"
)

// FuzzStoredState: damaged state is refused or loaded, but does no harm.
func FuzzStoredState(f *testing.F) {
	f.Add([]byte(`{"state":"Stable","epoch":3,"generation":2,"protocol_type":"consumer","protocol":"range","leader":"m","topic_ids":{"t":"AAAAAAAAQACAAAAAAAAAAA"}}`),
		[]byte(`{"session_ms":10000,"rebalance_ms":1000,"seq":1,"protocols":[{"name":"range","metadata":"AAAAAAABAAF0AAAAAA=="}],"owned":[{"topic":"t","epoch":1,"partitions":[0,1]}]}`))
	f.Add([]byte(`{"state":"Stable","type":"consumer","epoch":3}`), []byte(`{"modern":{"epoch":-2,"previous":7,"untold":true},"topics":["t"],"owned":[{"topic":"t","partitions":[0]}]}`))
	f.Add([]byte(`{"state":"CompletingRebalance"}`), []byte(`{"connect":true,"regex":"t.*","session_ms":-1,"owned":[{"topic":"t","partitions":[-1],"revoking":true}],"target":{"t":[7]}}`))
	f.Fuzz(func(t *testing.T, head, body []byte) {
		cfg := Config{}.withDefaults()
		now := time.Unix(1000, 0)
		m := testMap(nil, "t=2")
		g, err := loadGroup("g", &cfg, m, map[string][]byte{headerField: head, memberPrefix + "m": body}, now)
		if err != nil {
			require.Contains(t, []federation.Kind{federation.Internal, federation.InvalidArgument}, federation.KindOf(err))
			return
		}
		g.step(now, evTopics{m})
		g.step(now.Add(time.Hour), evTick{heard: func(any) time.Time { return now }})
		g.step(now.Add(time.Hour), evDescribe{"d"})
	})
}

// FuzzRelay: whatever a peer sends is answered or refused.
func FuzzRelay(f *testing.F) {
	f.Add("commit", []byte(`{"commit":{"Group":"g","Offsets":[{"Topic":"t","Partition":1,"Offset":5}]}}`))
	f.Add("committed", []byte(`{"partitions":[{"Topic":"t","Partition":1}]}`))
	f.Add("list", []byte(`null`))
	f.Fuzz(func(t *testing.T, method string, message []byte) {
		b, err := ServeCall(t.Context(), refusing{}, "g", method, message)
		if err != nil {
			require.Contains(t, []federation.Kind{federation.InvalidArgument, federation.Unsupported}, federation.KindOf(err))
		} else {
			require.True(t, json.Valid(b))
		}
		sent := 0
		messages := [][]byte{message}
		err = ServeMember(t.Context(), refusing{}, func() ([]byte, error) {
			if len(messages) == 0 {
				return nil, io.EOF
			}
			defer func() { messages = nil }()
			return messages[0], nil
		}, func(b []byte) error {
			sent++
			var r relayResponse
			return json.Unmarshal(b, &r)
		})
		require.True(t, err != nil || sent == 1)
	})
}

// refusing is a coordinator that has moved away.
type refusing struct{ Coordinator }

func (refusing) Commit(context.Context, CommitRequest) ([]error, error) { return nil, errMoved }
func (refusing) Committed(context.Context, string, []federation.TopicPartition) ([]CommittedOffset, error) {
	return nil, errMoved
}

func (refusing) DeleteOffsets(context.Context, string, []federation.TopicPartition) ([]error, error) {
	return nil, errMoved
}

func (refusing) Describe(context.Context, string) (Description, error) {
	return Description{}, errMoved
}
func (refusing) List(context.Context) ([]Listing, error) { return nil, errMoved }
func (refusing) Delete(context.Context, string) error    { return errMoved }
func (refusing) Leave(context.Context, string, []LeavingMember) ([]error, error) {
	return nil, errMoved
}

func (refusing) Subscribe(context.Context, SubscribeRequest) (Membership, error) {
	return nil, errMoved
}
