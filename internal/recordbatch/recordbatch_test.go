package recordbatch_test

import (
	"encoding/binary"
	"hash/crc32"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/recordbatch"
)

func build(p recordbatch.Producer, values ...string) []byte {
	var b recordbatch.Builder
	b.Reset(nil)
	for _, v := range values {
		b.Add(&recordbatch.Record{TimestampMs: 1_700_000_000_000, Value: []byte(v)})
	}
	return b.Finish(p)
}

func recrc(b []byte) []byte {
	binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[21:], crc32.MakeTable(crc32.Castagnoli)))
	return b
}

func TestCheck(t *testing.T) {
	good := func() []byte { return build(recordbatch.Producer{ID: 7, Epoch: 1, Sequence: 3}, "a", "b") }
	require.NoError(t, recordbatch.Check(good(), 0))
	require.NoError(t, recordbatch.Check(good(), len(good())))
	for name, c := range map[string]struct {
		b    []byte
		max  int
		kind federation.Kind
	}{
		"empty":         {nil, 0, federation.InvalidRecord},
		"cut":           {good()[:70], 0, federation.CorruptBatch},
		"two batches":   {append(good(), good()...), 0, federation.InvalidRecord},
		"too large":     {good(), 10, federation.RecordTooLarge},
		"flipped bit":   {func() []byte { b := good(); b[len(b)-1] ^= 1; return b }(), 0, federation.CorruptBatch},
		"old magic":     {func() []byte { b := good(); b[16] = 1; return b }(), 0, federation.InvalidRecord},
		"control":       {func() []byte { b := good(); b[22] |= 0x20; return recrc(b) }(), 0, federation.InvalidRecord},
		"unknown codec": {func() []byte { b := good(); b[22] |= 7; return recrc(b) }(), 0, federation.UnsupportedCompression},
		"wrong count":   {func() []byte { b := good(); b[60] = 9; return recrc(b) }(), 0, federation.InvalidRecord},
		"no records": {func() []byte {
			b := good()
			copy(b[57:61], []byte{0, 0, 0, 0})
			copy(b[23:27], []byte{255, 255, 255, 255})
			return recrc(b)
		}(), 0, federation.InvalidRecord},
		"base offset":     {func() []byte { b := good(); b[7] = 1; return b }(), 0, federation.InvalidRecord},
		"negative length": {func() []byte { b := good(); b[8] = 0xff; return b }(), 0, federation.CorruptBatch},
		"negative seq":    {func() []byte { b := good(); recordbatch.SetProducer(b, 7, 1, -1); return b }(), 0, federation.InvalidRecord},
	} {
		require.Equal(t, c.kind, federation.KindOf(recordbatch.Check(c.b, c.max)), name)
	}
}

func TestPatchIsOutsideOfTheCRC(t *testing.T) {
	b := build(recordbatch.NoProducer, "a")
	recordbatch.PatchOffsetAndEpoch(b, 1<<40, 12)
	h, ok := recordbatch.ParseHeader(b)
	require.True(t, ok)
	require.EqualValues(t, 1<<40, h.BaseOffset)
	require.EqualValues(t, 12, h.LeaderEpoch)
	recordbatch.PatchOffsetAndEpoch(b, 0, 0)
	require.NoError(t, recordbatch.Check(b, 0))
}

func TestSetProducerRenewsTheCRC(t *testing.T) {
	b := build(recordbatch.NoProducer, "a", "b")
	recordbatch.SetProducer(b, 1<<50, 3, 2147483647)
	require.NoError(t, recordbatch.Check(b, 0))
	h, _ := recordbatch.ParseHeader(b)
	require.True(t, h.Idempotent())
	require.EqualValues(t, 0, h.LastSequence(), "sequences wrap to 0")
}

func TestCompactionKeepsTheLastSequence(t *testing.T) {
	h, _ := recordbatch.ParseHeader(build(recordbatch.Producer{ID: 1 << 50, Sequence: 10}, "a", "b", "c"))
	h.Count = 1
	require.EqualValues(t, 12, h.LastSequence())
}

func TestNextSplits(t *testing.T) {
	a, b := build(recordbatch.NoProducer, "a"), build(recordbatch.NoProducer, "bb")
	all := append(append(append([]byte{}, a...), b...), a[:30]...)
	one, rest := recordbatch.Next(all)
	require.Equal(t, a, one)
	one, rest = recordbatch.Next(rest)
	require.Equal(t, b, one)
	one, _ = recordbatch.Next(rest)
	require.Nil(t, one, "a cut batch is none")
}

func FuzzCheck(f *testing.F) {
	f.Add(build(recordbatch.Producer{ID: 7, Epoch: 1, Sequence: 3}, "a", "b"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if recordbatch.Check(b, 1<<20) == nil {
			one, rest := recordbatch.Next(b)
			require.Equal(t, b, one)
			require.Empty(t, rest)
		}
		for rest := b; ; {
			one, r := recordbatch.Next(rest)
			if one == nil {
				break
			}
			require.Less(t, len(r), len(rest))
			recordbatch.PatchOffsetAndEpoch(one, 1, 1)
			recordbatch.ParseHeader(one)
			rest = r
		}
	})
}
