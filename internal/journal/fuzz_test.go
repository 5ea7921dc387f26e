package journal_test

import (
	"encoding/binary"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/federation/wire"
	"github.com/braidmq/braid/internal/journal"
)

// recordsOf cuts bytes into records: lengths of key and value before each, 0xffff for no value.
func recordsOf(b []byte) []journal.Record {
	var out []journal.Record
	take := func() ([]byte, bool) {
		if len(b) < 2 {
			b = nil
			return nil, false
		}
		n := int(binary.BigEndian.Uint16(b))
		if b = b[2:]; n == 0xffff {
			return nil, true
		}
		n = min(n, len(b))
		v := b[:n:n]
		b = b[n:]
		return v, true
	}
	for {
		key, ok := take()
		if !ok {
			return out
		}
		value, _ := take()
		out = append(out, journal.Record{Key: string(key), Value: value})
	}
}

func bytesOf(records []journal.Record) (b []byte) {
	for _, r := range records {
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(r.Key))), r.Key...)
		n := uint16(len(r.Value))
		if r.Value == nil {
			n = 0xffff
		}
		b = append(binary.BigEndian.AppendUint16(b, n), r.Value...)
	}
	return b
}

// FuzzFold reads what a compacted topic may hold, whoever wrote it: a map that comes out
// of it is one that can be written again, and is the same then.
func FuzzFold(f *testing.F) {
	m := &federation.Map{
		LogicalCluster: "default", ClusterID: "id", Version: 3,
		Clusters: map[federation.ClusterName]*federation.Cluster{"a": {Name: "a", Seeds: []string{"a:1"}, State: federation.ClusterActive, Weight: 100}},
		Topics:   map[federation.TopicName]*federation.Topic{"t": topicOf("t", 2, "p1")},
	}
	m.Seal()
	records, err := journal.Delta(wire.Diff(&federation.Map{LogicalCluster: "default"}, m), journal.Head{Version: 3, Fencing: 7, LogicalCluster: "default", ClusterID: "id"})
	require.NoError(f, err)
	f.Add(bytesOf(records))
	f.Add(bytesOf(records[:len(records)-1]))
	f.Add(bytesOf(append(slices.Clip(records), journal.Record{Key: "claim", Value: []byte("9")}, journal.Record{Key: "topic/t"})))
	f.Add(bytesOf([]journal.Record{{Key: "head", Value: []byte(`{"version":-1,"fencing":9223372036854775807}`)}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		var s journal.MapState
		for _, r := range recordsOf(b) {
			s.Fold(r)
		}
		got, err := s.Map()
		if err != nil || got.Version < 1 { // a map of version 0 is none
			return
		}
		h := s.Head
		h.Version = got.Version
		again, err := journal.Delta(wire.Diff(&federation.Map{LogicalCluster: got.LogicalCluster}, got), h)
		require.NoError(t, err)
		var other journal.MapState
		for _, r := range again {
			other.Fold(r)
		}
		back, err := other.Map()
		require.NoError(t, err)
		d := wire.Diff(back, got)
		require.True(t, d.Empty(), "%v", d)
	})
}

// FuzzOffset reads a record of the backup of offsets: one that is taken is written again
// as the same.
func FuzzOffset(f *testing.F) {
	o := journal.Offset{OffsetKey: journal.OffsetKey{Group: "a/b c", Topic: federation.NewTopicID(), Partition: 12}, Offset: 1 << 40, Epoch: 3, CommittedMs: 1, Metadata: "two words"}
	f.Add(o.Record().Key, o.Record().Value)
	f.Add(o.Deleted().Key, []byte(nil))
	f.Add("head", []byte("12"))
	f.Add("offset//-1/", []byte("1 2"))
	f.Fuzz(func(t *testing.T, key string, value []byte) {
		r := journal.Record{Key: key, Value: value}
		_, _ = journal.ParseCopied(r)
		got, deleted, ok, err := journal.ParseOffset(r)
		if !ok || err != nil {
			return
		}
		again := got.Record()
		if deleted {
			again = got.Deleted()
		}
		same, gone, ok, err := journal.ParseOffset(again)
		require.NoError(t, err)
		require.True(t, ok)
		require.Equal(t, deleted, gone)
		require.Equal(t, got, same)
	})
}
