package redisstore

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/federation"
)

// FuzzStoredOffset: what field and value write is read back; anything else is refused.
func FuzzStoredOffset(f *testing.F) {
	o := GroupOffset{OffsetKey: OffsetKey{Topic: federation.TopicID{1}, Partition: 3}, Offset: 5, Epoch: -1, CommittedMs: 9, Metadata: "a b"}
	f.Add(o.field(), string(o.value()))
	f.Add("x/1", "1 2 3 ")
	f.Add("", "")
	f.Fuzz(func(t *testing.T, field, value string) {
		got, err := parseOffset(field, value)
		if err != nil {
			return
		}
		again, err := parseOffset(got.field(), string(got.value()))
		require.NoError(t, err)
		require.Equal(t, got, again)
	})
}
